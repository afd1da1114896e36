#!/usr/bin/env bash
# mosquitto 2.0.11 (Debian 12): a session that began with Clean Start does not outlive the broker, though its expiry and persistence say so.
#
# A good engineer would guess: MQTT 5, section 3.1.2.4: Clean Start only discards what was there *before*. With `persistence true` a session
#   with an expiry interval of ten minutes is there after the broker's own restart, however it began.
# What happens: what is saved goes by the last connection's Clean Start. A session that began clean outlives its connection, and is gone
#   when mosquitto was stopped and started; one further connection with Clean Start 0 before, and it is there.
# Why it matters here: commands at QoS 1 that are sent after a broker's restart reach only boards that are back before the sender, until
#   their link has broken once. An observer in our tests lost 120 messages so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
package=$(apt-get download --print-uris mosquitto 2>/dev/null | awk '{print $2}')
case $package in mosquitto_2.0.11*) ;; *) echo "this is not Debian 12: $package"; exit 2 ;; esac
apt-get download -qq mosquitto libcjson1 libwebsockets17 libdlt2 libev4 libuv1 libwrap0 2>/dev/null
for each in *.deb; do dpkg -x "$each" root; done
python3 -m venv venv
venv/bin/pip install -q paho-mqtt==2.1.0
cat > seen.py <<'PYTHON'
import socket, subprocess, sys, time
from contextlib import contextmanager
from importlib.metadata import version

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
with open("mosquitto.conf", "w") as config:
    config.write(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location ./\nuser root\n")


@contextmanager
def broker():
    """Runs until told to end by SIGTERM, after which it saves what it keeps."""
    process = subprocess.Popen(["root/usr/sbin/mosquitto", "-c", "mosquitto.conf"], stderr=subprocess.DEVNULL)
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.05)
    yield
    process.terminate()
    process.wait(20)


def visit(name, clean, *, subscribe=False, publish=False):
    """One connection: (whether the session was there, the payloads that came)."""
    seen, present = [], []
    kept = Properties(PacketTypes.CONNECT)
    kept.SessionExpiryInterval = 600
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5)
    client.on_connect = lambda _c, _d, flags, _r, _p: present.append(flags.session_present)
    client.on_message = lambda _c, _d, message: seen.append(message.payload)
    client.connect("127.0.0.1", port, clean_start=clean, properties=kept)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        client.loop(0.1)
        if present and subscribe:
            client.subscribe("command/#", 1)
            subscribe = False
        if present and publish:
            client.publish("command/valve", b"open", qos=1)
            publish = False
    client.disconnect()
    client.loop(0.1)
    return present[0], seen


CLIENTS = {"began with Clean Start 1": [True], "began with 1, then connected with 0": [True, False], "began with 0": [False]}
found = {}
with broker():
    for name, connections in CLIENTS.items():
        for clean in connections:
            visit(name, clean, subscribe=True)
with broker():
    visit("sender", True, publish=True)
    for name in CLIENTS:
        found[name] = visit(name, False)
said = subprocess.run(["root/usr/sbin/mosquitto", "-h"], capture_output=True, text=True).stdout.splitlines()[0]
print(f"{said}, paho-mqtt {version('paho-mqtt')}")
for what, (present, seen) in found.items():
    print(f"{what}: session present {present}, messages {seen}")
sys.exit(0 if list(found.values()) == [(False, []), (True, [b"open"]), (True, [b"open"])] else 1)
PYTHON
LD_LIBRARY_PATH=$(find root -name '*.so.*' -printf '%h:' | sort -u) venv/bin/python seen.py
# Output seen:

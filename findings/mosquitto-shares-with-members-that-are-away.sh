#!/usr/bin/env bash
# mosquitto 2.0.11 (Debian 12) beside rumqttd (PyPI iotcore 0.4.0): a shared subscription gives messages to a member that is away.
#
# A good engineer would guess: two services that share a subscription stand in for each other. Where one stops for a new version, with a
#   session that is kept so that nothing is lost, the other one gets everything meanwhile.
# What happens: mosquitto goes on dealing in turn. Every second message waits for the member that is away, until it comes back, its session
#   expires or `max_queued_messages` is reached and they are dropped; the member that is there never hears of them. rumqttd gives all to
#   who is there. MQTT 5 (section 4.8.2) allows both, and mochi 2.7.9 does as mosquitto.
# Why it matters here: a fleet's reports read in a shared subscription, half of them hours late or gone, look like silent boards. Members of
#   a shared subscription need sessions that end with the connection. `ota` uses none.
set -euo pipefail
folder=$(mktemp -d)
broker=
trap '[ -z "$broker" ] || kill "$broker"; rm -rf "$folder"' EXIT
cd "$folder"
package=$(apt-get download --print-uris mosquitto 2>/dev/null | awk '{print $2}')
case $package in mosquitto_2.0.11*) ;; *) echo "this is not Debian 12: $package"; exit 2 ;; esac
apt-get download -qq mosquitto libcjson1 libwebsockets17 libdlt2 libev4 libuv1 libwrap0 2>/dev/null
for each in *.deb; do dpkg -x "$each" root; done
python3 -m venv venv
venv/bin/pip install -q iotcore==0.4.0 paho-mqtt==2.1.0
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
printf 'listener %s 127.0.0.1\nallow_anonymous true\nuser root\n' "$port" > mosquitto.conf
libraries=$(find root -name '*.so.*' -printf '%h:' | sort -u)
LD_LIBRARY_PATH=$libraries root/usr/sbin/mosquitto -c mosquitto.conf 2> log &
broker=$!
cat > seen.py <<'PYTHON'
import socket
import sys
import time
from importlib.metadata import version

import iotcore
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

COUNT, mosquitto = 20, int(sys.argv[1])
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    rumqttd = probe.getsockname()[1]
with open("broker.toml", "w") as config:
    config.write(f"""
id = 0
[router]
id = 0
max_connections = 10
max_outgoing_packet_count = 500
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5"
listen = "127.0.0.1:{rumqttd}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 100
dynamic_filters = true
""")
embedded = iotcore.Broker(config_path="broker.toml")
embedded.start()
time.sleep(1)


def member(port, name, *, subscribe=True):
    came = []
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5)
    client.on_message = lambda _c, _d, message: came.append(message.payload)
    kept = Properties(PacketTypes.CONNECT)
    kept.SessionExpiryInterval = 600
    client.connect("127.0.0.1", port, clean_start=False, properties=kept)
    client.loop_start()
    if subscribe:
        client.subscribe("$share/readers/report/+", qos=1)
    time.sleep(0.5)
    return client, came


def leave(client):
    client.disconnect()
    client.loop_stop()


def dealt(port):
    """How many messages got to the member that was there, and to the other when it came back."""
    stopped, _ = member(port, "one")
    there, came = member(port, "two")
    leave(stopped)
    writer = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    writer.connect("127.0.0.1", port)
    writer.loop_start()
    for number in range(COUNT):
        writer.publish(f"report/{number}", b"x", qos=1).wait_for_publish(10)
    time.sleep(1)
    meanwhile = len(came)
    back, waited = member(port, "one", subscribe=False)
    time.sleep(1)
    for client in (there, back, writer):
        leave(client)
    return meanwhile, len(waited)


found = {"mosquitto 2.0.11": dealt(mosquitto), f"rumqttd (iotcore {version('iotcore')})": dealt(rumqttd)}
for name, (meanwhile, waited) in found.items():
    print(f"{name}: of {COUNT} messages {meanwhile} to the member that is there, {waited} to the other when it is back")
embedded.stop()
sys.exit(0 if list(found.values()) == [(COUNT // 2, COUNT // 2), (COUNT, 0)] else 1)
PYTHON
venv/bin/python seen.py "$port"
# Seen on two runs:
#   mosquitto 2.0.11: of 20 messages 10 to the member that is there, 10 to the other when it is back
#   rumqttd (iotcore 0.4.0): of 20 messages 20 to the member that is there, 0 to the other when it is back

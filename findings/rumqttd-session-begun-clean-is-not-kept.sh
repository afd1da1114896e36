#!/usr/bin/env bash
# rumqttd (PyPI iotcore 0.4.0): a session that began with Clean Start is not kept, whatever its Session Expiry Interval.
#
# A good engineer would guess: MQTT 5, section 3.1.2.4: Clean Start only discards what was there *before*. A connection with Clean Start 1
#   and a Session Expiry Interval of an hour leaves a session, which the next connection with Clean Start 0 finds.
# What happens: the next connection is answered with Session Present 0, and a QoS 1 message that was sent in between is lost. Only a
#   connection that had Clean Start 0 itself leaves a session.
# Why it matters here: an agent begins a process with a clean session, so that nothing of an earlier process is in it, and goes on with
#   that session after short breaks. On this broker a command that is sent during the first break of a process is lost.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q iotcore==0.4.0 paho-mqtt==2.1.0
cat > "$folder/seen.py" <<'PYTHON'
import socket, sys, time
from importlib.metadata import version

import iotcore
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
open("broker.toml", "w").write(f"""
id = 0
[router]
id = 0
max_connections = 10
max_outgoing_packet_count = 500
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 100
dynamic_filters = true
""")
broker = iotcore.Broker(config_path="broker.toml")
broker.start()
time.sleep(1)


def visit(name, clean, subscribe=False, seconds=1.5):
    """Session Present, and what arrived, of one connection."""
    answer, got = [], []
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5)
    client.on_connect = lambda _c, _d, flags, _code, _p: answer.append(flags.session_present)
    client.on_message = lambda _c, _d, message: got.append(message.payload)
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600
    client.connect("127.0.0.1", port, clean_start=clean, properties=properties)
    client.loop_start()
    time.sleep(0.5)
    if subscribe:
        client.subscribe(f"command/{name}", qos=1)
    time.sleep(seconds)
    client.disconnect()
    client.loop_stop()
    return answer[0], got


def send(name):
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.publish(f"command/{name}", b"go", qos=1).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


found = {}
for name, clean in (("began-clean", True), ("began-with-clean-start-0", False)):
    visit(name, clean, subscribe=True)
    send(name)
    found[name] = visit(name, False)
    print(f"iotcore {version('iotcore')}: {name}: session present {found[name][0]}, messages {found[name][1]}")
broker.stop()
sys.exit(0 if found == {"began-clean": (False, []), "began-with-clean-start-0": (True, [b"go"])} else 1)
PYTHON
cd "$folder" && "$folder/venv/bin/python" seen.py
# Seen with iotcore 0.4.0, paho-mqtt 2.1.0, Python 3.11:
#   began-clean: session present False, messages []
#   began-with-clean-start-0: session present True, messages [b'go']

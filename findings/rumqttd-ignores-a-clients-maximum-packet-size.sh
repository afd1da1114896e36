#!/usr/bin/env bash
# rumqttd (PyPI iotcore 0.4.0): a client that announces a Maximum Packet Size gets larger packets.
#
# A good engineer would guess: the server MUST NOT send a packet that is larger than the client announced, and drops the message for this
#   client alone (MQTT 5, section 3.1.2.11.4). A board that has 1 KiB for a packet says so, and needs no more.
# What happens: the announcement does nothing. A client that announced 200 bytes gets a message of 5,000, as one that announced nothing does.
#   mosquitto 2.0.11, mochi 2.7.9 and HiveMQ CE 2025.5 drop it for that client.
# Why it matters here: a client that ends the connection at such a packet (0x95), as the standard has it, gets the same retained message after
#   each of its connections, and never works again. The agent's limit, 4 MiB, is above what this broker takes as it is configured here
#   (`max_payload_size`); programs for smaller devices have to read and forget what is too large.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q iotcore==0.4.0 paho-mqtt==2.1.0
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

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
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


def reader(limit):
    """The sizes of the payloads that come."""
    came = []
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = lambda _c, _d, message: came.append(len(message.payload))
    properties = Properties(PacketTypes.CONNECT)
    if limit:
        properties.MaximumPacketSize = limit
    client.connect("127.0.0.1", port, properties=properties)
    client.loop_start()
    client.subscribe("firmware/+", qos=1)
    time.sleep(1)
    client.disconnect()
    client.loop_stop()
    return came


writer = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
writer.connect("127.0.0.1", port)
writer.loop_start()
for name, size in (("small", 50), ("large", 5000)):
    writer.publish(f"firmware/{name}", b"x" * size, qos=1, retain=True).wait_for_publish(10)
found = {limit: sorted(reader(limit)) for limit in (0, 200)}
writer.disconnect()
writer.loop_stop()
broker.stop()
print(f"iotcore {version('iotcore')}: no Maximum Packet Size: payloads of {found[0]} bytes; 200: {found[200]}")
sys.exit(0 if found == {0: [50, 5000], 200: [50, 5000]} else 1)
PYTHON
venv/bin/python seen.py
# Seen on two runs:
#   iotcore 0.4.0: no Maximum Packet Size: payloads of [50, 5000] bytes; 200: [50, 5000]

#!/usr/bin/env bash
# rumqttd (PyPI iotcore 0.4.0): a subscription with a wildcard has one topic alias, so messages of all its topics arrive under the first one.
#
# A good engineer would guess: a topic alias stands for one topic name (MQTT 5, section 3.3.2.3.4). A client that takes aliases, because
#   topics are long and the link is thin, puts the name in where the alias comes, and gets what it would have got without.
# What happens: the broker gives out an alias for each *filter*. Of three messages on three topics below `fleet/#` the first has its topic and
#   alias 1, the others have no topic and alias 1: a client that follows the standard must take them for the first topic. A Topic Alias
#   Maximum of 0 brings all three names.
# Why it matters here: the report of one board is taken for that of another. Agent and `ota` announce no Topic Alias Maximum, and nobody who
#   reads with wildcards on this broker, the demo's, should: most clients of other languages have a switch for it.
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


def reader(aliases):
    """What arrives, as it is in the packet: paho does not put topics in."""
    came = []
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = lambda _c, _d, m: came.append((m.topic, m.payload.decode(), getattr(m.properties, "TopicAlias", None)))
    properties = Properties(PacketTypes.CONNECT)
    properties.TopicAliasMaximum = aliases
    client.connect("127.0.0.1", port, properties=properties)
    client.loop_start()
    client.subscribe("fleet/#", qos=1)
    time.sleep(0.5)
    return client, came


with_aliases, without = reader(8), reader(0)
writer = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
writer.connect("127.0.0.1", port)
writer.loop_start()
for board in ("pump", "valve", "fan"):
    writer.publish(f"fleet/{board}/report", f"of the {board}", qos=1).wait_for_publish(10)
    time.sleep(0.3)
for client in (with_aliases[0], without[0], writer):
    client.disconnect()
    client.loop_stop()
broker.stop()
print(f"iotcore {version('iotcore')}: Topic Alias Maximum 8: {with_aliases[1]}")
print(f"Topic Alias Maximum 0: {[topic for topic, _, _ in without[1]]}")
first = ("fleet/pump/report", "of the pump", 1)
expected = with_aliases[1] == [first, ("", "of the valve", 1), ("", "of the fan", 1)]
sys.exit(0 if expected and len({topic for topic, _, _ in without[1]}) == 3 else 1)
PYTHON
venv/bin/python seen.py
# Seen on two runs:
#   iotcore 0.4.0: Topic Alias Maximum 8: [('fleet/pump/report', 'of the pump', 1), ('', 'of the valve', 1), ('', 'of the fan', 1)]
#   Topic Alias Maximum 0: ['fleet/pump/report', 'fleet/valve/report', 'fleet/fan/report']

#!/usr/bin/env bash
# rumqttd (PyPI iotcore 0.4.0): a SUBSCRIBE for a filter that the session has already brings no retained message, whatever it asks for.
#
# A good engineer would guess: Retain Handling 0 is "send retained messages at the time of the subscribe", and the server MUST (MQTT 5,
#   section 3.8.4), also where the SUBSCRIBE takes the place of one that there is. So a client reads a topic once more by asking once more.
# What happens: the second SUBSCRIBE is granted and brings nothing, though the retained message has changed since. After UNSUBSCRIBE it comes.
# Why it matters here: a module that is new to a filter which a neighbour has gets what is retained by such a SUBSCRIBE, without a gap for
#   the neighbour (`docs/decisions/0026-real-topics-and-bus.md`). On this broker, which is the demo's, it starts without.
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
from paho.mqtt.subscribeoptions import SubscribeOptions

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
got, granted = [], []


def connected():
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = lambda _c, _d, message: got.append((bool(message.retain), message.payload))
    client.on_subscribe = lambda _c, _d, _mid, codes, _p: granted.extend(each.value for each in codes)
    client.connect("127.0.0.1", port)
    client.loop_start()
    return client


def asked():
    """What a SUBSCRIBE with Retain Handling 0 brings."""
    got.clear()
    reader.subscribe("state", options=SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE))
    time.sleep(1.5)
    return list(got)


writer, reader = connected(), connected()
writer.publish("state", b"one", qos=1, retain=True).wait_for_publish(10)
first = asked()
writer.publish("state", b"two", qos=1, retain=True).wait_for_publish(10)
time.sleep(0.5)
second = asked()
reader.unsubscribe("state")
time.sleep(0.5)
third = asked()
for each in (reader, writer):
    each.disconnect()
    each.loop_stop()
broker.stop()
print(f"iotcore {version('iotcore')}: granted with {granted}; first {first}, again {second}, after UNSUBSCRIBE {third}")
sys.exit(0 if (granted, first, second, third) == ([1, 1, 1], [(True, b"one")], [], [(True, b"two")]) else 1)
PYTHON
cd "$folder" && "$folder/venv/bin/python" seen.py
# Seen on two runs, with paho-mqtt 2.1.0, Python 3.11:
#   iotcore 0.4.0: granted with [1, 1, 1]; first [(True, b'one')], again [], after UNSUBSCRIBE [(True, b'two')]

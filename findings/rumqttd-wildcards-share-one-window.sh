#!/usr/bin/env bash
# rumqttd (PyPI iotcore 0.4.0): two wildcard subscriptions that are open at once share one window for retained messages.
#
# A good engineer would guess: a SUBSCRIBE brings every retained message that matches, or what comes is cut at the broker's window
#   (`max_inflight_count`, here 100) for *each* subscription. So two filters with 56 messages each, both below 100, would arrive whole.
# What happens: the 112 messages of both share the window. 100 arrive, 12 are missing. Read one after the other, with UNSUBSCRIBE
#   between them, both arrive whole.
# Why it matters here: an operator who reads a fleet by wildcards, several at a time, and judges completeness by the size of each answer,
#   loses boards without noticing. `ota status` reads one wildcard after the other.
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

EACH, WINDOW = 56, 100
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
max_inflight_count = {WINDOW}
dynamic_filters = true
""")
broker = iotcore.Broker(config_path="broker.toml")
broker.start()
time.sleep(1)


def connected():
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()
    return client


writer = connected()
for side in "ab":
    for number in range(EACH):
        writer.publish(f"fleet/{side}/{number}", b"x", qos=1, retain=True).wait_for_publish(10)


def read(*filters, together):
    got = set()
    client = connected()
    client.on_message = lambda _c, _d, message: got.add(message.topic)
    for each in [filters] if together else [(one,) for one in filters]:
        client.subscribe([(one, 1) for one in each])
        time.sleep(3)
        client.unsubscribe(list(each))
        time.sleep(0.5)
    client.disconnect()
    client.loop_stop()
    return [sum(topic.startswith(one[:-1]) for topic in got) for one in filters]


both, apart = read("fleet/a/+", "fleet/b/+", together=True), read("fleet/a/+", "fleet/b/+", together=False)
writer.disconnect()
writer.loop_stop()
print(f"iotcore {version('iotcore')}, paho-mqtt {version('paho-mqtt')}: of {EACH} and {EACH} retained messages"
      f" together {both[0]} and {both[1]}, apart {apart[0]} and {apart[1]}")
broker.stop()
sys.exit(0 if sum(both) == WINDOW and apart == [EACH, EACH] else 1)
PYTHON
cd "$folder" && "$folder/venv/bin/python" seen.py
# Seen with iotcore 0.4.0, paho-mqtt 2.1.0, Python 3.11:
#   of 56 and 56 retained messages together 56 and 44, apart 56 and 56

#!/usr/bin/env bash
# mosquitto 2.0.11 (Debian 12): a QoS 0 message overtakes QoS 1 messages that were queued for the same client before it.
#
# A good engineer would guess: one connection is one queue, so a marker that is published after SUBACK comes behind the retained messages of
#   that subscription, whatever its QoS. The marker then tells that the reading is complete.
# What happens: at most 20 QoS 1 messages are in flight to a client (`max_inflight_messages`), the others wait. A QoS 0 message does not
#   wait: the marker arrives in the middle, with retained messages still to come. MQTT 5 (section 4.6) orders messages within one topic
#   and one QoS only.
# Why it matters here: `ota status` proves by a marker that a page of retained messages is complete. The marker has the QoS of what it fences.
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
venv/bin/pip install -q paho-mqtt==2.1.0
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
printf 'listener %s 127.0.0.1\nallow_anonymous true\nuser root\n' "$port" > mosquitto.conf
libraries=$(find root -name '*.so.*' -printf '%h:' | sort -u)
LD_LIBRARY_PATH=$libraries root/usr/sbin/mosquitto -c mosquitto.conf 2> log &
broker=$!
cat > seen.py <<'PYTHON'
import sys, time

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

COUNT, port = 200, int(sys.argv[1])
time.sleep(1)


def arrived_after(marker_qos):
    """How many retained messages had arrived when the marker came, and how many came in the end."""
    seen = []
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = lambda _c, _d, message: seen.append(message.topic)
    client.on_subscribe = lambda *_: client.publish("marker", b"", qos=marker_qos)
    client.connect("127.0.0.1", port)
    client.loop_start()
    time.sleep(0.5)
    client.subscribe([("fleet/+", 1), ("marker", marker_qos)])
    time.sleep(3)
    client.disconnect()
    client.loop_stop()
    return seen.index("marker"), len(seen) - 1


writer = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
writer.connect("127.0.0.1", port)
writer.loop_start()
for number in range(COUNT):
    writer.publish(f"fleet/{number}", b"x" * 200, qos=1, retain=True).wait_for_publish(10)
writer.disconnect()
writer.loop_stop()
early, late = arrived_after(0), arrived_after(1)
print(f"marker at QoS 0: after {early[0]} of {early[1]} retained messages; at QoS 1: after {late[0]} of {late[1]}")
sys.exit(0 if early[0] < early[1] == COUNT and late == (COUNT, COUNT) else 1)
PYTHON
LD_LIBRARY_PATH=$libraries root/usr/sbin/mosquitto -h | head -1 || true
venv/bin/python seen.py "$port"
# Seen with mosquitto 2.0.11 (2.0.11-1.2+deb12u2), paho-mqtt 2.1.0, Python 3.11:
#   marker at QoS 0: after 20 of 200 retained messages; at QoS 1: after 200 of 200

#!/usr/bin/env bash
# mosquitto 2.0.11 (Debian 12): each acknowledgement brings as many messages as the client's Receive Maximum, not one.
#
# A good engineer would guess: a client that announces Receive Maximum 5 never has more than five QoS 1 messages that it has not
#   acknowledged (MQTT 5, section 3.3.4: the server MUST NOT send more). One PUBACK makes room for one.
# What happens: five arrive, and the broker stops, as it should. The first PUBACK brings five more, so does the second. After eight of them
#   37 are unacknowledged.
# Why it matters here: the limit bounds nothing where messages wait, so a client may not size its memory by it, or end the connection for
#   it (0x93), as the standard has it. The agent's event queue has a bound of its own, and the agent announces no Receive Maximum.
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
import sys
import time

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

COUNT, MAXIMUM, ACKNOWLEDGED, port = 100, 5, 8, int(sys.argv[1])
time.sleep(1)
came = []
properties = Properties(PacketTypes.CONNECT)
properties.ReceiveMaximum = MAXIMUM
reader = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, manual_ack=True)
reader.on_message = lambda _c, _d, message: came.append(message.mid)
reader.connect("127.0.0.1", port, properties=properties)
reader.loop_start()
reader.subscribe("burst/#", qos=1)
time.sleep(0.5)
writer = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
writer.connect("127.0.0.1", port)
writer.loop_start()
for number in range(COUNT):
    writer.publish(f"burst/{number}", b"x", qos=1).wait_for_publish(10)
time.sleep(1)
unacknowledged = [len(came)]
for number in range(ACKNOWLEDGED):
    reader.ack(came[number], 1)
    time.sleep(0.7)
    unacknowledged.append(len(came) - number - 1)
for each in (reader, writer):
    each.disconnect()
    each.loop_stop()
print(f"Receive Maximum {MAXIMUM}, unacknowledged at first and after each PUBACK: {unacknowledged}")
sys.exit(0 if unacknowledged == [MAXIMUM + (MAXIMUM - 1) * each for each in range(ACKNOWLEDGED + 1)] else 1)
PYTHON
LD_LIBRARY_PATH=$libraries root/usr/sbin/mosquitto -h | head -1 || true
venv/bin/python seen.py "$port"
# Seen on two runs with mosquitto 2.0.11 (2.0.11-1.2+deb12u2), paho-mqtt 2.1.0:
#   Receive Maximum 5, unacknowledged at first and after each PUBACK: [5, 9, 13, 17, 21, 25, 29, 33, 37]

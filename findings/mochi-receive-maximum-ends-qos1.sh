#!/usr/bin/env bash
# mochi 2.7.9 (Go): a client that announces Receive Maximum N gets 2 N messages of a larger burst, and then no QoS 1 message ever.
#
# A good engineer would guess: Receive Maximum (MQTT 5, section 3.1.2.11.3) is flow control. A broker holds back what is beyond it, and
#   sends one more for each PUBACK. A client that acknowledges at once gets everything, a little later.
# What happens: with Receive Maximum 5, ten of 40 retained messages arrive, each acknowledged at once. A message at QoS 1 that is
#   published afterwards does not arrive either, and the connection goes on to be answered: pings and QoS 0 work. Without a Receive
#   Maximum all 40 arrive.
# Why it matters here: our agent announced 32, as courtesy. More than 64 inputs at once made a board deaf to deployments until its next
#   connection, without a sign. It announces none since (`tests/brokers/test_bursts.py`).
set -euo pipefail
folder=$(mktemp -d)
broker=
trap '[ -z "$broker" ] || kill "$broker"; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q paho-mqtt==2.1.0
export GOPATH=$folder/go GOFLAGS='-modcacherw -mod=mod'
go mod init seen 2> /dev/null
go get github.com/mochi-mqtt/server/v2/cmd@v2.7.9 2> /dev/null
go build -o mochi github.com/mochi-mqtt/server/v2/cmd
read -r port second third < <(python3 -c 'import socket
s = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*[each.getsockname()[1] for each in s])')
./mochi -tcp "127.0.0.1:$port" -ws "127.0.0.1:$second" -info "127.0.0.1:$third" > log 2>&1 &
broker=$!
cat > seen.py <<'PYTHON'
import sys
import time

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

BURST, port = 40, int(sys.argv[1])
time.sleep(1)


def connected(receive_maximum, got):
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = lambda _c, _d, message: got.append(message.topic)
    properties = Properties(PacketTypes.CONNECT)
    if receive_maximum:
        properties.ReceiveMaximum = receive_maximum
    client.connect("127.0.0.1", port, properties=properties)
    client.loop_start()
    return client


def publish(topic, qos, retain=False):
    writer.publish(topic, b"x", qos=qos, retain=retain).wait_for_publish(10)


def seen(receive_maximum):
    """How many of the burst came, and which of two later messages."""
    got = []
    client = connected(receive_maximum, got)
    client.subscribe("burst/#", qos=1)
    time.sleep(2)
    burst = len(got)
    publish("burst/later/qos1", 1)
    publish("burst/later/qos0", 0)
    time.sleep(2)
    client.disconnect()
    client.loop_stop()
    return burst, sorted(got[burst:])


writer = connected(None, [])
for number in range(BURST):
    publish(f"burst/{number}", 1, retain=True)
limited, free = seen(5), seen(None)
writer.disconnect()
writer.loop_stop()
print(f"Receive Maximum 5: {limited[0]} of {BURST}, later {limited[1]}")
print(f"none announced: {free[0]} of {BURST}, later {free[1]}")
later = ["burst/later/qos0", "burst/later/qos1"]
sys.exit(0 if limited == (10, later[:1]) and free == (BURST, later) else 1)
PYTHON
go list -m github.com/mochi-mqtt/server/v2
venv/bin/python seen.py "$port"
# Seen on two runs, with paho-mqtt 2.1.0:
#   Receive Maximum 5: 10 of 40, later ['burst/later/qos0']
#   none announced: 40 of 40, later ['burst/later/qos0', 'burst/later/qos1']

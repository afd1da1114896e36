#!/usr/bin/env bash
# mochi 2.7.9 (Go): of a Will only topic, payload, QoS, retain, delay and user properties are kept; expiry and content type are lost.
#
# A good engineer would guess: a Will is published with the properties that CONNECT gave it (MQTT 5, section 3.1.3.2): content type, response
#   topic, correlation data, and an expiry interval after which nobody gets it any more, also where it is retained.
# What happens: the Will comes with its user properties and nothing else of them, and with an expiry interval of 86,400 s in the place of
#   its own 2 s. Retained, it is there long after those 2 s. The same properties in a PUBLISH are kept, and the message expires.
# Why it matters here: "this board is gone" as a Will that expires, so that nothing is left of boards that are thrown away, is left for a day
#   on this broker, and a reader that goes by the content type does not know it. The agent's Will has no properties: what it says is in
#   its payload.
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
import socket
import sys
import time

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

port = int(sys.argv[1])
time.sleep(1)


def properties(of):
    found = Properties(of)
    found.MessageExpiryInterval = 2
    found.ContentType = "application/cbor"
    found.ResponseTopic = "answers"
    found.CorrelationData = b"1"
    found.PayloadFormatIndicator = 0
    return found


def connected(came, will=""):
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = lambda _c, _d, message: came.append((message.topic, message.properties.json()))
    if will:
        about = properties(PacketTypes.WILLMESSAGE)
        about.UserProperty = ("board", "pump")
        client.will_set(will, b"gone", qos=1, retain=True, properties=about)
    client.connect("127.0.0.1", port)
    client.loop_start()
    time.sleep(0.5)
    return client


def asked():
    """What is retained."""
    came = []
    client = connected(came)
    client.subscribe("gone/+", qos=1)
    time.sleep(1)
    client.disconnect()
    client.loop_stop()
    return sorted(topic for topic, _ in came)


live = []
reader = connected(live)
reader.subscribe("gone/+", qos=1)
board = connected([], will="gone/will")
board.publish("gone/publish", b"gone", qos=1, retain=True, properties=properties(PacketTypes.PUBLISH))
time.sleep(0.5)
board.socket().shutdown(socket.SHUT_RDWR)  # the link breaks
board.loop_stop()
time.sleep(1)
reader.disconnect()
reader.loop_stop()
time.sleep(3)
retained = asked()
live = {topic: each for topic, each in live}
print(f"mochi 2.7.9: PUBLISH: {live['gone/publish']}")
print(f"Will: {live['gone/will']}")
print(f"retained after both expired: {retained}")
changed = {"MessageExpiryInterval": 86400, "UserProperty": [("board", "pump")]}
kept = {"ContentType": "application/cbor", "ResponseTopic": "answers", "CorrelationData": "31"}
expected = kept.items() <= live["gone/publish"].items() and live["gone/will"] == changed
sys.exit(0 if expected and retained == ["gone/will"] else 1)
PYTHON
venv/bin/python seen.py "$port"
# Seen on two runs:
#   mochi 2.7.9: PUBLISH: {'PayloadFormatIndicator': 0, 'MessageExpiryInterval': 2, 'ContentType': 'application/cbor', ...}
#   Will: {'MessageExpiryInterval': 86400, 'UserProperty': [('board', 'pump')]}
#   retained after both expired: ['gone/will']

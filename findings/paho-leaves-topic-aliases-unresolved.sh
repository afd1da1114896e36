#!/usr/bin/env bash
# paho-mqtt 2.1.0 (PyPI) meets mochi 2.7.9 (Go): a client that announces a Topic Alias Maximum gets messages without a topic.
#
# A good engineer would guess: who can tell paho to announce topic aliases need not know more of them. The library puts the topic in, as it
#   answers PINGREQ and honours Server Keep Alive by itself.
# What happens: paho announces them, and never looks at one that comes. The first message of a topic has its name, each later one has
#   `message.topic` "", so `message_callback_add` finds no callback for it, and nothing says why. mosquitto 2.0.11 and HiveMQ CE 2025.5,
#   against which clients are tried, send no aliases to this client, so nobody sees it there.
# Why it matters here: topics of fleets are long and links thin, so somebody will switch it on. Agent and `ota` read messages by paho, and
#   announce no Topic Alias Maximum, in two places that say why.
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
from importlib.metadata import version

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

port = int(sys.argv[1])
time.sleep(1)
by_filter, others = [], []
reader = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
reader.on_message = lambda _c, _d, m: others.append((m.topic, m.payload.decode(), getattr(m.properties, "TopicAlias", None)))
reader.message_callback_add("fleet/+/report", lambda _c, _d, m: by_filter.append((m.topic, m.payload.decode())))
properties = Properties(PacketTypes.CONNECT)
properties.TopicAliasMaximum = 8
reader.connect("127.0.0.1", port, properties=properties)
reader.loop_start()
reader.subscribe("fleet/+/report", qos=1)
time.sleep(0.5)
writer = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
writer.connect("127.0.0.1", port)
writer.loop_start()
for payload in ("first", "second", "third"):
    writer.publish("fleet/pump/report", payload, qos=1).wait_for_publish(10)
    time.sleep(0.2)
time.sleep(0.5)
for client in (reader, writer):
    client.disconnect()
    client.loop_stop()
print(f"paho-mqtt {version('paho-mqtt')}, mochi 2.7.9: by the callback for fleet/+/report: {by_filter}")
print(f"by on_message, with their aliases: {others}")
expected = by_filter == [("fleet/pump/report", "first")] and others == [("", "second", 1), ("", "third", 1)]
sys.exit(0 if expected else 1)
PYTHON
venv/bin/python seen.py "$port"
# Seen on two runs:
#   paho-mqtt 2.1.0, mochi 2.7.9: by the callback for fleet/+/report: [('fleet/pump/report', 'first')]
#   by on_message, with their aliases: [('', 'second', 1), ('', 'third', 1)]

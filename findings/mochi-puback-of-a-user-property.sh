#!/usr/bin/env bash
# mochi 2.7.9 (Go): a QoS 1 message with a user property is acknowledged in a way that paho 2.1.0 (PyPI) and mqtt 5.16.0 (npm) can't read.
#
# A good engineer would guess: a PUBACK of a broker that took the message has reason code 0 or 0x10 and no properties of the message. User
#   properties are for the subscribers, so using them changes nothing for who publishes.
# What happens: the PUBACK has reason code 1, which is that of a SUBACK and no PUBACK may have (MQTT 5, section 3.4.2.1), and all user
#   properties of the message. Subscribers get the message, each time. paho raises ValueError where it reads, so that the thread of
#   `loop_start` ends and `wait_for_publish` waits in vain; mqtt closes the connection. Without a user property, or with
#   another property (correlation data), the PUBACK is two bytes.
# Why it matters here: operators marked their deployments by a user property, and `ota publish` lost its connection at each of them on this
#   broker. The mark is correlation data since. Agents read PUBACK by themselves, and take each code below 0x80 for success.
set -euo pipefail
folder=$(mktemp -d)
broker=
trap '[ -z "$broker" ] || kill "$broker"; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q paho-mqtt==2.1.0
npm init -y > npm.log
npm install --no-audit --no-fund --ignore-scripts mqtt@5.16.0 >> npm.log 2>&1
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

time.sleep(1)
for name, value in (("CorrelationData", b"1"), ("UserProperty", ("by", "1"))):
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.connect("127.0.0.1", int(sys.argv[1]))
    while not client.is_connected():
        client.loop(0.1)
    properties = Properties(PacketTypes.PUBLISH)
    setattr(properties, name, value)
    sent = client.publish("state", b"x", qos=1, properties=properties)
    end, said = time.monotonic() + 3, "no answer"
    try:
        while not sent.is_published() and time.monotonic() < end:
            client.loop(0.1)
        said = "acknowledged" if sent.is_published() else said
    except ValueError:
        said = f"ValueError at the PUBACK {bytes(client._in_packet['packet']).hex()}"
    print(f"paho, {name}: {said}")
PYTHON
cat > seen.mjs <<'JAVASCRIPT'
import mqtt from "mqtt";

const url = `mqtt://127.0.0.1:${process.argv[2]}`;
const reader = await mqtt.connectAsync(url, { protocolVersion: 5 });
let came = 0;
reader.on("message", () => (came += 1));
await reader.subscribeAsync("state", { qos: 1 });
for (const [name, value] of [["correlationData", Buffer.from("1")], ["userProperties", { by: "1" }]]) {
  const writer = await mqtt.connectAsync(url, { protocolVersion: 5, reconnectPeriod: 0 });
  writer.on("error", () => {});
  const sent = writer.publishAsync("state", "x", { qos: 1, properties: { [name]: value } });
  const said = await sent.then(() => "acknowledged", (error) => error.message);
  console.log(`mqtt, ${name}: ${said}`);
  writer.end(true);
}
await new Promise((resolve) => setTimeout(resolve, 500));
console.log(`came to the reader: ${came} of 2`);
reader.end(true);
JAVASCRIPT
(venv/bin/python seen.py "$port" && node seen.mjs "$port") | tee said
[ "$(cat said)" = "paho, CorrelationData: acknowledged
paho, UserProperty: ValueError at the PUBACK 000101082600026279000131
mqtt, correlationData: acknowledged
mqtt, userProperties: Connection closed
came to the reader: 2 of 2" ]
# Seen on two runs, with Node.js 20:
#   paho, CorrelationData: acknowledged
#   paho, UserProperty: ValueError at the PUBACK 000101082600026279000131
#   mqtt, correlationData: acknowledged
#   mqtt, userProperties: Connection closed
#   came to the reader: 2 of 2

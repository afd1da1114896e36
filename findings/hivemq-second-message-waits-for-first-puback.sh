#!/usr/bin/env bash
# HiveMQ CE 2025.5: to a reader that has nothing unacknowledged yet, one QoS 1 message is sent, and no second before its PUBACK.
#
# A good engineer would guess: a broker fills the window that the client announced (Receive Maximum, here 50). A reader may write ten messages
#   to disk at once and acknowledge them together.
# What happens: of 20 messages that are published after SUBSCRIBE, one arrives, however long the reader waits. Its PUBACK brings all the
#   others without one more. The same 20 as retained messages arrive at once. mosquitto, mochi and rumqttd fill the window.
# Why it matters here: who acknowledges in groups waits for ever, on this broker alone. The agent acknowledges each message when it is in
#   the event queue, before it is handled.
set -euo pipefail
folder=$(mktemp -d)
broker=
trap '[ -z "$broker" ] || kill "$broker"; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q paho-mqtt==2.1.0
cat > pom.xml <<'XML'
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>seen</groupId><artifactId>seen</artifactId><version>1</version>
  <dependencies><dependency><groupId>com.hivemq</groupId>
    <artifactId>hivemq-community-edition-embedded</artifactId><version>2025.5</version></dependency></dependencies></project>
XML
cat > Seen.java <<'JAVA'
public class Seen {
    public static void main(String[] none) throws Exception {
        com.hivemq.embedded.EmbeddedHiveMQ.builder().withConfigurationFolder(java.nio.file.Path.of("conf")).build().start().join();
    }
}
JAVA
mvn -q -B "-Dmaven.repo.local=$folder/m2" dependency:copy-dependencies "-DoutputDirectory=$folder/lib" > mvn.log 2>&1
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
mkdir conf
cat > conf/config.xml <<XML
<?xml version="1.0"?><hivemq><anonymous-usage-statistics><enabled>false</enabled></anonymous-usage-statistics>
<listeners><tcp-listener><port>$port</port><bind-address>127.0.0.1</bind-address></tcp-listener></listeners></hivemq>
XML
java -Xmx512m -cp 'lib/*' Seen.java > log 2>&1 &
broker=$!
cat > seen.py <<'PYTHON'
import sys
import time

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

COUNT, port = 20, int(sys.argv[1])


def connected(came):
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, manual_ack=True)
    client.on_message = lambda _c, _d, message: came.append(message.mid)
    properties = Properties(PacketTypes.CONNECT)
    properties.ReceiveMaximum = 50
    for _ in range(600):
        try:
            client.connect("127.0.0.1", port, properties=properties)
            break
        except ConnectionRefusedError:  # it is starting
            time.sleep(0.1)
    client.loop_start()
    return client


def publish(retain):
    for number in range(COUNT):
        writer.publish(f"burst/{number}", b"x", qos=1, retain=retain).wait_for_publish(10)


writer, live, retained = connected([]), [], []
time.sleep(1)
reader = connected(live)
reader.subscribe("burst/#", qos=1)
time.sleep(1)
publish(retain=False)
time.sleep(5)
before = len(live)
reader.ack(live[0], 1)
time.sleep(2)
print(f"Receive Maximum 50, of {COUNT} live messages: {before} before the first PUBACK, {len(live)} after it")
publish(retain=True)
late = connected(retained)
late.subscribe("burst/#", qos=1)
time.sleep(2)
print(f"of {COUNT} retained messages: {len(retained)} before the first PUBACK")
for each in (reader, late, writer):
    each.disconnect()
    each.loop_stop()
sys.exit(0 if (before, len(live[:COUNT]), len(retained)) == (1, COUNT, COUNT) else 1)
PYTHON
venv/bin/python seen.py "$port"
# Seen on two runs, with paho-mqtt 2.1.0, OpenJDK 17:
#   Receive Maximum 50, of 20 live messages: 1 before the first PUBACK, 20 after it
#   of 20 retained messages: 20 before the first PUBACK

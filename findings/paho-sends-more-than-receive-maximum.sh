#!/usr/bin/env bash
# paho-mqtt 2.1.0 (PyPI) meets HiveMQ CE 2025.5, both with their defaults: of a burst at QoS 1 next to nothing is ever published.
#
# A good engineer would guess: an MQTT 5 client reads the broker's Receive Maximum in CONNACK and has no more messages unacknowledged (MQTT 5,
#   section 3.3.4: the client MUST NOT send more). The application publishes as fast as it likes.
# What happens: paho has up to 20 unacknowledged (`max_inflight_messages_set`), whatever CONNACK says. HiveMQ CE announces 10 and answers with
#   DISCONNECT 0x93. paho connects again and sends the same 20: so it goes on, and `publish` reports no error meanwhile. mosquitto,
#   against which clients are tried, announces 20 itself, so nobody sees it there.
# Why it matters here: agent and `ota` use paho for connections, and count what is unacknowledged by themselves (`device_agent/broker/limits.py`,
#   `ota/operator/session.py`). Programs of our users that publish beside them have to call `max_inflight_messages_set(10)`.
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

COUNT, port = 300, int(sys.argv[1])


def burst(most):
    """How much of it was published in ten seconds, what CONNACK announced, and why connections ended."""
    announced, ended = [], []
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_connect = lambda _c, _d, _f, _code, properties: announced.append(properties.ReceiveMaximum)
    client.on_disconnect = lambda _c, _d, flags, code, _p: flags.is_disconnect_packet_from_server and ended.append(str(code))
    if most:
        client.max_inflight_messages_set(most)
    for _ in range(600):
        try:
            client.connect("127.0.0.1", port)
            break
        except ConnectionRefusedError:  # it is starting
            time.sleep(0.1)
    client.loop_start()
    time.sleep(1)
    sent = [client.publish(f"burst/{number}", bytes(2000), qos=1) for number in range(COUNT)]
    time.sleep(10)
    client.disconnect()
    client.loop_stop()
    return sum(each.is_published() for each in sent), set(announced), len(ended), set(ended)


plain, fitting = burst(None), burst(10)
for name, (published, announced, times, why) in (("by default", plain), ("at most 10", fitting)):
    few = "all" if published == COUNT else "fewer than 30" if published < 30 else "some"
    print(f"{name}: Receive Maximum {announced}, {few} of {COUNT} published, ended {'several times' if times > 2 else times} {why or ''}")
sys.exit(0 if plain[0] < 30 and plain[2] > 2 and plain[3] == {"Receive maximum exceeded"} and fitting == (COUNT, {10}, 0, set()) else 1)
PYTHON
venv/bin/python seen.py "$port"
# Seen on two runs, with OpenJDK 17, Python 3.11:
#   by default: Receive Maximum {10}, fewer than 30 of 300 published, ended several times {'Receive maximum exceeded'}
#   at most 10: Receive Maximum {10}, all of 300 published, ended 0

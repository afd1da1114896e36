#!/usr/bin/env bash
# Artemis 2.53.0 (Maven): a message on a topic with a dot comes through `+` while it is new, and is not found through `+` where it is retained.
#
# A good engineer would guess: a topic's levels are separated by `/` and by nothing else (MQTT 5, section 4.7.1.1). A dot in a level is a
#   character like any other, and one filter matches the same topics, whether a message is passed on or was kept.
# What happens: Artemis makes addresses of topics, whose separator is the dot. Of `boards/pump.1/state` the message is passed on to who is
#   subscribed to `boards/+/state`, and not sent to who subscribes to it afterwards: retained it lies two levels deep there. By its exact
#   topic and by `boards/#` it comes. In 2.40.0 `+` missed new messages, too. With MQTT's own separator in the broker's
#   `wildcard-addresses` (`/`, `+` and `#`, as its manual advises for speed) both come. RabbitMQ has the same of old (issue 2559).
# Why it matters here: boards may be named `pump-1.example.com`. A test with one board that is connected sees its reports, and what reads a
#   fleet later by `+` lacks those boards, and no others, without a word. `ota broker check` looks for that since, and says what to do.
set -euo pipefail
folder=$(mktemp -d)
brokers=()
trap 'for each in "${brokers[@]}"; do kill "$each"; done; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q paho-mqtt==2.1.0
cat > pom.xml <<'XML'
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>seen</groupId><artifactId>seen</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.artemis</groupId><artifactId>artemis-server</artifactId><version>2.53.0</version></dependency>
    <dependency><groupId>org.apache.artemis</groupId><artifactId>artemis-mqtt-protocol</artifactId><version>2.53.0</version></dependency>
  </dependencies></project>
XML
cat > Seen.java <<'JAVA'
import org.apache.activemq.artemis.core.config.WildcardConfiguration;
import org.apache.activemq.artemis.core.config.impl.ConfigurationImpl;
import org.apache.activemq.artemis.core.server.embedded.EmbeddedActiveMQ;

public class Seen {
    public static void main(String[] given) throws Exception {
        var configuration = new ConfigurationImpl();
        configuration.setPersistenceEnabled(false).setSecurityEnabled(false).setJMXManagementEnabled(false);
        configuration.addAcceptorConfiguration("mqtt", "tcp://127.0.0.1:" + given[0] + "?protocols=MQTT");
        if (given.length > 1) {
            configuration.setWildCardConfiguration(new WildcardConfiguration().setDelimiter('/').setSingleWord('+'));
        }
        new EmbeddedActiveMQ().setConfiguration(configuration).start();
    }
}
JAVA
mvn -q -B "-Dmaven.repo.local=$folder/m2" dependency:copy-dependencies "-DoutputDirectory=$folder/lib" > mvn.log 2>&1
read -r plain slashes < <(python3 -c 'import socket
s = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*[each.getsockname()[1] for each in s])')
java -Xmx256m -cp 'lib/*' Seen.java "$plain" > log 2>&1 &
brokers+=($!)
java -Xmx256m -cp 'lib/*' Seen.java "$slashes" slashes > log2 2>&1 &
brokers+=($!)
cat > seen.py <<'PYTHON'
import sys
import threading
import time

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

TOPICS = ["boards/pump-1/state", "boards/pump.1/state"]
END = "boards/end/state"


def connected(port, came):
    client, ready = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5), threading.Event()
    client.on_message = lambda _c, _d, message: came.append(message.topic)
    client.on_subscribe = lambda *_: ready.set()
    for _ in range(600):
        try:
            client.connect("127.0.0.1", port)
            break
        except OSError:
            time.sleep(0.2)
    client.loop_start()
    return client, ready


def subscribed(port, topic_filter):
    came = []
    client, ready = connected(port, came)
    client.subscribe(topic_filter, qos=1)
    assert ready.wait(60)
    return client, came


def end(client, came, topic):
    """Everything that came before a message of our own, which every filter here matches or which has a filter of its own."""
    if not topic:
        client.subscribe(topic := END, qos=1)
    client.publish(topic, b"end", qos=1)
    for _ in range(600):
        if topic in came:
            break
        time.sleep(0.1)
    time.sleep(0.5)
    client.disconnect()
    client.loop_stop()
    return sorted(each for each in came if each in TOPICS)


port, said = int(sys.argv[1]), {}
reader, new = subscribed(port, "boards/+/state")
board, _ = connected(port, [])
for topic in TOPICS:
    board.publish(topic, b"1", qos=1, retain=True).wait_for_publish(60)
said["new, by +"] = end(reader, new, END)
board.disconnect()
board.loop_stop()
for topic_filter in ("boards/+/state", "boards/#", TOPICS[1]):
    reader, kept = subscribed(port, topic_filter)
    said[f"retained, by {topic_filter}"] = end(reader, kept, "" if topic_filter == TOPICS[1] else END)
for what, came in said.items():
    print(f"{sys.argv[2]}: {what}: {came}")
whole = {"new, by +": TOPICS, "retained, by boards/+/state": TOPICS, "retained, by boards/#": TOPICS}
whole[f"retained, by {TOPICS[1]}"] = TOPICS[1:]
missing = {what: [each for each in topics if each not in said[what]] for what, topics in whole.items()}
missing = {what: topics for what, topics in missing.items() if topics}
expected = {"retained, by boards/+/state": TOPICS[1:]} if sys.argv[2] == "as it comes" else {}
sys.exit(0 if missing == expected else 1)
PYTHON
echo "Artemis $(find lib -name 'artemis-mqtt-protocol-*.jar' | grep -o '[0-9.]*[0-9]')"
venv/bin/python seen.py "$plain" "as it comes"
venv/bin/python seen.py "$slashes" "with MQTT's separators"
# Seen on two runs:
#   Artemis 2.53.0
#   as it comes: new, by +: ['boards/pump-1/state', 'boards/pump.1/state']
#   as it comes: retained, by boards/+/state: ['boards/pump-1/state']
#   as it comes: retained, by boards/#: ['boards/pump-1/state', 'boards/pump.1/state']
#   as it comes: retained, by boards/pump.1/state: ['boards/pump.1/state']
#   with MQTT's separators: retained, by boards/+/state: ['boards/pump-1/state', 'boards/pump.1/state'] (and all others whole)

"""The operator's connection: what brokers announce and answer, links that break, somebody who floods."""

# ruff: noqa: SIM117 (broker, connection and what is to be raised, one inside the other)

import itertools
import socket

import pytest

from ota.formats import topics
from ota.operator import pages
from ota.operator.broker import WAITING_LIMIT_BYTES, Broker, BrokerError
from ota.operator.session import MAX_PACKET_BYTES, Incoming, Session
from tests.support.delay import Delay
from tests.support.fleet import settings
from tests.support.lab import Mosquitto
from tests.support.rumqttd import Rumqttd
from tests.support.scripted_broker import CONNECT, PUBLISH, SUBSCRIBE, Packet, scripted


@pytest.fixture(params=("mosquitto", pytest.param("rumqttd", marks=pytest.mark.full)))
def port(request, tmp_path):
    """A real broker on the loopback."""
    if request.param == "mosquitto" and Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    broker = Mosquitto(tmp_path) if request.param == "mosquitto" else Rumqttd(tmp_path)
    broker.start()
    yield broker.port
    broker.stop()


def test_a_flood_of_messages_takes_no_more_memory_than_is_allowed(caplog):
    payload = bytes(MAX_PACKET_BYTES)
    broker = Broker(settings(1))
    for _ in range(100):
        broker._keep(Incoming("ota/v1/report/x", payload))
    taken = list(broker.messages(0))
    assert sum(len(each.payload) for each in taken) <= WAITING_LIMIT_BYTES
    assert len(taken) >= 10
    for _ in range(3):  # there is room again
        broker._keep(Incoming("t", payload))
        assert [each.topic for each in broker.messages(0)] == ["t"]
    broker.__exit__(None, None, None)
    assert f"{100 - len(taken)} messages" in caplog.text


def test_a_flood_of_empty_messages_has_an_end_too():
    broker = Broker(settings(1))
    for _ in range(200_000):
        broker._keep(Incoming("t", b""))
    assert sum(1 for _ in broker.messages(0)) < 140_000


@pytest.mark.parametrize(
    "flood", [{"about": (("name", "v" * 60_000),)}, {"about": (("", ""),) * 300}, {"correlation": bytes(60_000)}]
)
def test_a_flood_of_properties_has_an_end_too(flood):
    broker = Broker(settings(1))
    message = Incoming("t", b"", **flood)
    for _ in range(WAITING_LIMIT_BYTES // 60_000 + 10):
        broker._keep(message)
    assert 0 < sum(1 for _ in broker.messages(0)) <= WAITING_LIMIT_BYTES // 60_000


def test_a_flood_of_names_behind_a_wildcard_has_an_end_too():
    page = pages.Page(("t/+",))
    for number in range(2 * pages.FOUND_LIMIT):
        page.take(Incoming(f"t/{number}", bytes(100), retained=True, about=(("name", "value"),)))
    assert len(page.found) == pages.FOUND_LIMIT
    assert page.may_be_cut
    assert {(len(each.payload), each.about) for each in page.found.values()} == {(pages.FOUND_BYTES, ())}
    exact = pages.Page(("t/1",))
    exact.take(Incoming("t/1", bytes(100), retained=True))
    assert exact.found["t/1"].payload == bytes(100)


def test_a_broker_that_sends_user_properties_back_acknowledges_a_marked_message():
    """As mochi 2.7.9 does, with reason code 1, which the library does not read."""

    def puback(sent: Packet) -> int:
        properties = sent.body[4 + len(sent.topics[0]) :][: -len(sent.payload)]  # behind topic and packet identifier
        return 1 if b"\x26" in properties else 0

    with scripted(puback=puback) as fake, Broker(settings(fake.config.url.port)) as broker:
        broker.subscribe("a/b")
        broker.publish_heard("a/b", b"document", "0" * 16, broker.connections)
        assert [each.payload for each in fake.of(PUBLISH)] == [b"document"]


def test_what_is_retained_and_what_is_not_is_told_apart(port):
    there = {f"ota/v1/device/b{number}/report": b"%d" % number for number in range(500)}
    with Broker(settings(port)) as broker:
        broker.publish_all(list(there.items()))
        wanted = [*there, *(f"ota/v1/device/none{number}/report" for number in range(100))]
        answers = {each.topic: each for each in broker.retained(wanted)}
        assert [each.topic for each in answers.values() if each.unknown] == []
        assert {topic: each.payload for topic, each in answers.items() if each.payload is not None} == there
        assert set(answers) == set(wanted)
        assert broker.retained_one("ota/v1/device/b7/report") == b"7"
        assert broker.retained_one("ota/v1/device/none7/report") is None


def test_the_same_topic_is_read_again_on_one_broker_object(port):
    with Broker(settings(port)) as broker:
        for number in range(5):
            broker.publish_all([("ota/v1/group/lab/desired", b"%d" % number)])
            assert broker.retained_one("ota/v1/group/lab/desired") == b"%d" % number


def connack(code: int = 0, properties: bytes = b"") -> bytes:
    return bytes((0, code, len(properties))) + properties


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (connack(0x84), r"unsupported protocol version.*needs MQTT 5"),
        (b"\x00\x01", "nsupported protocol version"),  # as MQTT 3.1.1 says it
        (connack(0x87), r"not authorized \(0x87\)"),
        (connack(0, bytes((0x25, 0))), "keeps no retained messages"),
        (connack(0, bytes((0x24, 0))), "has no QoS 1"),
    ],
)
def test_a_broker_that_can_not_do_what_is_needed_is_refused_before_anything_is_sent(answer, message):
    with scripted(connack=lambda _: answer) as broker:
        with pytest.raises(BrokerError, match=f"(?i){message}"), Broker(settings(broker.config.url.port)):
            pass
        assert not broker.of(PUBLISH)


def test_a_broker_that_closes_without_an_answer_is_said_to_have_no_mqtt_5():
    with scripted(connack=lambda _: (_ for _ in ()).throw(ConnectionError())) as broker:
        with pytest.raises(BrokerError, match=r"closed the connection without an answer.*without MQTT 5"):
            Broker(settings(broker.config.url.port)).__enter__()


def test_receive_maximum_is_kept_to():
    answered: list[int] = []
    with scripted(connack=lambda _: connack(0, b"\x21\x00\x03"), puback=lambda packet: None) as broker:

        def acknowledge(packet):
            answered.append(len(broker.of(PUBLISH)) + 1 - len(answered))
            return 0

        broker.puback = acknowledge
        with Broker(settings(broker.config.url.port)) as connection:
            assert connection.limits.receive_maximum == 3
            connection.publish_all([(f"t/{number}", b"x") for number in range(50)])
        assert len(broker.of(PUBLISH)) == 50
        assert max(answered) <= 3


def test_a_message_beyond_the_maximum_packet_size_is_named_before_anything_is_sent():
    with scripted(connack=lambda _: connack(0, b"\x27\x00\x00\x04\x00")) as broker:
        with (
            Broker(settings(broker.config.url.port)) as connection,
            pytest.raises(BrokerError, match=r"b/2: a packet of 2019 bytes; the broker announced a maximum packet size of 1024"),
        ):
            connection.publish_all([("b/1", b"x"), ("b/2", bytes(2000))])
        assert not broker.of(PUBLISH)


def test_a_publication_that_is_refused_is_an_error_that_names_topic_and_reason():
    with scripted(puback=lambda packet: 0x87 if packet.topics[0] == "t/7" else 0) as broker:
        with Broker(settings(broker.config.url.port)) as connection:
            with pytest.raises(BrokerError, match=r"the broker refused t/7: not authorized \(0x87\)"):
                connection.publish_all([(f"t/{number}", b"x") for number in range(9)])


def test_a_subscription_that_is_refused_is_an_error_or_an_unknown_and_never_nothing():
    with scripted(suback=lambda topic: 0x87 if topic.startswith("ota/v1/device") else 1) as broker:
        with Broker(settings(broker.config.url.port)) as connection:
            with pytest.raises(BrokerError, match=r"refused the subscription to ota/v1/device/a/log: not authorized"):
                connection.subscribe("ota/v1/device/a/log")
            (answer,) = connection.retained(["ota/v1/device/a/report"])
            assert "not authorized" in answer.unknown
            with pytest.raises(BrokerError, match="can't be known"):
                connection.retained_one("ota/v1/device/a/report")


def test_a_subscription_that_is_refused_after_a_reconnection_is_told():
    with scripted(suback=lambda topic: 0x87 if broker.connections > 1 else 1) as broker:
        with Broker(settings(broker.config.url.port)) as connection:
            connection.subscribe("ota/v1/device/a/log")
            broker.puback = lambda packet: broker.writer.close()
            with pytest.raises(BrokerError, match=r"refused the subscription to ota/v1/device/a/log: not authorized"):
                connection.publish_all([("t", b"x")])


def test_a_subscription_that_was_refused_is_not_asked_for_on_the_next_connection():
    """Who goes on without it, as `ota logs` does, is not ended by it later."""
    with scripted(suback=lambda topic: 0x87 if topic == "denied" else 1) as broker:
        with Broker(settings(broker.config.url.port)) as connection:
            connection.subscribe("granted")
            with pytest.raises(BrokerError, match="refused the subscription to denied"):
                connection.subscribe("denied")
            broker.puback = lambda packet: broker.writer.close() if packet.connection == 1 else 0
            connection.publish_all([("t", b"x")])
            assert list(connection.messages(0.01)) == []
        assert [each.topics for each in broker.of(SUBSCRIBE, 2)] == [("granted",)]


def test_a_subscription_that_is_lost_with_its_connection_is_asked_for_again(monkeypatch):
    monkeypatch.setattr("ota.operator.broker.RECONNECT_MIN_S", 0)

    def lost(topic):
        if broker.connections == 1:
            broker.writer.close()
        return 1

    with scripted(suback=lost, retained={"a/b": b"1"}) as broker:
        with Broker(settings(broker.config.url.port)) as connection:
            connection.subscribe("a/b")
            assert next(connection.messages(10)).payload == b"1"


def refused(connection: int, code: int):
    return lambda number: bytes((0, code if number == connection else 0, 0))


@pytest.mark.parametrize("passing", ["closed without an answer", 0x88, 0x89, 0x9F, "subscription not answered"])
def test_who_listens_goes_on_when_the_broker_is_back(monkeypatch, passing, caplog):
    """As a proxy does while the broker restarts, or a broker that is not ready."""
    monkeypatch.setattr("ota.operator.broker.RECONNECT_MIN_S", 0)
    monkeypatch.setattr("ota.operator.session.PATIENCE_MIN_S", 0.3)
    with scripted(retained={"a/b": b"1"}) as broker:
        if isinstance(passing, int):
            broker.connack = refused(2, passing)
        real, swallowed = broker._answer, CONNECT if passing == "closed without an answer" else SUBSCRIBE

        def answer(taken, writer):
            if taken.connection != 2 or taken.kind != swallowed or isinstance(passing, int):
                real(taken, writer)
            elif swallowed == CONNECT:
                writer.close()

        broker._answer = answer
        with Broker(settings(broker.config.url.port)) as connection:
            connection.subscribe("a/b")
            messages = connection.messages(20)
            assert next(messages).payload == b"1"
            connection._session._client.socket().shutdown(socket.SHUT_RDWR)
            assert next(messages).payload == b"1"
        assert broker.connections == 3
    assert caplog.messages[-1] == "connected to the broker again"


def test_who_listens_is_told_why_the_broker_does_not_let_him_in_any_more(monkeypatch):
    monkeypatch.setattr("ota.operator.broker.RECONNECT_MIN_S", 0)
    with scripted() as broker:
        broker.connack = refused(2, 0x87)
        with Broker(settings(broker.config.url.port)) as connection:
            connection.subscribe("a/b")
            connection._session._client.socket().shutdown(socket.SHUT_RDWR)
            with pytest.raises(BrokerError, match=r"refused the connection: not authorized \(0x87\)"):
                list(connection.messages(10))


def test_an_answer_to_an_earlier_packet_is_not_taken_for_one_to_a_later_packet_of_the_same_number(port):
    """There are 65,535 numbers: who watches a large fleet uses each of them again within the hour."""
    session = Session(settings(port))
    try:
        first = session.subscribe(["a"])
        while first not in session.answers:
            session.pump(1)
        session._client._last_mid = first - 1
        assert session.publish("a", b"x", retain=False) == first
        assert first not in session.answers
    finally:
        session.close()


def test_answers_that_nobody_asks_for_are_not_kept(port):
    with Broker(settings(port)) as connection:
        for _ in range(3):
            assert len(list(connection.retained([f"t/{number}" for number in range(300)]))) == 300
        connection.publish_all([("t/0", b"x")])
        assert len(connection._session.answers) <= 3  # of markers


def test_a_connection_that_breaks_while_publishing_repeats_only_what_was_not_acknowledged():
    with scripted() as broker:

        def once(packet):
            if packet.topics[0] == "t/20" and packet.connection == 1:
                broker.writer.close()
                return None
            return 0

        broker.puback = once
        with Broker(settings(broker.config.url.port)) as connection:
            connection.publish_all([(f"t/{number}", b"%d" % number) for number in range(40)])
        again = [each.topics[0] for each in broker.of(PUBLISH, 2)]
        assert "t/20" in again
        assert "t/0" not in again
        assert {each.payload for each in broker.of(PUBLISH)} == {b"%d" % number for number in range(40)}


def test_a_reason_that_would_hold_for_the_next_connection_ends_it():
    with scripted() as broker:
        broker.puback = lambda packet: broker.send(b"\xe0\x07\x95\x05\x1f\x00\x02no")  # DISCONNECT, packet too large
        with Broker(settings(broker.config.url.port)) as connection:
            with pytest.raises(BrokerError, match=r"ended the connection: packet too large \(0x95\)"):
                connection.publish_all([("t", b"x")])
        assert broker.connections == 1


def test_a_broker_that_ends_each_connection_is_told_with_what_it_did_not_take(monkeypatch):
    monkeypatch.setattr("ota.operator.broker.RECONNECT_MIN_S", 0)
    with scripted() as broker:
        broker.puback = lambda packet: broker.writer.close() if packet.topics[0] == "big" else 0
        with Broker(settings(broker.config.url.port)) as connection:
            with pytest.raises(
                BrokerError, match=r"broke; it did not acknowledge big \(5000 bytes\): it may take none of that size"
            ):
                connection.publish_all([("small", b"x"), ("big", bytes(5000))])
        assert broker.connections == 6


@pytest.mark.parametrize("too_many", [b"", b"\xe0\x00", b"\xe0\x02\x97\x00", 0x97, 0x80])
@pytest.mark.parametrize("most", [8, 1])
def test_how_many_topics_a_broker_takes_in_one_packet_is_learned_once(most, too_many):
    there = {f"ota/v1/device/b{number}/report": b"%d" % number for number in range(150)}
    with scripted(retained=there, topics_a_packet=most, too_many=too_many) as broker:
        with Broker(settings(broker.config.url.port)) as connection:
            for _ in range(2):
                answers = {each.topic: each for each in connection.retained([*there, "none"])}
                assert {topic: each.payload for topic, each in answers.items()} == there | {"none": None}
                assert not any(each.unknown for each in answers.values())
            assert connection.packets.topics == most
        assert broker.connections <= 6


@pytest.mark.parametrize("most", [1, 2, 4, 8, 16])
def test_a_limit_is_found_whether_a_broker_refuses_or_cuts_or_does_either(most):
    for cuts in itertools.product((True, False), repeat=7):
        packets, connections = pages.Packets(), 1
        for cut in cuts:
            if packets.topics <= most:
                packets.granted(packets.topics)
            if packets.topics <= most:
                break
            (packets.cut if cut else packets.refused)(packets.topics)
            connections += 1
        assert packets.topics == most
        assert connections <= (topics.TOPICS_A_PACKET // most).bit_length() + 1


def test_a_link_that_breaks_while_topics_are_asked_for_is_not_taken_for_a_limit_of_the_broker():
    there = {f"ota/v1/device/b{number}/report": b"%d" % number for number in range(150)}
    with scripted(retained=there) as broker:

        def breaks(topic):
            if broker.connections in (1, 3) and topic.endswith(("b40/report", "b140/report")):
                broker.writer.close()
            return 1

        broker.suback = breaks
        with Broker(settings(broker.config.url.port)) as connection:
            for _ in range(2):
                found = {each.topic: each.payload for each in connection.retained(there)}
                assert found == there
                connection._session.close()
            assert connection.packets.topics == topics.TOPICS_A_PACKET
        assert broker.connections > 3


def test_a_subscription_that_is_refused_alone_is_not_asked_for_without_end():
    with scripted(topics_a_packet=0, too_many=0x97) as broker, Broker(settings(broker.config.url.port)) as connection:
        answers = list(connection.retained([f"t/{number}" for number in range(40)]))
        assert len(answers) == 40
        assert all("quota exceeded" in each.unknown for each in answers)
        assert len(broker.of(SUBSCRIBE)) < 5 * 40  # again for each on a slow machine, and not for ever


@pytest.mark.parametrize("round_trip_s", [0.7])
def test_a_slow_network_hides_nothing(port, round_trip_s):
    there = {f"ota/v1/device/b{number}/report": bytes(400) for number in range(120)}
    with Broker(settings(port)) as broker:
        broker.publish_all(list(there.items()))
    with Delay(port, round_trip_s) as slow, Broker(settings(slow.port)) as broker:
        answers = list(broker.retained([*there, "ota/v1/device/none/report"]))
    assert [each.topic for each in answers if each.unknown] == []
    assert {each.topic for each in answers if each.payload} == set(there)


def test_no_topic_of_ours_is_deeper_than_aws_iot_allows():
    """At most seven slashes, and 256 bytes."""
    name, digest = "b" * 64, bytes(32)
    ours = [
        *(topic(name) for topic in (topics.online, topics.report, topics.marker, topics.log, topics.telemetry, topics.desired)),
        *(topics.manifest(digest), topics.blob_index(digest), topics.blob_chunk(digest, 65_535), topics.root(99)),
        *(
            topics.enrolment_request(name),
            topics.enrolment_answer(name),
            topics.online_in("abc"),
            f"{pages.CHECK}/{name}/many/1999",
        ),
    ]
    assert max(each.count("/") for each in ours) <= 7
    assert max(len(each.encode()) for each in ours) <= 256

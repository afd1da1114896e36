"""PUBLISH and PUBACK: as paho writes and reads them, and nothing else from bytes that are neither."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from device_agent.broker import packets
from device_agent.broker.packets import Arrived, Malformed, UserProperties
from tests.support.scripted_broker import packet

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), max_size=5)


def properties(pairs, **others) -> bytes:
    """Those of a PUBLISH, as paho writes them."""
    found = Properties(PacketTypes.PUBLISH)
    for name, value in others.items():
        setattr(found, name, value)
    if pairs:
        found.UserProperty = pairs
    return found.pack()


def body(topic: bytes, mid: int, packed: bytes, payload: bytes) -> bytes:
    return len(topic).to_bytes(2) + topic + (mid.to_bytes(2) if mid else b"") + packed + payload


@given(TEXTS, PAIRS, st.binary(max_size=300), st.integers(0, 0xFFFF), st.booleans())
def test_a_message_is_read_as_it_was_sent(topic, pairs, payload, mid, retained):
    first = 0x30 | (0x02 if mid else 0) | retained
    packed = properties(
        pairs, MessageExpiryInterval=7, ContentType="t", SubscriptionIdentifier=300, CorrelationData=b"c", ResponseTopic="r/é"
    )
    board = next((value for name, value in pairs if name == "board"), "")
    whole = bytearray(b"??" + packet(first >> 4, first & 15, body(topic.encode(), mid, packed, payload)) + b"next")
    start, end = packets.bounds(whole, 2)
    assert whole[end:] == b"next"
    arrived, number, _ = packets.read_publish(whole[2], bytes(whole[start:end]))
    assert (arrived, number) == (Arrived(topic, payload, retained, board, (300,), "r/é"), mid)


@given(TEXTS, PAIRS, st.binary(max_size=300), st.integers(1, 0xFFFF), st.booleans())
def test_a_message_is_written_as_paho_writes_it(topic, pairs, payload, mid, retain):
    written = packets.publish(topic, payload, mid, UserProperties(UserProperties.encoded(*pairs)), retain=retain)
    assert written == packet(3, 2 | retain, body(topic.encode(), mid, properties(pairs), payload))
    assert packets.publish(topic, payload, mid, None) == packet(3, 2, body(topic.encode(), mid, b"\0", payload))


@given(st.binary(max_size=60), st.integers(0, 15))
def test_of_bytes_that_are_no_message_nothing_but_malformed_comes(data, flags):
    for read in (lambda: packets.read_publish(0x30 | flags, data), lambda: packets.read_puback(data)):
        try:
            read()
        except Malformed as error:
            assert str(error).startswith("the broker sent")


@given(st.binary(max_size=200), st.data())
def test_a_packet_is_taken_once_it_is_whole(content, data):
    whole = bytearray(packet(3, 0, content))
    part = data.draw(st.integers(0, len(whole) - 1))
    assert packets.bounds(whole[:part], 0) is None
    start, end = packets.bounds(whole, 0)
    assert whole[start:end] == content


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (b"\x30\xff\xff\xff\x7f", "the broker sent a packet of 268435460 bytes, the limit is 4194304"),
        (b"\x30\xff\xff\xff\xff\x01", "the broker sent a packet whose length has more than 4 bytes"),
    ],
)
def test_a_packet_that_is_too_long_is_refused_before_it_is_there(head, why):
    with pytest.raises(Malformed) as error:
        packets.bounds(bytearray(head), 0)
    assert str(error.value) == why


def test_a_message_that_nobody_may_send_is_refused():
    with pytest.raises(Malformed, match="at QoS 2"):
        packets.read_publish(0x34, body(b"t", 1, b"\0", b""))
    with pytest.raises(Malformed, match="no packet identifier"):
        packets.read_publish(0x32, b"\0\1t\0\0\0")
    with pytest.raises(Malformed, match="a property 0x21"):
        packets.read_publish(0x30, body(b"t", 0, b"\3\x21\0\1", b""))


def test_a_message_full_of_subscription_identifiers_takes_no_time_that_grows_with_their_square():
    """A hostile broker may send a million; copied for each further one, they would keep the agent busy for hours."""
    identifiers = b"\x0b\x01" * 500_000
    packed = packets._varint(len(identifiers)) + identifiers
    arrived, _, _ = packets.read_publish(0x32, body(b"t", 1, packed, b""))
    assert arrived.subscriptions == (1,) * 500_000


def test_a_topic_that_is_not_utf_8_is_nobodys_and_still_acknowledged():
    assert packets.read_publish(0x32, body(b"\xff", 7, b"\0", b"x")) == (None, 7, 0)


def test_an_acknowledgement_says_what_became_of_the_message():
    assert packets.read_puback(b"\1\2") == (0x102, 0)
    assert packets.read_puback(b"\1\2\x87\0") == (0x102, 0x87)
    assert packets.puback(0x102) == packet(4, 0, b"\1\2")


@given(st.integers(0, 1 << 63), st.floats(0, 1 << 40))
def test_number_and_time_of_a_message_are_user_properties_like_others(number, time_s):
    encoded = UserProperties.encoded(("number", str(number)), ("time", f"{time_s:.3f}"))
    assert UserProperties.numbered(number, time_s) == encoded

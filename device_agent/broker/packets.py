"""MQTT 5's PUBLISH and PUBACK in bytes: the packets that come and go with each event. The library reads and writes all others.

Half of the agent's processor time for an event went into the library's reading and writing of these two.
"""

from typing import NamedTuple

__all__ = ["Arrived", "Malformed", "UserProperties", "bounds", "puback", "publish", "read_puback", "read_publish"]

PUBLISH, PUBACK = 3, 4
MAX_PACKET_BYTES = 4 << 20  # of a packet from the broker
BOARD = "board"  # the user property that says which board a message is from
_USER_PROPERTY = 0x26
# Bytes of each property that a PUBLISH may have (MQTT 5, section 3.3.2.3): payload format, expiry, topic alias. Subscription
# identifiers have a variable length; content type, response topic, correlation data and user properties say theirs.
_FIXED = {0x01: 1, 0x02: 4, 0x23: 2}
_TEXTS = {0x03: 1, 0x08: 1, 0x09: 1, _USER_PROPERTY: 2}
_IDENTIFIER, _RESPONSE_TOPIC = 0x0B, 0x08
_NUMBERED = b"\x26\0\x06number\0%c%b\x26\0\x04time\0%c%b"


class Malformed(ValueError):
    """The broker sent what is not MQTT 5, or more than it was told that we take."""


class Arrived(NamedTuple):
    """A message from the broker."""

    topic: str
    payload: bytes
    retained: bool = False  # the broker kept it and sends it because of a subscription
    board: str = ""  # the user property "board": the name of the board that says that it has sent it
    subscriptions: tuple[int, ...] = ()  # identifiers of those that it came by
    response_topic: str = ""  # where its sender waits for an answer


class UserProperties:
    """User properties of a PUBLISH, and its response topic, in the bytes that go on the wire."""

    def __init__(self, content: bytes, response_topic: str = "") -> None:
        """`content`: as `encoded` makes it. `response_topic`: where an answer is waited for, "" for none."""
        if response_topic:
            content += b"%c%b" % (_RESPONSE_TOPIC, _text(response_topic))
        self.packed = _varint(len(content)) + content

    @staticmethod
    def encoded(*pairs: tuple[str, str]) -> bytes:
        """Names and values of at most 65,535 bytes each (MQTT 5, section 2.2.2.2)."""
        return b"".join(b"%c%b%b" % (_USER_PROPERTY, _text(name), _text(value)) for name, value in pairs)

    @staticmethod
    def numbered(number: int, time_s: float) -> bytes:
        """As `encoded` makes them: number and time of a message, which are others for each."""
        return _NUMBERED % (len(text := b"%d" % number), text, len(time := b"%.3f" % time_s), time)

    @property
    def size_bytes(self) -> int:
        """What they take of a packet."""
        return len(self.packed)


def bounds(data: bytearray, at: int) -> tuple[int, int] | None:
    """Where the body of the packet that begins at `at` begins and ends; None while it is not all there. Raises Malformed."""
    size, head = 0, at + 1
    for shift in (0, 7, 14, 21):
        if head >= len(data):
            return None
        byte = data[head]
        head += 1
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            if head - at + size > MAX_PACKET_BYTES:
                raise Malformed(f"the broker sent a packet of {head - at + size} bytes, the limit is {MAX_PACKET_BYTES}")
            return (head, head + size) if head + size <= len(data) else None
    raise Malformed("the broker sent a packet whose length has more than 4 bytes")


def read_publish(first: int, body: bytes) -> tuple[Arrived | None, int, int]:
    """A message, its packet identifier (0 at QoS 0), and how many bytes its properties have.

    The message is None where its topic is not UTF-8: nobody subscribed to that. Raises Malformed.
    """
    qos = first >> 1 & 3
    if qos > 1:
        raise Malformed(f"the broker sent a message at QoS {qos}, nobody asked for more than 1")
    topic_end = 2 + int.from_bytes(body[:2])
    at = topic_end + 2 * qos
    mid = int.from_bytes(body[topic_end:at])
    size, at = _read_varint(body, at)
    end = at + size
    if end > len(body) or (qos and not mid):
        raise Malformed("the broker sent a message that ends too early, or has no packet identifier")
    properties = _read_properties(body[at:end]) if size else ("", (), "")
    try:
        return Arrived(str(body[2:topic_end], "utf-8"), body[end:], bool(first & 1), *properties), mid, size
    except UnicodeDecodeError:
        return None, mid, size


def _read_properties(properties: bytes) -> tuple[str, tuple[int, ...], str]:
    """The first user property "board", "" where there is none; the subscription identifiers; the response topic."""
    at, board, came_by, response = 0, "", list[int](), ""
    while at < len(properties):
        kind = properties[at]
        at += 1
        if kind in _FIXED:
            at += _FIXED[kind]
        elif kind == _IDENTIFIER:
            identifier, at = _read_varint(properties, at)
            came_by.append(identifier)
        elif kind in _TEXTS:
            texts = []
            for _ in range(_TEXTS[kind]):
                end = at + 2 + int.from_bytes(properties[at : at + 2])
                texts.append(properties[at + 2 : end])
                at = end
            if kind == _USER_PROPERTY and texts[0] == BOARD.encode():
                board = board or texts[1].decode(errors="replace")
            elif kind == _RESPONSE_TOPIC:
                response = texts[0].decode(errors="replace")
        else:
            raise Malformed(f"the broker sent a message with a property {kind:#x}, which PUBLISH has not")
    return board, tuple(came_by), response


def read_puback(body: bytes) -> tuple[int, int]:
    """Packet identifier and reason code. Raises Malformed."""
    if len(body) < 2:
        raise Malformed("the broker sent an acknowledgement that ends too early")
    return int.from_bytes(body[:2]), body[2] if len(body) > 2 else 0


def publish(topic: str, payload: bytes, mid: int, properties: UserProperties | None, *, retain: bool = False) -> bytes:
    """A PUBLISH at QoS 1."""
    name, packed = topic.encode(), properties.packed if properties is not None else b"\0"
    size = 4 + len(name) + len(packed) + len(payload)
    head = 0x33 if retain else 0x32
    return b"".join((bytes((head,)), _varint(size), len(name).to_bytes(2), name, mid.to_bytes(2), packed, payload))


def puback(mid: int) -> bytes:
    """A PUBACK that says that the message was taken."""
    return b"\x40\x02" + mid.to_bytes(2)


def _varint(value: int) -> bytes:
    """A variable byte integer (MQTT 5, section 1.5.5)."""
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The value, and where it ends."""
    value = 0
    for shift, byte in zip((0, 7, 14, 21), data[at : at + 4], strict=False):
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise Malformed("the broker sent a packet with a length that does not end")


def _text(value: str) -> bytes:
    data = value.encode()
    return len(data).to_bytes(2) + data

"""What a broker announces in CONNACK (MQTT 5, section 3.2.2.3), and the sizes of packets that are held against it.

paho does not keep to these limits when it sends; `device_agent.broker.connection` does.
"""

from dataclasses import dataclass

from paho.mqtt.properties import Properties

from ota.formats.topics import TOPICS_A_PACKET

ANY_PACKET_BYTES = 268_435_460  # the largest packet that MQTT can have
SUSPECT_BYTES = 4096  # a message that is no larger was not the reason
LEARNED_MIN_BYTES = 128
LEARNED_S = 3600.0  # then more is tried again
_FIXED_HEADER_BYTES = 5  # at most


@dataclass(frozen=True)
class Limits:
    """The limits of one connection; the defaults are those of a CONNACK that names none."""

    receive_maximum: int = 65_535
    packet_bytes: int = ANY_PACKET_BYTES
    qos: int = 2
    retain: bool = True
    wildcards: bool = True
    identifiers: bool = True  # of subscriptions

    @classmethod
    def from_connack(cls, properties: Properties | None) -> "Limits":
        """What the properties of a CONNACK say."""
        return cls(
            receive_maximum=max(1, int(getattr(properties, "ReceiveMaximum", 65_535))),
            packet_bytes=int(getattr(properties, "MaximumPacketSize", ANY_PACKET_BYTES)),
            qos=int(getattr(properties, "MaximumQoS", 2)),
            retain=bool(getattr(properties, "RetainAvailable", 1)),
            wildcards=bool(getattr(properties, "WildcardSubscriptionAvailable", 1)),
            identifiers=bool(getattr(properties, "SubscriptionIdentifierAvailable", 1)),
        )

    def unusable(self) -> str:
        """Why a board can't work with this broker; empty when it can."""
        if not self.retain:
            return "the broker keeps no retained messages (CONNACK: Retain Available 0)"
        if self.qos < 1:
            return "the broker acknowledges no messages (CONNACK: Maximum QoS 0)"
        return ""

    def payload_bytes(self, topic: str, properties_bytes: int = 1) -> int:
        """The largest payload of a QoS 1 PUBLISH to a topic that fits into a packet."""
        return max(0, self.packet_bytes - _FIXED_HEADER_BYTES - 2 - len(topic.encode()) - 2 - properties_bytes)

    def packets(self, topics: list[str], most: int) -> list[list[str]]:
        """Topics in groups of at most `most`, each group small enough for one SUBSCRIBE or UNSUBSCRIBE packet."""
        groups: list[list[str]] = []
        size = self.packet_bytes
        for topic in topics:
            needed = 3 + len(topic.encode())
            if not groups or len(groups[-1]) >= most or size + needed > self.packet_bytes:
                groups.append([])
                size = _FIXED_HEADER_BYTES + 3
            groups[-1].append(topic)
            size += needed
        return groups


class Learned:
    """A limit that a broker has and does not announce: what it answers, or that it closes the connection, tells."""

    def __init__(self) -> None:
        self._bytes, self._until_s = ANY_PACKET_BYTES, 0.0
        self._topics, self._topics_until_s = TOPICS_A_PACKET, 0.0

    def payload_bytes(self, now_s: float) -> int:
        """What a batch may have."""
        return self._bytes if now_s < self._until_s else ANY_PACKET_BYTES

    def topics_a_packet(self, now_s: float) -> int:
        """How many topics a SUBSCRIBE or UNSUBSCRIBE packet may have."""
        return self._topics if now_s < self._topics_until_s else TOPICS_A_PACKET

    def too_many_topics(self, topics: int, now_s: float) -> bool:
        """The broker did not take a packet of so many topics; True when fewer can be asked for."""
        if topics > 1:
            self._topics, self._topics_until_s = min(self.topics_a_packet(now_s), topics // 2), now_s + LEARNED_S
        return topics > 1

    def closed(self, payload_bytes: int, now_s: float) -> bool:
        """The broker closed the connection while a message was on its way; True when a smaller limit is inferred."""
        if payload_bytes <= SUSPECT_BYTES:
            return False
        self._learn(max(payload_bytes // 2, SUSPECT_BYTES), now_s)
        return True

    def too_large(self, payload_bytes: int, now_s: float) -> None:
        """The broker said that a packet is too large."""
        self._learn(max(payload_bytes // 2, LEARNED_MIN_BYTES), now_s)

    def _learn(self, payload_bytes: int, now_s: float) -> None:
        self._bytes, self._until_s = payload_bytes, now_s + LEARNED_S

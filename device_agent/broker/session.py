"""What the broker keeps of a board while its agent restarts: a session's subscriptions, as the agent writes them down.

An agent that does not know what its session holds can't end what it does not want any more, and begins a clean one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from device_agent.broker.subscription import Kind
from ota.formats import cbor
from ota.formats.fields import malformed
from ota.formats.reasons import Refused

__all__ = ["KeptSession"]

LIMIT_BYTES = 1 << 20
_IDENTIFIER_BITS = 28  # of a subscription's identifier (MQTT 5, section 3.8.2.1.2)


@dataclass(frozen=True)
class KeptSession:
    """A session that an earlier agent of this board has left at the broker."""

    broker: str  # its URL
    client_id: str
    subscriptions: Mapping[str, Kind]
    identifiers: Mapping[str, int] = field(default_factory=dict)  # of those of the subscriptions that have one
    last_identifier: int = 0  # that was given to any

    def to_bytes(self) -> bytes:
        """For the disk."""
        kinds = {topic: kind.name for topic, kind in self.subscriptions.items()}
        return cbor.encode([self.broker, self.client_id, kinds, dict(self.identifiers), self.last_identifier])

    @classmethod
    def from_bytes(cls, data: bytes) -> "KeptSession":
        """Raises Refused MALFORMED, TOO_LARGE for what a fault of the disk, or another version of the agent, has written."""
        match cbor.decode(data, "a kept session", LIMIT_BYTES):
            case [str() as broker, str() as client_id, dict() as kinds, dict() as numbers, int() as last]:
                named = all(type(each) is str for each in (*kinds, *kinds.values(), *numbers))
                numbered = all(type(each) is int and 0 < each < 1 << _IDENTIFIER_BITS for each in (*numbers.values(), last + 1))
                if named and numbered and Kind.__members__.keys() >= {*kinds.values()}:
                    return cls(broker, client_id, {topic: Kind[name] for topic, name in kinds.items()}, numbers, last)
        raise malformed("a kept session", "it has other fields")

    @classmethod
    def read(cls, data: bytes | None) -> "KeptSession | None":
        """What was kept; None where there is nothing of use."""
        try:
            return cls.from_bytes(data) if data else None
        except Refused:
            return None

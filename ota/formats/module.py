"""What the author of a module says of it, and what it may use. No cryptography here: workers read this, and nothing signed."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ota.formats import cbor
from ota.formats.capabilities import Capabilities
from ota.formats.fields import Fields, Unknown

__all__ = ["Limits", "ModuleDescription"]

DESCRIPTION_LIMIT_BYTES = 16 * 1024
CONFIG_LIMIT_BYTES = 4096


@dataclass(frozen=True)
class Limits:
    """What a module may use at most. Sizes are pages of 64 KiB or bytes, times milliseconds."""

    memory_pages: int = 32
    deadline_ms: int = 1000  # for one event
    tick_ms: int = 0  # period of timer.tick; 0: never
    stack_bytes: int = 64 * 1024  # for operands and calls of interpreted code
    fuel: int = 0  # branches and calls for one event, interpreted; 0: as many as the deadline allows
    messages_per_s: int = 1000  # a second's worth may come at once
    log_lines_per_s: int = 100  # likewise

    FIELDS: ClassVar = {
        "memory_pages": (1, 65536),
        "deadline_ms": (1, 600_000),
        "tick_ms": (0, 86_400_000),
        "stack_bytes": (4096, 1 << 24),
        "fuel": (0, (1 << 31) - 1),
        "messages_per_s": (0, 1_000_000),
        "log_lines_per_s": (0, 100_000),
    }

    @classmethod
    def parse(cls, value: Any, what: str) -> "Limits":
        """From decoded CBOR or TOML; what is not named keeps its default. Raises Refused MALFORMED, MEMBER_UNKNOWN."""
        fields = Fields(value, what, cls.FIELDS)
        return cls(**{key: fields.number(key, *span) for key, span in cls.FIELDS.items() if key in fields})

    def to_value(self) -> dict[str, int]:
        """For encoding."""
        return {key: getattr(self, key) for key in self.FIELDS}


@dataclass(frozen=True)
class ModuleDescription:
    """What the author says of a module; the arguments of SUIT's invoke."""

    name: str
    version: str  # for display
    capabilities: Capabilities
    limits: Limits = Limits()
    security_epoch: int = 0
    config: bytes = b""
    idempotent: bool = False  # says its author: an event may be handled twice

    _NAME, _VERSION, _CAPABILITIES, _LIMITS, _EPOCH, _CONFIG, _IDEMPOTENT = range(1, 8)

    @property
    def repeatable(self) -> bool:
        """Whether an event that ended the module badly may be given to its successor: messages and keys of such an event are
        dropped, but what went to a device or a file has happened.
        """
        items = self.capabilities.items
        immediate = items.get("gpio", {}).get("outputs") or items.get("serial") or items.get("wasi", {}).get("write")
        return self.idempotent or not immediate

    def to_bytes(self) -> bytes:
        """Encoded."""
        return cbor.encode(
            {
                self._NAME: self.name,
                self._VERSION: self.version,
                self._CAPABILITIES: self.capabilities.to_value(),
                self._LIMITS: self.limits.to_value(),
                self._EPOCH: self.security_epoch,
                self._CONFIG: self.config,
                self._IDEMPOTENT: self.idempotent,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "ModuleDescription":
        """Raises Refused MALFORMED, MEMBER_UNKNOWN, TOO_LARGE."""
        what = "module description"
        value = cbor.decode(data, what, DESCRIPTION_LIMIT_BYTES)
        fields = Fields(value, what, range(1, 8), Unknown.CRITICAL)
        return cls(
            name=fields.name(cls._NAME),
            version=fields.name(cls._VERSION),
            capabilities=Capabilities.parse(fields.map(cls._CAPABILITIES), what),
            limits=Limits.parse(fields.map(cls._LIMITS), what),
            security_epoch=fields.number(cls._EPOCH),
            config=fields.data(cls._CONFIG, limit=CONFIG_LIMIT_BYTES),
            idempotent=fields.flag(cls._IDEMPOTENT),
        )

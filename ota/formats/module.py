"""A module's description by its author: name, limits, capabilities. No cryptography: workers read this."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ota.formats import cbor
from ota.formats.capabilities import Capabilities
from ota.formats.fields import NON_CRITICAL, Fields, Unknown, malformed
from ota.formats.provenance import Kind

__all__ = ["Limits", "ModuleDescription", "about_memory", "checked_arguments", "checked_environment", "pages_with_room"]

DESCRIPTION_LIMIT_BYTES = 16 * 1024
CONFIG_LIMIT_BYTES = 4096
ROOM_PAGES = 16  # to grow by, where nobody has said how many
ARGUMENTS_LIMIT = 64  # arguments, and variables of the environment
TEXTS_LIMIT_BYTES = 4096  # of all arguments; likewise of the environment


def checked_arguments(value: Any, what: str) -> tuple[str, ...]:
    """WASI's arguments out of CBOR or TOML. Raises Refused MALFORMED."""
    if not isinstance(value, list) or len(value) > ARGUMENTS_LIMIT or not all(_is_text(each) for each in value):
        raise malformed(what, f"arguments are not a list of at most {ARGUMENTS_LIMIT} texts without zeros")
    if sum(len(each.encode()) + 1 for each in value) > TEXTS_LIMIT_BYTES:
        raise malformed(what, f"arguments are more than {TEXTS_LIMIT_BYTES} bytes")
    return tuple(value)


def checked_environment(value: Any, what: str) -> dict[str, str]:
    """WASI's environment out of CBOR or TOML. Raises Refused MALFORMED."""
    if not isinstance(value, Mapping) or len(value) > ARGUMENTS_LIMIT:
        raise malformed(what, f"the environment is not a map of at most {ARGUMENTS_LIMIT} variables")
    if not all(_is_text(key) and key and "=" not in key and _is_text(each) for key, each in value.items()):
        raise malformed(what, "a variable of the environment is not text without zeros, or its name has a =")
    if sum(len(key.encode()) + len(each.encode()) + 2 for key, each in value.items()) > TEXTS_LIMIT_BYTES:
        raise malformed(what, f"the environment is more than {TEXTS_LIMIT_BYTES} bytes")
    return dict(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


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
    trial_events: int = 0  # that it must have handled before it is confirmed

    FIELDS: ClassVar = {  # in the order of their numbers: new ones come last
        "memory_pages": (1, 65536),
        "deadline_ms": (1, 600_000),
        "tick_ms": (0, 86_400_000),
        "stack_bytes": (4096, 1 << 24),
        "fuel": (0, (1 << 31) - 1),
        "messages_per_s": (0, 1_000_000),
        "log_lines_per_s": (0, 100_000),
        "trial_events": (0, 1_000_000),
    }

    @classmethod
    def parse(cls, value: Any, what: str) -> "Limits":
        """From TOML; what is not named keeps its default. Raises Refused MALFORMED, MEMBER_UNKNOWN."""
        fields = Fields(value, what, cls.FIELDS)
        return cls(**{key: fields.number(key, *span) for key, span in cls.FIELDS.items() if key in fields})

    @classmethod
    def from_numbers(cls, value: Any, what: str) -> "Limits":
        """From a manifest, which has them by their place in FIELDS; one of schema 1 to 3 has names. Raises as `parse`."""
        if isinstance(value, Mapping) and value and all(isinstance(key, str) for key in value):
            return cls.parse(value, what)
        names = dict(enumerate(cls.FIELDS, 1))
        return cls.parse({names[key]: each for key, each in Fields(value, what, names).members()}, what)

    def to_numbers(self) -> dict[int, int]:
        """For manifests: those that are not the default."""
        found = enumerate(self.to_value().items(), 1)
        return {number: value for number, (key, value) in found if value != getattr(Limits, key)}

    def to_value(self) -> dict[str, int]:
        """For people."""
        return {key: getattr(self, key) for key in self.FIELDS}


def pages_with_room(begins: int) -> int:
    """A limit for a module that begins with so many pages and is to grow by some: the default where that has the room."""
    return min(max(Limits.memory_pages, begins + ROOM_PAGES), Limits.FIELDS["memory_pages"][1])


def about_memory(module: object, pages: int, limits: Limits) -> str:
    """That a module begins with more memory than it may have, and what to do."""
    what_to_do = "raise memory_pages in [limits] of its .toml, or link it with a smaller stack"
    return f"{module} begins with {pages} pages of memory, its limit is {limits.memory_pages}: {what_to_do}"


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
    arguments: tuple[str, ...] = ()  # WASI's, after the program's name
    environment: Mapping[str, str] = field(default_factory=dict)  # WASI's
    board: str = ""  # what the class of boards that the manifest names is called, for people
    kind: Kind = Kind.UNSPECIFIED

    _NAME, _VERSION, _CAPABILITIES, _LIMITS, _EPOCH, _CONFIG, _IDEMPOTENT, _ARGUMENTS, _ENVIRONMENT = range(1, 10)
    _BOARD, _KIND = NON_CRITICAL, NON_CRITICAL + 1

    @property
    def repeatable(self) -> bool:
        """Whether an event that ended the module badly may be given to its successor: messages and keys of such an event are
        dropped, but what went to a device or a file has happened.
        """
        items = self.capabilities.items
        immediate = items.get("gpio", {}).get("outputs") or items.get("serial") or items.get("wasi", {}).get("write")
        return self.idempotent or not immediate

    def to_bytes(self) -> bytes:
        """Encoded; what is as when nothing is said is left out."""
        members: dict[int, Any] = {
            self._CAPABILITIES: self.capabilities.to_numbers(),
            self._LIMITS: self.limits.to_numbers(),
            self._EPOCH: self.security_epoch,
            self._CONFIG: self.config,
            self._IDEMPOTENT: self.idempotent,
            self._ARGUMENTS: list(self.arguments),
            self._ENVIRONMENT: dict(self.environment),
            self._BOARD: self.board,
            self._KIND: self.kind.value,
        }
        said = {key: value for key, value in members.items() if value}
        return cbor.encode({self._NAME: self.name, self._VERSION: self.version} | said)

    @classmethod
    def from_bytes(cls, data: bytes) -> "ModuleDescription":
        """Raises Refused MALFORMED, MEMBER_UNKNOWN, TOO_LARGE."""
        what = "module description"
        value = cbor.decode(data, what, DESCRIPTION_LIMIT_BYTES)
        fields = Fields(value, what, (*range(1, 10), cls._BOARD, cls._KIND), Unknown.CRITICAL)
        return cls(
            name=fields.name(cls._NAME),
            version=fields.name(cls._VERSION),
            capabilities=Capabilities.from_numbers(fields.map(cls._CAPABILITIES) if cls._CAPABILITIES in fields else {}, what),
            limits=Limits.from_numbers(fields.map(cls._LIMITS) if cls._LIMITS in fields else {}, what),
            security_epoch=fields.number(cls._EPOCH) if cls._EPOCH in fields else 0,
            config=fields.data(cls._CONFIG, limit=CONFIG_LIMIT_BYTES) if cls._CONFIG in fields else b"",
            idempotent=cls._IDEMPOTENT in fields and fields.flag(cls._IDEMPOTENT),
            arguments=checked_arguments(fields.items(cls._ARGUMENTS, ARGUMENTS_LIMIT) if cls._ARGUMENTS in fields else [], what),
            environment=checked_environment(fields.map(cls._ENVIRONMENT) if cls._ENVIRONMENT in fields else {}, what),
            board=fields.name(cls._BOARD) if cls._BOARD in fields else "",
            kind=Kind.of(fields.number(cls._KIND)) if cls._KIND in fields else Kind.UNSPECIFIED,
        )

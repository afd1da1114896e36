"""Typed access to decoded CBOR: every field of an untrusted document is fetched through here."""

from collections.abc import Collection
from enum import Enum
from typing import Any, TypeVar

from ota.formats.reasons import Reason, Refused
from ota.formats.text import nearest

T = TypeVar("T")
MAX_TIME_S = 1 << 40
_KINDS: dict[type, str] = {
    bool: "true or false",
    bytes: "bytes",
    dict: "a map",
    int: "a whole number",
    list: "a list",
    str: "text",
}
NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


_KEYS = frozenset((int, str))

# How documents grow (docs/decisions/0014-growth.md): members with lower numbers are critical, these and higher ones are not.
NON_CRITICAL = 64


class Unknown(Enum):
    """How members that this version does not know are handled."""

    REFUSE = "refuse"  # every one is refused
    CRITICAL = "critical"  # numbered 1 to 63: refused; 64 and above: ignored
    IGNORE = "ignore"  # every one is ignored


def malformed(what: str, why: str) -> Refused:
    """The refusal of a document of the wrong shape."""
    return Refused(Reason.MALFORMED, f"{what}: {why}")


class Fields:
    """A CBOR map with a known set of keys. Every getter raises Refused MALFORMED, naming the document and the field."""

    def __init__(self, value: Any, what: str, known: Collection[int | str], unknown: Unknown = Unknown.REFUSE) -> None:
        """Raises Refused MALFORMED for what is no map or has keys of another type, MEMBER_UNKNOWN as `unknown` says."""
        if not isinstance(value, dict):
            raise malformed(what, "not a map")
        if not _KEYS.issuperset(map(type, value)):
            raise malformed(what, "a key that is neither a whole number nor text")
        strange = [key for key in value if key not in known]
        if unknown is Unknown.CRITICAL:
            if wrong := [key for key in strange if not isinstance(key, int) or key < 1]:
                raise malformed(what, f"keys {wrong!r} are not numbers above 0")
            strange = [key for key in strange if key < NON_CRITICAL]
        if strange and unknown is not Unknown.IGNORE:
            texts = [key for key in known if isinstance(key, str)]
            names = ", ".join(f"{key!r}{nearest(key, texts) if isinstance(key, str) else ''}" for key in strange)
            raise Refused(Reason.MEMBER_UNKNOWN, f"{what}: members that this version does not know: {names}")
        self._value = value
        self._what = what

    def __contains__(self, key: int | str) -> bool:
        return key in self._value

    def members(self) -> list[tuple[Any, Any]]:
        """Every member that is there, with its content."""
        return list(self._value.items())

    def number(self, key: int | str, low: int = 0, high: int = (1 << 63) - 1) -> int:
        """A whole number between low and high, both included."""
        value = self._get(key, int)
        if not low <= value <= high:
            raise malformed(self._what, f"field {key!r} is {value}, not between {low} and {high}")
        return value

    def version(self, key: int | str, known: int = 1) -> None:
        """The version of the document's format. Raises Refused MEMBER_UNKNOWN for another than the known one."""
        found = self.number(key)
        if found != known:
            raise Refused(Reason.MEMBER_UNKNOWN, f"{self._what} is of version {found}, this version knows {known}")

    def flag(self, key: int | str) -> bool:
        """True or false."""
        return self._get(key, bool)

    def text(self, key: int | str, limit: int = 256) -> str:
        """Text of at most `limit` characters."""
        value = self._get(key, str)
        if len(value) > limit:
            raise malformed(self._what, f"field {key!r} has {len(value)} characters, the limit is {limit}")
        return value

    def name(self, key: int | str, limit: int = 64) -> str:
        """A name: letters, digits, `-_.`, at least one, not starting with a dot."""
        value = self.text(key, limit)
        if not is_name(value):
            raise malformed(self._what, f"field {key!r} is {value!r}, not a name")
        return value

    def data(self, key: int | str, size: int | None = None, limit: int = 1 << 20) -> bytes:
        """Bytes, `size` of them where that is given."""
        value = self._get(key, bytes)
        if size is not None and len(value) != size:
            raise malformed(self._what, f"field {key!r} has {len(value)} bytes, not {size}")
        if len(value) > limit:
            raise malformed(self._what, f"field {key!r} has {len(value)} bytes, the limit is {limit}")
        return value

    def items(self, key: int | str, limit: int) -> list[Any]:
        """A list of at most `limit` items."""
        value: list[Any] = self._get(key, list)
        if len(value) > limit:
            raise malformed(self._what, f"field {key!r} has {len(value)} items, the limit is {limit}")
        return value

    def is_null(self, key: int | str) -> bool:
        """Whether a field is there and null."""
        return key in self._value and self._value[key] is None

    def map(self, key: int | str) -> dict[Any, Any]:
        """A map, to be looked into with another `Fields`."""
        return self._get(key, dict)

    def _get(self, key: int | str, kind: type[T]) -> T:
        if key not in self._value:
            raise malformed(self._what, f"field {key!r} is missing")
        value = self._value[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise malformed(self._what, f"field {key!r} is not {_KINDS[kind]}")
        return value


def is_name(value: str) -> bool:
    """Whether text can be a name of a group, device or module: it is also a level of an MQTT topic and a file name."""
    return 0 < len(value) <= 64 and value[0] != "." and NAME_CHARACTERS.issuperset(value)

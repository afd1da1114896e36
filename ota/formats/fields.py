"""Typed access to decoded CBOR: every field of an untrusted document is fetched through here."""

from collections.abc import Collection
from typing import Any, TypeVar

from ota.formats.reasons import Reason, Refused

T = TypeVar("T")
MAX_TIME_S = 1 << 40
NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def malformed(what: str, why: str) -> Refused:
    """The refusal of a document of the wrong shape."""
    return Refused(Reason.MALFORMED, f"{what}: {why}")


class Fields:
    """A CBOR map with a closed set of keys. Every getter raises Refused MALFORMED, naming the document and the field."""

    def __init__(self, value: Any, what: str, known: Collection[int | str]) -> None:
        if not isinstance(value, dict):
            raise malformed(what, "not a map")
        unknown = [key for key in value if key not in known or isinstance(key, bool)]
        if unknown:
            raise malformed(what, f"unknown keys {unknown!r}")
        self._value = value
        self._what = what

    def __contains__(self, key: int | str) -> bool:
        return key in self._value

    def number(self, key: int | str, low: int = 0, high: int = (1 << 63) - 1) -> int:
        """A whole number between low and high, both included."""
        value = self._get(key, int)
        if not low <= value <= high:
            raise malformed(self._what, f"field {key!r} is {value}, not between {low} and {high}")
        return value

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
        if len(value) > limit or (size is not None and len(value) != size):
            raise malformed(self._what, f"field {key!r} has {len(value)} bytes")
        return value

    def items(self, key: int | str, limit: int) -> list[Any]:
        """A list of at most `limit` items."""
        value: list[Any] = self._get(key, list)
        if len(value) > limit:
            raise malformed(self._what, f"field {key!r} has {len(value)} items, the limit is {limit}")
        return value

    def map(self, key: int | str) -> dict[Any, Any]:
        """A map, to be looked into with another `Fields`."""
        return self._get(key, dict)

    def _get(self, key: int | str, kind: type[T]) -> T:
        if key not in self._value:
            raise malformed(self._what, f"field {key!r} is missing")
        value = self._value[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise malformed(self._what, f"field {key!r} is not {kind.__name__}")
        return value


def is_name(value: str) -> bool:
    """Whether text can be a name of a group, device or module: it is also a level of an MQTT topic and a file name."""
    return 0 < len(value) <= 64 and value[0] != "." and NAME_CHARACTERS.issuperset(value)

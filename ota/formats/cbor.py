"""CBOR (RFC 8949), as strict as a security format needs.

The bytes are walked before cbor2 decodes them: definite lengths only, shortest form, no duplicate keys, keys that are whole
numbers, bytes or text, no tag that the caller did not name, bounded depth. So the decoder behind it never meets an input that two
decoders could read differently, nor a map whose keys are different in CBOR and equal in Python (1, true and 1.0).
"""

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import cbor2

from ota.formats.reasons import Reason, Refused

MAX_DEPTH = 16


def encode(value: Any) -> bytes:
    """Deterministic encoding (RFC 8949 section 4.2.3): definite lengths, sorted keys, shortest form.

    Raises TypeError for a value that is not plain data. cbor2 5 and 6 encode some others differently: 6 makes a list of numbers
    of a memoryview.
    """
    _check_plain(value)
    return cbor2.dumps(value, canonical=True)


def _check_plain(value: Any) -> None:
    if isinstance(value, (list, tuple)):
        for each in value:
            _check_plain(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            _check_plain(key)
            _check_plain(each)
    elif isinstance(value, cbor2.CBORTag):
        _check_plain(value.value)
    elif value is not None and not isinstance(value, (bytes, str, int, float)):
        raise TypeError(f"{type(value).__name__} has no CBOR form here")


def decode(data: bytes, what: str, limit_bytes: int, tags: Collection[int] = ()) -> Any:
    """One CBOR item. Tags other than `tags` are refused; those stay `cbor2.CBORTag`.

    Raises Refused TOO_LARGE when there are more than `limit_bytes`, MALFORMED for anything but one strict item; both name `what`.
    """
    if len(data) > limit_bytes:
        raise Refused(Reason.TOO_LARGE, f"{what} is {len(data)} bytes, the limit is {limit_bytes}")
    walker = _Walker(data, frozenset(tags), what)
    if walker.end() != len(data):
        raise walker.malformed("bytes follow the item")
    try:
        value = cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise walker.malformed(str(error)) from error
    return _thaw(value) if tags else value


def _thaw(value: Any) -> Any:
    """cbor2 6 gives tuples and frozen maps inside a tag, cbor2 5 lists and dicts: the latter, always."""
    if isinstance(value, (list, tuple)):
        return [_thaw(each) for each in value]
    if isinstance(value, cbor2.CBORTag):
        return cbor2.CBORTag(value.tag, _thaw(value.value))
    if isinstance(value, Mapping):
        return {key: _thaw(each) for key, each in value.items()}
    return value


def sha256(data: bytes) -> bytes:
    """The digest that everything here is named by."""
    return hashlib.sha256(data).digest()


class _Walker:
    """Walks an item without building it (RFC 8949 section 3)."""

    def __init__(self, data: bytes, tags: frozenset[int], what: str) -> None:
        self._data = data
        self._tags = tags
        self._what = what

    def malformed(self, why: str) -> Refused:
        return Refused(Reason.MALFORMED, f"{self._what} is not strict CBOR: {why}")

    def end(self) -> int:  # noqa: C901, PLR0912 (a call for each item took a third of the time to read a fleet's reports)
        """The offset behind the first item."""
        data, size, at = self._data, len(self._data), 0
        left, keys = 1, None  # items to come in the innermost array, map or tag, and a map's keys so far
        outer: list[tuple[int, set[bytes] | None]] = []
        while at < size:
            start, major, argument = at, data[at] >> 5, data[at] & 31
            awaited = keys if keys is not None and not left & 1 else None  # a key
            if awaited is not None and major > 3:
                raise self.malformed("a key that is not a whole number, bytes or text")
            at += 1
            if major == 7:
                at = self._simple(start, argument)
            else:
                if argument > 23:
                    argument, at = self._argument(at, argument)
                if major > 3:
                    items, map_keys = self._content(major, argument)
                    if items:
                        outer.append((left, keys))
                        left, keys = items, map_keys
                        if len(outer) > MAX_DEPTH:
                            raise self.malformed(f"nested deeper than {MAX_DEPTH}")
                        continue
                elif major > 1:
                    at += argument
                    if at > size:
                        break
                    if major == 3:
                        self._check_text(data[at - argument : at])
            if awaited is not None:
                key = data[start:at]
                if key in awaited:
                    raise self.malformed("a key that occurs twice")
                awaited.add(key)
            left -= 1
            while not left:
                if not outer:
                    return at
                left, keys = outer.pop()
                left -= 1
        raise self.malformed("it ends too early")

    def _content(self, major: int, argument: int) -> tuple[int, set[bytes] | None]:
        """How many items an array, map or tag has, and a set for a map's keys."""
        if major == 6:
            if argument not in self._tags:
                raise self.malformed(f"tag {argument} has no place here")
            return 1, None
        return (argument, None) if major == 4 else (2 * argument, set())

    def _argument(self, at: int, low: int) -> tuple[int, int]:
        """Of more than the first byte."""
        if low > 27:
            raise self.malformed("an indefinite length")
        size = 1 << (low - 24)
        if at + size > len(self._data):
            raise self.malformed("it ends too early")
        value = int.from_bytes(self._data[at : at + size])
        if value < (24 if size == 1 else 1 << (4 * size)):
            raise self.malformed("a number not in its shortest form")
        return value, at + size

    def _simple(self, at: int, low: int) -> int:
        if low in (20, 21, 22):  # false, true, null
            return at + 1
        if low in (25, 26, 27) and at + 1 + (2 << (low - 25)) <= len(self._data):  # a half, single or double
            return at + 1 + (2 << (low - 25))
        raise self.malformed("a simple value that has no place here")

    def _check_text(self, text: bytes) -> None:
        try:
            text.decode()
        except UnicodeDecodeError:
            raise self.malformed("text that is not UTF-8") from None

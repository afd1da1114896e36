"""CBOR diagnostic notation (RFC 8949, section 8) of any bytes, whoever made them: nothing is interpreted, everything is bounded."""

import struct
from collections.abc import Iterator

MAX_DEPTH = 64
_NESTED_DEPTH = 12
_LINE = 100  # characters up to which a list or map stays on one line
_SIMPLE = {20: "false", 21: "true", 22: "null", 23: "undefined"}
_FLOATS = {25: (">e", 2), 26: (">f", 4), 27: (">d", 8)}


def diagnostic(data: bytes) -> str:
    """The notation of one item. Byte strings that hold CBOR are shown as << … >>. Raises ValueError, in one line, for no CBOR."""
    reader = _Reader(data, _NESTED_DEPTH)
    text = reader.item(0)
    if reader.at != len(data):
        raise ValueError(f"{len(data) - reader.at} bytes follow the item that ends at byte {reader.at}")
    return text


class _Reader:
    """Reads items and writes them down."""

    def __init__(self, data: bytes, nested: int) -> None:
        self._data, self._nested = data, nested
        self.at = 0

    def item(self, depth: int) -> str:
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} at byte {self.at}")
        start = self.at
        head = self._take(1)[0]
        major, low = head >> 5, head & 31
        if major == 7:
            return self._simple(low, start)
        if low == 31 and major in (2, 3, 4, 5):
            return self._indefinite(major, depth)
        number = self._number(low, start)
        if major in (0, 1):
            return str(number if major == 0 else -1 - number)
        if major == 2:
            return self._bytes(self._take(number), depth)
        if major == 3:
            return self._text(self._take(number), start)
        if major == 6:
            return f"{number}({self.item(depth + 1)})"
        if number > len(self._data) - self.at:
            raise ValueError(f"it ends in the middle of an item that begins at byte {start}")
        parts = (self._part(major, depth) for _ in range(number))
        return self._join(major, parts, depth)

    def _part(self, major: int, depth: int) -> str:
        first = self.item(depth + 1)
        return first if major == 4 else f"{first}: {self.item(depth + 1)}"

    @staticmethod
    def _join(major: int, parts: Iterator[str], depth: int, mark: str = "") -> str:
        opening, closing = ("[", "]") if major == 4 else ("{", "}")
        found = list(parts)
        if sum(map(len, found)) <= _LINE and not any("\n" in each for each in found):
            return f"{opening}{mark}{', '.join(found)}{closing}"
        inner = "  " * (depth + 1)
        return f"{opening}{mark}\n{inner}" + f",\n{inner}".join(found) + f"\n{'  ' * depth}{closing}"

    def _indefinite(self, major: int, depth: int) -> str:
        if major in (4, 5):
            return self._join(major, self._until_break(major, depth), depth, "_ ")
        return f"(_ {', '.join(self._until_break(4, depth))})"

    def _until_break(self, major: int, depth: int) -> Iterator[str]:
        while self._data[self.at : self.at + 1] != b"\xff":
            yield self._part(major, depth)
        self.at += 1

    def _simple(self, low: int, start: int) -> str:
        if low in _FLOATS:
            form, size = _FLOATS[low]
            (value,) = struct.unpack(form, self._take(size))
            return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(repr(value), repr(value))
        if low in _SIMPLE:
            return _SIMPLE[low]
        if low < 20 or low == 24:
            return f"simple({self._take(1)[0] if low == 24 else low})"
        raise ValueError(f"byte {start} begins no item")

    def _number(self, low: int, start: int) -> int:
        if low < 24:
            return low
        if low > 27:
            raise ValueError(f"byte {start} begins no item")
        return int.from_bytes(self._take(1 << (low - 24)))

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self.at:
            raise ValueError(f"it ends after {len(self._data)} bytes, in the middle of an item")
        self.at += size
        return self._data[self.at - size : self.at]

    def _text(self, content: bytes, start: int) -> str:
        try:
            return '"' + content.decode().replace("\\", "\\\\").replace('"', '\\"') + '"'
        except UnicodeDecodeError:
            raise ValueError(f"the text at byte {start} is not UTF-8") from None

    def _bytes(self, content: bytes, depth: int) -> str:
        if content and content[0] >> 5 in (4, 5, 6) and self._nested:
            inner = _Reader(content, self._nested - 1)
            try:
                text = inner.item(depth)
            except ValueError:
                text = ""
            if text and inner.at == len(content):
                return f"<< {text} >>"
        return f"h'{content.hex()}'"

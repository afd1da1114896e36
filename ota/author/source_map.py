"""Source maps (ECMA-426): from positions in a bundle to the files and lines that it was made from."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Place", "places"]

_LINE_ENDS = re.compile("\r\n|[\n\r\u2028\u2029]")  # of JavaScript: those that a map counts
_DIGITS = {digit: value for value, digit in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}


@dataclass(frozen=True)
class Place:
    """From this position of the bundle on, up to the next place."""

    line: int  # from 1, as the engine counts: U+2028 and U+2029 end none
    column: int  # from 1, in bytes of UTF-8
    file: str
    file_line: int  # from 1


def places(source_map: Mapping[str, Any], code: str) -> tuple[Place, ...]:
    """In order, one for each change of file or line. `code` is what the map was made for, without a change."""
    names = [Path(str(each)).name for each in source_map["sources"]]
    found: list[Place] = []
    source = file_line = 0
    for (line, before, text), mapped in zip(_lines(code), str(source_map["mappings"]).split(";"), strict=False):
        units = text.encode("utf-16-le", "surrogatepass")
        column, taken, size = 0, 0, before
        for values in map(_vlq, filter(None, mapped.split(","))):
            column += values[0]
            size += len(units[2 * taken : 2 * column].decode("utf-16-le", "replace").encode())
            taken = column
            if len(values) < 4:
                continue
            source, file_line = source + values[1], file_line + values[2]
            if not found or (found[-1].file, found[-1].file_line) != (names[source], file_line + 1):
                found.append(Place(line, size + 1, names[source], file_line + 1))
    return tuple(found)


def _lines(code: str) -> Iterator[tuple[int, int, str]]:
    """The lines of a map: each with the engine's number for it, and the bytes before it on the engine's line."""
    number, before, at = 1, 0, 0
    for end in _LINE_ENDS.finditer(code):
        yield number, before, code[at : end.start()]
        if end[0] in "\u2028\u2029":
            before += len(code[at : end.end()].encode())
        else:
            number, before = number + 1, 0
        at = end.end()
    yield number, before, code[at:]


def _vlq(text: str) -> list[int]:
    values, value, shift = [], 0, 0
    for digit in map(_DIGITS.__getitem__, text):
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            values.append(-(value >> 1) if value & 1 else value >> 1)
            value = shift = 0
    return values

"""What both sides of the comparison must agree on: arguments of calls, answers of host functions, bits of values."""

import random
import struct
import zlib
from collections.abc import Iterable, Sequence

MAX_PAGES = 256
TABLE_ELEMENTS = 1024  # to which a table without a maximum may grow here
STACK_BYTES = 1 << 20
MEMORY_COMPARED = 1 << 24
MOST_CALLS = 60
_EDGES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, 0x3F800000, 0x3FF0000000000000, 0x7F800000)
_SMALL = 0x20000
_SIGN, _INFINITE, _QUIET, _PAYLOAD = 1 << 31, 0xFF << 23, 1 << 22, (1 << 23) - 1  # of an f32
Number = int | float
NUMBERS = ("i32", "i64", "f32", "f64")
KINDS = {"i": "i32", "I": "i64", "f": "f32", "F": "f64", "v": "v128", "e": "externref", "r": "funcref"}
"""Of value types: pywamr's letters, and the names that are used here."""


class HostError(Exception):
    """What a host function raises now and then."""


def arguments(seed: int, name: str, kinds: Sequence[str]) -> list[int]:
    """Bits for the parameters of a function, by their types ("i32", …): often numbers at which things change. 0 for a reference."""
    source = random.Random(f"{seed} {name}")
    found = []
    for kind in kinds:
        bits = source.choice((source.getrandbits(64), source.choice(_EDGES), source.randrange(_SMALL), source.randrange(8)))
        found.append(bits & 0xFFFFFFFF if kind in ("i32", "f32") else bits if kind in ("i64", "f64") else 0)
    return found


def value(kind: str, bits: int) -> Number | None:
    """As Python has it: integers signed, references null. Of an f32 each NaN is quiet, as Wasmtime's bindings make it."""
    formats = {"i32": ("<i", "<I"), "i64": ("<q", "<Q"), "f32": ("<f", "<I"), "f64": ("<d", "<Q")}
    if kind not in formats:
        return None
    if kind == "f32" and bits & ~_SIGN > _INFINITE:
        return struct.unpack("<d", struct.pack("<Q", (bits & _SIGN) << 32 | 0x7FF << 52 | (bits & _PAYLOAD | _QUIET) << 29))[0]
    to, of = formats[kind]
    return struct.unpack(to, struct.pack(of, bits))[0]


def shown(kind: str, found: object) -> int | str:
    """A value's bits; of references whether they are null. A NaN of an f32 is quiet.

    It passes through a double, by its bits: RISC-V forgets a NaN's payload where it converts one type to the other.
    """
    if kind == "i32":
        return found & 0xFFFFFFFF  # type: ignore[operator]
    if kind == "i64":
        return found & 2**64 - 1  # type: ignore[operator]
    if kind == "f32" and found != found:
        (double,) = struct.unpack("<Q", struct.pack("<d", found))
        return double >> 32 & _SIGN | _INFINITE | _QUIET | double >> 29 & _PAYLOAD
    if kind == "f32":
        return struct.unpack("<I", struct.pack("<f", found))[0]
    if kind == "f64":
        return struct.unpack("<Q", struct.pack("<d", found))[0]
    return "null" if found is None else "reference"


class Host:
    """The host functions of one run: answers depend on name and number of the call; what was said is summed up in `heard`."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.calls = self.heard = 0

    def answer(self, name: str, params: Sequence[str], results: Sequence[str], given: Iterable[object]) -> Number | None:
        """Raises HostError in one of 16 calls."""
        said = [shown(kind, each) for kind, each in zip(params, given, strict=True)]
        self.heard = zlib.crc32(f"{name} {said}".encode(), self.heard)
        self.calls += 1
        source = zlib.crc32(f"{self._seed} {name} {self.calls}".encode())
        if source % 16 == 0:
            raise HostError
        return value(results[0], arguments(source, name, results)[0]) if results else None


def summed(content: bytes) -> int:
    """Of a memory's bytes."""
    return zlib.crc32(content)

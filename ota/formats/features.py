"""What a module uses that boards do not have, by the names of WebAssembly's proposals: why a board can't load it, and what helps.

Boards have core 2.0 and extended constant expressions.

Structure only. A function or section that holds what is not known here is left at that place, so the list may be incomplete; what
is in it is there. Of what belongs to no known proposal it says so.
"""

import contextlib
import re
from collections.abc import Iterator

from ota.formats.fields import malformed
from ota.formats.reasons import Reason, Refused
from ota.formats.wasm import sections

__all__ = ["HINTS", "beyond_core", "check_core", "explained"]

NEWER = "a newer proposal"  # that is not known here
HINTS = {
    "tail-calls": "clang -mno-tail-call, rustc -C target-feature=-tail-call",
    "exceptions": "clang -fno-exceptions without setjmp, rustc -C panic=abort",
    "legacy-exceptions": "clang -fno-exceptions without setjmp, rustc -C panic=abort",
    "gc": "a compiler that manages its memory itself: MoonBit's --target wasm; Kotlin and Dart have none",
    "function-references": "a toolchain's output for core 2.0",
    "memory64": "the target wasm32 instead of wasm64",
    "table64": "the target wasm32 instead of wasm64",
    "threads": "clang without -pthread and -matomics, rustc -C target-feature=-atomics",
    "relaxed-simd": "clang -mno-relaxed-simd, rustc -C target-feature=-relaxed-simd",
    "multi-memory": "wasm-opt --multi-memory-lowering",
    "compact-imports": "wasm-opt without -all",
    "wide-arithmetic": "clang -mno-wide-arithmetic, rustc -C target-feature=-wide-arithmetic",
    "custom-page-sizes": "pages of 64 KiB, wasm-ld without --page-size",
    "half-precision": "clang -mno-fp16, rustc -C target-feature=-fp16",
    "stringref": "a toolchain's output for core 2.0",
    "stack-switching": "a toolchain's output for core 2.0",
    NEWER: "a toolchain's output for core 2.0",
}
"""By the name of the proposal: what to do."""
_TYPE, _IMPORT, _TABLE, _MEMORY, _GLOBAL, _ELEMENT, _CODE, _DATA, _TAG, _STRINGS = 1, 2, 4, 5, 6, 9, 10, 11, 13, 14
_END, _GLOBAL_GET, _REF_NULL, _REF_FUNC = 0x0B, 0x23, 0xD0, 0xD2
_ARITHMETIC = frozenset((0x6A, 0x6B, 0x6C, 0x7C, 0x7D, 0x7E))  # of extended constant expressions, which boards have
_EITHER = "either kind of exceptions"  # tags and throw: of the old ones where an instruction is, else of the new ones
_BY_OPCODE = {
    0x06: "legacy-exceptions", 0x07: "legacy-exceptions", 0x09: "legacy-exceptions", 0x18: "legacy-exceptions",
    0x19: "legacy-exceptions", 0x08: _EITHER, 0x0A: "exceptions", 0x1F: "exceptions", 0x12: "tail-calls", 0x13: "tail-calls",
    0x14: "function-references", 0x15: "function-references", 0xD3: "gc", 0xD4: "function-references",
    0xD5: "function-references", 0xD6: "function-references", 0xFE: "threads",
    **dict.fromkeys(range(0xE0, 0xE7), "stack-switching"),
}  # fmt: skip
_NUMBERS = {
    **dict.fromkeys((0x07, 0x08, 0x09, 0x0C, 0x0D, 0x10, 0x12, 0x14, 0x15, 0x18, 0xD2, 0xD5, 0xD6), 1),
    **dict.fromkeys((*range(0x20, 0x27), 0x3F, 0x40, 0x41, 0x42), 1),
    **dict.fromkeys((0x11, 0x13), 2),
}
"""How many numbers in LEB128 follow an instruction. Signs do not matter: only their bytes are skipped."""
_UNASSIGNED = frozenset((0x16, 0x17, 0x1D, 0x1E, 0x27, *range(0xC5, 0xD0), *range(0xD7, 0xFB)))
_FC_NUMBERS = {8: 2, 9: 1, 10: 2, 11: 1, 12: 2, 13: 1, 14: 2, 15: 1, 16: 1, 17: 1}
_STRING_CODES, _RELAXED_CODES, _HALF_CODES = range(0x80, 0xC0), range(0x100, 0x114), range(0x120, 0x150)  # after 0xFB; 0xFD; 0xFD
_LEB = rb"[\x80-\xff]{0,9}+[\x00-\x7f]"
_PLAIN = re.compile(
    rb"(?:[\x00\x01\x05\x0b\x0f\x1a\x1b\x45-\xc4\xd1]"  # nothing follows
    rb"|[\x0c\x0d\x10\x20-\x26\x3f-\x42\xd2]"
    + _LEB
    + rb"|\x11"
    + _LEB
    + _LEB  # numbers follow
    + rb"|[\x28-\x3e][\x00-\x3f]"
    + _LEB  # of loads and stores: alignment, and offset in the one memory
    + rb"|[\x02-\x04](?:[\x00-\x40\x6f\x70\x7b-\x7f]|[\x80-\xff]{1,9}+[\x00-\x7f])"  # the type of a block
    rb"|\xfd(?:[\x0e-\x14\x23-\x53\x5e-\x7f]|[\x80-\xff]\x01|[\x0c\x0d].{16}|[\x15-\x22].|[\x00-\x0b][\x00-\x3f]"  # of vectors
     + _LEB + rb")|\x43.{4}|\x44.{8}|\xfc[\x00-\x07])*+",
    re.DOTALL,
)
"""A row of instructions of core 2.0 that needs no look at each."""
_ABSTRACT = {0x69: "exceptions", 0x74: "exceptions", **dict.fromkeys((0x6A, 0x6B, 0x6C, 0x6D, 0x6E, 0x71, 0x72, 0x73), "gc")}
_ABSTRACT |= {0x67: "stringref"}


class _UnknownError(Exception):
    """Something that is not known here."""


def beyond_core(data: bytes) -> tuple[str, ...]:
    """The proposals that a module uses, of HINTS, sorted. Raises Refused MALFORMED."""
    found = _Found()
    for kind, _, _, content in sections(data):
        found.look_at(kind, content)
    if _EITHER in found.names:
        found.names -= {_EITHER}
        if "legacy-exceptions" not in found.names:
            found.names.add("exceptions")
    return tuple(sorted(found.names))


def explained(data: bytes) -> str:
    """For people: what a board lacks for this module, and what to do. Empty where nothing is known, also of what is no module."""
    try:
        names = beyond_core(data)
    except Refused:
        return ""
    return "; ".join(f"it uses {name}, which boards do not have: use {HINTS[name]}" for name in names)


def check_core(data: bytes) -> None:
    """Raises Refused MODULE_INVALID for a module that no board can load, with what to do. Bytes that are no module pass."""
    if why := explained(data):
        raise Refused(Reason.MODULE_INVALID, why)


class _Found:
    def __init__(self) -> None:
        self.names: set[str] = set()
        self._memories = self._imported_globals = 0

    def look_at(self, kind: int, content: bytes) -> None:
        looks = {
            _TYPE: self._types,
            _IMPORT: self._imports,
            _TABLE: self._tables,
            _MEMORY: self._memory_types,
            _GLOBAL: self._globals,
            _ELEMENT: self._elements,
            _CODE: self._code,
            _DATA: self._segments,
        }
        if kind == _TAG:
            self._tell(_EITHER)
        if kind > _TAG:
            self._tell("stringref" if kind == _STRINGS else NEWER)
        if kind in looks:
            with self._named():
                looks[kind](_Bytes(content))

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """What is not known, and not of a proposal that is, is of a newer one."""
        self._told = False  # whether what is looked at is of a proposal that is known
        try:
            yield
        except _UnknownError:
            if not self._told:
                self._tell(NEWER)

    def _tell(self, name: str) -> None:
        self.names.add(name)
        self._told = True

    def _types(self, at: "_Bytes") -> None:
        for _ in range(at.number()):
            form = at.byte()
            if form in (0x4E, 0x4F, 0x50, 0x5E, 0x5F):
                self._tell("gc")
            if form == 0x5D:
                self._tell("stack-switching")
            if form != 0x60:
                raise _UnknownError
            for _ in range(2):
                for _ in range(at.number()):
                    self._value_type(at)

    def _value_type(self, at: "_Bytes") -> None:
        kind = at.byte()
        if kind in (0x63, 0x64):
            self._tell("function-references")
            self._heap_type(at)
        elif kind in _ABSTRACT:
            self._tell(_ABSTRACT[kind])

    def _heap_type(self, at: "_Bytes") -> None:
        first = at.peek()
        if first in _ABSTRACT:
            self._tell(_ABSTRACT[first])
        at.skip(1)

    def _imports(self, at: "_Bytes") -> None:
        for _ in range(at.number()):
            at.take(at.number())
            name, kind = at.take(at.number()), at.byte()
            if kind == 0:
                at.skip(1)
            elif kind == 1:
                self._value_type(at)
                self._limits(at, "table64")
            elif kind == 2:
                self._memory_type(at)
            elif kind == 3:
                self._imported_globals += 1
                self._value_type(at)
                at.byte()
            elif kind == 4:
                self._tell(_EITHER)
                at.byte()
                at.skip(1)
            else:
                if kind in (0x7E, 0x7F) and not name:
                    self._tell("compact-imports")
                raise _UnknownError

    def _limits(self, at: "_Bytes", wide: str) -> None:
        flags = at.byte()
        if flags > 15:
            raise _UnknownError
        for bit, name in ((2, "threads"), (4, wide), (8, "custom-page-sizes")):
            if flags & bit:
                self._tell(name)
        at.skip(2 if flags & 1 else 1)
        if flags & 8:
            at.skip(1)

    def _memory_type(self, at: "_Bytes") -> None:
        self._memories += 1
        if self._memories > 1:
            self._tell("multi-memory")
        self._limits(at, "memory64")

    def _tables(self, at: "_Bytes") -> None:
        for _ in range(at.number()):
            if has_value := at.peek() == 0x40:
                self._tell("function-references")
                at.take(2)
            self._value_type(at)
            self._limits(at, "table64")
            if has_value:
                self._constant(at)

    def _memory_types(self, at: "_Bytes") -> None:
        for _ in range(at.number()):
            self._memory_type(at)

    def _globals(self, at: "_Bytes") -> None:
        for _ in range(at.number()):
            self._value_type(at)
            at.byte()
            self._constant(at)

    def _elements(self, at: "_Bytes") -> None:
        for _ in range(at.number()):
            flags = at.number()
            if flags > 7:
                raise _UnknownError
            if not flags & 1:
                at.skip(1 if flags & 2 else 0)
                self._constant(at)
            if flags & 3:
                if flags & 4:
                    self._value_type(at)
                else:
                    at.byte()
            for _ in range(at.number()):
                if flags & 4:
                    self._constant(at)
                else:
                    at.skip(1)

    def _segments(self, at: "_Bytes") -> None:
        for _ in range(at.number()):
            flags = at.number()
            if flags > 2:
                raise _UnknownError
            if flags == 2 and at.number():
                self._tell("multi-memory")
            if flags != 1:
                self._constant(at)
            at.take(at.number())

    def _constant(self, at: "_Bytes") -> None:
        while (code := at.byte()) != _END:
            if code == _GLOBAL_GET:
                if at.number() >= self._imported_globals:
                    self._tell("gc")  # one of the module's own
            elif code == _REF_NULL:
                self._heap_type(at)
            elif code in (0x41, 0x42, _REF_FUNC):
                at.skip(1)
            elif code in (0x43, 0x44):
                at.take(4 if code == 0x43 else 8)
            elif code in (0xFB, 0xFD):
                self._long(code, at)
            elif code not in _ARITHMETIC:
                if code in _BY_OPCODE:
                    self._tell(_BY_OPCODE[code])
                raise _UnknownError

    def _code(self, at: "_Bytes") -> None:
        for _ in range(at.number()):
            body = _Bytes(at.take(at.number()))
            with self._named():
                for _ in range(body.number()):
                    body.skip(1)
                    self._value_type(body)
                for code in body.instructions():
                    if code in _BY_OPCODE:
                        self._tell(_BY_OPCODE[code])
                    self._immediates(code, body)

    def _immediates(self, code: int, at: "_Bytes") -> None:
        if code in _NUMBERS:
            at.skip(_NUMBERS[code])
        elif 0x28 <= code <= 0x3E:
            self._memory_argument(at)
        elif code in (0x02, 0x03, 0x04, 0x06, 0x1F):
            self._block(code, at)
        elif code in (0x43, 0x44):
            at.take(4 if code == 0x43 else 8)
        elif code in (0x0E, 0x1C):
            self._vector(code, at)
        elif code == _REF_NULL:
            self._heap_type(at)
        elif code >= 0xFB:
            self._long(code, at)
        elif code in _UNASSIGNED:
            raise _UnknownError

    def _vector(self, code: int, at: "_Bytes") -> None:
        """Labels of br_table, or the types of select."""
        if code == 0x0E:
            at.skip(at.number() + 1)
            return
        for _ in range(at.number()):
            self._value_type(at)

    def _block(self, code: int, at: "_Bytes") -> None:
        if at.peek() in (0x63, 0x64) or at.peek() in _ABSTRACT:
            self._value_type(at)
        else:
            at.skip(1)
        if code == 0x1F:  # try_table: its handlers
            for _ in range(at.number()):
                at.skip(2 if at.byte() < 2 else 1)

    def _long(self, prefix: int, at: "_Bytes") -> None:
        code = at.number()
        if prefix == 0xFC:
            if 19 <= code <= 22:
                self._tell("wide-arithmetic")
            elif code in (48, 49):
                self._tell("half-precision")
                self._memory_argument(at)
            elif code > 17:
                raise _UnknownError
            at.skip(_FC_NUMBERS.get(code, 0))
        elif prefix == 0xFD:
            self._vectors(code, at)
        elif prefix == 0xFE and code == 3:
            at.byte()
        elif prefix == 0xFE:
            self._memory_argument(at)
        else:
            if prefix == 0xFB:
                self._tell("stringref" if code in _STRING_CODES else "gc")
            raise _UnknownError

    def _vectors(self, code: int, at: "_Bytes") -> None:
        if code in _HALF_CODES:
            self._tell("half-precision")
            at.take(1 if code in (0x121, 0x122) else 0)  # a lane
        elif code >= 0x100:
            self._tell("relaxed-simd" if code in _RELAXED_CODES else NEWER)
        if code < 12 or 84 <= code <= 93:
            self._memory_argument(at)
        at.take(16 if code in (12, 13) else 1 if 21 <= code <= 34 or 84 <= code <= 91 else 0)

    def _memory_argument(self, at: "_Bytes") -> None:
        if at.number() & 0x40:
            at.skip(1)
        at.skip(1)


class _Bytes:
    """Bytes that are read from the front. What ends too early is malformed."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def instructions(self) -> Iterator[int]:
        """Opcodes but for those of plain rows; who asks reads what belongs to one."""
        while True:
            if row := _PLAIN.match(self._data, self._at):
                self._at = row.end()
            if self._at >= len(self._data):
                return
            yield self.byte()

    def peek(self) -> int:
        return self._data[self._at] if self._at < len(self._data) else 0

    def byte(self) -> int:
        if self._at >= len(self._data):
            raise malformed("module", "it ends too early")
        self._at += 1
        return self._data[self._at - 1]

    def number(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise malformed("module", "a number of more than 64 bits")

    def skip(self, numbers: int) -> None:
        for _ in range(numbers):
            self.number()

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) < size:
            raise malformed("module", "it ends too early")
        self._at += size
        return taken

"""The imports and exports of a core module, read from its bytes: what an operator checks before anything is signed.

Structure only (WebAssembly core 2.0, section 5.5). The runtime on the board reads the module again and is the one that decides.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ota.formats.fields import malformed
from ota.formats.reasons import Reason, Refused

IMPORT, _MEMORIES, EXPORT, CODE = 2, 5, 7, 10
FUNCTION, TABLE, MEMORY, _GLOBAL, _TAG = range(5)
_ITEMS, _ITEMS_OF_A_TYPE = 0x7F, 0x7E  # compact imports: where a kind stands otherwise, behind an empty name
MAX_ITEMS = 100_000
MAX_PRODUCERS = 256
_LOOKED_AT = 64  # bytes, to see what a file is
MODULE_MAGIC = b"\0asm\x01\0\0\0"
COMPONENT_MAGIC = b"\0asm\x0d\0\x01\0"
COMPONENT = "a component, and no core module, which `ota build` takes out of it"


@dataclass(frozen=True)
class Import:
    """One import of a module."""

    module: str
    name: str
    kind: int  # of a core external type: 0 function, 1 table, 2 memory, 3 global, 4 tag
    type: bytes  # the rest of the external type, as it stands in the file


@dataclass(frozen=True)
class ModuleShape:
    """What a module needs and offers by name."""

    imports: tuple[tuple[str, str], ...]  # functions: (module, name)
    exports: tuple[str, ...]
    memory_pages: int = 0  # what its memory has from the beginning, in pages of 64 KiB


def instead_of_module(data: bytes) -> str:
    """What bytes without the mark of a module seem to be, and what to do; to be put behind what they are not."""
    if not data:
        return ": it is empty"
    begin = data[:_LOOKED_AT]
    if not begin.isascii() or any(each < 9 for each in begin):  # 9: a tab, the first character that texts have
        return f": it begins with {data[:8].hex(' ')}, and a module with {MODULE_MAGIC.hex(' ')}"
    if begin.lstrip().startswith((b"(module", b"(component", b";;", b"(;")):
        return ": it is WebAssembly text, of which `wat2wasm FILE -o MODULE.wasm` makes a module"
    return ": it is text, and a compiler makes a .wasm of a source"


def read(data: bytes) -> ModuleShape:
    """Raises Refused MALFORMED for bytes that are not a core module, or one that imports anything but functions."""
    if data[:8] == COMPONENT_MAGIC:
        raise malformed("module", COMPONENT)
    if data[:8] != MODULE_MAGIC:
        raise malformed("module", f"not a WebAssembly core module{instead_of_module(data)}")
    imports: tuple[tuple[str, str], ...] = ()
    exports: tuple[str, ...] = ()
    pages = 0
    for kind, _, start, _ in sections(data):
        reader = Reader(data, start)
        if kind == IMPORT:
            imports = tuple(_function(each) for each in reader.imports())
        elif kind == _MEMORIES and reader.count() > 0:
            reader.byte()  # flags
            pages = reader.number()
        elif kind == EXPORT:
            exports = tuple(name for name, _ in reader.exports())
    return ModuleShape(imports, exports, pages)


def producers(data: bytes) -> tuple[tuple[str, str, str], ...]:
    """What a module's custom section "producers" says: (field, name, version), such as ("language", "C11", ""); "" for no version.

    Raises Refused MALFORMED.
    """
    found: list[tuple[str, str, str]] = []
    for _, name, start, content in sections(data):
        if name != "producers":
            continue
        reader = Reader(data, start, start + len(content))
        for _ in range(reader.count()):
            field = reader.name()
            for _ in range(reader.count()):
                found.append((field, reader.name(), reader.name()))
                if len(found) > MAX_PRODUCERS:
                    raise malformed("module", f"its section producers has more than {MAX_PRODUCERS} entries")
    return tuple(found)


def reconstructs(data: bytes) -> bool:
    """Whether constructors run at each call instead of once: wasm-ld wraps each export so when nothing else runs them.

    It shows by the wrappers' names, as far as the module has names. Raises Refused MALFORMED.
    """
    return any(name == "name" and b".command_export" in content for _, name, _, content in sections(data))


def sections(data: bytes) -> Iterator[tuple[int, str, int, bytes]]:
    """Each section: number, name (of custom ones), where its content starts in the file, the content. Raises Refused MALFORMED."""
    for kind, name, start, end in spans(data, len(MODULE_MAGIC), len(data)):
        yield kind, name, start, data[start:end]


def spans(data: bytes, at: int, end: int) -> Iterator[tuple[int, str, int, int]]:
    """As `sections`, from `at` to `end`, with where the content ends instead of the content."""
    reader = Reader(data, at, end)
    while reader.at < end:
        kind, size = reader.byte(), reader.number()
        stop = reader.at + size
        if stop > end:
            raise malformed("module", "a section ends behind the file")
        name = Reader(data, reader.at, stop) if kind == 0 else None
        yield kind, name.name() if name else "", name.at if name else reader.at, stop
        reader.at = stop


_SHARED = {
    1: ("a table", "link without --import-table"),
    2: ("a memory", "link without --import-memory"),
    3: ("a global", "link statically, without -shared and -pie"),
    4: ("a tag", "build without exceptions"),
}
"""What is imported and is no function: what it is, and what helps."""


def _function(found: Import) -> tuple[str, str]:
    if found.kind != FUNCTION:
        kind, hint = _SHARED.get(found.kind, ("not known here", "use core 2.0"))
        told = f"import {found.module[:200]}.{found.name[:200]} is not a function but {kind}, which boards do not hand over: {hint}"
        raise Refused(Reason.MODULE_INVALID, told)
    return found.module, found.name


class Reader:
    """Reads what modules and components are made of, from `at` to `end`. Everything raises Refused MALFORMED."""

    def __init__(self, data: bytes, at: int, end: int | None = None) -> None:
        self._data = data
        self._end = len(data) if end is None else end
        self.at = at
        self.compact = False  # imports were read that share their module's name

    def byte(self) -> int:
        """One byte."""
        if self.at >= self._end:
            raise malformed("module", "it ends too early")
        self.at += 1
        return self._data[self.at - 1]

    def number(self) -> int:
        """An unsigned number of 32 bits, in LEB128."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise malformed("module", "a number of more than 32 bits")

    def count(self) -> int:
        """How many items follow."""
        count = self.number()
        if count > MAX_ITEMS:
            raise malformed("module", f"{count} items in a section, the limit is {MAX_ITEMS}")
        return count

    def name(self) -> str:
        """Text with its length before it."""
        size = self.number()
        if size > self._end - self.at:
            raise malformed("module", "it ends too early")
        self.at += size
        try:
            return self._data[self.at - size : self.at].decode()
        except UnicodeDecodeError:
            raise malformed("module", "a name that is not UTF-8") from None

    def imports(self) -> Iterator[Import]:
        """An import section, where imports may share their module's name, or that and a type (the proposal compact imports)."""
        left = MAX_ITEMS
        for _ in range(self.count()):
            module, name, kind = self.name(), self.name(), self.byte()
            if name or kind not in (_ITEMS, _ITEMS_OF_A_TYPE):
                group = iter((Import(module, name, kind, self._type(kind)),))
            else:
                self.compact, group = True, self._group(module, kind)
            for each in group:
                left -= 1
                if left < 0:
                    raise malformed("module", f"more than {MAX_ITEMS} imports")
                yield each

    def exports(self) -> Iterator[tuple[str, int]]:
        """An export section: names and kinds."""
        for _ in range(self.count()):
            yield self.name(), self.byte()
            self.number()

    def _group(self, module: str, form: int) -> Iterator[Import]:
        if form == _ITEMS:
            for _ in range(self.count()):
                name, kind = self.name(), self.byte()
                yield Import(module, name, kind, self._type(kind))
            return
        kind = self.byte()
        described = self._type(kind)
        for _ in range(self.count()):
            yield Import(module, self.name(), kind, described)

    def _type(self, kind: int) -> bytes:
        """The external type behind its kind."""
        start = self.at
        if kind == FUNCTION:
            self.number()
        elif kind in (TABLE, MEMORY):
            if kind == TABLE:
                self._value_type()
            flags = self.byte()
            for _ in range((2 if flags & 1 else 1) + bool(flags & 8)):
                self._skip()
        elif kind == _GLOBAL:
            self._value_type()
            self.byte()
        elif kind == _TAG:
            self.byte()
            self.number()
        else:
            raise malformed("module", f"an import of kind {kind}")
        return self._data[start : self.at]

    def _value_type(self) -> None:
        if self.byte() in (0x63, 0x64):
            self._skip()

    def _skip(self) -> None:
        """A number of at most 64 bits, of whatever sign."""
        for _ in range(10):
            if self.byte() < 0x80:
                return
        raise malformed("module", "a number of more than 64 bits")

"""The imports and exports of a core module, read from its bytes: what an operator checks before anything is signed.

Structure only (WebAssembly core 2.0, section 5.5). The runtime on the board reads the module again and is the one that decides.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ota.formats.fields import malformed
from ota.formats.reasons import Refused

_IMPORT, _MEMORIES, _EXPORT = 2, 5, 7
_FUNCTION, _TABLE, _MEMORY, _GLOBAL = range(4)
MAX_ITEMS = 100_000
MAX_PRODUCERS = 256
MODULE_MAGIC = b"\0asm\x01\0\0\0"
COMPONENT_MAGIC = b"\0asm\x0d\0\x01\0"
COMPONENT = (
    "a component, and no core module: build for wasm32-unknown-unknown or wasm32-wasip1, or take the core module out of it, "
    "where it has one (wasm-tools component unbundle)"
)


@dataclass(frozen=True)
class ModuleShape:
    """What a module needs and offers by name."""

    imports: tuple[tuple[str, str], ...]  # functions: (module, name)
    exports: tuple[str, ...]
    memory_pages: int = 0  # what its memory has from the beginning, in pages of 64 KiB


def read(data: bytes) -> ModuleShape:
    """Raises Refused MALFORMED for bytes that are not a core module, or one that imports anything but functions."""
    if data[:8] == COMPONENT_MAGIC:
        raise malformed("module", COMPONENT)
    if data[:8] != MODULE_MAGIC:
        raise malformed("module", "not a WebAssembly core module")
    imports: tuple[tuple[str, str], ...] = ()
    exports: tuple[str, ...] = ()
    pages = 0
    for kind, _, start, _ in sections(data):
        reader = _Reader(data, start)
        if kind == _IMPORT:
            imports = tuple(reader.function_import() for _ in range(reader.count()))
        elif kind == _MEMORIES and reader.count() > 0:
            reader.byte()  # flags
            pages = reader.number()
        elif kind == _EXPORT:
            exports = tuple(reader.export() for _ in range(reader.count()))
    return ModuleShape(imports, exports, pages)


def producers(data: bytes) -> tuple[tuple[str, str, str], ...]:
    """What a module's custom section "producers" says: (field, name, version), such as ("language", "C11", ""); "" for no version.

    Raises Refused MALFORMED.
    """
    found: list[tuple[str, str, str]] = []
    for _, name, start, content in sections(data):
        if name != "producers":
            continue
        reader = _Reader(data[: start + len(content)], start)
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
    reader = _Reader(data, 8)
    while reader.at < len(data):
        kind, size = reader.byte(), reader.number()
        end = reader.at + size
        if end > len(data):
            raise malformed("module", "a section ends behind the file")
        name = reader.name() if kind == 0 else ""
        yield kind, name, reader.at, data[reader.at : end]
        reader.at = end


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at

    def byte(self) -> int:
        if self.at >= len(self._data):
            raise malformed("module", "it ends too early")
        self.at += 1
        return self._data[self.at - 1]

    def number(self) -> int:
        value = 0
        for shift in range(0, 35, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise malformed("module", "a number of more than 32 bits")

    def count(self) -> int:
        count = self.number()
        if count > MAX_ITEMS:
            raise malformed("module", f"{count} items in a section, the limit is {MAX_ITEMS}")
        return count

    def name(self) -> str:
        size = self.number()
        raw = self._data[self.at : self.at + size]
        self.at += size
        if len(raw) < size:
            raise malformed("module", "it ends too early")
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise malformed("module", "a name that is not UTF-8") from None

    def function_import(self) -> tuple[str, str]:
        module, name, kind = self.name(), self.name(), self.byte()
        if kind != _FUNCTION:
            raise self._not_a_function(module, name)
        self.number()
        return module, name

    def _not_a_function(self, module: str, name: str) -> Refused:
        return malformed("module", f"import {module}.{name} is not a function")

    def export(self) -> str:
        name = self.name()
        self.byte()
        self.number()
        return name

"""Components: WebAssembly's other kind of binary, one or more core modules with the types of what goes in and out.

Read as far as it takes to say which core module in it boards can run: its sections, the names of its imports and exports, what its
core modules import and export, and how strings are passed. The types are not checked, and boards never read a component.
Binary format: version 0x0d, layer 1 (component-model, design/mvp/Binary.md).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from ota.formats import wasm
from ota.formats.capabilities import FUNCTIONS, WASI_MODULE
from ota.formats.chunks import BLOB_LIMIT_BYTES
from ota.formats.fields import malformed
from ota.formats.reasons import Reason, Refused
from ota.formats.wasm import COMPONENT_MAGIC, MODULE_MAGIC, Import, Reader

__all__ = ["Component", "Core", "Role", "is_component", "read"]

MAX_DEPTH, MAX_SECTIONS, MAX_CORES = 16, 20_000, 64
_CORE, _COMPONENT, _CANON, _START, _IMPORT, _EXPORT, _LAST = 1, 4, 8, 9, 10, 11, 12
_LIFT, _LOWER, _RESOURCES = 0, 1, (2, 3, 4)
_ENCODINGS = {1: "UTF-16", 2: "Latin-1 or UTF-16"}
_ASYNC, _CALLBACK = 6, 7
_ASYNC_NAMES = (
    "[async", "[stream", "[future", "[task", "[subtask", "[waitable", "[backpressure", "[context", "[error-context", "[thread",
    "[callback", "[yield", "[cancel",
)  # fmt: skip
_TABLE_OF_SHIMS = "$imports"
_T = TypeVar("_T")


class Role(Enum):
    """What a core module is for."""

    MAIN = "main"  # has code of its own, and imports functions only
    SHIM = "shim"  # wit-component's: calls through a table what can't be there yet
    FIXUPS = "fixups"  # wit-component's: fills that table
    ADAPTER = "adapter"  # makes WASI 0.2 of WASI preview 1 for the main module
    LINKED = "linked"  # shares a memory, a table or a global with another
    EMPTY = "empty"  # no code


@dataclass(frozen=True)
class Core:
    """One of a component's core modules."""

    start: int  # where it is in the component
    end: int
    role: Role
    imports: tuple[tuple[str, str], ...]  # functions: (module, name)
    shared: str  # the first import that is not a function, shortened, "" for none
    exports: tuple[str, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return self.end - self.start


@dataclass(frozen=True)
class Component:
    """A component, as far as it is read."""

    imports: tuple[str, ...]
    exports: tuple[str, ...]
    cores: tuple[Core, ...]
    is_async: str  # what shows that it needs the Component Model's async, "" for nothing
    encoding: str  # of its strings where that is not UTF-8
    has_start: bool  # a function that runs when the component is made, outside its core modules

    def main(self) -> Core:
        """The core module that boards can run. Raises Refused MODULE_INVALID that says why there is none, and what helps."""
        linked = [each for each in self.cores if each.role is Role.LINKED]
        if linked:
            largest = max(linked, key=lambda each: each.size)
            raise _invalid(
                f"its core modules are linked to each other: one of {largest.size} bytes imports {largest.shared}, as "
                "componentize-py and componentize-qjs make them. Boards run one: for scripts, `ota new --lang javascript`"
            )
        if self.is_async:
            raise _invalid(f"it is asynchronous ({self.is_async}), as WASI 0.3 is: build it for WASI 0.2, with functions that wait")
        mains = [each for each in self.cores if each.role is Role.MAIN]
        if not mains:
            raise _invalid("none of its core modules has code of its own")
        if len(mains) > 1:
            sizes = ", ".join(str(each.size) for each in mains)
            raise _invalid(f"{len(mains)} of its core modules have code ({sizes} bytes): publish the parts that it is composed of")
        if self.encoding:
            raise _invalid(f"its strings are {self.encoding}, boards pass UTF-8: set the toolchain's string encoding to UTF-8")
        if self.has_start:
            raise _invalid("it has a start function of its own: let the core module's, or _initialize, do that")
        self._check_supply(mains[0])
        return mains[0]

    def _check_supply(self, main: Core) -> None:
        """The shims are not needed where all that the main module imports comes from outside, or from WASI preview 1."""
        outside = {WASI_MODULE, "$root", "cm32p2", *self.imports}
        named = ((module.removeprefix("cm32p2|"), name) for module, name in main.imports)
        inside = next((f"{module[:100]}.{name[:100]}" for module, name in named if ":" not in module and module not in outside), "")
        if inside:
            raise _invalid(
                f"its main core module imports what another one in it supplies ({inside}): "
                "link it without that adapter, for wasm32-wasip2, wasm32-wasip1 or wasm32-unknown-unknown"
            )


def is_component(data: bytes) -> bool:
    """Whether it says so: any version of layer 1."""
    return data[:4] == COMPONENT_MAGIC[:4] and data[6:8] == COMPONENT_MAGIC[6:]


def read(data: bytes) -> Component:
    """Raises Refused TOO_LARGE, MALFORMED."""
    if len(data) > BLOB_LIMIT_BYTES:
        raise Refused(Reason.TOO_LARGE, f"a component of {len(data)} bytes, the limit is {BLOB_LIMIT_BYTES}")
    return _Walk(data).component()


def _invalid(why: str) -> Refused:
    return Refused(Reason.MODULE_INVALID, f"a component that boards can't run: {why}")


def _too_many(what: str, limit: int) -> Refused:
    return Refused(Reason.TOO_LARGE, f"component: more than {limit} {what}")


class _Walk:
    """Goes through the components in a component, one after the other. What it keeps is bounded by the limits above."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._imports: list[str] = []
        self._exports: list[str] = []
        self._cores: list[Core] = []
        self._is_async = self._encoding = ""
        self._has_start = False
        self._sections = self._items = 0

    def component(self) -> Component:
        pending = [(0, len(self._data), 1)]
        while pending:
            start, end, depth = pending.pop()
            magic = self._data[start : min(start + len(COMPONENT_MAGIC), end)]
            if magic != COMPONENT_MAGIC:
                raise malformed(
                    "component", f"it begins with {magic.hex()}: boards' tools read version 0x0d, {COMPONENT_MAGIC.hex()}"
                )
            for kind, _, at, stop in wasm.spans(self._data, start + len(COMPONENT_MAGIC), end):
                self._sections += 1
                if self._sections > MAX_SECTIONS:
                    raise _too_many("sections", MAX_SECTIONS)
                if kind == _COMPONENT:
                    if depth == MAX_DEPTH:
                        raise _too_many("components in each other", MAX_DEPTH)
                    pending.append((at, stop, depth + 1))
                else:
                    self._section(kind, at, stop, outermost=depth == 1)
        imports, exports = tuple(self._imports), tuple(self._exports)
        return Component(imports, exports, tuple(self._cores), self._is_async, self._encoding, self._has_start)

    def _section(self, kind: int, at: int, stop: int, *, outermost: bool) -> None:
        if kind > _LAST:
            raise malformed("component", f"a section with the number {kind}")
        if kind == _CORE:
            if len(self._cores) == MAX_CORES:
                raise _too_many("core modules", MAX_CORES)
            self._cores.append(self._core(at, stop))
        elif kind == _START:
            self._has_start = True
        elif kind == _CANON:
            self._canonical(Reader(self._data, at, stop))
        elif kind in (_IMPORT, _EXPORT) and outermost:
            self._names(kind, Reader(self._data, at, stop))

    def _counted(self, count: int) -> range:
        self._items += count
        if self._items > wasm.MAX_ITEMS:
            raise _too_many("names and functions", wasm.MAX_ITEMS)
        return range(count)

    # -- core modules

    def _core(self, at: int, stop: int) -> Core:
        if self._data[at : min(at + len(MODULE_MAGIC), stop)] != MODULE_MAGIC:
            raise malformed("component", f"a core module of {stop - at} bytes that is not one")
        imports: list[Import] = []
        exports: list[tuple[str, int]] = []
        has_code = False
        for kind, _, start, end in wasm.spans(self._data, at + len(MODULE_MAGIC), stop):
            reader = Reader(self._data, start, end)
            if kind == wasm.IMPORT:
                imports += self._bounded(reader.imports())
            elif kind == wasm.EXPORT:
                exports += self._bounded(reader.exports())
            elif kind == wasm.CODE:
                has_code = has_code or reader.number() > 0
        functions = tuple((each.module, each.name) for each in imports if each.kind == wasm.FUNCTION)
        shared = next((f"{each.module[:100]}.{each.name[:100]}" for each in imports if each.kind != wasm.FUNCTION), "")
        names = tuple(name for name, _ in exports)
        role = _role(imports, exports, has_code=has_code)
        if role is Role.MAIN:
            self._look_for_async([*names, *(name for _, name in functions)])
        return Core(at, stop, role, functions, shared, names)

    def _bounded(self, found: Iterator[_T]) -> Iterator[_T]:
        for each in found:
            self._counted(1)
            yield each

    # -- the rest

    def _look_for_async(self, names: list[str]) -> None:
        for name in names:
            if not self._is_async and name.startswith(_ASYNC_NAMES):
                self._is_async = name[:100]

    def _names(self, kind: int, reader: Reader) -> None:
        found = self._imports if kind == _IMPORT else self._exports
        for _ in self._counted(reader.number()):
            form = reader.byte()
            if form > 2:
                raise malformed("component", f"a name of kind {form}")
            found.append(reader.name())
            for _ in self._counted(reader.number() if form == 2 else 0):
                reader.byte()
                reader.name()
            if kind == _IMPORT:
                _skip_type(reader)
            else:
                if reader.byte() == 0:  # the sort is one of core modules
                    reader.byte()
                reader.number()
                if reader.byte():
                    _skip_type(reader)
            if not self._is_async and found[-1].startswith("wasi:") and "@0.3." in found[-1]:
                self._is_async = found[-1][:100]

    def _canonical(self, reader: Reader) -> None:
        for _ in self._counted(reader.number()):
            kind = reader.byte()
            if kind in _RESOURCES:
                reader.number()
            elif kind in (_LIFT, _LOWER):
                reader.byte()
                reader.number()
                self._options(reader)
                if kind == _LIFT:
                    reader.number()
            else:  # all others are for async and for threads; what belongs to them is not known here
                self._is_async = self._is_async or f"canonical function 0x{kind:02x}"
                return

    def _options(self, reader: Reader) -> None:
        for _ in self._counted(reader.number()):
            option = reader.byte()
            if option in _ENCODINGS:
                self._encoding = _ENCODINGS[option]
            elif option in (_ASYNC, _CALLBACK):
                self._is_async = self._is_async or "canonical option async"
            if option > 2 and option != _ASYNC:
                reader.number()


def _skip_type(reader: Reader) -> None:
    """The external type of an import or export of a component."""
    sort = reader.byte()
    if sort == 3 and reader.byte() == 1:  # a type that is a resource
        return
    if sort in (0, 2):
        reader.byte()
    reader.number()


def _role(imports: list[Import], exports: list[tuple[str, int]], *, has_code: bool) -> Role:
    shared = [(each.module, each.name, each.kind) for each in imports if each.kind != wasm.FUNCTION]
    if any(name == _TABLE_OF_SHIMS and kind == wasm.TABLE for _, name, kind in shared):
        return Role.FIXUPS
    if not has_code:
        return Role.EMPTY
    tables = [name for name, kind in exports if kind == wasm.TABLE]
    if not imports and tables == [_TABLE_OF_SHIMS] and all(name.isdecimal() for name, kind in exports if kind != wasm.TABLE):
        return Role.SHIM
    if shared == [("env", "memory", wasm.MEMORY)] and any(name in FUNCTIONS["wasi"] for name, _ in exports):
        return Role.ADAPTER
    return Role.LINKED if shared else Role.MAIN

"""A loaded module: what it imports, exports and carries."""

import ctypes
import re
import sys
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pywamr import _abi
from pywamr._owned import Owned
from pywamr.errors import (
    ArgumentError,
    BusyError,
    ClosedError,
    LoadError,
    MissingImportError,
    PywamrError,
    UnsupportedError,
    WasmFrame,
)
from pywamr.instance import Instance
from pywamr.types import Export, ExternType, FunctionType, GlobalType, Import, MemoryType, TableType, ValueType

if TYPE_CHECKING:
    from pywamr._live import Live

HostFunctions = Mapping[str, Mapping[str, Callable[..., Any]]]
"""Host functions by import module and name."""

_CUSTOM_SECTION_LIMIT = 1000
_FRAME = re.compile(r"^#(\d+): 0x([0-9a-fA-F]+) - (.*)$", re.MULTILINE)


class Module(Owned):
    """Code that was loaded and can be instantiated many times. Made by `Runtime.load`."""

    def __init__(self, handle: int, *, compiled: bool) -> None:
        self._library = _abi.library()
        self._faults = compiled and b"bounds=hardware" in self._library.pw_aot_target()
        self._handle = handle
        self._closed = self._dropped = False
        self._lives: weakref.WeakValueDictionary[int, Live] = weakref.WeakValueDictionary()
        self.imports: tuple[Import, ...] = self._read_imports()
        self.exports: tuple[Export, ...] = self._read_exports()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def custom_sections(self) -> tuple[tuple[str, bytes], ...]:
        """Names and contents of the custom sections, in the order of the file; a name may occur twice."""
        found = []
        name, content = ctypes.c_void_p(), ctypes.c_void_p()
        name_size, size = ctypes.c_uint32(), ctypes.c_uint32()
        for index in range(_CUSTOM_SECTION_LIMIT):
            status = self._library.pw_module_custom_section_get(self._live(), index, name, name_size, content, size)
            if status != _abi.OK:
                break
            label = ctypes.string_at(name.value or 0, name_size.value)
            found.append((label.decode("utf-8", "replace"), ctypes.string_at(content.value or 0, size.value)))
        return tuple(found)

    def instantiate(
        self,
        hosts: HostFunctions | None = None,
        *,
        stack_bytes: int = 64 * 1024,
        max_pages: int | None = None,
        fuel: int | None = None,
    ) -> Instance:
        """A new instance, its start function run.

        `hosts` needs a callable for every import; one that is not imported is ignored. `stack_bytes` is the guest's operand
        stack; `max_pages` (of 64 KiB) lowers the memory limit of the module; `fuel` is for the start function and what comes
        after it, see `Instance.limit_fuel`. Raises MissingImportError naming every import that lacks a host function, Trap when
        the start function or a segment traps, what a host function raised meanwhile, ArgumentError for hosts of another shape, and
        ValueError.
        """
        if not 0 < stack_bytes < 1 << 32 or (max_pages is not None and not 0 < max_pages < 1 << 32):
            raise ValueError(f"stack_bytes and max_pages must be positive numbers of 32 bits, not {stack_bytes} and {max_pages}")
        bound, missing = [], []
        for wanted in self.imports:
            function = _named(_named(hosts, wanted.module), wanted.name)
            if function is None:
                missing.append((wanted.module, wanted.name))
            elif not callable(function):
                raise ArgumentError(f"the host function {wanted.module}.{wanted.name} is {function!r}, which can't be called")
            else:
                bound.append((wanted, function))
        if missing:
            raise MissingImportError(tuple(missing))
        instance = Instance(self, self._live(), tuple(bound), stack_bytes, max_pages or 0, fuel)
        self._lives[id(instance.live)] = instance.live
        return instance

    def close(self) -> None:
        """Closes every instance and the module. Again: no effect. Raises BusyError while one of them runs.

        What nothing refers to any more, neither itself nor by an instance, is closed as well.
        """
        for reference in self._lives.valuerefs():
            if (live := reference()) is not None:
                live.close()
        status = self._library.pw_module_close(self._handle)
        if status == _abi.BUSY:
            raise BusyError("an instance of the module is running")
        self._closed = True
        if status == _abi.OK:
            self._library.pw_runtime_close()

    def frames(self, stack_text: str, *, faulted: bool = False) -> tuple[WasmFrame, ...]:
        """The frames in the text of a stack, as WAMR writes it; for this package's own use.

        `faulted`: memory was accessed out of bounds. Compiled code that hardware checks tells where it was before that.
        """
        frames: list[WasmFrame] = []
        for number, offset_text, name in _FRAME.findall(stack_text):
            index, offset = int(number), int(offset_text, 16)
            unknown = faulted and self._faults and not frames
            frames.append(WasmFrame(index, 0 if unknown else self._library.pw_module_place(self._handle, index, offset), name))
        return tuple(frames)

    def let_go(self) -> None:
        """An instance has ended that was the last to need this; for this package's own use."""
        if not self._dropped:
            return
        status = self._library.pw_module_free(self._handle)
        if status == _abi.OK:  # it was not closed before
            self._library.pw_runtime_close()

    def __del__(self, finalizing=sys.is_finalizing) -> None:  # type: ignore[no-untyped-def]
        if not finalizing():
            self._dropped = True  # in a cycle of garbage its instances may end after it
            self.let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _live(self) -> int:
        if self._closed:
            raise ClosedError("the module is closed")
        return self._handle

    def _read_imports(self) -> tuple[Import, ...]:
        found, raw = [], _abi.Extern()
        for index in range(self._library.pw_module_import_count(self._handle)):
            self._library.pw_module_import_get(self._handle, index, raw)
            found.append(Import(_abi.text(raw.module), _abi.text(raw.name), _type(raw)))
        return tuple(found)

    def _read_exports(self) -> tuple[Export, ...]:
        found, raw = [], _abi.Extern()
        for index in range(self._library.pw_module_export_count(self._handle)):
            self._library.pw_module_export_get(self._handle, index, raw)
            found.append(Export(_abi.text(raw.name), _type(raw)))
        return tuple(found)


def _named(hosts: Any, name: str) -> Any:
    if hosts is None:
        return None
    if not isinstance(hosts, Mapping):
        raise ArgumentError(f'hosts are {{"module": {{"name": function}}}}, and {hosts!r} is no mapping')
    return hosts.get(name)


def _type(raw: _abi.Extern) -> ExternType:
    if raw.kind == _abi.FUNCTION:
        return FunctionType(_letters(raw.params), _letters(raw.results))
    if raw.kind == _abi.MEMORY:
        return MemoryType(raw.minimum, raw.maximum)
    if raw.kind == _abi.TABLE:
        return TableType(raw.minimum, raw.maximum)
    letters = _abi.text(raw.results)
    return GlobalType(ValueType(letters[0]), letters.endswith("m"))


def _letters(raw: bytes | None) -> tuple[ValueType, ...]:
    return tuple(ValueType(letter) for letter in _abi.text(raw))


def load(wasm: bytes, limit_bytes: int, record_offsets: bool) -> Module:
    """See `Runtime.load`."""
    if len(wasm) > limit_bytes:
        raise LoadError(f"the module is {len(wasm)} bytes, more than the limit of {limit_bytes}")
    library, handle, error = _abi.library(), ctypes.c_void_p(), _abi.error_buffer()
    if library.pw_runtime_open() != _abi.OK:  # once more: WAMR stays for as long as the module does
        raise PywamrError("WAMR could not start: not enough memory")
    status = library.pw_module_load(wasm, len(wasm), record_offsets, handle, error, len(error))
    if status == _abi.OK:
        assert handle.value is not None
        return Module(handle.value, compiled=wasm.startswith(b"\0aot"))
    library.pw_runtime_close()
    message = _abi.text(error.value)
    if status == _abi.BAD_MODULE:
        raise LoadError(message)
    if status == _abi.UNSUPPORTED:
        raise UnsupportedError(message)
    if status == _abi.NO_MEMORY:
        raise PywamrError(f"there is not enough memory to load the module, which has {len(wasm)} bytes")
    raise PywamrError(f"the module could not be loaded (status {status}): {message}")

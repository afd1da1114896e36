"""The process-wide runtime."""

import ctypes
import sys
import weakref
from types import TracebackType
from typing import Self

from pywamr import _abi
from pywamr._owned import Owned
from pywamr.errors import ArgumentError, ClosedError, LibraryError
from pywamr.module import Module, load

MODULE_LIMIT_BYTES = 64 * 1024 * 1024


def runtime_version() -> str:
    """The version of WAMR inside the library, such as "2.4.3". Raises LibraryError when the library is not usable."""
    return _abi.text(_abi.library().pw_runtime_version())


def aot_target() -> str:
    """What an ahead-of-time image must have been compiled for to run here, such as "2 x86_64 bounds=hardware": the number of the
    agreement between compiler and runtime, the target, and who checks the bounds of memory. Raises LibraryError.
    """
    return _abi.text(_abi.library().pw_aot_target())


class Runtime(Owned):
    """WAMR, started in this process for as long as this object is open.

    Several may be open at once; they share the one WAMR of the process. Raises LibraryError when it can't start.
    """

    _open = False

    def __init__(self) -> None:
        self._library = _abi.library()
        self._modules: weakref.WeakValueDictionary[int, Module] = weakref.WeakValueDictionary()
        if self._library.pw_runtime_open() != _abi.OK:
            raise LibraryError("WAMR could not start: not enough memory")
        self._open = True

    def load(
        self, wasm: bytes | bytearray | memoryview, limit_bytes: int = MODULE_LIMIT_BYTES, *, record_offsets: bool = False
    ) -> Module:
        """A module out of .wasm bytes, or out of an ahead-of-time image that the caller *trusts as native code*.

        `record_offsets` keeps 12 bytes for each instruction of a .wasm, so that stacks tell where it is (`WasmFrame.offset`).
        Raises ArgumentError for what is not bytes, LoadError for bytes that are no module or more than `limit_bytes`,
        UnsupportedError for a module that imports anything but functions of at most one result, and for an image that was not
        compiled for `aot_target()`.
        """
        if not self._open:
            raise ClosedError("the runtime is closed")
        try:
            content = wasm if isinstance(wasm, bytes) else bytes(memoryview(wasm))
        except TypeError:
            told = f"load takes the bytes of a module, such as Path(…).read_bytes(), and no {type(wasm).__name__}"
            raise ArgumentError(told) from None
        module = load(content, limit_bytes, record_offsets)
        self._modules[id(module)] = module
        return module

    def take_log(self) -> str:
        """What WAMR had to say since the last call; it prints nothing by itself."""
        buffer = ctypes.create_string_buffer(8192)
        self._library.pw_log_take(buffer, len(buffer))
        return _abi.text(buffer.value)

    def close(self) -> None:
        """Closes every module and the runtime. Again: no effect. Raises BusyError while guest code runs.

        One that is dropped ends too; modules that are still referred to go on.
        """
        for reference in self._modules.valuerefs():
            if (module := reference()) is not None:
                module.close()
        self._end()

    def __del__(self, finalizing=sys.is_finalizing) -> None:  # type: ignore[no-untyped-def]
        if not finalizing():
            self._end()

    def _end(self) -> None:
        if self.__dict__.pop("_open", False):  # once, whatever threads do
            self._library.pw_runtime_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

"""What instances, their functions and memories have in common: the shim's instance, its end, and what its statuses stand for."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from pywamr import _abi
from pywamr._hosts import HostCalls
from pywamr._owned import Owned
from pywamr._values import References
from pywamr.errors import (
    BusyError,
    ClosedError,
    LoadError,
    MissingImportError,
    PywamrError,
    TerminatedError,
    Trap,
    TrapCode,
)

if TYPE_CHECKING:
    from pywamr.module import Module


class Live(Owned):
    """One instance of the shim's. All that speak to it hold this, and it holds none of them: so it ends with the last of them."""

    def __init__(self, module: "Module") -> None:
        self.library = _abi.library()
        self.module = module
        self.raw = ctypes.c_void_p()
        self.references = References()
        self.hosts = HostCalls(self.references)
        self.closed = False

    def handle(self) -> int:
        """The shim's handle. Raises ClosedError; what another thread closes just now, the shim finds closed."""
        handle = self.raw.value
        if self.closed or handle is None:
            raise ClosedError("the instance is closed")
        return handle

    def close(self) -> None:
        """Gives up all that the instance has but its handle. Again: no effect. Raises BusyError while it runs."""
        if self.raw.value is None:
            return
        status = self.library.pw_instance_close(self.raw.value)
        if status == _abi.BUSY:
            raise BusyError("the instance is running")
        self.closed = True
        if self.references.lock.acquire(blocking=False):
            try:
                self.references.keep((), 0)
            finally:
                self.references.lock.release()

    @contextlib.contextmanager
    def referring(self) -> Iterator[None]:
        """Around a call with externrefs. Afterwards lets go of those that guest code can't reach any more.

        Raises BusyError while another thread is in such a call.
        """
        if not self.references.lock.acquire(blocking=False):
            self.refuse(_abi.BUSY, "")
        try:
            yield
        finally:
            try:
                if self.references.due:
                    self._release_references()
            finally:
                self.references.lock.release()

    def _release_references(self) -> None:
        count, looked_at, found = ctypes.c_uint32(len(self.references)), ctypes.c_uint32(), None
        while found is None or count.value > len(found):
            found = (ctypes.c_uint32 * count.value)()
            if self.library.pw_instance_references(self.raw.value, found, len(found), count, looked_at) != _abi.OK:
                return  # guest code runs further out, and may hold any of them
        self.references.keep(set(found[: count.value]), looked_at.value)

    def __del__(self, finalizing=sys.is_finalizing) -> None:  # type: ignore[no-untyped-def]
        if self.raw.value is not None and not finalizing():
            self.library.pw_instance_free(self.raw.value)
            self.raw.value = None
            self.module.let_go()

    def usable(self, status: int) -> int:
        """The status; raises BusyError and ClosedError where it says that another thread uses the instance, or has closed it."""
        if status in (_abi.BUSY, _abi.CLOSED):
            self.refuse(status, "")
        return status

    def raise_status(self, status: int, ended: int | None) -> NoReturn:
        """Raises what the status of a call stands for; `ended` is the shim's pw_ended, which is freed."""
        if status not in (_abi.TRAP, _abi.HOST_ERROR, _abi.TERMINATED):
            self.refuse(status, "")
        if not ended:
            raise PywamrError("a call ended, and there was no memory to tell how")
        try:
            self._raise_ended(status, ended)
        finally:
            self.library.pw_ended_free(ended)

    def _raise_ended(self, status: int, ended: int) -> NoReturn:
        if status == _abi.HOST_ERROR:
            failure = self.hosts.failure(ended)
            try:
                raise failure
            finally:
                del failure  # whose traceback holds this frame
        raw_message, raw_stack = ctypes.create_string_buffer(256), ctypes.create_string_buffer(8192)
        self.library.pw_ended_text(ended, raw_message, len(raw_message), raw_stack, len(raw_stack))
        stack = _abi.text(raw_stack.value)
        if status == _abi.TERMINATED:
            raise TerminatedError(self.module.frames(stack))
        trap = Trap(_abi.text(raw_message.value))
        trap.stack = self.module.frames(stack, faulted=trap.code is TrapCode.MEMORY_OUT_OF_BOUNDS)
        raise trap

    def refuse(self, status: int, message: str) -> NoReturn:
        """Raises what a status stands for, with these words."""
        if status == _abi.CLOSED:
            raise ClosedError("the instance is closed")
        if status == _abi.BUSY:
            raise BusyError("the instance is running on another thread")
        if status == _abi.MISSING_IMPORT:
            raise MissingImportError(())
        if status == _abi.BAD_MODULE:
            raise LoadError(message)
        raise PywamrError(f"the runtime refused (status {status}): {message}")

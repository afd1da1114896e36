"""What instances, their functions and memories have in common: the shim's instance, its end, and what its statuses stand for."""

import ctypes
import sys
from typing import TYPE_CHECKING, NoReturn

from pywamr import _abi
from pywamr._hosts import HostCalls
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


class Live:
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
        if status == _abi.OK:
            self.hosts.let_go()

    def __del__(self, finalizing=sys.is_finalizing) -> None:  # type: ignore[no-untyped-def]
        if self.raw.value is not None and not finalizing():
            self.library.pw_instance_free(self.raw.value)
            self.raw.value = None
            self.hosts.let_go()
            self.module.let_go()

    def usable(self, status: int) -> int:
        """The status; raises BusyError and ClosedError where it says that another thread uses the instance, or has closed it."""
        if status in (_abi.BUSY, _abi.CLOSED):
            self.refuse(status, "")
        return status

    def raise_status(self, status: int) -> NoReturn:
        """Raises what a call's status stands for."""
        if status == _abi.HOST_ERROR:  # even where another thread has closed it by now
            self.refuse(status, "")
        self.handle()
        message = stack = ""
        if status in (_abi.TRAP, _abi.TERMINATED):
            raw_message, raw_stack = ctypes.create_string_buffer(256), ctypes.create_string_buffer(8192)
            self.library.pw_instance_trap_get(self.raw.value, raw_message, len(raw_message), raw_stack, len(raw_stack))
            message, stack = _abi.text(raw_message.value), _abi.text(raw_stack.value)
        self.refuse(status, message, stack)

    def refuse(self, status: int, message: str, stack: str = "") -> NoReturn:
        """Raises what a status stands for, with these words."""
        failure = self.hosts.take_failure()
        if status == _abi.HOST_ERROR and failure is not None:
            try:
                raise failure
            finally:
                del failure  # whose traceback holds this frame
        if status == _abi.TRAP:
            trap = Trap(message)
            trap.stack = self.module.frames(stack, faulted=trap.code is TrapCode.MEMORY_OUT_OF_BOUNDS)
            raise trap
        if status == _abi.TERMINATED:
            raise TerminatedError(self.module.frames(stack))
        if status == _abi.CLOSED:
            raise ClosedError("the instance is closed")
        if status == _abi.BUSY:
            raise BusyError("the instance is running on another thread")
        if status == _abi.MISSING_IMPORT:
            raise MissingImportError(())
        if status == _abi.BAD_MODULE:
            raise LoadError(message)
        raise PywamrError(f"the runtime refused (status {status}): {message}")

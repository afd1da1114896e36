"""What can go wrong, by what the caller does next. Every error of this package is a `PywamrError`."""

from dataclasses import dataclass
from enum import Enum


class PywamrError(Exception):
    """Base of every error that this package raises."""


class LibraryError(PywamrError):
    """libwamr_core is missing, of another version than these bindings, or could not start."""


class LoadError(PywamrError):
    """The bytes are not a module that WAMR accepts."""


class UnsupportedError(PywamrError):
    """A well-formed module, or a call, asks for something that this runtime refuses by design."""


class MissingImportError(PywamrError):
    """The module imports functions for which no host function was given; `missing` names them as (module, name)."""

    def __init__(self, missing: tuple[tuple[str, str], ...]) -> None:
        names = ", ".join(f"{module}.{name}" for module, name in missing)
        super().__init__(f"no host function was given for: {names}")
        self.missing = missing


class ArgumentError(PywamrError, TypeError):
    """A value does not fit the type that the function or global has."""


class HostResultError(PywamrError, TypeError):
    """A host function returned something that its import's type cannot hold."""


class NotExportedError(PywamrError, LookupError):
    """The module has no export of that name and kind."""


class BusyError(PywamrError):
    """The instance is running, so it can't be called from this thread, or closed."""


class ClosedError(PywamrError):
    """The object was used after it was closed."""


class TrapCode(Enum):
    """Why guest code trapped; the value is stable. Texts: WAMR core/iwasm/common/wasm_runtime_common.c, exception_msgs."""

    UNREACHABLE = "unreachable"
    MEMORY_OUT_OF_BOUNDS = "memory-out-of-bounds"
    TABLE_OUT_OF_BOUNDS = "table-out-of-bounds"
    INTEGER_OVERFLOW = "integer-overflow"
    DIVIDE_BY_ZERO = "divide-by-zero"
    INVALID_CONVERSION = "invalid-conversion"
    INDIRECT_CALL_MISMATCH = "indirect-call-mismatch"
    UNDEFINED_ELEMENT = "undefined-element"
    UNINITIALIZED_ELEMENT = "uninitialized-element"
    STACK_OVERFLOW = "stack-overflow"
    OUT_OF_MEMORY = "out-of-memory"
    OUT_OF_FUEL = "out-of-fuel"
    OTHER = "other"


_TEXTS: tuple[tuple[str, TrapCode], ...] = (
    ("unreachable", TrapCode.UNREACHABLE),
    ("out of bounds memory access", TrapCode.MEMORY_OUT_OF_BOUNDS),
    ("data segment does not fit", TrapCode.MEMORY_OUT_OF_BOUNDS),
    ("out of bounds table access", TrapCode.TABLE_OUT_OF_BOUNDS),
    ("elements segment does not fit", TrapCode.TABLE_OUT_OF_BOUNDS),
    ("integer overflow", TrapCode.INTEGER_OVERFLOW),
    ("integer divide by zero", TrapCode.DIVIDE_BY_ZERO),
    ("invalid conversion to integer", TrapCode.INVALID_CONVERSION),
    ("indirect call type mismatch", TrapCode.INDIRECT_CALL_MISMATCH),
    ("undefined element", TrapCode.UNDEFINED_ELEMENT),
    ("uninitialized element", TrapCode.UNINITIALIZED_ELEMENT),
    ("stack overflow", TrapCode.STACK_OVERFLOW),
    ("allocate memory failed", TrapCode.OUT_OF_MEMORY),
    ("instruction limit exceeded", TrapCode.OUT_OF_FUEL),
)


@dataclass(frozen=True)
class WasmFrame:
    """One frame of a wasm call stack, innermost first; `index` counts the imports too.

    `offset`: bytes from the beginning of the .wasm to the instruction; 0 where it is not known: interpreted code that was loaded
    without `record_offsets`, and compiled code that hardware stops.
    """

    index: int
    offset: int
    function: str


class TerminatedError(PywamrError):
    """The call was ended by `Instance.terminate` or its signal, where `stack` says; the instance can only be closed."""

    def __init__(self, stack: tuple[WasmFrame, ...] = ()) -> None:
        super().__init__("the instance was terminated")
        self.stack = stack


class Trap(PywamrError):
    """Guest code trapped. The instance stays usable; whether its state still makes sense is the guest's affair."""

    def __init__(self, message: str, stack: tuple[WasmFrame, ...] = ()) -> None:
        super().__init__(message)
        self.code = next((code for text, code in _TEXTS if text in message), TrapCode.OTHER)
        self.stack = stack

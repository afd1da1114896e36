"""WebAssembly for Python programs on small machines: ctypes over WAMR, and nothing else.

A `Runtime` loads a `Module`, a module makes an `Instance`, an instance has functions, a memory and globals. Nothing is
granted to guest code but the host functions that the caller passes in. This package does no I/O, starts no thread, and
knows nothing of updates, devices or contracts.
"""

from pywamr.confinement import confine
from pywamr.errors import (
    ArgumentError,
    BusyError,
    ClosedError,
    HostResultError,
    LibraryError,
    LoadError,
    MissingImportError,
    NotExportedError,
    PywamrError,
    TerminatedError,
    Trap,
    TrapCode,
    UnsupportedError,
    WasmFrame,
)
from pywamr.instance import Function, Instance
from pywamr.memory import Memory, MemoryRangeError
from pywamr.module import HostFunctions, Module
from pywamr.runtime import Runtime, aot_target, runtime_version
from pywamr.sharing import keep_shared
from pywamr.types import (
    Export,
    FuncRef,
    FunctionType,
    GlobalType,
    Import,
    MemoryType,
    TableType,
    ValueType,
)

__all__ = [
    "ArgumentError",
    "BusyError",
    "ClosedError",
    "Export",
    "FuncRef",
    "Function",
    "FunctionType",
    "GlobalType",
    "HostFunctions",
    "HostResultError",
    "Import",
    "Instance",
    "LibraryError",
    "LoadError",
    "Memory",
    "MemoryRangeError",
    "MemoryType",
    "MissingImportError",
    "Module",
    "NotExportedError",
    "PywamrError",
    "Runtime",
    "TableType",
    "TerminatedError",
    "Trap",
    "TrapCode",
    "UnsupportedError",
    "ValueType",
    "WasmFrame",
    "aot_target",
    "confine",
    "keep_shared",
    "runtime_version",
]

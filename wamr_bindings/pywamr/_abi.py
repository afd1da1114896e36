"""The table of libwamr_core's functions, the only place that declares one. tests/pywamr/test_abi.py holds it against the header."""

import ctypes
import os
from ctypes import CDLL, POINTER, Structure, c_char_p, c_int32, c_uint32, c_uint64, c_void_p, py_object
from functools import cache

import pywamr
from pywamr.errors import LibraryError

ABI_VERSION = 8
DIRECT_PARAMS = 8
LIBRARY_NAME = "libwamr_core.so"

OK, TRAP, HOST_ERROR, BAD_MODULE, MISSING_IMPORT, UNSUPPORTED, NO_MEMORY, BUSY, BAD_ARGUMENT, NOT_FOUND, TERMINATED, CLOSED = range(
    12
)
FUNCTION, TABLE, MEMORY, GLOBAL = range(4)
NO_NEW_PRIVILEGES, SECCOMP, LANDLOCK = 1, 2, 4
NEEDS_DEVICES, NEEDS_FOLDERS = 1, 2
_ZERO = b"\xc0\x80"


class Extern(Structure):
    """pw_extern."""

    _fields_ = (
        ("module", c_char_p),
        ("name", c_char_p),
        ("params", c_char_p),
        ("results", c_char_p),
        ("kind", c_uint32),
        ("minimum", c_uint32),
        ("maximum", c_uint32),
        ("index", c_uint32),
    )


class HostFunction(Structure):
    """pw_host_function."""

    _fields_ = (("values", c_void_p), ("slots", c_void_p), ("native", c_void_p))


PYTHON_FUNCTIONS = (
    "PyGILState_Ensure",
    "PyGILState_Release",
    "PyObject_Vectorcall",
    "PyObject_Type",
    "PyLong_FromLongLong",
    "PyLong_AsLongLong",
    "PyLong_AsUnsignedLongLong",
    "Py_DecRef",
    "PyErr_Occurred",
    "PyErr_Clear",
    "PyErr_Fetch",
    "PyErr_NormalizeException",
    "PyException_SetTraceback",
    "PyBytes_FromStringAndSize",
)


class Python(Structure):
    """pw_python."""

    _fields_ = tuple((name, c_void_p) for name in (*PYTHON_FUNCTIONS, "none", "int_type"))


SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "pw_abi_version": (c_uint32, ()),
    "pw_runtime_version": (c_char_p, ()),
    "pw_aot_target": (c_char_p, ()),
    "pw_runtime_open": (c_int32, ()),
    "pw_runtime_close": (None, ()),
    "pw_log_take": (c_uint32, (c_char_p, c_uint32)),
    "pw_confine": (c_uint32, (POINTER(c_int32), c_char_p, c_uint32, c_uint32)),
    "pw_module_load": (c_int32, (c_char_p, c_uint32, c_uint32, POINTER(c_void_p), c_char_p, c_uint32)),
    "pw_module_close": (c_int32, (c_void_p,)),
    "pw_module_free": (c_int32, (c_void_p,)),
    "pw_module_place": (c_uint32, (c_void_p, c_uint32, c_uint32)),
    "pw_module_import_count": (c_uint32, (c_void_p,)),
    "pw_module_import_get": (c_int32, (c_void_p, c_uint32, POINTER(Extern))),
    "pw_module_export_count": (c_uint32, (c_void_p,)),
    "pw_module_export_get": (c_int32, (c_void_p, c_uint32, POINTER(Extern))),
    "pw_module_custom_section_get": (
        c_int32,
        (c_void_p, c_uint32, POINTER(c_void_p), POINTER(c_uint32), POINTER(c_void_p), POINTER(c_uint32)),
    ),
    "pw_python_set": (None, (POINTER(Python),)),
    "pw_instance_open": (
        c_int32,
        (
            c_void_p,
            POINTER(HostFunction),
            c_uint32,
            c_uint32,
            c_uint32,
            c_int32,
            POINTER(c_void_p),
            POINTER(c_void_p),
            c_char_p,
            c_uint32,
        ),
    ),
    "pw_instance_close": (c_int32, (c_void_p,)),
    "pw_instance_free": (c_int32, (c_void_p,)),
    "pw_instance_function": (c_int32, (c_void_p, c_char_p, POINTER(c_void_p))),
    "pw_function_call": (c_int32, (c_void_p, c_void_p)),
    "pw_function_call_each": (c_int32, (c_void_p, c_void_p, c_uint32, POINTER(c_uint32), POINTER(c_void_p))),
    "pw_instance_fuel_set": (c_int32, (c_void_p, c_int32)),
    "pw_instance_terminate": (None, (c_void_p,)),
    "pw_instance_terminate_on": (c_int32, (c_void_p, c_int32)),
    "pw_ended_text": (None, (c_void_p, c_char_p, c_uint32, c_char_p, c_uint32)),
    "pw_ended_failure": (py_object, (c_void_p, POINTER(c_uint32), POINTER(c_uint32))),
    "pw_ended_free": (None, (c_void_p,)),
    "pw_memory_read": (py_object, (c_void_p, c_uint64, c_uint64)),
    "pw_memory_write": (c_int32, (c_void_p, c_uint64, c_char_p, c_uint64)),
    "pw_memory_size": (c_int32, (c_void_p, POINTER(c_uint64))),
    "pw_memory_refused": (c_int32, (c_void_p, POINTER(c_uint32))),
    "pw_global_get": (c_int32, (c_void_p, c_char_p, c_void_p)),
    "pw_global_set": (c_int32, (c_void_p, c_char_p, c_void_p)),
    "pw_instance_references": (c_int32, (c_void_p, POINTER(c_uint32), c_uint32, POINTER(c_uint32), POINTER(c_uint32))),
}
_WITH_THE_LOCK = ("pw_memory_read", "pw_ended_failure", "pw_ended_free")  # of Python, which every other call gives up meanwhile


def bind(library: CDLL) -> CDLL:
    """Declares every function on `library`.

    Raises LibraryError when one is missing or the library speaks another version of the interface.
    """
    for name, (result, arguments) in SIGNATURES.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise LibraryError(f"{library._name} has no function {name}: it does not belong to these bindings") from None
        function.restype = result
        function.argtypes = arguments
    found = library.pw_abi_version()
    if found != ABI_VERSION:
        raise LibraryError(f"{library._name} speaks interface version {found}, these bindings speak {ABI_VERSION}")
    for name in _WITH_THE_LOCK:
        result, arguments = SIGNATURES[name]
        setattr(library, name, ctypes.PYFUNCTYPE(result, *arguments)((name, library)))
    return library


def _python() -> Python:
    """The functions of this very Python. Raises LibraryError when it is not CPython."""
    try:
        functions = [ctypes.cast(getattr(ctypes.pythonapi, name), c_void_p) for name in PYTHON_FUNCTIONS]
    except AttributeError as error:
        raise LibraryError(f"this Python is not CPython, whose C interface host functions are called by: {error}") from None
    return Python(*functions, id(None), id(int))


@cache
def library() -> CDLL:
    """libwamr_core, from beside this package. Raises LibraryError when it is not there or does not fit."""
    places = [f"{folder}/{LIBRARY_NAME}" for folder in pywamr.__path__]
    for place in places:
        if os.access(place, os.F_OK):
            try:
                found = bind(CDLL(place))
            except OSError as error:
                raise LibraryError(f"{place} could not be loaded: {error}") from error
            found.pw_python_set(_python())
            return found
    looked = ", ".join(places)
    raise LibraryError(f"{LIBRARY_NAME} is not installed (looked for {looked}); install the project with pip")


def error_buffer() -> "ctypes.Array[ctypes.c_char]":
    """Room for the text of a load or instantiation error."""
    return ctypes.create_string_buffer(512)


def text(raw: bytes | None) -> str:
    """Text from the shim, whatever bytes a module's names hold."""
    return (raw or b"").replace(_ZERO, b"\0").decode("utf-8", "replace")


def name(text: str) -> bytes:
    """A name as the shim has it: a zero would be its end."""
    return text.encode().replace(b"\0", _ZERO)

"""The ctypes table and the header say the same."""

import ctypes
import re
from types import SimpleNamespace

import pytest

from pywamr import LibraryError, _abi
from tests.conftest import ROOT

HEADER = (ROOT / "native" / "core" / "wamr_core.h").read_text(encoding="utf-8")
_TYPES = {
    "void": None,
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "const char *": ctypes.c_char_p,
    "char *": ctypes.c_char_p,
    "void *": (ctypes.c_void_p, ctypes.py_object),
    "const uint64_t *": ctypes.c_void_p,
    "uint64_t *": (ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64)),
    "const uint8_t *": ctypes.c_char_p,
    "const int32_t *": ctypes.POINTER(ctypes.c_int32),
    "uint32_t *": ctypes.POINTER(ctypes.c_uint32),
    "pw_extern *": ctypes.POINTER(_abi.Extern),
    "const pw_host_function *": ctypes.POINTER(_abi.HostFunction),
    "const pw_python *": ctypes.POINTER(_abi.Python),
}


def declared() -> dict[str, tuple[str, list[str]]]:
    text = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)
    found = {}
    for result, name, arguments in re.findall(r"PW_API\s+([\w ]+?\**)\s*\b(pw_\w+)\(([^)]*)\);", text):
        parts = [] if arguments.strip() == "void" else [" ".join(each.split()) for each in arguments.split(",")]
        types = [re.sub(r"\s*\**\w+$", "", part).strip() + " " + "*" * part.count("*") for part in parts]
        found[name] = (result.strip(), [each.strip() for each in types])
    return found


def fits(c_type: str, python_type) -> bool:
    if c_type.endswith("**") or (c_type.startswith(("pw_", "const pw_")) and c_type not in _TYPES):
        return python_type in (ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p))
    expected = _TYPES[c_type]
    return python_type in expected if isinstance(expected, tuple) else python_type is expected


def test_every_function_of_the_header_is_declared_alike():
    header = declared()
    assert set(header) == set(_abi.SIGNATURES)
    for name, (result, arguments) in header.items():
        python_result, python_arguments = _abi.SIGNATURES[name]
        assert fits(result, python_result), f"{name} returns {result}"
        assert len(arguments) == len(python_arguments), name
        for c_type, python_type in zip(arguments, python_arguments, strict=True):
            assert fits(c_type, python_type), f"{name}: {c_type} is declared as {python_type}"


def test_the_numbers_agree():
    statuses = dict(re.findall(r"PW_([A-Z_]+) = (\d+)", HEADER))
    for name, value in statuses.items():
        assert getattr(_abi, name) == int(value), name
    assert re.search(r"#define PW_ABI_VERSION (\d+)", HEADER)[1] == str(_abi.ABI_VERSION)
    assert re.search(r"#define PW_DIRECT_PARAMS (\d+)", HEADER)[1] == str(_abi.DIRECT_PARAMS)


def test_the_functions_of_python_stand_in_the_order_of_the_header():
    declared = HEADER.partition("typedef struct pw_python {")[2].partition("} pw_python;")[0]
    names = re.findall(r"\(\*(\w+)\)\(|void \*(\w+);", declared)
    assert [function or member for function, member in names] == [name for name, _ in _abi.Python._fields_]


def test_a_missing_symbol_is_one_clear_error():
    with pytest.raises(LibraryError, match="has no function pw_abi_version"):
        _abi.bind(SimpleNamespace(_name="other.so"))


def test_another_interface_version_is_one_clear_error():
    class Library:
        _name = "old.so"

        def __getattr__(self, name):
            function = lambda *_: 99  # noqa: E731
            setattr(self, name, wrapped := _Function(function))
            return wrapped

    with pytest.raises(LibraryError, match=f"speaks interface version 99, these bindings speak {_abi.ABI_VERSION}"):
        _abi.bind(Library())


class _Function:
    restype = argtypes = None

    def __init__(self, function):
        self._function = function

    def __call__(self, *values):
        return self._function(*values)


def test_a_missing_library_says_where_it_was_looked_for(monkeypatch, tmp_path):
    import pywamr

    monkeypatch.setattr(pywamr, "__path__", [str(tmp_path)])
    _abi.library.cache_clear()
    try:
        with pytest.raises(LibraryError, match=str(tmp_path)):
            _abi.library()
    finally:
        _abi.library.cache_clear()


def test_a_python_without_cpythons_interface_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(ctypes, "pythonapi", SimpleNamespace())
    with pytest.raises(LibraryError, match="is not CPython"):
        _abi._python()

"""docs/upstream.md names every mend of WAMR, and its modules do with the mends what Wasmtime does."""

import re

import pytest
import wasmtime

from pywamr import PywamrError, Runtime
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "upstream.md").read_text(encoding="utf-8")
MODULES = re.findall(r"```wat\n;; (traps|gives \d+)\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_page_names_the_mends_that_are_made():
    mends = (ROOT / "native" / "cmake" / "wamr_source.cmake").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^set\(WAMR_MENDS\n(.*?)\)", mends, flags=re.MULTILINE | re.DOTALL)
    made = listed.split()
    named = [
        name for line in PAGE.splitlines() if line.startswith("`wamr_") for name in re.findall(r"`(wamr_\w+)`", line.split(":")[0])
    ]
    assert sorted(named) == sorted(made)


def test_every_module_of_the_page_says_what_it_does():
    assert len(MODULES) == PAGE.count("```wat") > 0


def ours(wasm: bytes) -> str:
    runtime = Runtime()
    try:
        return f"gives {runtime.load(wasm).instantiate().function('run')()}"
    except PywamrError:
        return "traps"
    finally:
        runtime.close()


def theirs(wasm: bytes) -> str:
    store = wasmtime.Store()
    exports = wasmtime.Instance(store, wasmtime.Module(store.engine, wasm), []).exports(store)
    try:
        return f"gives {exports['run'](store)}"
    except wasmtime.Trap:
        return "traps"


@pytest.mark.parametrize(("expected", "text"), MODULES)
def test_a_module_of_the_page_does_what_the_page_says(expected, text):
    wasm = bytes(wasmtime.wat2wasm(text))
    assert (ours(wasm), theirs(wasm)) == (expected, expected)

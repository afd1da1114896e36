"""Generated functions of nested blocks give what they give in Wasmtime, interpreted and compiled."""

import random

import pytest
import wasmtime
from hypothesis import strategies as st

from pywamr import ValueType
from tests.support.aot import WITH_VECTORS, aotc, compiled_now, host_target
from tests.support.blocks import arguments, module, ours, plain
from tests.support.sampling import check, few_and_many


def theirs(wasm: bytes) -> list[object]:
    store = wasmtime.Store()
    code = wasmtime.Module(store.engine, wasm)
    exports = wasmtime.Instance(store, code, []).exports(store)
    (kind,) = [each.type for each in code.exports if isinstance(each.type, wasmtime.FuncType)]
    values = arguments(tuple(ValueType[str(each).upper()] for each in kind.params))
    try:
        results = plain(exports["run"](store, *values))
    except wasmtime.Trap:
        results = ["trapped"]
    return [results, exports["i"].value(store), exports["l"].value(store)]


def agrees(seed):
    wasm = bytes(wasmtime.wat2wasm(module(random.Random(seed))))
    expected = theirs(wasm)
    assert ours(wasm) == expected
    if aotc() is not None:
        assert ours(compiled_now(wasm, cpu=WITH_VECTORS.get(host_target(), ""))) == expected


@pytest.mark.timeout(900)
@few_and_many(20, 200)
def test_nested_blocks_leave_alone_what_lies_under_them(examples):
    check(examples, agrees, st.integers(0, 2**64 - 1))

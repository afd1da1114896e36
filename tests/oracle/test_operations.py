"""Every instruction that computes gives what it gives in Wasmtime, at the operands where things change."""

import pytest
import wasmtime
from hypothesis import strategies as st

from ota.author.aot import host_target
from tests.support.aot import WITH_VECTORS, aotc, compiled_now
from tests.support.operations import Operation, module, operands, ours, results, scalars, vectors
from tests.support.sampling import check, few_and_many

KINDS = {"scalars": scalars(), "vectors": vectors()}
every_kind = pytest.mark.parametrize("kind", KINDS)


def theirs(operations: list[Operation], wasm: bytes) -> dict[str, str]:
    store = wasmtime.Store()
    exports = wasmtime.Instance(store, wasmtime.Module(store.engine, wasm), []).exports(store)
    memory = exports["memory"]
    return results(operations, lambda name: exports[name](store), lambda at, size: bytes(memory.read(store, at, at + size)))


def made(kind: str, seed: int) -> bytes:
    return bytes(wasmtime.wat2wasm(module(KINDS[kind], operands(seed))))


def test_no_instruction_is_left_out():
    assert len({name.partition(" ")[0] for name, _, _ in vectors()}) == 236 - 22 - 1  # without loads, stores and the constant
    assert len({name for name, _, _ in scalars()}) == 136 - 8 - 8  # without divisions, remainders and conversions that can trap


def agrees(kind, seed):
    wasm = made(kind, seed)
    expected = theirs(KINDS[kind], wasm)
    assert ours(KINDS[kind], wasm) == expected
    if aotc() is not None:
        assert ours(KINDS[kind], compiled_now(wasm, cpu=WITH_VECTORS.get(host_target(), ""))) == expected


@every_kind
@few_and_many(1, 20)
def test_an_instruction_gives_what_it_gives_in_wasmtime(kind, examples):
    check(examples, lambda seed: agrees(kind, seed), st.integers(0, 2**64 - 1))

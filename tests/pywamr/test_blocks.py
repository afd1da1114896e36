"""What lies on the stack under a block, and a block's own results, stay what they are when the block has ended."""

import random

import pytest

from pywamr import Runtime
from tests.support import blocks
from tests.support.aot import aotc, compiled
from tests.support.wat import wat

MODULE = wat("""(module (global $one (mut i32) (i32.const 1)) (global $seven (mut i64) (i64.const 7))
  (func (export "branch that is never taken") (param i32) (result i64 i32) (local f64 f64)
    (i64.add (i64.extend_i32_u (local.get 0)) (i64.const 1)) (f32.abs (f32.const 1))
    (block (br 0) (f64.const 7) (drop (br 1 (i64.const 9) (i32.const 9))))
    (i32.reinterpret_f32))
  (func (export "branch that is seldom taken") (param i32) (result i64 i32 i32)
    (i64.add (i64.extend_i32_u (local.get 0)) (i64.const 1)) (i32.add (local.get 0) (i32.const 2))
    (block (br_if 0 (local.get 0)) (br 1 (i64.const 8) (i32.const 9) (i32.const 10)))
    (i32.add (local.get 0) (i32.const 3)))
  (func (export "result at the first place") (result i64 i64)
    (block (result i64) (br_if 0 (i64.const 5) (global.get $one)) (drop) (unreachable))
    (i64.add (global.get $seven) (i64.const 3)))
  (func (export "several results at the first places") (result i64 i32 i64)
    (block (result i64 i32) (br_if 0 (i64.const 5) (i32.const 6) (global.get $one)) (drop) (drop) (unreachable))
    (i64.add (global.get $seven) (i64.const 3)))
  (func (export "branch out of a loop") (param i32) (result i64 i32)
    (i64.add (i64.extend_i32_u (local.get 0)) (i64.const 1))
    (block (loop (br_if 1 (local.get 0)) (br 2 (i64.const 8) (i32.const 9))))
    (i32.add (local.get 0) (i32.const 3))))""")


@pytest.fixture(scope="module", params=["interpreter", "aot"])
def instance(request):
    if request.param == "aot" and aotc() is None:
        pytest.skip("wamr_aotc is not built: make aotc")
    with Runtime() as runtime:
        yield runtime.load(compiled(MODULE) if request.param == "aot" else MODULE).instantiate()


@pytest.mark.parametrize(
    ("name", "values", "results"),
    [
        ("branch that is never taken", (5,), (6, 0x3F800000)),
        ("branch that is seldom taken", (5,), (6, 7, 8)),
        ("branch that is seldom taken", (0,), (8, 9, 10)),
        ("result at the first place", (), (5, 10)),
        ("several results at the first places", (), (5, 6, 10)),
        ("branch out of a loop", (5,), (6, 8)),
        ("branch out of a loop", (0,), (8, 9)),
    ],
)
def test_the_next_value_takes_a_place_of_its_own(instance, name, values, results):
    assert instance.call(name, *values) == results


@pytest.mark.parametrize("count", [1, 10, 50, 333])
@pytest.mark.parametrize("block", ["block", "loop", "if"])
def test_more_and_wider_parameters_than_lie_on_the_stack_of_dead_code_corrupt_no_memory(block, count):
    """A valid module on which the loader wrote behind its own stack."""
    there = "i32.const 1 " * (count + (block == "if"))
    drops = "drop " * 2 * count
    taken = f"{block} (param {'v128 ' * count} {'i32 ' * count}) {drops} {'else ' + drops if block == 'if' else ''} end"
    wasm = wat(f"""(module (func (export "f") (result i32)
      (block (br_if 0 (i32.const 1)) unreachable {there} {taken}) (i32.const 3)))""")
    for _ in range(10):
        with Runtime() as runtime:
            assert runtime.load(wasm).instantiate().call("f") == 3


def test_a_parameter_of_no_known_type_becomes_a_wide_one_without_reading_beyond():
    wasm = wat(f"""(module (func (export "f") (result i32) (block (br_if 0 (i32.const 1)) unreachable select {"i32.const 1 " * 31}
      (block (param v128 {"i32 " * 31}) {"drop " * 32})) (i32.const 3)))""")
    with Runtime() as runtime:
        assert runtime.load(wasm).instantiate().call("f") == 3


def test_generated_blocks_give_the_same_again():
    """Once more with sanitizers, to which what they corrupt shows."""
    wasmtime = pytest.importorskip("wasmtime")
    for seed in range(300):
        wasm = bytes(wasmtime.wat2wasm(blocks.module(random.Random(seed))))
        assert blocks.ours(wasm) == blocks.ours(wasm)

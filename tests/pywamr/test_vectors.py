"""Vectors in the places where values travel: parameters, results, blocks, the stack. What they compute is for the oracle."""

import pytest

from ota.author.aot import host_target
from pywamr import ArgumentError, Runtime, UnsupportedError
from tests.support.aot import WITH_VECTORS, aotc, compiled
from tests.support.wat import wat

ONE_TO_FOUR = b"".join(each.to_bytes(4, "little") for each in (1, 2, 3, 4))
OTHER = bytes(range(16, 32))
MODULE = wat("""(module
  (global $g (export "global") (mut v128) (v128.const i32x4 1 2 3 4))
  (func (export "same") (param v128) (result v128) (local.get 0))
  (func (export "swap") (param i32 v128 v128) (result v128 i32 v128) (local.get 2) (local.get 0) (local.get 1))
  (func $pair (result i32 v128) (i32.const 7) (v128.const i32x4 1 2 3 4))
  (func (export "called") (result v128) (local v128) (call $pair) (local.set 0) (drop) (local.get 0))
  (func (export "block") (param i32) (result v128) (local v128)
    (block (result i32 v128) (i32.const 7) (v128.const i32x4 1 2 3 4) (local.get 0) (br_if 0)) (local.set 1) (drop) (local.get 1))
  (func (export "loop") (param v128) (result v128) (local.get 0) (loop (param v128) (result v128)))
  (func (export "if") (param i32 v128) (result v128) (local v128)
    (local.get 0) (local.get 1) (local.get 0) (if (param i32 v128) (result i32 v128) (then) (else))
    (local.set 2) (drop) (local.get 2))
  (func (export "upwards") (param i32) (result v128)
    (f64.neg (f64.const 2)) (local.get 0)
    (if (param f64) (result v128)
      (then (drop) (v128.const i32x4 1 2 3 4)) (else (drop) (v128.not (v128.const i32x4 -2 -3 -4 -5)))))
  (func (export "in place by mistake") (param i64) (result v128) (local i32 v128)
    (block (result i32 v128)
      (block (drop (i32.eqz (local.get 1)))
        (local.get 1) (local.get 1) (local.get 1) (local.get 1) (i32.eqz (local.get 1)) drop drop drop drop drop)
      (block (drop (i64.clz (local.get 0))) (local.get 1) (local.get 1) (local.get 1) (i32.eqz (local.get 1)) drop drop drop drop)
      (block (drop (i64.clz (local.get 0))) (i32.eqz (local.get 1)) (local.get 1) (i32.eqz (local.get 1)) drop drop drop)
      (drop (i8x16.splat (local.get 1)))
      (i32.const 7) (i64x2.splat (local.get 0)))
    (local.set 2) (drop) (local.get 2))
  (func (export "select") (param i32 v128 v128) (result v128) (select (result v128) (local.get 1) (local.get 2) (local.get 0)))
  (func (export "ninth") (param v128 v128 v128 v128 v128 v128 v128 v128 v128) (result v128) (local.get 8))
  (func (export "behind") (param f64 f64 f64 f64 f64 f64 f64 f64 f64 v128 f64) (result v128 f64) (local.get 9) (local.get 10)))""")


@pytest.fixture(scope="module", params=["interpreter", "aot"])
def instance(request):
    code = MODULE
    if request.param == "aot":
        if aotc() is None or host_target() in ("armv7", "riscv64"):
            pytest.skip("no ahead-of-time code with vectors here")
        code = compiled(MODULE, cpu=WITH_VECTORS.get(host_target(), ""))
    with Runtime() as runtime:
        yield runtime.load(code).instantiate()


@pytest.mark.parametrize(
    ("name", "values", "result"),
    [
        ("same", (OTHER,), OTHER),
        ("swap", (5, ONE_TO_FOUR, OTHER), (OTHER, 5, ONE_TO_FOUR)),
        ("called", (), ONE_TO_FOUR),
        ("block", (0,), ONE_TO_FOUR),
        ("block", (1,), ONE_TO_FOUR),
        ("loop", (OTHER,), OTHER),
        ("if", (0, OTHER), OTHER),
        ("if", (1, OTHER), OTHER),
        ("in place by mistake", (0x0102030405060708,), bytes(range(8, 0, -1)) * 2),
        ("upwards", (0,), ONE_TO_FOUR),
        ("upwards", (1,), ONE_TO_FOUR),
        ("select", (0, OTHER, ONE_TO_FOUR), ONE_TO_FOUR),
        ("select", (1, OTHER, ONE_TO_FOUR), OTHER),
        ("ninth", (*[ONE_TO_FOUR] * 8, OTHER), OTHER),
        ("behind", (*[0.5] * 9, OTHER, 2.5), (OTHER, 2.5)),
    ],
)
def test_a_vector_arrives_whole(instance, name, values, result):
    assert instance.call(name, *values) == result


def test_a_global_of_a_vector_is_read_and_written(instance):
    assert instance.get_global("global") == ONE_TO_FOUR
    instance.set_global("global", OTHER)
    assert instance.get_global("global") == OTHER
    instance.set_global("global", ONE_TO_FOUR)


@pytest.mark.parametrize("value", [b"", bytes(15), bytes(17), bytearray(16), 7, None])
def test_what_is_not_16_bytes_is_no_vector(instance, value):
    with pytest.raises(ArgumentError, match="16 bytes"):
        instance.call("same", value)


@pytest.mark.parametrize("kind", ["(param v128)", "(result v128)"])
def test_a_host_function_with_a_vector_is_refused(kind):
    with Runtime() as runtime, pytest.raises(UnsupportedError, match=r"host\.f has a value type that no host function can have"):
        runtime.load(wat(f'(module (import "host" "f" (func {kind})))'))

"""Loops over memory, which the compiler may turn into vectors: what they compute, and that a load beyond the end traps even where
its value does not matter.
"""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ota.aot import host_target
from pywamr import Runtime, Trap
from tests.support.aot import WITH_VECTORS, aotc, compiled
from tests.support.wat import wat

pytestmark = pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
END = 65536
LOADS = ("i32.load", "i32.load16_s", "i32.load8_u", "i32.load align=1")
STATEMENTS = (
    "(local.set $sum (i32.add (local.get $sum) {load}))",
    "(local.set $sum (i32.mul (i32.xor (local.get $sum) {load}) (i32.const 31)))",
    "(local.set $dead (i32.add (local.get $dead) {load}))",
    "(local.set $dead {load})",
    "(drop {load})",
    "(drop (i32.and {load} (i32.const 0)))",
    "(local.set $sum (i32.add (local.get $sum) (i32.mul {load} (i32.const 0))))",
    "(drop (call $read (local.get $p)))",
    "(drop (call $second {load} (i32.const 5)))",
    "(call $ignore {load})",
    "(if {load} (then nop))",
    "(local.set $sum (i32.add (local.get $sum) (i32.sub {load} {load})))",
    "(local.set $sum (i32.add (local.get $sum) (i32.eq {load} {load})))",
    "(drop (select (i32.const 3) (i32.const 3) {load}))",
    "(local.set $f (f32.add (local.get $f) (f32.load (local.get $p))))",
    "(local.set $d (f64.add (f64.mul (f64.load (local.get $p)) (f64.const 0.5)) (local.get $d)))",
    "(i32.store (i32.add (local.get $q) (i32.const 4096)) (i32.add {load} (i32.const 7)))",
    "(f32.store offset=4096 (local.get $q) (f32.sub (f32.mul (f32.load (local.get $p)) (f32.const 3)) (f32.load (local.get $q))))",
    "(i32.store8 (local.get $q) (i32.add (i32.load8_u (local.get $q)) {load}))",
    "(local.set $sum (select {load} (local.get $sum) (i32.gt_s {load} (local.get $sum))))",
)
TEXT = """(module (memory (export "memory") 1)
  (func $read (param i32) (result i32) (i32.load (local.get 0)))
  (func $second (param i32 i32) (result i32) (local.get 1))
  (func $ignore (param i32))
  (func (export "run") (param $from i32) (param $count i32) (result i32 f32 f64)
    (local $i i32) (local $p i32) (local $q i32) (local $sum i32) (local $dead i32) (local $f f32) (local $d f64)
    (local.set $p (local.get $from))
    (loop $next
      {body}
      (local.set $p (i32.add (local.get $p) (i32.const {step})))
      (local.set $q (i32.and (i32.add (local.get $q) (i32.const 4)) (i32.const 4095)))
      (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $count))))
    (local.get $sum) (local.get $f) (local.get $d)))"""


def outcome(code: bytes, start: int, count: int) -> tuple[object, ...]:
    """Results as bits, and the memory; or that it trapped."""
    with Runtime() as runtime:
        instance = runtime.load(code).instantiate()
        instance.memory.write(0, bytes(number * 37 & 0xFF for number in range(END)))
        try:
            total, single, double = instance.call("run", start, count)
        except Trap:
            return ("trapped",)
        return total, struct.pack("<fd", single, double), instance.memory.read(0, END)


@given(
    parts=st.lists(st.tuples(st.sampled_from(STATEMENTS), st.sampled_from(LOADS)), min_size=1, max_size=3),
    step=st.sampled_from((0, 1, 2, 4, 8, -4)),
    count=st.integers(1, 70),
    beyond=st.integers(-8, 8),
    cpu=st.sampled_from(("", WITH_VECTORS.get(host_target(), ""))),
)
@settings(print_blob=True)
def test_a_loop_over_memory_does_what_it_does_interpreted(parts, step, count, beyond, cpu):
    body = "\n      ".join(text.format(load=f"({load} (local.get $p))") for text, load in parts)
    wasm = wat(TEXT.format(body=body, step=step))
    last = END - 4 + beyond  # where the loop's last load is
    start = last - step * (count - 1)
    expected = outcome(wasm, start, count)
    assert outcome(compiled.__wrapped__(wasm, cpu=cpu), start, count) == expected

"""Arithmetic of floats is rounded after each operation, in compiled code too: no product and sum become one (as in FMA)."""

import struct

from tests.support.wat import wat

FUSED = wat("""(module (memory (export "memory") 1)
  (func (export "f64") (param f64 f64 f64) (result f64) (f64.add (f64.mul (local.get 0) (local.get 1)) (local.get 2)))
  (func (export "f32") (param f32 f32 f32) (result f32) (f32.sub (f32.mul (local.get 0) (local.get 1)) (local.get 2)))
  (func (export "row") (param $count i32) (local $p i32)
    (loop $next
      (f64.store offset=4096 (local.get $p)
        (f64.add (f64.mul (f64.load (local.get $p)) (f64.load (local.get $p))) (f64.load offset=2048 (local.get $p))))
      (local.set $p (i32.add (local.get $p) (i32.const 8)))
      (br_if $next (i32.lt_u (local.get $p) (local.get $count))))))""")
NEAR = 1 + 2.0**-27


def test_a_product_is_rounded_before_it_is_added(runtime):
    instance = runtime.load(FUSED).instantiate()
    assert instance.call("f64", NEAR, NEAR, -NEAR * NEAR) == 0
    single = 1 + 2.0**-12
    rounded = struct.unpack("<f", struct.pack("<f", single * single))[0]
    assert instance.call("f32", single, single, rounded) == 0


def test_nor_are_they_fused_in_loops_that_become_vectors(runtime):
    instance = runtime.load(FUSED).instantiate()
    instance.memory.write(0, struct.pack("<64d", *[NEAR] * 64))
    instance.memory.write(2048, struct.pack("<64d", *[-NEAR * NEAR] * 64))
    instance.call("row", 64 * 8)
    assert instance.memory.read(4096, 64 * 8) == bytes(64 * 8)

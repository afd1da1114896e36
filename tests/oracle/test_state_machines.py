"""State machines, as parsers of protocols are made of them, do the same interpreted and compiled ahead of time. LLVM has a pass for
them that does not keep to that (docs/decisions/0007-bounds-checks.md), and the generator of test_generated.py makes none.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pywamr import Runtime
from tests.support.aot import aotc, compiled, compiled_now
from tests.support.wat import wat

pytestmark = pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
ROUNDS = range(1, 13)
# What a state may do: to the sum, to the state, to the state that is kept for later.
STEPS = (
    "(local.set $sum (i64.add (local.get $sum) (local.get $sum)))",
    "(local.set $sum (i64.xor (i64.rotl (local.get $sum) (i64.const 7)) (i64.const 0x5bd1)))",
    "(local.set $state (local.get $later))",
    *(f"(local.set $state (i32.const {number}))" for number in range(5)),
    *(f"(local.set $later (i32.const {number}))" for number in range(5)),
    "(local.set $later (i32.and (local.get $left) (i32.const 3)))",
    "(if (i32.and (local.get $left) (i32.const 1)) (then (local.set $state (i32.const 1))))",
)
MACHINES = st.lists(st.lists(st.sampled_from(STEPS), max_size=3), min_size=2, max_size=5)

SMALLEST = wat("""(module (func (export "run") (param $left i32) (result i64)
  (local $state i32) (local $later i32) (local $sum i64)
  (block $out (loop $top
    (local.set $left (i32.sub (local.get $left) (i32.const 1)))
    (br_if $out (i32.eqz (local.get $left)))
    (local.set $sum (i64.add (local.get $sum) (i64.const 1)))
    (block $zero (block $two (block $one (block $default (br_table $default $one $two $two (local.get $state))) (br $zero))
        (local.set $sum (i64.add (local.get $sum) (local.get $sum))) (br $top))
      (local.set $state (local.get $later)) (br $top))
    (local.set $state (i32.const 2)) (local.set $later (i32.const 1)) (br $top)))
  (local.get $sum)))""")


def machine(states: list[list[str]]) -> bytes:
    """A loop that looks its state up in a table, does what the state does, and begins again."""
    count = len(states)
    blocks = f"(br_table {' '.join(f'$s{number}' for number in range(count))} (local.get $state))"
    for number, steps in enumerate(states):
        blocks = f"(block $s{number} {blocks}) {' '.join(steps)} (br $top)"
    return wat(f"""(module (func (export "run") (param $left i32) (result i64)
      (local $state i32) (local $later i32) (local $sum i64)
      (block $out (loop $top
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br_if $out (i32.eqz (local.get $left)))
        (local.set $sum (i64.add (local.get $sum) (i64.const 1)))
        {blocks}))
      (local.get $sum)))""")


def run(code: bytes) -> list[int]:
    with Runtime() as runtime:
        instance = runtime.load(code).instantiate()
        return [instance.call("run", left) for left in ROUNDS]


def test_a_state_that_was_kept_is_not_taken_for_the_one_before():
    """The smallest machine that the pass got wrong."""
    assert run(SMALLEST)[:7] == [0, 1, 2, 6, 14, 30, 62]
    assert run(compiled(SMALLEST)) == run(SMALLEST)


@pytest.mark.full
@given(MACHINES)
@settings(suppress_health_check=list(HealthCheck), print_blob=True)
def test_a_state_machine_does_compiled_what_it_does_interpreted(states):
    wasm = machine(states)
    assert run(compiled_now(wasm)) == run(wasm)

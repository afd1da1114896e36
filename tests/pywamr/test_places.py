"""Where in the .wasm the frames of a stack are: every instruction that can trap, among others that the interpreter rewrites."""

import threading

import pytest
from hypothesis import strategies as st

from pywamr import Runtime, TerminatedError, Trap, WasmFrame
from tests.support.aot import aotc, compiled
from tests.support.sampling import check, few_and_many
from tests.support.wat import wat

CALL, CALL_INDIRECT, BRANCH, FLOAT32, FLOAT64 = 0x10, 0x11, 0x0C, 0x43, 0x44
TRAPS = {
    "(unreachable)": b"\x00",
    "(drop (i32.load8_u offset=7 (i32.const -9)))": b"\x2d",
    "(drop (f64.load (i32.const 65529)))": b"\x2b",
    "(i64.store (i32.const 65536) (i64.const 1))": b"\x37",
    "(drop (i32.div_s (local.get $zero) (local.get $zero)))": b"\x6d",
    "(drop (i64.rem_u (i64.const 5) (i64.extend_i32_u (local.get $zero))))": b"\x82",
    "(drop (i32.trunc_f32_s (f32.const nan)))": b"\xa8",
    "(call_indirect (param i32 i32) (local.get $zero) (local.get $zero) (local.get $zero))": b"\x11",
    "(memory.fill (i32.const 65530) (i32.const 0) (i32.const 99))": b"\xfc\x0b",
    "(table.set 0 (i32.const 99) (ref.null func))": b"\x26",
}
OTHERS = (
    "(local.set $x (i32.add (local.get $x) (i32.const 3)))",
    "(drop (local.tee $x (i32.mul (local.get $zero) (i32.const 70000))))",
    "(block (br_if 0 (i32.eqz (local.get $zero))) (local.set $x (i32.const 1)))",
    "(local.set $x (select (local.get $x) (i32.const 5) (local.get $zero)))",
    "(loop $l (local.set $n (i32.add (local.get $n) (i32.const 1))) (br_if $l (i32.lt_u (local.get $n) (i32.const 3))))",
    "(if (local.get $zero) (then (call $leaf)) (else (global.set 0 (i64.const 9))))",
    "(i32.store (i32.const 8) (local.get $x))",
    "(call $leaf)",
    "(drop (f64.add (f64.const 1.5) (f64.load (i32.const 16))))",
    "(drop (memory.grow (i32.const 0)))",
    "(block (br_table 0 0 0 (local.get $zero)))",
)


def module(traps: list[str], before: list[str], behind: list[str]) -> bytes:
    """A function for each trap, and one that calls it, every second through the table; other instructions in front and behind."""
    head = f"(param $zero i32) (local $x i32) (local $n i32) {' '.join(before)}"
    tail = " ".join(behind)
    functions = []
    for number, trap in enumerate(traps):
        indirect = f"(call_indirect (param i32) (local.get $zero) (i32.const {number}))"
        call = indirect if number % 2 else f"(call $trap{number} (local.get $zero))"
        functions += [f"(func $trap{number} {head} {trap} {tail})", f'(func (export "run{number}") {head} {call} {tail})']
    names = " ".join(f"$trap{number}" for number in range(len(traps)))
    return wat(f"""(module (import "host" "nothing" (func $nothing)) (memory 1) (global (mut i64) (i64.const 0))
      (table {len(traps)} {len(traps)} funcref) (elem (i32.const 0) {names}) (func $leaf nop) {" ".join(functions)})""")


def stack_of(instance, name: str) -> tuple[WasmFrame, ...]:
    with pytest.raises(Trap) as caught:
        instance.call(name, 0)
    return caught.value.stack


def interpreted(wasm: bytes, record_offsets: bool = True):
    return Runtime().load(wasm, record_offsets=record_offsets).instantiate({"host": {"nothing": lambda: None}})


some = st.lists(st.sampled_from(OTHERS), max_size=6)


def placed(before, behind):
    wasm = module(list(TRAPS), before, behind)
    instance = interpreted(wasm)
    for number, opcode in enumerate(TRAPS.values()):
        trapped, caller = stack_of(instance, f"run{number}")
        assert (trapped.function, trapped.index) == (f"trap{number}", 2 + 2 * number)
        assert wasm[trapped.offset : trapped.offset + len(opcode)] == opcode
        assert (caller.function, caller.index) == (f"run{number}", 3 + 2 * number)
        assert wasm[caller.offset] == (CALL_INDIRECT if number % 2 else CALL)
    instance.close()


@few_and_many(10, 100)
def test_a_trap_is_placed_at_its_instruction_and_callers_at_their_calls(examples):
    check(examples, placed, before=some, behind=some)


@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
def test_compiled_code_names_the_same_places_where_it_names_any():
    wasm = module(list(TRAPS), list(OTHERS), list(OTHERS))
    ours = interpreted(wasm)
    theirs = Runtime().load(compiled(wasm)).instantiate({"host": {"nothing": lambda: None}})
    placed = 0
    for number in range(len(TRAPS)):
        for one, other in zip(stack_of(ours, f"run{number}"), stack_of(theirs, f"run{number}"), strict=True):
            assert (other.index, other.function) == (one.index, one.function)
            assert other.offset in (0, one.offset)
            placed += other.offset != 0
    assert placed >= len(TRAPS) + 5


@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
def test_compiled_code_that_has_no_room_left_is_placed_at_its_beginning():
    """Where the last function found no room for one that it might call, with a frame for itself and none for that one."""
    wasm = wat("""(module (table 1 funcref) (elem (i32.const 0) $deep) (type $t (func (param i32)))
      (func $deep (export "run") (type $t) (drop (f64.const 1)) (call $through (local.get 0)))
      (func $through (type $t) (drop (f32.const 1)) (call_indirect (type $t) (local.get 0) (i32.const 0))))""")
    last, *callers = stack_of(Runtime().load(compiled(wasm)).instantiate(), "run")
    assert wasm[last.offset] == {"deep": FLOAT64, "through": FLOAT32}[last.function]
    for one, other in zip(callers[:20], [last, *callers], strict=False):
        assert (one.function, wasm[one.offset]) == (("through", CALL_INDIRECT) if other.function == "deep" else ("deep", CALL))


def test_without_places_there_is_none():
    wasm = module(list(TRAPS), [], [])
    instance = interpreted(wasm, record_offsets=False)
    assert [frame.offset for frame in stack_of(instance, "run0")] == [0, 0]


def test_a_call_that_is_ended_tells_where_it_was():
    wasm = wat('(module (func (export "spin") (loop $l (br $l))))')
    instance = Runtime().load(wasm, record_offsets=True).instantiate()
    timer = threading.Timer(0.05, instance.terminate)
    timer.start()
    with pytest.raises(TerminatedError) as caught:
        instance.call("spin")
    timer.join()
    (frame,) = caught.value.stack
    assert wasm[frame.offset] == BRANCH

"""Instructions that the interpreter makes one of two, as a comparison and the branch behind it, and those that have to stay two."""

import operator
import struct
from collections.abc import Callable

import pytest

from pywamr import Runtime, Trap, _abi
from tests.support.wat import wat

NUMBERS = (0, 1, 2, 7, -1, -8, 2**31 - 1, -(2**31))
Comparison = Callable[[int, int], object]


def unsigned(compare: Comparison) -> Comparison:
    return lambda left, right: compare(left % 2**32, right % 2**32)


COMPARISONS: dict[str, Comparison] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt_s": operator.lt,
    "lt_u": unsigned(operator.lt),
    "gt_s": operator.gt,
    "gt_u": unsigned(operator.gt),
    "le_s": operator.le,
    "le_u": unsigned(operator.le),
    "ge_s": operator.ge,
    "ge_u": unsigned(operator.ge),
    "and": operator.and_,
}
FUNCTION = """(func (export "{name}") (param i32 i32) (result i32)
  (block (br_if 0 (i32.{name} (local.get 0) (local.get 1))) (return (i32.const 0))) (i32.const 1))"""
MODULE = wat(f"""(module
  {"".join(FUNCTION.format(name=name) for name in COMPARISONS)}
  (func (export "eqz") (param i32) (result i32)
    (block (br_if 0 (i32.eqz (local.get 0))) (return (i32.const 0))) (i32.const 1))
  (func (export "kept in a variable") (param i32 i32) (result i32) (local i32)
    (block (br_if 0 (local.tee 2 (i32.lt_s (local.get 0) (local.get 1)))) (return (i32.add (local.get 2) (i32.const 10))))
    (i32.add (local.get 2) (i32.const 20)))
  (func (export "another condition") (param i32 i32) (result i32)
    (block (drop (i32.eq (local.get 0) (local.get 1))) (br_if 0 (local.get 0)) (return (i32.const 0))) (i32.const 1))
  (func (export "another summand") (param i32 i32) (result i32)
    (block (drop (i32.add (local.get 0) (local.get 1))) (br_if 0 (local.get 0)) (return (i32.const 0))) (i32.const 1))
  (func (export "a loop begins between") (param i32 i32) (result i32) (local i32)
    (local.set 1 (i32.add (local.get 1) (i32.const -3)))
    (block (loop (br_if 1 (local.get 1)) (local.set 2 (i32.add (local.get 2) (i32.const 1)))
      (local.set 1 (i32.eq (local.get 2) (local.get 0))) (br 0)))
    (local.get 2))
  (func (export "a loop begins before the load") (param i32 i32) (result i32)
    (local.set 0 (i32.add (local.get 0) (local.get 1)))
    (loop (local.set 1 (i32.load8_u (local.get 0))) (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
      (br_if 0 (i32.ne (local.get 1) (i32.const 1))))
    (local.get 0))
  (func (export "a block ends before the load") (param i32 i32) (result i32)
    (block (br_if 0 (local.get 1)) (local.set 0 (i32.add (local.get 0) (i32.const 1)))) (i32.load8_u (local.get 0)))
  (func (export "a block ends between") (param i32 i32) (result i32)
    (block (br_if 0 (block (result i32) (br_if 0 (i32.const 0) (local.get 1)) (drop) (i32.eqz (local.get 0))))
      (return (i32.const 0)))
    (i32.const 1))
  (func (export "an if ends between") (param i32 i32) (result i32)
    (block (br_if 0 (if (result i32) (local.get 1) (then (i32.eqz (local.get 0))) (else (i32.ne (local.get 0) (i32.const 7)))))
      (return (i32.const 0)))
    (i32.const 1))
  (func (export "a value along") (param i32 i32) (result i32)
    (block (result i32) (drop (br_if 0 (i32.const 5) (i32.gt_u (local.get 0) (local.get 1)))) (i32.const 6)))
  (func (export "a loop's turns") (param i32) (result i32) (local i32)
    (loop (local.set 1 (i32.add (local.get 1) (i32.const 3)))
      (br_if 0 (local.tee 0 (i32.add (local.get 0) (i32.const -1)))))
    (local.get 1))
  (func (export "where it is not reached") (param i32) (result i32)
    (block (br_if 0 (i32.eqz (local.get 0))) (block (br 0) (br_if 0 (i32.eqz)) (br_if 1 (i32.lt_u)))) (i32.const 9))
  (func (export "tee") (param i32 i32) (result i32) (local i32)
    (i32.sub (local.tee 2 (i32.add (local.get 0) (local.get 1)))
      (i32.mul (local.tee 2 (i32.xor (local.get 2) (i32.const 5))) (local.tee 0 (i32.shl (local.get 2) (local.get 0))))))
  (memory 1) (data (i32.const 100) "\\01\\82\\03\\84\\05")
  (func (export "sum right") (param i32 i32) (result i32) (i32.add (i32.const 1000) (i32.add (local.get 0) (local.get 1))))
  (func (export "sum left") (param i32 i32) (result i32) (i32.add (i32.add (local.get 0) (local.get 1)) (i32.const 1000)))
  (func (export "sum twice") (param i32 i32) (result i32) (local i32)
    (i32.add (local.tee 2 (i32.add (local.get 0) (local.get 1))) (local.get 2)))
  (func (export "sum kept") (param i32 i32) (result i32) (local i32)
    (i32.mul (i32.add (local.tee 2 (i32.add (local.get 0) (local.get 1))) (i32.const 1000)) (local.get 2)))
  (func (export "sum over itself") (param i32 i32) (result i32)
    (local.set 0 (i32.add (local.tee 0 (i32.add (local.get 0) (local.get 1))) (local.get 0))) (local.get 0))
  (func (export "shifted") (param i32 i32) (result i32) (i32.add (local.get 0) (i32.shl (local.get 1) (local.get 0))))
  (func (export "a block between") (param i32 i32) (result i32)
    (i32.add (block (result i32) (br_if 0 (i32.const 7) (local.get 0)) (drop) (i32.add (local.get 0) (local.get 1)))
      (i32.const 1000)))
  (func (export "of 8") (param i32 i32) (result i32) (i32.load8_u (i32.add (local.get 0) (local.get 1))))
  (func (export "of 16") (param i32 i32) (result i32) (i32.load16_u offset=1 (i32.add (local.get 0) (local.get 1))))
  (func (export "of 32") (param i32 i32) (result i32) (local i32)
    (i32.xor (i32.load offset=1 (local.tee 2 (i32.add (local.get 0) (local.get 1)))) (local.get 2)))
  (func (export "of another place") (param i32 i32) (result i32)
    (drop (i32.add (local.get 0) (local.get 1))) (i32.load8_u (local.get 0)))
  (func (export "beyond") (param i32)
    (drop (i32.load8_u (local.tee 0 (i32.add (local.get 0) (i32.const 65536))))))
  (func (export "endless") (param i32) (loop (br_if 0 (i32.ne (local.get 0) (i32.const 7))))))""")


@pytest.fixture(scope="module")
def instance():
    with Runtime() as runtime:
        yield runtime.load(MODULE).instantiate()


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_branch_behind_a_comparison_is_taken_when_it_holds(instance, name):
    found = [instance.call(name, left, right) for left in NUMBERS for right in NUMBERS]
    assert found == [int(bool(COMPARISONS[name](left, right))) for left in NUMBERS for right in NUMBERS]


def test_a_branch_behind_a_test_for_zero_is_taken_when_it_holds(instance):
    assert [instance.call("eqz", number) for number in NUMBERS] == [int(number == 0) for number in NUMBERS]


@pytest.mark.parametrize(
    ("name", "values", "result"),
    [
        ("kept in a variable", (1, 2), 21),
        ("kept in a variable", (2, 1), 10),
        ("another condition", (0, 0), 0),
        ("another condition", (5, 5), 1),
        ("another summand", (-1, 1), 1),
        ("another summand", (0, 1), 0),
        ("a loop begins between", (4, 3), 4),
        ("a loop begins between", (4, 4), 0),
        ("a loop begins before the load", (100, 4), 99),
        ("a block ends before the load", (101, 0), 0x03),
        ("a block ends before the load", (101, 1), 0x82),
        ("a block ends between", (0, 0), 1),
        ("a block ends between", (0, 1), 0),
        ("an if ends between", (0, 1), 1),
        ("an if ends between", (7, 1), 0),
        ("an if ends between", (7, 0), 0),
        ("an if ends between", (8, 0), 1),
        ("a value along", (2, 1), 5),
        ("a value along", (1, 2), 6),
        ("a loop's turns", (5,), 15),
        ("where it is not reached", (0,), 9),
        ("where it is not reached", (1,), 9),
        ("tee", (3, 4), 7 - (7 ^ 5) * ((7 ^ 5) << 3)),
        ("sum right", (3, 4), 1007),
        ("sum left", (3, 4), 1007),
        ("sum twice", (3, 4), 14),
        ("sum kept", (3, 4), 7049),
        ("sum over itself", (3, 4), 14),
        ("shifted", (35, 4), 67),
        ("a block between", (0, 4), 1004),
        ("a block between", (1, 4), 1007),
        ("of 8", (90, 11), 0x82),
        ("of 8", (-4, 104), 0x01),
        ("of 16", (60, 40), 0x0382),
        ("of 32", (60, 40), (0x05840382 ^ 100)),
        ("of another place", (100, 1), 0x01),
    ],
)
def test_one_of_two_does_what_both_did(instance, name, values, result):
    assert instance.call(name, *values) == result


def test_a_comparison_with_its_branch_counts_as_one_branch_and_has_its_place():
    with Runtime() as runtime:
        instance = runtime.load(MODULE, record_offsets=True).instantiate(fuel=1000)
        with pytest.raises(Trap) as trap:
            instance.call("endless", 0)
    assert MODULE[trap.value.stack[0].offset] == 0x0D  # br_if


def test_a_load_behind_a_sum_traps_where_the_load_stands():
    with Runtime() as runtime:
        instance = runtime.load(MODULE, record_offsets=True).instantiate()
        with pytest.raises(Trap, match="out of bounds") as trap:
            instance.call("beyond", 0)
    assert MODULE[trap.value.stack[0].offset] == 0x2D  # i32.load8_u


LEFT, RIGHT = "(local.get 0)", "(local.get 1)"
SUM = f"(i32.add {LEFT} {RIGHT})"


def branch(condition: str) -> str:
    return f"(block (br_if 0 {condition}))"


# What becomes one instruction, or a shorter one; how many places it has; how many bytes of what else; whether it goes somewhere.
SHORT = {
    **{f"{name} and branch": (branch(f"(i32.{name} {LEFT} {RIGHT})"), 2, 0, True) for name in COMPARISONS},
    "eqz and branch": (branch(f"(i32.eqz {LEFT})"), 1, 0, True),
    "sum and branch": (branch(SUM), 3, 0, True),
    "sum into a variable and branch": (branch(f"(local.tee 0 {SUM})"), 3, 0, True),
    "sum and sum": (f"(drop (i32.add {SUM} {LEFT}))", 5, 0, False),
    "sum and sum, on the right": (f"(drop (i32.add {LEFT} {SUM}))", 5, 0, False),
    "shift and sum": (f"(drop (i32.add {LEFT} (i32.shl {LEFT} {RIGHT})))", 5, 0, False),
    "sum and load": (f"(drop (i32.load {SUM}))", 4, 4, False),
    "sum and load of 8": (f"(drop (i32.load8_u {SUM}))", 4, 4, False),
    "sum and load of 16": (f"(drop (i32.load16_u {SUM}))", 4, 4, False),
    "sum into a variable and load": (f"(local.set 1 (i32.load (local.tee 0 {SUM})))", 4, 4, False),
    "sum into a variable": (f"(drop (local.tee 0 {SUM}))", 3, 0, False),
    "sum of 64 bits into a variable": ("(drop (local.tee 2 (i64.add (local.get 2) (local.get 2))))", 3, 0, False),
    "branch": ("(block (br 0))", 0, 0, True),
    "branch on a variable": (branch(LEFT), 1, 0, True),
}


def loaded_size(text: str) -> int:
    """How many bytes the interpreter has for it, which ends where the next instruction begins: unreachable."""
    wasm = wat(f"(module (memory 1) (func (param i32 i32 i64) {text} unreachable))")
    with Runtime() as runtime, runtime.load(wasm, record_offsets=True) as module:
        place = _abi.library().pw_module_place
        return next(size for size in range(1000) if wasm[place(module._handle, 0, size + 1)] == 0)


@pytest.mark.parametrize("name", SHORT)
def test_what_can_be_one_instruction_is(name):
    """Its size tells: that of one label, and of what the instruction needs."""
    text, places, others, goes = SHORT[name]
    label = loaded_size("(drop (i32.popcnt (local.get 0)))") - 2 * struct.calcsize("h")
    assert loaded_size(text) == label + places * struct.calcsize("h") + others + goes * struct.calcsize("P")

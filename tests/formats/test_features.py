"""What a module uses beyond core 2.0 is named, by the proposal and what to do about it."""

import re

import pytest
import wasmtime
from hypothesis import given
from hypothesis import strategies as st

from ota.author.build import prepare
from ota.cli.main import main as run
from ota.formats import features
from ota.formats.features import HINTS, beyond_core, explained
from ota.formats.reasons import Reason, Refused

LEGACY = bytes.fromhex("0061736d0100000001040160000003020100") + b"\x0a\x08\x01\x06\0\x06\x40\x19\x0b\x0b"
COMPACT = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02\x0e\x01\x01a\0\x7f\x02\x01b\0\0\x01c\0\0"
HEAD = b"\0asm\1\0\0\0"
ONE_FUNCTION = HEAD + b"\1\4\1\x60\0\0" + b"\3\2\1\0"
SWITCHING, CONTINUATION = ONE_FUNCTION + b"\x0a\6\1\4\0\xe2\0\x0b", HEAD + b"\1\6\2\x60\0\0\x5d\0"
UNKNOWN_TYPE, UNKNOWN_INSTRUCTION = HEAD + b"\1\2\1\x40", ONE_FUNCTION + b"\x0a\5\1\3\0\xf0\x0b"
UNKNOWN_SECTION = HEAD + b"\x0f\1\0"
STRINGS, STRING_TYPE = HEAD + b"\x0e\4\0\1\1" + b"x", HEAD + b"\1\5\1\x60\1\x67\0"
STRING_CONSTANT = ONE_FUNCTION + b"\x0a\x08\1\6\0\xfb\x82\1\0\x0b"
STRING_GLOBAL = HEAD + b"\6\x08\1\x67\0\xfb\x82\1\0\x0b"
HALF_LOAD = HEAD + b"\1\4\1\x60\0\0" + b"\3\2\1\0" + b"\5\3\1\0\1" + b"\x0a\x0b\1\x09\0\x41\0\xfc\x30\1\0\x1a\x0b"
HALF_LANE = HEAD + b"\1\5\1\x60\1\x7b\0" + b"\3\2\1\0" + b"\x0a\x0b\1\x09\0\x20\0\xfd\xa1\2\3\x1a\x0b"
USES: dict[str, tuple[str | bytes, ...]] = {
    "tail-calls": ("(func $f (return_call $f))", "(table 1 funcref) (func (return_call_indirect (i32.const 0)))"),
    "exceptions": (
        "(tag $t) (func (throw $t))",
        "(func (block $b (result exnref) (try_table (catch_all_ref $b)) unreachable) throw_ref)",
    ),
    "legacy-exceptions": (LEGACY,),
    "gc": (
        "(type (struct (field i32)))",
        "(type (array i8))",
        "(func (param anyref))",
        "(global $a i32 (i32.const 1)) (global i32 (global.get $a))",
        "(func (drop (ref.i31 (i32.const 1))))",
    ),
    "function-references": (
        "(type $t (func)) (func (param (ref $t)) (call_ref $t (local.get 0)))",
        "(func $f) (table 1 funcref (ref.func $f))",
    ),
    "memory64": ("(memory i64 1)",),
    "table64": ("(table i64 1 funcref)",),
    "threads": ("(memory 1 1 shared)", "(memory 1) (func (drop (i32.atomic.load (i32.const 0))) atomic.fence)"),
    "relaxed-simd": ("(func (param v128) (drop (i8x16.relaxed_swizzle (local.get 0) (local.get 0))))",),
    "multi-memory": ("(memory 1) (memory 1)", '(import "a" "b" (memory 1)) (memory 1)'),
    "compact-imports": (COMPACT,),
    "wide-arithmetic": ("(func (i64.mul_wide_u (i64.const 1) (i64.const 2)) drop drop)",),
    "custom-page-sizes": ("(memory 1 (pagesize 1))",),
    "stack-switching": (SWITCHING, CONTINUATION),
    "stringref": (STRINGS, STRING_TYPE, STRING_CONSTANT, STRING_GLOBAL),
    "half-precision": (HALF_LOAD, HALF_LANE),
    "a newer proposal": (UNKNOWN_TYPE, UNKNOWN_INSTRUCTION, UNKNOWN_SECTION),
}
CORE = """(module (type $t (func (param i32) (result i32 i64))) (import "a" "f" (func)) (import "a" "g" (global $g i32))
  (memory 1 2) (table $x 3 funcref) (table $y 2 3 externref)
  (global i32 (global.get $g)) (global i64 (i64.mul (i64.const 3) (i64.sub (i64.const 1) (i64.const -1))))
  (global v128 (v128.const i32x4 1 2 3 4)) (global f64 (f64.const 1)) (global funcref (ref.func $all))
  (elem (i32.const 0) func $all) (elem funcref (ref.null func) (ref.func $all)) (elem declare func $all)
  (elem (table $x) (i32.const 1) func $all)
  (data (i32.const 0) "abc") (data "passive")
  (func $all (export "all") (param i32) (result i32 i64) (local i64 f32 v128 funcref)
    (block (result i32) (loop (br_table 0 1 0 (local.get 0))) (i32.const 5)) drop
    (if (result f32) (i32.const 1) (then (f32.const 2)) (else (f32.const 3))) drop
    (drop (select (result i32) (i32.const 1) (i32.const 2) (i32.const 3)))
    (i64.store32 offset=1000 align=2 (i32.const 0) (i64.const -1))
    (drop (i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 (local.get 3) (local.get 3)))
    (drop (v128.load8_lane 3 (i32.const 0) (local.get 3))) (drop (i8x16.extract_lane_s 7 (local.get 3)))
    (drop (v128.load32_zero (i32.const 0))) (drop (i32.trunc_sat_f64_s (f64.const 1)))
    (memory.init 1 (i32.const 0) (i32.const 0) (i32.const 1)) (data.drop 1) (memory.copy (i32.const 0) (i32.const 1) (i32.const 2))
    (memory.fill (i32.const 0) (i32.const 1) (i32.const 2)) (drop (memory.grow (memory.size)))
    (table.init $x 1 (i32.const 0) (i32.const 0) (i32.const 1)) (elem.drop 1)
    (table.copy $x $x (i32.const 0) (i32.const 0) (i32.const 1))
    (drop (table.grow $y (ref.null extern) (i32.const 1))) (table.fill $y (i32.const 0) (ref.null extern) (i32.const 1))
    (drop (ref.is_null (table.get $x (i32.const 0)))) (table.set $y (i32.const 0) (ref.null extern)) (drop (table.size $y))
    (call_indirect $x (type $t) (i32.const 1) (i32.const 0)) (drop) (drop) (i32.const 1) (i64.const 0x7fffffffffffffff)))"""


def made(body: str | bytes) -> bytes:
    return body if isinstance(body, bytes) else bytes(wasmtime.wat2wasm(f"(module {body})"))


@pytest.mark.parametrize(("name", "body"), [(name, body) for name, bodies in USES.items() for body in bodies])
def test_a_proposal_is_named_with_what_to_do(name, body):
    wasm = made(body)
    assert name in beyond_core(wasm)
    assert f"it uses {name}, which boards do not have: use {HINTS[name]}" in explained(wasm)


def test_exceptions_of_the_old_kind_are_not_taken_for_new_ones_too():
    """Tags and throw are of both."""
    tag = b"\x0d\3\1\0\0"
    assert beyond_core(HEAD + tag) == ("exceptions",)
    assert beyond_core(LEGACY) == ("legacy-exceptions",)
    assert beyond_core(LEGACY[:-10] + tag + LEGACY[-10:]) == ("legacy-exceptions",)


@pytest.mark.parametrize("body", [STRINGS, STRING_TYPE, STRING_CONSTANT, STRING_GLOBAL, HALF_LOAD, HALF_LANE])
def test_what_has_opcodes_beside_those_of_another_proposal_is_not_named_after_that(body):
    assert len(beyond_core(body)) == 1


def test_every_proposal_with_a_hint_is_found_somewhere():
    assert USES.keys() == HINTS.keys()


def test_what_boards_have_is_nothing_beyond_it():
    wasm = bytes(wasmtime.wat2wasm(CORE))
    assert beyond_core(wasm) == ()
    assert explained(wasm) == ""


@given(st.data())
def test_a_damaged_module_is_refused_or_looked_at(data):
    wasm = bytearray(wasmtime.wat2wasm(CORE))
    for _ in range(data.draw(st.integers(1, 4))):
        wasm[data.draw(st.integers(8, len(wasm) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(wasm[: data.draw(st.integers(8, len(wasm)))])
    try:
        found = beyond_core(cut)
    except Refused:
        assert explained(cut) == ""
        return
    assert set(found) <= HINTS.keys()


@given(st.data())
def test_the_quick_look_at_code_finds_what_the_slow_one_does(data):
    wasm = bytearray(made(data.draw(st.sampled_from([CORE.removeprefix("(module").removesuffix(")"), *sum(USES.values(), ())]))))
    for _ in range(data.draw(st.integers(0, 6))):
        wasm[data.draw(st.integers(8, len(wasm) - 1))] = data.draw(st.integers(0, 255))

    def outcome():
        try:
            return beyond_core(bytes(wasm))
        except Refused as error:
            return error.detail

    quick = outcome()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(features, "_PLAIN", re.compile(b""))
        assert outcome() == quick


def test_what_no_board_can_load_is_neither_run_nor_signed(tmp_path, capfd):
    module = tmp_path / "tail.wasm"
    module.write_bytes(made("(func $f (return_call $f))"))
    assert run(["run", str(module)]) == 1
    assert "module-invalid" in (told := capfd.readouterr().err)
    assert "use clang -mno-tail-call" in told
    with pytest.raises(Refused, match="it uses tail-calls") as refusal:
        prepare(module, "example.com")
    assert refusal.value.reason is Reason.MODULE_INVALID


def test_numbers_that_are_written_longer_than_needed_are_of_no_proposal():
    assert beyond_core(HEAD + bytes.fromhex("0404017000000907018000 41000b00")) == ()  # the flags of an element segment


def test_what_is_of_a_proposal_that_is_known_is_not_said_to_be_of_a_newer_one():
    wasm = made(
        "(type $s (struct (field i32))) (func (drop (struct.new $s (i32.const 1)))) (func (drop (struct.new $s (i32.const 1))))"
    )
    assert beyond_core(wasm) == ("gc",)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("(memory 1)", "is not a function but a memory, which boards do not hand over: link without --import-memory"),
        ("(table 1 funcref)", "is not a function but a table, which boards do not hand over: link without --import-table"),
        (
            "(global i32)",
            "is not a function but a global, which boards do not hand over: link statically, without -shared and -pie",
        ),
    ],
)
def test_what_is_imported_and_no_function_is_refused_with_the_option_that_helps(tmp_path, what, told):
    module = tmp_path / "m.wasm"
    module.write_bytes(made(f'(import "env" "x" {what})'))
    with pytest.raises(Refused, match=told) as refusal:
        prepare(module, "example.com")
    assert refusal.value.reason is Reason.MODULE_INVALID

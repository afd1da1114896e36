"""Calls in both directions, and every value type of core WebAssembly 2.0; vectors have test_vectors.py."""

import contextlib
import gc
import math
import struct
import sys
import threading
import time
import weakref

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pywamr import (
    ArgumentError,
    BusyError,
    ClosedError,
    FuncRef,
    HostResultError,
    Runtime,
    TerminatedError,
    Trap,
    TrapCode,
    UnsupportedError,
)
from tests.support.aot import compiled
from tests.support.wat import wat

ECHO = wat("""(module
  (func (export "i32") (param i32) (result i32) local.get 0)
  (func (export "i64") (param i64) (result i64) local.get 0)
  (func (export "f32") (param f32) (result f32) local.get 0)
  (func (export "f64") (param f64) (result f64) local.get 0)
  (func (export "externref") (param externref) (result externref) local.get 0)
  (func (export "funcref") (param funcref) (result funcref) local.get 0)
  (func $f (export "f") (result i32) i32.const 7)
  (elem declare func $f)
  (func (export "ref_f") (result funcref) ref.func $f)
  (func (export "swap") (param i32 i64 f32 f64) (result f64 f32 i64 i32) local.get 3 local.get 2 local.get 1 local.get 0)
  (func (export "nothing")))""")

HOSTS = wat("""(module
  (import "host" "ints" (func $ints (param i32 i64) (result i64)))
  (import "host" "mixed" (func $mixed (param f32 f64 i64 i32) (result f64)))
  (import "host" "ref" (func $ref (param i32 externref i64) (result externref)))
  (import "host" "none" (func $none))
  (import "host" "f32" (func $f32 (result f32)))
  (import "host" "i32" (func $i32 (result i32)))
  (func (export "ints") (param i32 i64) (result i64) local.get 0 local.get 1 call $ints)
  (func (export "mixed") (param f32 f64 i64 i32) (result f64) local.get 0 local.get 1 local.get 2 local.get 3 call $mixed)
  (func (export "ref") (param externref) (result externref) i32.const 5 local.get 0 i64.const -6 call $ref)
  (func (export "none") call $none)
  (func (export "f32") (result f32) call $f32)
  (func (export "i32") (result i32) call $i32))""")


@pytest.fixture(scope="module")
def echo():
    with Runtime() as runtime:
        yield runtime.load(ECHO).instantiate()


def hosts(**functions):
    defaults = {
        "ints": lambda a, b: a + b,
        "mixed": lambda a, b, c, d: a + b + c + d,
        "ref": lambda number, value, other: value,
        "none": lambda: None,
        "f32": lambda: 1.5,
        "i32": lambda: 7,
    }
    return {"host": defaults | functions}


@given(st.integers(-(2**31), 2**31 - 1))
def test_i32_passes_unchanged(echo, value):
    assert echo.call("i32", value) == value


@given(st.integers(-(2**63), 2**63 - 1))
def test_i64_passes_unchanged(echo, value):
    assert echo.call("i64", value) == value


@given(st.floats(width=32))
def test_f32_passes_unchanged(echo, value):
    assert echo.call("f32", value) == value or math.isnan(value)


@given(st.floats())
def test_f64_passes_unchanged(echo, value):
    assert echo.call("f64", value) == value or math.isnan(value)


def single(bits: int) -> float:
    """The double that has sign, kind and payload of a single NaN."""
    return struct.unpack("=d", struct.pack("=Q", bits >> 31 << 63 | 0x7FF << 52 | (bits & 0x7FFFFF) << 29))[0]


def bits_of(value: float) -> int:
    return struct.unpack("=Q", struct.pack("=d", value))[0]


@given(st.integers(1, 2**23 - 1), st.booleans())
@example(1, True)  # signalling
@example(1 << 22, False)  # quiet
def test_every_nan_passes_with_its_bits(echo, payload, negative):
    value = single(negative << 31 | 0x7F800000 | payload)
    assert bits_of(echo.call("f32", value)) == bits_of(value)
    assert bits_of(echo.call("f64", value)) == bits_of(value)


@pytest.mark.parametrize("mode", ["interpreter", "aot"])
@pytest.mark.parametrize("bits", [0x7FA00001, 0xFF800001, 0x7FC00000, 0x7FFFFFFF])
def test_a_nan_passes_through_guest_and_host_with_its_bits(bits, mode):
    wasm = wat("""(module (import "h" "f" (func $f (param f32) (result f32))) (memory (export "memory") 1)
      (global (export "g") (mut f32) (f32.const 0))
      (func (export "go") (param f32) (result f32 i32)
        (f32.store (i32.const 0) (local.get 0)) (call $f (local.get 0)) (i32.load (i32.const 0))))""")
    given_to_host = []

    def host(value):
        given_to_host.append(bits_of(value))
        return value

    with Runtime() as runtime:
        instance = runtime.load(wasm if mode == "interpreter" else compiled(wasm)).instantiate({"h": {"f": host}})
        value = single(bits)
        answer, stored = instance.call("go", value)
        assert stored & 0xFFFFFFFF == bits
        assert (given_to_host, bits_of(answer)) == ([bits_of(value)], bits_of(value))
        instance.set_global("g", value)
        assert bits_of(instance.get_global("g")) == bits_of(value)


def test_a_nan_whose_payload_has_no_place_in_a_single_stays_a_nan(echo):
    low = struct.unpack("=d", struct.pack("=Q", 0x7FF << 52 | 1))[0]
    assert math.isnan(echo.call("f32", low))


def test_unsigned_integers_are_taken_modulo_their_width(echo):
    assert echo.call("i32", 2**32 - 1) == -1
    assert echo.call("i64", 2**63) == -(2**63)


def test_externref_is_the_same_object(echo):
    value = object()
    assert echo.call("externref", value) is value
    assert echo.call("externref", None) is None


def test_funcref_goes_out_and_back(echo):
    reference = echo.call("ref_f")
    assert isinstance(reference, FuncRef)
    assert echo.call("funcref", reference) == reference
    assert echo.call("funcref", None) is None


def test_several_results_come_as_a_tuple(echo):
    assert echo.call("swap", 1, 2, 3.5, 4.5) == (4.5, 3.5, 2, 1)


def test_no_result_is_none(echo):
    assert echo.call("nothing") is None


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("i32", ()),
        ("i32", (1, 2)),
        ("i32", (1.5,)),
        ("i32", ("1",)),
        ("i32", (2**32,)),
        ("i32", (-(2**31) - 1,)),
        ("i64", (2**64,)),
        ("f32", ("x",)),
        ("f32", (1e300,)),
        ("f64", (None,)),
        ("funcref", (3,)),
    ],
)
def test_a_value_that_does_not_fit_is_named(echo, name, values):
    with pytest.raises(ArgumentError, match=name):
        echo.call(name, *values)


def test_host_functions_get_and_return_every_type(runtime):
    seen = []
    instance = runtime.load(HOSTS).instantiate(hosts(ref=lambda *values: seen.append(values) or values[1]))
    assert instance.call("ints", -2, 2**40) == 2**40 - 2
    assert instance.call("mixed", 0.5, 0.25, 2**33, -1) == 2**33 - 1 + 0.75
    assert instance.call("f32") == 1.5
    value = object()
    assert instance.call("ref", value) is value
    assert instance.call("ref", None) is None
    assert seen == [(5, value, -6), (5, None, -6)]


def test_an_exception_of_a_host_function_comes_out_again(runtime):
    class Boom(Exception):
        pass

    def fail():
        raise Boom("as it was raised")

    instance = runtime.load(HOSTS).instantiate(hosts(none=fail))
    with pytest.raises(Boom, match="as it was raised"):
        instance.call("none")
    assert instance.call("ints", 1, 2) == 3


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("ints", "x"),
        ("ints", 1.5),
        ("ints", None),
        ("ints", True),
        ("ints", 2**64),
        ("ints", -(2**63) - 1),
        ("i32", 2**32),
        ("i32", -(2**31) - 1),
        ("i32", 2**64 - 1),
        ("none", 1),
        ("f32", "x"),
        ("f32", 1e300),
    ],
)
def test_a_wrong_result_of_a_host_function_is_an_error(runtime, name, result):
    instance = runtime.load(HOSTS).instantiate(hosts(**{name: lambda *_: result}))
    with pytest.raises(HostResultError, match=f"host.{name}"):
        instance.call(name, *((1, 2) if name == "ints" else ()))


@pytest.mark.parametrize(
    ("name", "result", "seen"),
    [
        ("ints", 2**64 - 1, -1),
        ("ints", 2**63, -(2**63)),
        ("ints", -(2**63), -(2**63)),
        ("ints", -1, -1),
        ("i32", 2**32 - 1, -1),
        ("i32", -(2**31), -(2**31)),
    ],
)
def test_a_result_of_a_host_function_may_be_signed_or_unsigned(runtime, name, result, seen):
    instance = runtime.load(HOSTS).instantiate(hosts(**{name: lambda *_: result}))
    assert instance.call(name, *((1, 2) if name == "ints" else ())) == seen


@pytest.mark.parametrize("name", ["none", "f32", "i32"])
def test_what_a_host_function_raised_or_returned_in_vain_is_let_go(runtime, name):
    class Thing(Exception):
        pass

    seen = []

    def make():
        thing = Thing()
        seen.append(weakref.ref(thing))
        return thing

    def fail():
        raise make()

    for function, error in ((fail, Thing), (make, HostResultError)):
        instance = runtime.load(HOSTS).instantiate(hosts(**{name: function}))
        for _ in range(3):
            with pytest.raises(error):
                instance.call(name)
    gc.collect()  # what pytest keeps of an exception refers to itself
    assert len(seen) == 6
    assert not any(each() for each in seen)


def test_a_failure_that_nobody_asked_for_gives_way_to_the_next(runtime):
    """Ended from outside while its host function raises: the end is what the call tells of."""

    class Lost(Exception):
        pass

    box, seen = [], []

    def fail():
        box[0].terminate()
        lost = Lost()
        seen.append(weakref.ref(lost))
        raise lost

    box.append(runtime.load(HOSTS).instantiate(hosts(none=fail)))
    with pytest.raises(TerminatedError):
        box[0].call("none")
    gc.collect()
    assert seen[0]() is None


def test_a_host_function_may_call_back_in(runtime):
    box = []
    instance = runtime.load(HOSTS).instantiate(hosts(ints=lambda a, b: box[0].call("f32") and 42))
    box.append(instance)
    assert instance.call("ints", 1, 2) == 42


def test_a_host_function_of_several_results_is_refused_at_load(runtime):
    with pytest.raises(UnsupportedError, match=r"env\.two returns 2 values"):
        runtime.load(wat('(module (import "env" "two" (func (result i32 i32))))'))


TRAPS = wat("""(module
  (memory 1) (table 2 funcref) (elem (i32.const 0) $boom)
  (type $t (func (result i64)))
  (func $boom unreachable) (func $middle call $boom)
  (func (export "unreachable") call $middle)
  (func (export "load") (drop (i32.load (i32.const 65533))))
  (func (export "divide") (drop (i32.div_s (i32.const 1) (i32.const 0))))
  (func (export "overflow") (drop (i32.div_s (i32.const -2147483648) (i32.const -1))))
  (func (export "convert") (drop (i32.trunc_f32_s (f32.const nan))))
  (func (export "mismatch") (drop (call_indirect (type $t) (i32.const 0))))
  (func (export "empty") (drop (call_indirect (type $t) (i32.const 1))))
  (func (export "undefined") (drop (call_indirect (type $t) (i32.const 9))))
  (func $deep (export "deep") call $deep)
  (func (export "fill") (memory.fill (i32.const 65000) (i32.const 1) (i32.const 1000)))
  (func (export "spin") (loop br 0)))""")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("unreachable", TrapCode.UNREACHABLE),
        ("load", TrapCode.MEMORY_OUT_OF_BOUNDS),
        ("fill", TrapCode.MEMORY_OUT_OF_BOUNDS),
        ("divide", TrapCode.DIVIDE_BY_ZERO),
        ("overflow", TrapCode.INTEGER_OVERFLOW),
        ("convert", TrapCode.INVALID_CONVERSION),
        ("mismatch", TrapCode.INDIRECT_CALL_MISMATCH),
        ("empty", TrapCode.UNINITIALIZED_ELEMENT),
        ("undefined", TrapCode.UNDEFINED_ELEMENT),
        ("deep", TrapCode.STACK_OVERFLOW),
    ],
)
def test_each_trap_has_its_code_and_leaves_the_instance_usable(runtime, name, code):
    instance = runtime.load(TRAPS).instantiate()
    for _ in range(2):
        with pytest.raises(Trap) as caught:
            instance.call(name)
        assert caught.value.code is code
        assert caught.value.stack[-1].function == name or name == "deep"


def test_a_trap_tells_the_wasm_stack_innermost_first(runtime):
    with pytest.raises(Trap) as caught:
        runtime.load(TRAPS).instantiate().call("unreachable")
    assert [frame.function for frame in caught.value.stack] == ["boom", "middle", "unreachable"]


def test_nothing_is_printed(runtime, capfd):
    instance = runtime.load(TRAPS).instantiate()
    with pytest.raises(Trap):
        instance.call("unreachable")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_another_thread_can_terminate_a_call(interpreter):
    instance = interpreter.load(TRAPS).instantiate()
    timer = threading.Timer(0.05, instance.terminate)
    timer.start()
    with pytest.raises(TerminatedError):
        instance.call("spin")
    with pytest.raises(TerminatedError):
        instance.call("unreachable")
    timer.join()


def test_a_second_thread_is_told_that_the_instance_is_busy(interpreter):
    instance = interpreter.load(TRAPS).instantiate()
    errors = []

    def spin():
        with pytest.raises(TerminatedError):
            while True:
                with contextlib.suppress(BusyError):
                    instance.call("spin")

    thread = threading.Thread(target=spin)
    thread.start()
    end = time.monotonic() + 10
    while not errors and time.monotonic() < end:
        try:
            instance.call("divide")
        except BusyError as error:
            errors.append(error)
        except Trap:
            continue
    with pytest.raises(BusyError):
        instance.close()
    instance.terminate()
    thread.join()
    assert errors
    instance.close()


def test_closing_while_another_thread_is_about_to_call_is_an_error_and_never_a_crash(runtime):
    module = runtime.load(TRAPS)
    for _ in range(200):
        instance = module.instantiate()
        divide = instance.function("divide")
        ended = []

        def hammer(divide=divide, ended=ended):
            while True:
                try:
                    divide()
                except Trap:
                    continue
                except (ClosedError, BusyError) as error:
                    ended.append(error)
                    return

        thread = threading.Thread(target=hammer)
        thread.start()
        while not instance.closed:
            try:
                instance.close()
            except BusyError:
                continue
        thread.join(60)
        assert isinstance(ended[0], ClosedError)


def test_two_threads_at_once_get_their_own_results_or_are_told(runtime):
    add = runtime.load(wat('(module (func (export "add") (param i64 i64) (result i64) (i64.add (local.get 0) (local.get 1))))'))
    function = add.instantiate().function("add")
    wrong, before = [], sys.getswitchinterval()

    def call(value):
        for _ in range(20_000):
            try:
                if (found := function(value, value)) != 2 * value:
                    wrong.append((value, found))
            except BusyError:
                continue

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=call, args=(value,)) for value in (1, 1000)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    finally:
        sys.setswitchinterval(before)
    assert wrong == []

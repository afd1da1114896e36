"""Host functions that guest code calls with little room left, that call back in, and fuel that all calls share."""

import gc
import signal
import sys
import threading
import time

import pytest

from pywamr import BusyError, Runtime, Trap, TrapCode
from tests.support.aot import aotc, compiled
from tests.support.wat import wat

DEEP = wat("""(module (import "h" "f" (func $f (param i32) (result i32)))
  (func $deep (export "deep") (param i32) (result i32)
    (if (result i32) (local.get 0)
      (then (i32.add (call $deep (i32.sub (local.get 0) (i32.const 1))) (i32.const 1)))
      (else (call $f (i32.const 7)))))
  (func (export "again") (param i32) (result i32) (call $f (local.get 0)))
  (func (export "turns") (param i32)
    (loop (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))""")


@pytest.fixture(params=("interpreter", "aot"))
def code(request):
    if request.param == "aot" and aotc() is None:
        pytest.skip("wamr_aotc is not built: make aotc")
    return DEEP if request.param == "interpreter" else compiled(DEEP)


def deepest(instance) -> int:
    """How deep the guest may call itself before it calls out."""
    low, high = 1, 400_000
    while high - low > 1:
        middle = (low + high) // 2
        try:
            instance.call("deep", middle)
            low = middle
        except Trap as trap:
            assert trap.code is TrapCode.STACK_OVERFLOW
            high = middle
    return low


@pytest.mark.parametrize("stack_bytes", [0, 512 << 10])
def test_a_host_function_has_room_however_deep_its_guest_is(code, stack_bytes):
    nest: list = []
    for _ in range(60 if stack_bytes else 400):
        nest = [nest]
    met = []

    def probe():
        with Runtime() as runtime:
            instance = runtime.load(code).instantiate({"h": {"f": lambda value: len(repr(nest)) and value}}, stack_bytes=4 << 20)
            depth = deepest(instance)
            met.append((depth, instance.call("deep", depth)))

    threading.stack_size(stack_bytes)
    try:
        thread = threading.Thread(target=probe)
        thread.start()
    finally:
        threading.stack_size(0)
    thread.join()
    ((depth, result),) = met
    assert (depth > 1000, result) == (True, (depth + 7))


def test_calls_in_and_out_without_end_end_as_a_trap_and_leave_nothing(code):
    with Runtime() as runtime:
        box = []
        instance = runtime.load(code).instantiate({"h": {"f": lambda value: box[0].call("again", value + 1)}})
        box.append(instance)
        for turn in range(60):
            with pytest.raises(Trap) as met:
                instance.call("again", 0)
            assert met.value.code is TrapCode.STACK_OVERFLOW
            if turn == 10:
                gc.collect()
                before = len(gc.get_objects())
        del met
        gc.collect()
        assert len(gc.get_objects()) < before + 100


def test_each_thread_is_told_what_ended_its_own_call(code):
    """Two threads take turns on one instance: one's guest runs out of stack, the other's host function fails."""

    def fail(value):
        raise ValueError(value)

    with Runtime() as runtime:
        instance = runtime.load(code).instantiate({"h": {"f": fail}})
        function = {name: instance.function(name) for name in ("deep", "again")}
        wrong, met = [], {Trap: 0, ValueError: 0}
        ends = time.monotonic() + 60

        def repeat(name: str, argument: int, expected: type) -> None:
            while min(met.values()) < 20 and time.monotonic() < ends:
                try:
                    function[name](argument)
                except BusyError:
                    continue
                except expected:
                    met[expected] += 1
                except BaseException as error:
                    wrong.append(error)

        threads = [threading.Thread(target=repeat, args=each) for each in (("deep", 10**8, Trap), ("again", 3, ValueError))]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            for each in threads:
                each.start()
            for each in threads:
                each.join()
        finally:
            sys.setswitchinterval(interval)
        assert not wrong
        assert min(met.values()) >= 20


def test_what_ended_a_call_is_told_though_others_run_before_somebody_asks(code):
    """A signal's handler may call another instance between the end of a call and what is raised for it."""

    def fail(value):
        raise ValueError(value)

    with Runtime() as runtime:
        module = runtime.load(code)
        outer, inner = (module.instantiate({"h": {"f": fail}}) for _ in range(2))
        inside, met = [], {"outer": 0, "inner": 0}

        def handle(*_):
            if inside:
                return
            inside.append(True)
            try:
                inner.call("again", 2)
            except ValueError:
                met["inner"] += 1
            inside.pop()

        before = signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        ends = time.monotonic() + 60
        try:
            while min(met.values()) < 200 and time.monotonic() < ends:
                with pytest.raises(ValueError, match=r"^1$"):
                    outer.call("again", 1)
                met["outer"] += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert min(met.values()) >= 200


def test_start_functions_that_begin_each_other_without_end_are_a_trap(code):
    wasm = wat("""(module (import "h" "f" (func $f (param i32) (result i32)))
      (func $begin (drop (call $f (i32.const 1)))) (start $begin))""")
    with Runtime() as runtime:
        module = runtime.load(wasm if code is DEEP else compiled(wasm))

        def begin(value):
            module.instantiate({"h": {"f": begin}})
            return value

        with pytest.raises(Trap) as met:
            module.instantiate({"h": {"f": begin}})
        assert met.value.code is TrapCode.STACK_OVERFLOW


def test_fuel_is_for_all_calls_until_there_is_more():
    with Runtime() as runtime:
        instance = runtime.load(DEEP).instantiate({"h": {"f": lambda value: value}}, fuel=1000)
        instance.call("turns", 400)
        instance.call("turns", 400)
        for _ in range(2):
            with pytest.raises(Trap) as met:
                instance.call("turns", 400)
            assert met.value.code is TrapCode.OUT_OF_FUEL
        instance.limit_fuel(500)
        instance.call("turns", 400)
        instance.limit_fuel(None)
        instance.call("turns", 1_000_000)


def test_fuel_is_for_calls_of_host_functions_too():
    with Runtime() as runtime:
        box = []
        instance = runtime.load(DEEP).instantiate({"h": {"f": lambda value: box[0].call("turns", value) or 1}}, fuel=1000)
        box.append(instance)
        instance.call("again", 900)
        with pytest.raises(Trap) as met:
            instance.call("again", 900)
        assert met.value.code is TrapCode.OUT_OF_FUEL


def test_a_start_function_runs_on_fuel_and_has_a_stack():
    endless = wat("(module (func $spin (loop br 0)) (start $spin))")
    trapping = wat("(module (func $inner unreachable) (func $begin call $inner) (start $begin))")
    with Runtime() as runtime:
        with pytest.raises(Trap) as met:
            runtime.load(endless).instantiate(fuel=10_000)
        assert met.value.code is TrapCode.OUT_OF_FUEL
        images = [trapping, compiled(trapping)] if aotc() is not None else [trapping]
        for each in images:
            with pytest.raises(Trap) as met:
                runtime.load(each).instantiate()
            assert met.value.code is TrapCode.UNREACHABLE
            assert [frame.function for frame in met.value.stack] == ["inner", "begin"]


def test_the_start_function_has_run_when_there_is_an_instance(code):
    wasm = wat("""(module (import "h" "f" (func $f (param i32) (result i32)))
      (global (export "g") (mut i32) (i32.const 0))
      (func $begin (global.set 0 (call $f (i32.const 41)))) (start $begin))""")
    with Runtime() as runtime:
        chosen = wasm if code is DEEP else compiled(wasm)
        instance = runtime.load(chosen).instantiate({"h": {"f": lambda value: value + 1}})
        assert instance.get_global("g") == 42
        with pytest.raises(ValueError, match="mine"):
            runtime.load(chosen).instantiate({"h": {"f": lambda value: (_ for _ in ()).throw(ValueError("mine"))}})

"""Ending guests that run: from another thread, and by a signal."""

import contextlib
import os
import random
import signal
import subprocess
import threading

import pytest

from pywamr import BusyError, ClosedError, Runtime, TerminatedError
from tests.support.emulated import PYTHON
from tests.support.wat import wat

SPIN = wat("""(module (import "host" "tick" (func $tick))
  (func $turn call $tick (loop br 0)) (func (export "spin") call $turn)
  (func (export "ticks") (loop call $tick br 0))
  (func (export "two") (result i32) i32.const 2))""")
# Frames of very different sizes, full of what is no address: to walk them while they change is to fall.
_FILLED = " ".join(f"(local.set {n} (i64.const 0x4141414141414141))" for n in range(1, 41))
TREE = wat(f"""(module
  (func $big (param i32) (result i32) (local {"i64 " * 40}) {_FILLED} (call $tree (i32.sub (local.get 0) (i32.const 1))))
  (func $small (param i32) (result i32) (local i64 i64) (local.set 1 (i64.const -1))
    (call $tree (i32.sub (local.get 0) (i32.const 2))))
  (func $tree (export "tree") (param i32) (result i32) (if (result i32) (i32.lt_s (local.get 0) (i32.const 2))
    (then (local.get 0)) (else (i32.add (call $big (local.get 0)) (call $small (local.get 0)))))))""")


def instance_of(runtime, wasm=SPIN, tick=lambda: None):
    module = runtime.load(wasm)
    return module.instantiate({"host": {"tick": tick}} if module.imports else {})


def later(seconds, what):
    timer = threading.Timer(seconds, what)
    timer.start()
    return timer


def test_a_call_that_is_terminated_tells_where_it_was(interpreter):
    timers = []  # from within, so that it runs by then however busy the machine is
    instance = instance_of(interpreter, tick=lambda: timers.append(later(0.05, instance.terminate)))
    with pytest.raises(TerminatedError) as caught:
        instance.call("spin")
    timers[0].join()
    assert [frame.function for frame in caught.value.stack] == ["turn", "spin"]
    with pytest.raises(TerminatedError):
        instance.call("two")


def test_terminating_while_frames_come_and_go_is_never_a_crash(interpreter):
    module, chance, stacks = interpreter.load(TREE), random.Random(1), 0
    for _ in range(300):
        instance = module.instantiate()
        timer = later(chance.uniform(0.0002, 0.003), instance.terminate)
        with pytest.raises(TerminatedError) as caught:
            instance.call("tree", 40)
        timer.join()
        assert {frame.function for frame in caught.value.stack} <= {"tree", "big", "small"}
        stacks += bool(caught.value.stack)
        instance.close()
    assert stacks > 30  # the others were told before they began


@pytest.mark.parametrize("name", ["spin", "ticks"])
def test_a_signal_ends_the_call_and_then_does_what_it_did_before(interpreter, name):
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append("python"))
    try:
        with instance_of(interpreter) as instance:
            instance.terminate_on(signal.SIGUSR1)
            timer = later(0.05, lambda: os.kill(os.getpid(), signal.SIGUSR1))
            with pytest.raises(TerminatedError):
                instance.call(name)
            timer.join()
            assert seen == ["python"]
        os.kill(os.getpid(), signal.SIGUSR1)
        assert seen == ["python", "python"]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_one_instance_of_a_process_has_a_signal_and_only_one_that_can_be_handled(runtime):
    first, second = instance_of(runtime), instance_of(runtime)
    for number in (signal.SIGKILL, 0, 10_000):
        with pytest.raises(ValueError, match="can't be handled"):
            first.terminate_on(number)
    first.terminate_on(signal.SIGUSR1)
    with pytest.raises(BusyError):
        second.terminate_on(signal.SIGUSR2)
    first.close()
    second.terminate_on(signal.SIGUSR2)
    second.close()
    with pytest.raises(ClosedError):
        second.terminate_on(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


INTERRUPTED = """
import signal, sys, os, threading
from pywamr import Runtime, TerminatedError
instance = Runtime().load(bytes.fromhex(sys.argv[1])).instantiate({"host": {"tick": lambda: None}})
instance.terminate_on(signal.SIGINT)
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    instance.call(sys.argv[2])
except (KeyboardInterrupt, TerminatedError):
    print("interrupted")
"""


@pytest.mark.parametrize("name", ["spin", "ticks"])
def test_one_ctrl_c_ends_a_guest_that_computes_and_one_that_calls_out(name):
    command = [*PYTHON, "-c", INTERRUPTED, SPIN.hex(), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == ("interrupted\n", 0), done.stderr


def test_a_call_inside_a_call_ends_both_even_where_the_host_function_goes_on(interpreter):
    wasm = wat("""(module (import "host" "inner" (func $inner)) (func (export "spin") (loop br 0))
      (func (export "loops") call $inner (loop br 0)) (func (export "returns") (result i32) call $inner i32.const 42))""")
    seen, timers = [], []

    def inner():
        timers.append(later(0.05, instance.terminate))
        try:
            instance.call("spin")
        except TerminatedError:
            seen.append("inner")

    module = interpreter.load(wasm)
    for name in ("loops", "returns"):
        instance = module.instantiate({"host": {"inner": inner}})
        with pytest.raises(TerminatedError):
            instance.call(name)
        timers.pop().join()
    assert seen == ["inner", "inner"]


CHAINED = """
import faulthandler, os, signal, sys
from pywamr import Runtime, TerminatedError
module = Runtime().load(bytes.fromhex(sys.argv[1]))
first, second = (module.instantiate({"host": {"tick": lambda: None}}) for _ in range(2))
first.terminate_on(signal.SIGUSR1)
faulthandler.register(signal.SIGUSR1, file=open(os.devnull, "w"), chain=True)
first.close()
second.terminate_on(signal.SIGUSR1)
os.kill(os.getpid(), signal.SIGUSR1)
try:
    second.call("two")
except TerminatedError:
    print("ended")
"""


def test_a_handler_of_somebody_else_that_goes_on_to_ours_is_no_endless_loop():
    command = [*PYTHON, "-c", CHAINED, SPIN.hex()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == ("ended\n", 0), done.stderr


WAITS = """
import os, signal, sys, threading
from pywamr import Runtime
instance = Runtime().load(bytes.fromhex(sys.argv[1])).instantiate({"host": {"tick": lambda: None}})
instance.terminate_on(signal.SIGINT)
seen = threading.Event()

def press():  # again, should the first come just before the read begins
    while not seen.wait(1):
        os.kill(os.getpid(), signal.SIGINT)

end, _ = os.pipe()
try:
    threading.Thread(target=press).start()
    os.read(end, 1)
except KeyboardInterrupt:
    seen.set()
    print("interrupted")
"""


def test_ctrl_c_still_ends_what_waits_in_python():
    done = subprocess.run([*PYTHON, "-c", WAITS, SPIN.hex()], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == ("interrupted\n", 0), done.stderr


def test_an_instance_that_is_closed_while_it_gets_its_signal_leaves_the_signal_to_others():
    with Runtime() as runtime:
        module = runtime.load(SPIN)
        for _ in range(2000):
            instance = module.instantiate({"host": {"tick": lambda: None}})
            thread = threading.Thread(target=instance.close)
            thread.start()
            with contextlib.suppress(ClosedError):
                instance.terminate_on(signal.SIGUSR1)
            thread.join()
        with module.instantiate({"host": {"tick": lambda: None}}) as last:
            last.terminate_on(signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGUSR1)
            with pytest.raises(TerminatedError):
                last.call("two")
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_signal_between_calls_ends_the_next_one():
    with Runtime() as runtime:
        instance = instance_of(runtime)
        instance.terminate_on(signal.SIGUSR1)
        assert instance.call("two") == 2
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(TerminatedError):
            instance.call("two")

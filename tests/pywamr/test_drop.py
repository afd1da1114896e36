"""What is dropped without being closed ends by itself: in any order, in cycles of garbage, at the end of the interpreter."""

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pywamr import ClosedError, Runtime
from tests.support.aot import aotc, compiled
from tests.support.emulated import PYTHON
from tests.support.wat import wat

CODE = wat("""(module (import "host" "f" (func $f (param i32) (result i32))) (memory (export "memory") 1)
  (func (export "call") (param i32) (result i32) (call $f (local.get 0))))""")
HOSTS = {"host": {"f": lambda value: value + 1}}
SLOW = len(PYTHON) > 1 or "PYWAMR_TEST_LIBRARY_FOLDER" in os.environ  # emulated, or with sanitizers
CYCLES = [1_000] if SLOW else [2_000, pytest.param(10_000, marks=pytest.mark.full)]


def size_kb(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


def everything(_):
    Runtime().load(CODE).instantiate(HOSTS).call("call", 1)


def modules_of(runtime):
    runtime.load(CODE).instantiate(HOSTS).call("call", 1)


def instances_of(runtime):
    runtime.kept.instantiate(HOSTS).call("call", 1)


def cycles_of_garbage(runtime):
    box = []
    box.append(runtime.load(CODE).instantiate({"host": {"f": lambda value: len(box)}}))
    assert box[0].call("call", 1) == 1


@pytest.fixture
def _of_its_own():
    """Python collects garbage by how much is alive: what others have imported would let more of it pile up."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_of_its_own")
@pytest.mark.parametrize("cycles", CYCLES)
@pytest.mark.parametrize("dropped", [everything, modules_of, instances_of, cycles_of_garbage])
def test_thousands_that_are_dropped_take_no_more_than_one(dropped, cycles):
    with Runtime() as runtime:
        runtime.kept = runtime.load(CODE)
        for _ in range(50):
            dropped(runtime)
        gc.collect()
        before = size_kb("VmRSS"), size_kb("VmSize")
        for _ in range(cycles):
            dropped(runtime)
        gc.collect()
        grown = size_kb("VmRSS") - before[0], size_kb("VmSize") - before[1]
    assert grown[0] < 4_000 or "PYWAMR_TEST_LIBRARY_FOLDER" in os.environ  # sanitizers keep what was freed for a while
    assert grown[1] < 64_000_000  # one memory of a 64-bit machine is 8 GiB of addresses


@pytest.mark.parametrize("calls", [5, pytest.param(50, marks=pytest.mark.full)])
def test_others_may_end_while_guest_code_is_on_the_stack(calls):
    with Runtime() as runtime:

        def host(value):
            for each in (everything, modules_of, cycles_of_garbage):
                each(runtime)
            gc.collect()
            return value + 1

        instance = runtime.load(CODE).instantiate({"host": {"f": host}})
        assert [instance.call("call", number) for number in range(calls)] == list(range(1, calls + 1))


def test_threads_may_drop_what_others_run_beside():
    def work():
        for number in range(300):
            instance = Runtime().load(CODE).instantiate(HOSTS)
            assert instance.call("call", number) == number + 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def test_a_function_and_a_memory_keep_their_instance():
    function = Runtime().load(CODE).instantiate(HOSTS).function("call")
    memory = Runtime().load(CODE).instantiate(HOSTS).memory
    gc.collect()
    assert function(1) == 2
    assert len(memory) == 65536


def test_what_is_closed_by_hand_is_closed_for_those_who_still_hold_it():
    runtime = Runtime()
    module = runtime.load(CODE)
    instance = module.instantiate(HOSTS)
    function, memory = instance.function("call"), instance.memory
    del instance
    module.close()
    with pytest.raises(ClosedError):
        function(1)
    with pytest.raises(ClosedError):
        memory.read(0, 1)
    runtime.close()


SCRIPT = """
import itertools, sys
sys.path[:0] = {path!r}
from pywamr import Runtime
code = bytes.fromhex({code!r})
kept = {{}}
for order in itertools.permutations("rmif"):
    things = {{"r": Runtime()}}
    things["m"] = things["r"].load(code)
    things["i"] = things["m"].instantiate({{"host": {{"f": lambda value, things=things: len(things)}}}})
    things["f"] = things["i"].function("call")
    assert things["f"](1) == 4
    for each in order[:{count}]:
        del things[each]
    kept[order] = things
print("over")
"""
RUNNING = """
import sys, threading, time
sys.path[:0] = {path!r}
from pywamr import Runtime
code = bytes.fromhex({code!r})
things = dict(r=Runtime())
things["m"] = things["r"].load(code)
things["i"] = things["m"].instantiate({{"host": {{"f": lambda value: time.sleep(0) or value}}}})
def repeat(instance=things["i"], function=things["i"].function("call")):
    while True:
        function(1)
def alone():
    while True:
        Runtime().load(code).instantiate({{"host": {{"f": lambda value: value}}}}).call("call", 1)
for work in (repeat, alone, alone):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.05)
for each in {order!r}:
    del things[each]
print("over")
"""


@pytest.fixture(params=("interpreter", "aot"))
def code(request):
    if request.param == "aot" and aotc() is None:
        pytest.skip("wamr_aotc is not built: make aotc")
    return CODE if request.param == "interpreter" else compiled(CODE)


@pytest.mark.parametrize("order", ["", "rmi", "imr", "mri"])
def test_the_interpreter_ends_while_threads_run_guest_code(code, order):
    script = RUNNING.format(path=sys.path, code=code.hex(), order=order)
    done = subprocess.run([*PYTHON, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")


@pytest.mark.parametrize("count", range(5))
def test_the_interpreter_ends_in_any_order_of_deletion(code, count):
    script = SCRIPT.format(path=sys.path, code=code.hex(), count=count)
    done = subprocess.run([*PYTHON, "-X", "dev", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")

"""Hardware bounds checks and what else listens for a fault; the end of the interpreter, in any order."""

import subprocess

import pytest

from tests.support.emulated import PYTHON

START = "import pywamr, sys, threading, signal, os; from tests.support.wat import wat\n"
TRAP = '''
wasm = wat("""(module (memory 1) (func (export "f") (param i32) (result i32) (i32.load (local.get 0)))
  (func (export "spin") (loop br 0)))""")
def trap(runtime):
    instance = runtime.load(wasm).instantiate()
    try:
        instance.call("f", -1)
    except pywamr.Trap:
        return instance
'''


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([*PYTHON, "-c", START + TRAP + code], capture_output=True, text=True, timeout=120, check=False)


def test_a_fault_of_somebody_else_goes_to_who_listened_first():
    """After two starts and two threads WAMR would hand it to itself for ever."""
    code = """
import faulthandler; faulthandler.enable()
for _ in range(2):
    with pywamr.Runtime() as runtime:
        trap(runtime)
        thread = threading.Thread(target=trap, args=(runtime,)); thread.start(); thread.join()
faulthandler._sigsegv()
"""
    done = run(code)
    assert done.returncode < 0
    assert "Fatal Python error: Segmentation fault" in done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "r = pywamr.Runtime(); i = trap(r); del r; del i",
        "r = pywamr.Runtime(); i = trap(r); del i; del r",
        "r = pywamr.Runtime(); i = trap(r); f = i.function('f'); m = i.memory; del i; del r; sys.exit(0)",
        "r = pywamr.Runtime(); i = trap(r); i.close(); sys.exit(0)",
        "r = pywamr.Runtime(); i = trap(r); r.close(); import gc; gc.collect()",
        "a = pywamr.Runtime(); b = pywamr.Runtime(); i = trap(a); j = trap(b); a.close(); j.call('f', 0)",
        "r = pywamr.Runtime(); i = trap(r); threading.Thread(target=lambda: i.call('spin'), daemon=True).start(); sys.exit(0)",
        "r = pywamr.Runtime(); [threading.Thread(target=trap, args=(r,)).start() for _ in range(8)]",
    ],
)
def test_the_interpreter_ends_without_a_crash(code):
    done = run(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_ten_thousand_loads_take_no_more_memory_than_one_thousand():
    code = """
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def load(runtime, count):
    for _ in range(count):
        with runtime.load(wasm) as module:
            module.instantiate().call("f", 0)
with pywamr.Runtime() as runtime:
    load(runtime, 1000); before = resident(); load(runtime, 9000); print(resident() - before)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 512 * 1024

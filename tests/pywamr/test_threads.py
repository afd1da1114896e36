"""Threads that use one instance at once, or what another thread closes: an error that says so, and never a crash."""

import os
import subprocess

from tests.conftest import ROOT
from tests.support.emulated import PYTHON

STRESS = r"""
import sys, threading, time
from pywamr import BusyError, ClosedError, Runtime, TerminatedError, Trap
from tests.support.wat import wat

sys.setswitchinterval(1e-6)
WASM = wat('''(module (import "env" "out" (func $out (param i32)))
  (memory (export "memory") 1) (global (export "g") (mut i64) (i64.const 1))
  (func $deep (param i32) (if (local.get 0) (then (call $deep (i32.sub (local.get 0) (i32.const 1)))) (else unreachable)))
  (func (export "trap") (call $deep (i32.const 40)))
  (func (export "grow") (drop (memory.grow (i32.const 1))))
  (func (export "out") (call $out (i32.const 5))))''')
HOSTS = {"env": {"out": lambda value: None}}

def uses(module, instance):
    trap, grow, out = (instance.function(name) for name in ("trap", "grow", "out"))
    memory = instance.memory
    yield trap
    yield grow
    yield out
    yield lambda: instance.function("out")
    yield lambda: memory.read(0, 1000)
    yield lambda: memory.write(8, b"12345678")
    yield lambda: len(memory)
    yield lambda: instance.set_global("g", instance.get_global("g"))
    yield instance.terminate
    yield lambda: module.instantiate(HOSTS).call("trap")
    yield lambda: module.custom_sections
    yield lambda: instance.limit_fuel(1000)
    yield instance.close

def repeat(use, ends, met):
    while time.monotonic() < ends:
        try:
            use()
        except ClosedError:
            met.add("closed")
            return
        except BusyError:
            met.add("busy")
        except Trap:
            met.add("trap")
        except TerminatedError:
            met.add("terminated")

ends, turn, met = time.monotonic() + float(sys.argv[1]), 0, set()
while time.monotonic() < ends:
    runtime = Runtime()
    module = runtime.load(WASM, record_offsets=True)
    instance = module.instantiate(HOSTS, max_pages=100)
    chosen = list(uses(module, instance))
    chosen = [chosen[(turn * step) % len(chosen)] for step in (1, 3, 5)]
    if turn % 3 == 0:
        chosen[1] = chosen[0]  # two threads do the same
    threads = [threading.Thread(target=repeat, args=(each, time.monotonic() + 0.05, met)) for each in chosen]
    for each in threads:
        each.start()
    time.sleep(0.0005 * (turn % 5))
    what = (instance, module, runtime)[turn % 3]
    while True:
        try:
            what.close()
            break
        except BusyError:
            pass
    if turn % 2:
        del instance, module, runtime, what, chosen
    for each in threads:
        each.join()
    turn += 1
print(*sorted(met))
"""


def test_whoever_closes_what_others_use_ends_nobodys_process():
    command = [*PYTHON, "-X", "faulthandler", "-c", STRESS, "5"]
    environment = os.environ | {"MALLOC_PERTURB_": "165"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert {"closed", "trap"} <= set(done.stdout.split()) <= {"busy", "closed", "terminated", "trap"}

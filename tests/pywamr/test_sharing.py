"""What a process that forks others shares with them. In a process of its own each: what is kept is never freed again."""

import subprocess
import sys

import pytest

from tests.support.emulated import PYTHON

PROGRAM = """
import gc, os, sys, threading
from pywamr import keep_shared

def dirty_kb():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_Dirty"))

kept = [(str(number), object()) for number in range(60_000)]
names = {name: each for name, each in kept}
size_kb = 60_000 * (sys.getsizeof("12345") + sys.getsizeof((1, 2)) + sys.getsizeof(object())) >> 10
shared = keep_shared()

def in_child(work):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if work() else 3
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""
READS = """
def work():
    before = dirty_kb()
    for each in kept:
        name, other = each
        names[name]
    print(shared, (dirty_kb() - before) / size_kb, flush=True)
    return True
print(in_child(work))
os._exit(0)
"""
LIVES = """
def work():
    import fractions, json
    gone = []
    class Cycle:
        def __del__(self):
            gone.append(self)
    cycle = Cycle()
    cycle.other = cycle
    del cycle
    gc.collect()
    thread = threading.Thread(target=lambda: gone.append(json.loads("[1]")))
    thread.start()
    thread.join()
    kept.clear()
    try:
        raise ValueError(names["7"], fractions.Fraction(1, 3))
    except ValueError as error:
        return len(gone) == 2 and str(error.args[1]) == "1/3"
print(in_child(work), in_child(lambda: keep_shared() == shared), flush=True)
os._exit(0)
"""


def run(program: str) -> str:
    done = subprocess.run([*PYTHON, "-c", PROGRAM + program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.skipif(sys.version_info < (3, 12), reason="before Python 3.12 there is no object whose references are not counted")
def test_a_child_that_reads_what_was_kept_does_not_write_to_it():
    shared, part, status = run(READS).split()
    assert (shared, status) == ("True", "0")
    assert float(part) < 0.1


def test_a_python_that_counts_every_reference_is_left_as_it_is():
    shared, part, status = run(READS).split()
    assert status == "0"
    assert (shared == "True") == (sys.version_info >= (3, 12))
    assert (float(part) < 0.1) == (shared == "True")


def test_a_child_goes_on_as_any_program_does():
    assert run(LIVES).split() == ["0", "0"]

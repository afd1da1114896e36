"""Loops over memory, which the compiler may turn into vectors: what they compute, and that a load beyond the end traps even where
its value does not matter.
"""

import re
import shutil
import struct
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ota.author.aot import host_target
from pywamr import Runtime, Trap
from tests.support.aot import aotc, compiled, compiled_now, processors
from tests.support.wat import wat

pytestmark = pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
END = 65536
LOADS = ("i32.load", "i32.load16_s", "i32.load8_u", "i32.load align=1")
STATEMENTS = (
    "(local.set $sum (i32.add (local.get $sum) {load}))",
    "(local.set $sum (i32.mul (i32.xor (local.get $sum) {load}) (i32.const 31)))",
    "(local.set $dead (i32.add (local.get $dead) {load}))",
    "(local.set $dead {load})",
    "(drop {load})",
    "(drop (i32.and {load} (i32.const 0)))",
    "(local.set $sum (i32.add (local.get $sum) (i32.mul {load} (i32.const 0))))",
    "(drop (call $read (local.get $p)))",
    "(drop (call $second {load} (i32.const 5)))",
    "(call $ignore {load})",
    "(if {load} (then nop))",
    "(local.set $sum (i32.add (local.get $sum) (i32.sub {load} {load})))",
    "(local.set $sum (i32.add (local.get $sum) (i32.eq {load} {load})))",
    "(drop (select (i32.const 3) (i32.const 3) {load}))",
    "(local.set $f (f32.add (local.get $f) (f32.load (local.get $p))))",
    "(local.set $d (f64.add (f64.mul (f64.load (local.get $p)) (f64.const 0.5)) (local.get $d)))",
    "(i32.store (i32.add (local.get $q) (i32.const 4096)) (i32.add {load} (i32.const 7)))",
    "(f32.store offset=4096 (local.get $q) (f32.sub (f32.mul (f32.load (local.get $p)) (f32.const 3)) (f32.load (local.get $q))))",
    "(i32.store8 (local.get $q) (i32.add (i32.load8_u (local.get $q)) {load}))",
    "(if (i32.and {load} (i32.const 4)) (then (i32.store (local.get $q) {load})))",
    "(if (i32.and (local.get $i) (i32.const 4)) (then (local.set $sum (i32.add (local.get $sum) {load}))))",
    "(local.set $sum (select {load} (local.get $sum) (i32.gt_s {load} (local.get $sum))))",
)
TEXT = """(module (memory (export "memory") 1)
  (func $read (param i32) (result i32) (i32.load (local.get 0)))
  (func $second (param i32 i32) (result i32) (local.get 1))
  (func $ignore (param i32))
  (func (export "run") (param $from i32) (param $count i32) (result i32 f32 f64)
    (local $i i32) (local $p i32) (local $q i32) (local $sum i32) (local $dead i32) (local $f f32) (local $d f64)
    (local.set $p (local.get $from))
    (loop $next
      {body}
      (local.set $p (i32.add (local.get $p) (i32.const {step})))
      (local.set $q (i32.and (i32.add (local.get $q) (i32.const 4)) (i32.const 4095)))
      (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $count))))
    (local.get $sum) (local.get $f) (local.get $d)))"""


def outcome(code: bytes, start: int, count: int) -> tuple[object, ...]:
    """Results as bits, and the memory; or that it trapped."""
    with Runtime() as runtime:
        instance = runtime.load(code).instantiate()
        instance.memory.write(0, bytes(number * 37 & 0xFF for number in range(END)))
        try:
            total, single, double = instance.call("run", start, count)
        except Trap:
            return ("trapped",)
        return total, struct.pack("<fd", single, double), instance.memory.read(0, END)


@pytest.mark.full
@given(
    parts=st.lists(st.tuples(st.sampled_from(STATEMENTS), st.sampled_from(LOADS)), min_size=1, max_size=3),
    step=st.sampled_from((0, 1, 2, 4, 8, -4)),
    count=st.integers(1, 70),
    beyond=st.integers(-8, 8),
    cpu=st.sampled_from(processors()),
)
@settings(print_blob=True)
def test_a_loop_over_memory_does_what_it_does_interpreted(parts, step, count, beyond, cpu):
    body = "\n      ".join(text.format(load=f"({load} (local.get $p))") for text, load in parts)
    wasm = wat(TEXT.format(body=body, step=step))
    last = END - 4 + beyond  # where the loop's last load is
    start = last - step * (count - 1)
    expected = outcome(wasm, start, count)
    assert outcome(compiled_now(wasm, cpu=cpu), start, count) == expected


STEP = "(local.set $p (i32.add (local.get $p) (i32.const 4)))"
BACK = "(local.set $p (i32.sub (local.get $p) (i32.const 4)))"
AGAIN = "(br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1))))"
LOAD = "(i32.load (local.get $p))"
TIMES_K = "(i32.mul (i32.load (local.get $p)) (local.get $k)) (local.set $k (i32.mul (local.get $k) (i32.const 3)))"
NAN = 0x7FA00000  # signalling
TRICKS = {
    "an exit that never comes, but for the trap": (
        f"(block $o (loop $l (br_if $o {TIMES_K}) {STEP} (br $l))) (i32.const 3)", (0, 3)),
    "a factor that is always 0": (
        f"(loop $l (local.set $s (i32.add (local.get $s) {TIMES_K})) {STEP} {AGAIN}) (local.get $s)", (END - 4, 2)),
    "a factor that is 0 in the first turn": (
        """(loop $l (local.set $s (i32.add (local.get $s) (i32.mul (i32.load (i32.add (local.get $p)
          (i32.shl (local.get $i) (i32.const 2)))) (local.get $i))))
          (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 4)))) (local.get $s)""", (-4, 0)),
    "a factor of which only all functions together tell that it is 0, in a few turns": (
        f"""(local.set $k (call $zero (i32.const 3))) (loop $l (local.set $s (i32.add (local.get $s) (i32.mul (local.get $k)
          (i32.load offset={END - 16} (i32.shl (local.get $i) (i32.const 2))))))
          (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 10)))) (local.get $s)""", (0, 0)),
    "a value for one branch only": (
        f"""(loop $l (local.set $v {LOAD}) (if (i32.eq (i32.and (local.get $n) (i32.const 7)) (i32.const 5)) (then
          (local.set $s (i32.add (local.get $s) (local.get $v))) (i32.store (i32.const 4) (local.get $s)))) {STEP} {AGAIN})
          (local.get $s)""", (END - 4, 2)),
    "a value of which the last is used": (
        f"(loop $l (local.set $v {LOAD}) {BACK} {AGAIN}) (local.get $v)", (END, 8)),
    "a value of which the last is kept in a global": (
        f"(loop $l (global.set $g {LOAD}) {BACK} {AGAIN}) (global.get $g)", (END, 8)),
    "a value that is used behind one exit of two": (
        f"""(block $o (loop $l (local.set $v {LOAD}) (br_if $o (i32.eq (local.get $i) (i32.const 3))) {BACK}
          (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if $l (i32.lt_u (local.get $i) (local.get $n))))
          (return (i32.const 9))) (local.get $v)""", (END + 4, 10)),
    "a search whose result is not used": (
        f"(block $o (loop $l (br_if $o (i32.eq {LOAD} (i32.const 77))) {STEP} {AGAIN})) (i32.const 1)", (END - 4, 2)),
    "a float that counts beyond its precision": (
        """(local.set $x (f32.const 16777216)) (loop $l (local.set $s (i32.add (local.get $s) (i32.const 1)))
          (local.set $x (f32.add (local.get $x) (f32.const 3))) (br_if $l (f32.lt (local.get $x) (f32.const 16777400))))
          (local.get $s)""", (0, 0)),
    "a signalling NaN times a local that is 1": (
        "(local.set $x (f32.const 1)) (i32.reinterpret_f32 (f32.mul (f32.reinterpret_i32 (local.get $p)) (local.get $x)))",
        (NAN, 0)),
    "a signalling NaN minus a local that is 0": (
        "(i32.reinterpret_f32 (f32.sub (f32.reinterpret_i32 (local.get $p)) (local.get $x)))", (NAN, 0)),
    "signalling NaNs in a row, times a local that is 1": (
        f"""(local.set $x (f32.const 1)) (i32.store (i32.const 512) (i32.const {NAN})) (i32.store (i32.const 640) (i32.const {NAN}))
          (loop $l (f32.store offset=512 (local.get $p) (f32.mul (f32.load offset=512 (local.get $p)) (local.get $x)))
          {STEP} {AGAIN})
          (i32.add (i32.load (i32.const 512)) (i32.load (i32.const 640)))""", (0, 64)),
}  # fmt: skip
RUN = """import sys; from pywamr import Runtime, Trap
try: print(Runtime().load(sys.stdin.buffer.read()).instantiate().call("run", int(sys.argv[1]), int(sys.argv[2])))
except Trap as trap: print(trap)"""


def told(code: bytes, arguments: tuple[int, ...]) -> str:
    """What a call of `run` comes to. In a process of its own, because nothing else ends compiled code that does not."""
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    return subprocess.run(command, input=code, capture_output=True, check=True, timeout=120).stdout.decode()


@pytest.mark.parametrize("trick", TRICKS)
def test_what_an_optimiser_would_love_to_remove_traps_and_counts_all_the_same(trick):
    body, arguments = TRICKS[trick]
    wasm = wat(f"""(module (memory 1) (global $g (mut i32) (i32.const 1))
      (func $zero (param i32) (result i32) (if (result i32) (local.get 0)
        (then (call $zero (i32.sub (local.get 0) (i32.const 1)))) (else (i32.const 0))))
      (func (export "run") (param $p i32) (param $n i32) (result i32)
        (local $v i32) (local $s i32) (local $k i32) (local $i i32) (local $x f32) {body}))""")
    expected = told(wasm, arguments)
    for cpu in processors():
        assert told(compiled(wasm, cpu=cpu), arguments) == expected


BETTER = {"x86_64": ("", "x86-64-v3", "skylake", "alderlake"), "aarch64": ("", "cortex-a72", "neoverse-n2")}
OBJDUMP = {"x86_64": ("objdump", "-m", "i386:x86-64"), "aarch64": ("aarch64-linux-gnu-objdump", "-m", "aarch64")}
VECTOR = {"x86_64": "[xy]mm", "aarch64": r"v\d+\.4s"}


@pytest.mark.parametrize(("target", "cpu"), [(target, cpu) for target, names in BETTER.items() for cpu in names])
def test_a_better_processor_does_not_cost_a_loop_its_vectors(tmp_path, target, cpu):
    tool, *machine = OBJDUMP[target]
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    body = f"(loop $l (local.set $s (i32.add (local.get $s) (i32.mul {LOAD} (local.get $k)))) {STEP} {AGAIN}) (local.get $s)"
    image = tmp_path / "image"
    wasm = wat(f"""(module (memory 1) (func (export "run") (param $p i32) (param $n i32) (param $k i32) (result i32)
      (local $s i32) {body}))""")
    image.write_bytes(compiled(wasm, target, cpu))
    listing = subprocess.run([tool, *machine, "-b", "binary", "-D", image], capture_output=True, text=True, check=True).stdout
    assert len(re.findall(VECTOR[target], listing)) > 5


@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed")
@pytest.mark.skipif(host_target() != "x86_64", reason="what x86-64 extends for nothing")
def test_an_address_is_not_copied_to_be_extended(tmp_path):
    wasm = wat("""(module (memory 1) (func (export "run") (param $p i32) (result i32) (local $s i32)
      (local.set $p (i32.load (local.get $p)))
      (block $end (loop $l
        (br_if $end (i32.eqz (local.get $p)))
        (if (i32.load offset=4 (local.get $p))
          (then (local.set $s (i32.add (local.get $s) (i32.load offset=8 (local.get $p))))
            (local.set $p (i32.add (local.get $p) (i32.const 24))))
          (else (local.set $p (i32.load offset=12 (local.get $p)))))
        (br $l)))
      (local.get $s)))""")
    image = tmp_path / "image"
    image.write_bytes(compiled(wasm, "x86_64"))
    listing = subprocess.run(
        ["objdump", "-m", "i386:x86-64", "-b", "binary", "-D", image], capture_output=True, text=True, check=True
    )
    loads = re.findall(
        r"\bmov +0x[48c]\(%r\w+,%r\w+,1\)|\bcmpl? .*0x4\(%r\w+,%r\w+,1\)|\badd +0x8\(%r\w+,%r\w+,1\)", listing.stdout
    )
    assert len(loads) >= 3, listing.stdout
    copied = re.findall(r"\bmov +%(e\w\w|r\d+d),%(?:e\w\w|r\d+d)\b", listing.stdout)
    assert set(copied) <= {"esi"}  # the parameter

"""What each mend of WAMR is for, as something to see: `python -m tests.support.mends FOLDER AOTC` prints all of it, as JSON.

FOLDER has libwamr_core, AOTC is a compiler: of a build without mends, to see what is different. docs/upstream.md tells of each.
"""

import json
import multiprocessing
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import wasmtime

from ota.author.aot import host_target
from pywamr import MemoryType, PywamrError, Runtime, Trap

SHOWN: dict[str, Callable[[], object]] = {}
COMPILER = [""]
TIMEOUT_S = 120
TEXT = 2  # a section of an image
NOT_SHOWN = {
    "wamr_switch_at_once": "three instructions less, and the same",
    "wamr_fix_empty_memory": "needs a system that refuses access to 0 bytes",
    "wamr_fix_previous_handler": "a fault of the process's own, which it never gets out of",
    "wamr_check_flags": "modules that are not valid are taken",
    "wamr_fix_raw_externref": "numbers become references",
    "wamr_fix_vector_on_stack": "reads beside its arguments",
    "wamr_fix_room_for_parameters": "a memory error: it shows under AddressSanitizer",
    "wamr_fix_frame_values": "reads behind a stack: it shows under AddressSanitizer",
    "wamr_fix_exported_import": "numbers become pointers",
    "wamr_align_frames": "x86-64 does not mind",
    "wamr_tell_of_new_code": "no emulator has such caches, and x86-64 none",
    "wamr_fix_arm_arguments": "on ARMv7 only",
    "wamr_fix_low_addresses": "on RISC-V only",
    "wamr_fix_riscv_addresses": "on RISC-V only",
    "wamr_fix_riscv_floats": "on RISC-V only",
    "wamr_fix_riscv_rounding": "on RISC-V only",
    "wamr_reserve_ends": "on RISC-V only",
    "wamr_vectors_on_riscv": "on RISC-V only",
    "wamr_refuse_overflow": "on ARMv7 only",
    "wamr_trap_at_tables": "on ARMv7 only",
    "wamr_probe_vector_stores": "where the processor is no x86",
    "wamr_fix_narrowing": "where the processor is no x86",
    "wamr_pass_externrefs": "speed and memory only",
    "wamr_keep_base": "speed only",
    "wamr_optimise_fully": "speed only",
    "wamr_make_vectors": "speed only",
    "wamr_shorten_loop": "speed only",
    "wamr_tee_at_once": "speed only",
    "wamr_fuse_instructions": "speed only",
    "wamr_leave_early_vectors": "speed only",
    "wamr_extend_early": "size and speed only: tests/oracle/test_loops.py",
    "wamr_tell_apart": "speed only",
    "wamr_end_at_traps": "size and speed only",
}
"""Mends that no value tells of on x86-64, or whose fault is no harmless thing to show, and why."""


def shows(*mends: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Of a function: what it returns is another value without one of these mends."""

    def note(function: Callable[[], object]) -> Callable[[], object]:
        SHOWN.update(dict.fromkeys(mends, function))
        return function

    return note


def wat(text: str) -> bytes:
    """Wasmtime's translation: no names, no other tool."""
    return bytes(wasmtime.wat2wasm(text))


def image(wasm: bytes) -> bytes:
    """A module compiled ahead of time, by the compiler that is looked at, with vectors."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "module.wasm", Path(folder) / "image"
        source.write_bytes(wasm)
        cpu = "x86-64-v2" if host_target() == "x86_64" else ""
        subprocess.run([COMPILER[0], host_target(), cpu, "", str(source), str(out)], check=True, capture_output=True)
        return out.read_bytes()


def result(code: bytes, name: str = "run", *values: object, **how: object) -> object:
    """What a call returns, or which error it ends with."""
    try:
        with Runtime() as runtime:
            return runtime.load(code).instantiate(**how).call(name, *values)
    except PywamrError as error:
        return type(error).__name__


@shows("wamr_fix_null_in_segments")
def null_in_a_segment() -> object:
    return result(
        wat("""(module (type $t (func (result i32))) (table 1 funcref) (elem (i32.const 0) funcref (ref.null func))
          (func (type $t) (i32.const 10)) (func (export "run") (result i32) (call_indirect (type $t) (i32.const 0))))""")
    )


@shows("wamr_keep_pages")
def pages() -> object:
    with Runtime() as runtime:
        (memory,) = [each.type for each in runtime.load(wat('(module (memory (export "m") 2))')).exports]
        assert isinstance(memory, MemoryType)
        return memory.minimum_pages


@shows("wamr_take_zeros_in_names")
def zero_in_a_name() -> object:
    return result(wat(r'(module (func (export "a\00b") (result i32) (i32.const 4)))'), "a\0b")


@shows("wamr_ignore_bad_names")
def bad_names() -> object:
    return result(wat('(module (func (export "run") (result i32) (i32.const 5)))') + b"\0\x08\4name\1\x05\1")


@shows("wamr_fix_beginning")
def beginning() -> object:
    return result(
        wat("""(module (global $g (mut i32) (i32.const 0)) (func (export "__post_instantiate") (global.set $g (i32.const 1)))
          (func (export "run") (result i32) (global.get $g)))""")
    )


@shows("wamr_fix_stack_pointer")
def stack_pointer() -> object:
    return result(
        wat("""(module (memory 2) (global $stack (mut i32) (i32.const 66560))
          (global (export "__data_end") i32 (i32.const 1024)) (global (export "__heap_base") i32 (i32.const 66560))
          (func (export "run") (result i32) (global.set $stack (i32.const 70000)) (global.get $stack)))""")
    )


@shows("wamr_fix_full_memory")
def full_memory() -> object:
    return result(
        wat("""(module (memory 65536) (data (i32.const 0) "abcd") (func (export "run") (result i32) (i32.load (i32.const 0))))""")
    )


@shows("wamr_fix_vector_blocks", "wamr_fix_vector_results", "wamr_fix_vector_moves")
def vectors_in_blocks() -> object:
    return [
        result(
            wat("""(module (func (export "run") (result i32)
              (block (result i32 v128) (i32.const 1) (v128.const i32x4 4 5 6 7)) (i32x4.extract_lane 3) (return)))""")
        ),
        result(
            wat("""(module (func (export "run") (result i32) (local v128)
              (f64.neg (f64.const 2)) (i32.const 0)
              (if (param f64) (result v128)
                (then (drop) (v128.const i32x4 1 2 3 4)) (else (drop) (v128.not (v128.const i32x4 -2 -3 -4 -5))))
              (i32x4.extract_lane 3)))""")
        ),
    ]


@shows("wamr_fix_block_ends")
def block_ends() -> object:
    return result(
        wat("""(module (global $one (mut i32) (i32.const 1)) (global $seven (mut i64) (i64.const 7))
          (func (export "run") (result i64 i64)
            (block (result i64) (br_if 0 (i64.const 5) (global.get $one)) (drop) (unreachable))
            (i64.add (global.get $seven) (i64.const 3))))""")
    )


@shows("wamr_keep_fuel", "wamr_count_branches_only")
def fuel() -> object:
    """Of 1,000: loops of 300 branches, each with ten instructions."""
    wasm = wat("""(module (func (export "run") (result i32) (local i32) (local.set 0 (i32.const 300))
      (loop (drop (i32.add (i32.popcnt (local.get 0)) (i32.clz (local.get 0))))
        (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (i32.const 1)))""")
    with Runtime() as runtime:
        instance, done = runtime.load(wasm).instantiate(fuel=1000), 0
        try:
            while done < 20:
                instance.call("run")
                done += 1
        except Trap:
            pass
        return done


@shows("wamr_fix_simde")
def simde() -> object:
    return result(wat("""(module (func (export "run") (result i32) (i64x2.all_true (v128.const i64x2 0x8000000000000000 1))))"""))


@shows("wamr_fold_constants")
def constants() -> object:
    return result(
        wat("""(module (global i32 (i32.add (i32.const 3) (i32.const 4))) (func (export "run") (result i32) (global.get 0)))""")
    )


@shows("wamr_leave_start")
def start() -> object:
    return result(
        wat("""(module (global $g (mut i32) (i32.const 0)) (start $s)
          (func $s (global.set $g (i32.add (global.get $g) (i32.const 1)))) (func (export "run") (result i32) (global.get $g)))""")
    )


@shows("wamr_tell_places")
def places() -> object:
    wasm = wat('(module (func $inner (drop (i32.clz (i32.const 1))) unreachable) (func (export "run") (call $inner)))')
    with Runtime() as runtime:
        try:
            runtime.load(wasm, record_offsets=True).instantiate().call("run")
        except Trap as trap:
            return [(frame.index, frame.offset) for frame in trap.stack]
    return "no trap"


@shows("wamr_hold_accesses")
def held_load() -> object:
    return result(
        image(wat("""(module (memory 1) (func (export "run") (result i32) (drop (i32.load (i32.const -4))) (i32.const 1)))"""))
    )


CALLING = wat("""(module (func) (func $f (export "run") (param i32) (result i32)
    (if (result i32) (i32.lt_u (local.get 0) (i32.const 2)) (then (local.get 0))
      (else (i32.add (call $f (i32.sub (local.get 0) (i32.const 1))) (call $f (i32.sub (local.get 0) (i32.const 2))))))))""")


@shows("wamr_settle_calls")
def calls() -> object:
    """How often an image names a function that is called, and what such calls come to."""
    code = image(CALLING)
    return [code.count(b"aot_func#"), result(code, "run", 20)]


@shows("wamr_align_code")
def code_place() -> object:
    """How far the code is from where an image's section of code is put, a page's beginning: the size of its literals, and those."""
    code, at = image(CALLING), 8
    while True:
        kind, size, literals = struct.unpack_from("<3I", code, at)
        if kind == TEXT:
            return 4 + literals
        at = (at + 8 + size + 3) // 4 * 4


@shows("wamr_check_stack_inside")
def stack_sizes() -> object:
    """How often an image names the table of frames' sizes, and what its calls come to."""
    code = image(CALLING)
    return [code.count(b"stack_sizes"), result(code, "run", 20)]


@shows("wamr_push_frames_inline")
def frames() -> object:
    """How often an image names constants or the runtime's frames, where it needs neither; what its calls come to; and what a
    function does behind a call through the table that has no end."""
    code = image(CALLING)
    table = image(
        wat("""(module (table 1 funcref) (elem (i32.const 0) $f) (type $t (func))
          (global $g (export "g") (mut i32) (i32.const 7))
          (func $f (export "run") (call_indirect (type $t) (i32.const 0)) (global.set $g (i32.const 9))))""")
    )
    named = [code.count(b".rodata"), table.count(b"aot_alloc_frame"), result(code, "run", 20)]
    with Runtime() as runtime:
        instance = runtime.load(table).instantiate()
        try:
            instance.call("run")
        except Trap:
            return [*named, instance.get_global("g")]
        return [*named, "no trap"]


@shows("wamr_fix_vector_nan")
def vector_nan() -> object:
    return result(
        image(
            wat("""(module (func (export "run") (param f32) (result i32)
              (i32x4.extract_lane 0
                (f32x4.min (v128.const i32x4 0x7fa00000 0 0 0) (f32x4.splat (local.get 0))))))""")
        ),
        "run",
        1.0,
    )


def alone(function: Callable[[], object]) -> object:
    """What a function returns in a process of its own: without mends it may crash, or never end."""

    def tell() -> None:
        sending.send(function())

    receiving, sending = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=tell)
    process.start()
    sending.close()
    try:
        return receiving.recv() if receiving.poll(TIMEOUT_S) else "never ends"
    except EOFError:
        return "crashes"
    finally:
        process.kill()
        process.join()


if __name__ == "__main__":
    import pywamr

    folder, COMPILER[0] = sys.argv[1:]
    pywamr.__path__ = [folder, *pywamr.__path__]
    print(json.dumps({mend: alone(function) for mend, function in SHOWN.items()}))

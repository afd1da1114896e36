"""Each kind of trap, at its edges: how it ends and what it leaves is what Wasmtime has, interpreted and compiled."""

import functools
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import wasmtime

from pywamr import Runtime, Trap
from tests.fuzz.theirs import TRAPS
from tests.support import trap_kinds
from tests.support.aot import aotc, compiled, processors
from tests.support.emulated import ARCHITECTURES
from tests.support.trap_kinds import CALLED_BACK, ended, left, module, summary
from tests.support.wat import wat

KINDS = {"constants": (False, "all"), "hidden operands": (True, "all"), "vectors": (True, "vectors")}
RANGES = {"constant ranges": (False, "ranges"), "hidden ranges": (True, "ranges")}
ALIGNMENTS = {"constant alignments": (False, "alignments"), "hidden alignments": (True, "alignments")}
pytestmark = pytest.mark.timeout(900)


class HostError(Exception):
    """What the host raises."""


@functools.cache
def made(kind: str) -> tuple[bytes, list[str]]:
    hidden, part = (KINDS | RANGES | ALIGNMENTS)[kind]
    text, names = module(hidden=hidden, part=part)
    return wat(text), names


@functools.cache
def theirs(kind: str) -> list[list[object]]:
    """What `left` tells of each case, by Wasmtime."""
    engine = wasmtime.Engine()
    wasm, names = made(kind)
    code = wasmtime.Module(engine, wasm)
    return [_one(wasmtime.Store(engine), code, number, names) for number in range(len(names))]


def _one(store: wasmtime.Store, code: wasmtime.Module, case: int, names: list[str]) -> list[object]:
    def fail() -> None:
        raise HostError

    def again(number: int) -> int:
        exports["run"](store, names.index(CALLED_BACK[number]))
        return 5

    def caught(number: int) -> int:
        try:
            exports["run"](store, names.index(CALLED_BACK[number]))
        except wasmtime.Trap as trap:
            return len(ended(TRAPS[trap.trap_code]))
        except HostError:
            return 100
        return 5

    i32 = wasmtime.ValType.i32()
    kinds = [wasmtime.FuncType([], []), wasmtime.FuncType([i32], [i32]), wasmtime.FuncType([i32], [i32])]
    hosts = [wasmtime.Func(store, kind, function) for kind, function in zip(kinds, (fail, again, caught), strict=True)]
    exports = wasmtime.Instance(store, code, hosts).exports(store)
    try:
        exports["run"](store, case)
        how = "returned"
    except wasmtime.Trap as trap:
        how = ended(TRAPS[trap.trap_code])
    except HostError:
        how = "host"
    table = [exports["filled"](store, place) for place in range(exports["size"](store))]
    content = bytes(exports["memory"].read(store, 0, exports["memory"].data_len(store)))
    return [names[case], how, *summary(content), exports["g"].value(store), exports["h"].value(store), table]


def compare(found: list[list[object]], kind: str) -> None:
    assert [pair for pair in zip(found, theirs(kind), strict=True) if pair[0] != pair[1]] == []


@pytest.mark.parametrize("kind", KINDS)
def test_interpreted_each_kind_of_trap_leaves_what_it_leaves_in_wasmtime(kind):
    assert len(theirs(kind)) > 400
    compare(left(*made(kind)), kind)


@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_each_kind_of_trap_leaves_what_it_leaves_in_wasmtime(kind):
    wasm, names = made(kind)
    cpu = processors()[-1] if kind == "vectors" else ""
    compare(left(compiled(wasm, cpu=cpu), names), kind)


NUMBERS = range(600)
LARGE = f"""(module (memory (export "memory") 1)
  (func $large (export "large") (param i32) {" ".join(f"(local $n{each} i64)" for each in NUMBERS)}
    {" ".join(f"(local.set $n{each} (i64.load offset={each * 8} (local.get 0)))" for each in NUMBERS)}
    (call $large (i32.add (local.get 0) (i32.const 8)))
    {" ".join(f"(i64.store offset={each * 8} (local.get 0) (local.get $n{each}))" for each in NUMBERS)})
  (func $small (export "small") (param i32)
    (call $small (i32.add (local.get 0) (i32.const 8))) (i64.store (local.get 0) (i64.const 1))))"""


@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
@pytest.mark.parametrize("name", ["large", "small"])
def test_frames_of_any_size_stay_within_the_stack(name):
    """A large one is measured against what is left before it is entered."""
    code = compiled(wat(LARGE))
    assert b"stack_sizes" in code
    with Runtime() as runtime:
        instance = runtime.load(code).instantiate(stack_bytes=1 << 24)
        for _ in range(3):
            with pytest.raises(Trap) as caught:
                instance.call(name, 0)
            assert caught.value.code.value == "stack-overflow"
        assert instance.memory.read(0, 65536) == bytes(65536)


DEEP = 300
CALLS = {
    "by name": lambda number: f"(call $f{number + 1} (i32.add (local.get 0) (i32.const 1)))",
    "by table": lambda number: f"(call_indirect (type $t) (i32.add (local.get 0) (i32.const 1)) (i32.const {number + 1}))",
}


def deep(call: str) -> bytes:
    """Functions that call one after the other, none of them itself, each too large to become part of its caller."""
    work = " ".join(f"(i32.store offset={4 * each} (local.get 0) (i32.const {each}))" for each in range(20))
    named = [f"(func $f{each} (type $t) {work} {CALLS[call](each)})" for each in range(DEEP)]
    table = f"(table funcref (elem {' '.join(f'$f{each}' for each in range(DEEP + 1))}))" if call == "by table" else ""
    return wat(f"""(module (memory 1) (type $t (func (param i32) (result i32))) {table} {" ".join(named)}
      (func $f{DEEP} (type $t) (local.get 0)) (export "run" (func $f0)))""")


@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
@pytest.mark.parametrize("call", CALLS)
def test_functions_that_are_no_recursion_stay_within_their_frames(call):
    code = compiled(deep(call))
    with Runtime() as runtime:
        module = runtime.load(code)
        assert module.instantiate(stack_bytes=1 << 20).call("run", 0) == DEEP
        with pytest.raises(Trap) as caught:
            module.instantiate(stack_bytes=DEEP * 56 // 2).call("run", 0)
    assert caught.value.code.value == "stack-overflow"


@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
def test_a_small_function_with_a_result_becomes_part_of_its_caller():
    code = compiled(
        wat("""(module (func $part (param i32) (result i32) (i32.add (local.get 0) (i32.const 0x10000008)))
          (func (export "run") (result i32) (call $part (i32.const 0x02345670))))"""),
        "x86_64",
    )
    assert (0x12345678).to_bytes(4, "little") in code


def compare_there(target: str, kinds: Iterable[str], folder: Path) -> None:
    """In a Python of another architecture, interpreted and compiled."""
    for kind in kinds:
        wasm, names = made(kind)
        (folder / "names").write_text(json.dumps(names))
        codes = [wasm]
        if aotc() is not None and (kind != "vectors" or target == "aarch64"):
            codes.append(compiled(wasm, target))
        files = [str(folder / str(number)) for number in range(len(codes))]
        for file, code in zip(files, codes, strict=True):
            Path(file).write_bytes(code)
        done = ARCHITECTURES[target].run("-m", trap_kinds.__name__, str(folder / "names"), *files)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == len(codes)
        for line in done.stdout.splitlines():
            compare(json.loads(line), kind)


@pytest.mark.emulated
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", ARCHITECTURES)
def test_a_range_whose_end_overflows_reaches_nothing_outside_memory(target, tmp_path):
    compare_there(target, RANGES, tmp_path)


@pytest.mark.emulated
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", ARCHITECTURES)
def test_an_access_that_is_not_aligned_as_its_code_says_does_the_same_or_nothing(target, tmp_path):
    compare_there(target, ALIGNMENTS, tmp_path)


@pytest.mark.full
@pytest.mark.emulated
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", ARCHITECTURES)
def test_on_other_processors_each_kind_of_trap_leaves_what_it_leaves_in_wasmtime(target, tmp_path):
    compare_there(target, KINDS, tmp_path)

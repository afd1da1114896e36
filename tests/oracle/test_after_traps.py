"""After a trap, memory, globals and tables are what the specification says, interpreted and compiled, as in Wasmtime."""

import functools
import json
import random
import subprocess
import sys

import pytest
import wasmtime
from hypothesis import strategies as st

from tests.support.after_traps import ALL, CASES, END, left, made, module, summary
from tests.support.aot import aotc, compiled, compiled_now, processors
from tests.support.sampling import check, few_and_many
from tests.support.wat import wat

compiling = pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
CALLS = {case: (number, *arguments) for number, (case, (_, *arguments)) in enumerate(CASES.items())}


@functools.cache
def theirs(wasm: bytes, calls: tuple[tuple[int, ...], ...]) -> list[dict[str, object]]:
    """What `left` tells of each call, by Wasmtime."""
    engine = wasmtime.Engine()
    code = wasmtime.Module(engine, wasm)
    return [_left(wasmtime.Store(engine), code, *call) for call in calls]


def _left(store: wasmtime.Store, code: wasmtime.Module, number: int, *arguments: int) -> dict[str, object]:
    def fail() -> None:
        raise ValueError("no")

    look = wasmtime.Func(store, wasmtime.FuncType([], []), fail)
    exports = wasmtime.Instance(store, code, [look]).exports(store)
    memory = exports["memory"]
    memory.write(store, bytes(number * 37 & 0xFF for number in range(END)), 0)
    try:
        exports[f"run{number}"](store, *arguments)
        ended = "returned"
    except (wasmtime.Trap, wasmtime.WasmtimeError, ValueError):
        ended = "trapped"
    numbers = [exports[name].value(store) for name in ("g", "h")]
    filled = [exports["filled"](store, i) for i in range(4)]
    return summary(ended, bytes(memory.read(store, 0, memory.data_len(store))), numbers, filled)


def alone(code: bytes, folder, *numbers: int) -> dict[str, object]:
    """In a process of its own: nothing else ends compiled code that does not."""
    file = folder / "code"
    file.write_bytes(code)
    command = [sys.executable, "-m", "tests.support.after_traps", ":".join(map(str, (file, *numbers)))]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    return json.loads(done.stdout)


def expected(case: str) -> dict[str, object]:
    return dict(zip(CALLS, theirs(wat(ALL), tuple(CALLS.values())), strict=True))[case]


@pytest.mark.parametrize("case", CASES)
def test_interpreted_code_leaves_what_wasmtime_leaves(case):
    assert left(wat(ALL), *CALLS[case]) == expected(case)


@compiling
@pytest.mark.parametrize("case", CASES)
def test_compiled_code_leaves_what_wasmtime_leaves(case, tmp_path):
    for cpu in processors():
        code = compiled(wat(ALL), cpu=cpu)
        found = alone(code, tmp_path, *CALLS[case]) if "without end" in case else left(code, *CALLS[case])
        assert found == expected(case), cpu


def agrees(seed):
    programs = [made(random.Random(seed + number)) for number in range(8)]
    calls = [(number, *arguments) for number, (_, *arguments) in enumerate(programs)]
    wasm = bytes(wasmtime.wat2wasm(module(*(body for body, *_ in programs))))
    codes = [wasm, *(compiled_now(wasm, cpu=cpu) for cpu in processors()[-2:])]
    for call, program, theirs_is in zip(calls, programs, theirs(wasm, tuple(calls)), strict=True):
        assert [left(code, *call) for code in codes] == [theirs_is] * len(codes), program


@compiling
@pytest.mark.timeout(900)
@few_and_many(3, 60)
def test_made_loops_leave_what_wasmtime_leaves(examples):
    check(examples, agrees, st.integers(0, 2**64 - 9))

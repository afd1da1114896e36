"""Calls across the boundary, loading, and the swap, beside wasmtime-py."""

import asyncio
import ctypes
import tempfile
import time
from array import array
from pathlib import Path

import wasmtime

from bench.measure import Row, alternate, median, per_call_ns
from device_agent.channel.workers import ModuleSpec, Worker
from device_agent.instance.supervisor import Supervisor
from ota.formats.capabilities import Capabilities
from ota.formats.cbor import sha256
from ota.formats.module import Limits, ModuleDescription
from pywamr import Function, Runtime, _abi
from tests.support.lab import PUBLISH
from tests.support.wat import contract_module, wat

COUNT = 20_000
CALLS = wat("""(module
  (import "host" "add" (func $add (param i32 i32) (result i32)))
  (func (export "nop"))
  (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add)
  (func (export "back") (param $n i32)
    (loop (drop (call $add (i32.const 1) (i32.const 2)))
      (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
  (func (export "alone") (param $n i32)
    (loop (drop (i32.add (i32.const 1) (i32.const 2)))
      (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))""")
HOSTS = {"host": {"add": lambda a, b: a + b}}


def measure(rounds: int) -> list[Row]:
    return [*_calls(rounds), _load(rounds), asyncio.run(_swap(rounds))]


def _wasmtime():
    store = wasmtime.Store()
    module = wasmtime.Module(store.engine, CALLS)
    kind = wasmtime.FuncType([wasmtime.ValType.i32(), wasmtime.ValType.i32()], [wasmtime.ValType.i32()])
    add = wasmtime.Func(store, kind, HOSTS["host"]["add"])
    return store, wasmtime.Instance(store, module, [add]).exports(store)


def _calls(rounds: int) -> list[Row]:
    with Runtime() as runtime:
        instance = runtime.load(CALLS).instantiate(HOSTS)
        store, exports = _wasmtime()
        nop, add, back, alone = (instance.function(name) for name in ("nop", "add", "back", "alone"))
        rows = memoryview(array("q", [1, 2] * COUNT))
        batched = [_batch_ns(instance.function("add"), rows) for _ in range(rounds)]
        bare, handle, (_slots, address) = nop._call, nop._handle, nop.make_slots()
        version = _abi.library().pw_abi_version
        libc_abs = ctypes.CDLL(None).labs

        ours, bare_ns, theirs, floor = alternate(
            rounds,
            per_call_ns(lambda: add(1, 2), COUNT),
            per_call_ns(lambda: bare(handle, address), COUNT),
            per_call_ns(lambda: exports["add"](store, 1, 2), COUNT // 10),
            per_call_ns(version, COUNT),
        )

        def loop(function) -> float:
            started = time.perf_counter_ns()
            function(COUNT)
            return (time.perf_counter_ns() - started) / COUNT

        def direct() -> float:
            kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
            compare = kind(lambda a, b: 0)
            words = (ctypes.c_int64 * COUNT)(*range(COUNT))
            calls = 0

            def count(a, b):
                nonlocal calls
                calls += 1
                return 0

            counting = kind(count)
            ctypes.CDLL(None).qsort(words, COUNT, 8, counting)
            started = time.perf_counter_ns()
            ctypes.CDLL(None).qsort(words, COUNT, 8, compare)
            return (time.perf_counter_ns() - started) / calls

        callback, guest, their_callback, callback_floor = alternate(
            rounds, lambda: loop(back), lambda: loop(alone), lambda: loop(lambda n: exports["back"](store, n)), direct
        )
        assert libc_abs(1) == 1
        return [
            Row("call_ns", min(bare_ns), "ns", "wasmtime-py", min(theirs), "empty ctypes call", min(floor)),
            Row("call_batched_ns", min(batched), "ns", "wasmtime-py", min(theirs), "empty ctypes call", min(floor)),
            Row("call_wrapped_ns", min(ours), "ns", "wasmtime-py", min(theirs), "empty ctypes call", min(floor)),
            Row(
                "callback_ns",
                min(callback) - min(guest),
                "ns",
                "wasmtime-py",
                min(their_callback),
                "ctypes callback from qsort",
                min(callback_floor),
            ),
        ]


def _batch_ns(function: Function, rows: memoryview) -> float:
    """One call of many that cross the boundary together."""
    started = time.perf_counter_ns()
    function.call_each(rows)
    return (time.perf_counter_ns() - started) / COUNT


def _load(rounds: int) -> Row:
    """Load and instantiate a module of 10 kB, cold, and close it again."""
    filler = "\n".join(
        f"(func (param i32) (result i32) {'local.get 0 i32.const 99 i32.mul ' * 4} drop drop drop)" for _ in range(350)
    )
    wasm = wat(f'(module (memory 1) (func (export "f") (result i32) i32.const 1) {filler})')

    def ours() -> float:
        started = time.perf_counter()
        with Runtime() as runtime:
            runtime.load(wasm).instantiate()
            return (time.perf_counter() - started) * 1000

    def theirs() -> float:
        started = time.perf_counter()
        store = wasmtime.Store()
        wasmtime.Instance(store, wasmtime.Module(store.engine, wasm), [])
        return (time.perf_counter() - started) * 1000

    mine, peer = alternate(rounds * 3, ours, theirs)
    return Row("load_ms", median(mine), "ms", "wasmtime-py", median(peer), f"module of {len(wasm)} bytes", None)


async def _swap(rounds: int) -> Row:
    """The gap in which no event is handled while modules change, workers and all, and a check that none was lost."""
    state = """(func (export "device:module/state@0.1.0#save") (result i32)
        (i32.store (i32.const 72) (i32.const 1024)) (i32.store (i32.const 76) (i32.const 1024)) (i32.const 72))
      (func (export "device:module/state@0.1.0#restore") (param i32 i32) (result i32) (i32.const 0))"""
    body = "(call $publish (i32.const 100) (i32.const 3) (i32.const 200) (i32.const 1) (i32.const 80)) (i32.const 0)"
    wasm = contract_module(body, PUBLISH, '(data (i32.const 100) "out")', state)
    handled = 0

    def outcome(_spec, done, *_cause) -> None:
        nonlocal handled
        handled += len(done.messages)

    async def handed(state: bytes | None) -> tuple[bytes, dict[str, bytes]]:
        return state or b"", {}

    supervisor = Supervisor(outcome, lambda worker, failure: None)
    pump = asyncio.create_task(supervisor.pump())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.wasm"
        path.write_bytes(wasm)
        capabilities = Capabilities.parse({"messaging": {"publish": ["#"], "subscribe": ["#"]}}, "bench")
        spec = ModuleSpec(ModuleDescription("m", "1", capabilities, Limits(2)), path, sha256(wasm), {})

        async def worker() -> Worker:
            made = Worker(spec, lambda *_: None, supervisor.worker_died)
            await made.start()
            return made

        await supervisor.run(await worker(), b"", {})
        gaps, sent = [], 0
        for _ in range(rounds * 5):
            new = await worker()
            for _ in range(20):
                supervisor.offer("t", b"x")
                sent += 1
            await supervisor.swap(new, handed)
            supervisor.drop_standby()
            gaps.append(supervisor.last_gap_us / 1000)
        while supervisor.waiting:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        supervisor.stop()
        await pump
    if handled != sent:
        raise AssertionError(f"{sent} events, {handled} handled: a swap lost some")
    return Row("swap_gap_ms", median(gaps), "ms", "", None, f"worst of {len(gaps)}, {sent} events, none lost", max(gaps))

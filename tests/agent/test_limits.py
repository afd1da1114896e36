"""Each limit of a module, broken: interpreted, and compiled ahead of time."""

import asyncio
import time
from dataclasses import replace

import pytest

from device_agent.channel.workers import ModuleSpec, Worker, WorkerFailed
from device_agent.instance.supervisor import Supervisor
from device_agent.sandbox.contract import ModuleHost
from device_agent.sandbox.rates import Rate
from ota.formats.capabilities import Capabilities
from ota.formats.cbor import sha256
from ota.formats.module import Limits, ModuleDescription
from ota.formats.reasons import Reason
from pywamr import Trap
from tests.support.aot import aotc, compiled
from tests.support.wat import CONTRACT, OK, contract_module, wat
from tests.support.worker_rig import PUBLISH, spec

LOG = '(import "device:module/logging@0.1.0" "log" (func $log (param i32 i32 i32)))'
KEYS = '(import "device:module/keyvalue@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32)))'


@pytest.fixture(params=("interpreter", "aot"))
def mode(request):
    if request.param == "aot" and aotc() is None:
        pytest.skip("wamr_aotc is not built: make aotc")
    return request.param


def prepared(folder, mode: str, wasm: bytes, **limits) -> ModuleSpec:
    """What a worker is to run, in one of the modes."""
    wanted = spec(folder, wasm, **limits)
    if mode == "aot":
        image = compiled(wasm)
        path = folder / "image"
        path.write_bytes(image)
        wanted = replace(wanted, image=path, image_digest=sha256(image))
    return wanted


def test_a_module_that_begins_with_more_memory_than_it_asks_for_does_not_start(tmp_path, mode):
    text = CONTRACT.replace('(memory (export "memory") 1)', '(memory (export "memory") 900)')
    wanted = prepared(tmp_path, mode, wat(text.format(body=OK, imports="", data="", more="")))

    async def start():
        worker = Worker(wanted, lambda *_: None)
        with pytest.raises(WorkerFailed, match="begins with 900 pages of memory, the limit is 2") as failed:
            await worker.start()
        return failed.value.reason

    assert asyncio.run(start()) is Reason.MODULE_INVALID


async def fails(wanted, mode: str) -> WorkerFailed:
    """How the first event ends a worker."""
    worker = Worker(wanted, lambda *_: None)
    try:
        await worker.start()
        assert worker.mode == mode
        await worker.begin(b"", {})
        with pytest.raises(WorkerFailed) as failed:
            await worker.handle("in/x", b"")
    finally:
        worker.kill()
    return failed.value


def failure(folder, mode: str, body: str, **options) -> WorkerFailed:
    limits = options.pop("limits", {})
    wanted = prepared(folder, mode, contract_module(body, **options), **limits)
    return asyncio.run(fails(wanted, mode))


def test_memory_does_not_grow_beyond_its_pages(tmp_path, mode):
    body = """(if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
      (if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then (loop br 0)))
      (i32.store (i32.const 131072) (i32.const 1)) (i32.const 0)"""
    found = failure(tmp_path, mode, body, limits={"memory_pages": 2})
    assert (found.reason, "out of bounds memory access" in found.detail) == (Reason.TRAPPED, True)


def test_an_endless_loop_ends_at_the_deadline(tmp_path, mode):
    more = "(func $turn (loop br 0))"
    found = failure(tmp_path, mode, "(call $turn) (i32.const 0)", more=more, limits={"deadline_ms": 200})
    assert found.reason is Reason.DEADLINE_EXCEEDED
    assert found.detail.startswith("no answer to Event in 0.2 s")
    # Interpreted code is told to end, and tells where it was; the other is killed.
    assert ("; it was in turn < handle" in found.detail) == (mode == "interpreter")


def test_a_loop_around_a_capability_ends_where_it_calls_out(tmp_path, mode):
    """In both modes: code that was compiled ahead of time looks when it comes back."""
    body = "(loop (call $log (i32.const 2) (i32.const 300) (i32.const 3)) br 0) (i32.const 0)"
    found = failure(tmp_path, mode, body, imports=LOG, data='(data (i32.const 300) "out")', limits={"deadline_ms": 200})
    assert found.reason is Reason.DEADLINE_EXCEEDED
    assert found.detail.endswith("handle")


def test_a_module_may_take_longer_to_begin_than_for_an_event(tmp_path, mode):
    """Ten seconds, whatever its deadline is; the worker's own timer knows that too."""
    begins = """(func (export "device:module/startup@0.1.0#init") (param i32 i32) (result i32) (local $end i64)
      (local.set $end (i64.add (call $now) (i64.const 1500000000)))
      (loop (br_if 0 (i64.lt_u (call $now) (local.get $end)))) (i32.const 0))"""
    clock = '(import "device:module/clock@0.1.0" "monotonic" (func $now (result i64)))'
    wanted = prepared(tmp_path, mode, contract_module(OK, clock, more=begins), deadline_ms=200)
    given = Capabilities.parse({"clock": {}, "messaging": {"subscribe": ["#"]}}, "test")
    wanted = replace(wanted, description=replace(wanted.description, capabilities=given))

    async def begins_well():
        worker = Worker(wanted, lambda *_: None)
        await worker.start()
        try:
            await worker.begin(b"", {})
            return await worker.handle("in/x", b"")
        finally:
            worker.kill()

    assert asyncio.run(begins_well()).messages == ()


def test_deep_recursion_is_a_trap(tmp_path, mode):
    more = "(func $deep (param i32) (result i32) (i32.add (i32.const 1) (call $deep (i32.add (local.get 0) (i32.const 1)))))"
    found = failure(tmp_path, mode, "(drop (call $deep (i32.const 0))) (i32.const 0)", more=more)
    assert (found.reason, "stack overflow" in found.detail) == (Reason.TRAPPED, True)


def test_a_large_frame_on_the_native_stack_is_a_trap(tmp_path, mode):
    """Many locals make native frames large in code that was compiled ahead of time."""
    locals_ = "(local " + "i64 " * 2000 + ")"
    uses = " ".join(f"(local.set {n} (i64.add (local.get {n + 1}) (i64.extend_i32_u (local.get 0))))" for n in range(1, 2000))
    more = f"""(func $wide (param i32) (result i64) {locals_} {uses} (i64.add (local.get 1)
      (i64.add (call $wide (i32.add (local.get 0) (i32.const 1))) (local.get 1500))))"""
    found = failure(tmp_path, mode, "(drop (call $wide (i32.const 0))) (i32.const 0)", more=more, limits={"stack_bytes": 1 << 20})
    assert (found.reason, "stack overflow" in found.detail) == (Reason.TRAPPED, True)


def test_running_out_of_fuel_ends_interpreted_code(tmp_path):
    found = failure(tmp_path, "interpreter", times(100_000, ""), limits={"fuel": 10_000})
    assert (found.reason, "instruction limit exceeded" in found.detail) == (Reason.TRAPPED, True)


def hosted(mode: str, wasm: bytes, limits: Limits, logged: list, **capabilities) -> ModuleHost:
    given = Capabilities.parse({"messaging": {"publish": ["out"]}, "logging": {}} | capabilities, "test")
    description = ModuleDescription("m", "1", given, limits)
    return ModuleHost(wasm if mode == "interpreter" else compiled(wasm), description, {}, lambda *each: logged.append(each))


def times(count: int, body: str) -> str:
    """Does something so often."""
    return f"""(local $n i32) (loop {body}
      (br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const {count})))) (i32.const 0)"""


def test_messages_beyond_the_rate_are_refused(mode):
    publish = "(call $publish (i32.const 300) (i32.const 3) (i32.const 0) (i32.const 1) (i32.const 290))"
    wasm = contract_module(times(50, publish), PUBLISH, '(data (i32.const 300) "out")')
    host = hosted(mode, wasm, Limits(messages_per_s=20), [])
    first, second = host.handle("in", b""), host.handle("in", b"")
    assert 20 <= len(first.messages) < 30
    assert len(second.messages) < 10
    host.close()


def test_log_lines_beyond_the_rate_are_dropped_and_counted(mode):
    wasm = contract_module(
        times(50, "(call $log (i32.const 2) (i32.const 300) (i32.const 3))"), LOG, '(data (i32.const 300) "out")'
    )
    logged = []
    host = hosted(mode, wasm, Limits(log_lines_per_s=10), logged)
    host.handle("in", b"")
    assert 10 <= len(logged) < 20
    time.sleep(0.2)  # room for two lines
    host.handle("in", b"")
    assert any("log lines were dropped" in message for _, message in logged)
    host.close()


def test_storage_beyond_the_quota_is_refused(mode):
    """50 keys of 3 bytes would need more than 100 bytes: the 16th write of 7 bytes is told no."""
    body = times(
        50,
        """(i32.store8 (i32.const 302) (local.get $n))
      (call $set (i32.const 300) (i32.const 3) (i32.const 400) (i32.const 4) (i32.const 280))
      (i32.store8 (i32.const 500) (i32.add (i32.load8_u (i32.const 500)) (i32.load8_u (i32.const 280))))""",
    )
    wasm = contract_module(body, KEYS, '(data (i32.const 300) "ke ")')
    host = hosted(mode, wasm, Limits(), [], keyvalue={"quota_bytes": 100})
    outcome = host.handle("in", b"")
    assert sum(len(write.key) + len(write.value) for write in outcome.writes) <= 100
    assert len(outcome.writes) == 14
    host.close()


def test_a_rate_lets_a_second_s_worth_through_and_then_its_share():
    now = [100.0]
    rate = Rate(10, lambda: now[0])
    assert [rate.take() for _ in range(12)] == [True] * 10 + [False] * 2
    now[0] += 0.25
    assert [rate.take() for _ in range(3)] == [True, True, False]
    assert not Rate(0, lambda: now[0]).take()


async def in_hand_when_it_failed(folder, **changes) -> tuple[list, int]:
    """The messages of a healthy successor, and how many events were dropped, after a worker hung with an event in hand."""
    hanging = spec(folder, contract_module("(loop br 0) (i32.const 0)"), deadline_ms=150)
    hanging = replace(hanging, description=replace(hanging.description, **changes))
    publish = "(call $publish (i32.const 300) (i32.const 3) (local.get $payload) (local.get $size) (i32.const 290)) (i32.const 0)"
    healthy = spec(folder, contract_module(publish, PUBLISH, '(data (i32.const 300) "out")'))
    said, failed = [], asyncio.Event()

    def outcome(_, done, *cause):
        said.extend(payload for _, payload in done.messages)

    supervisor = Supervisor(outcome, lambda *_: failed.set())
    pump = asyncio.create_task(supervisor.pump())
    first, second = Worker(hanging, lambda *_: None), Worker(healthy, lambda *_: None)
    await first.start()
    await supervisor.run(first, b"", {})
    supervisor.offer("in/x", b"event")
    await asyncio.wait_for(failed.wait(), 60)
    await second.start()
    await supervisor.run(second, b"", {})
    supervisor.offer("in/x", b"last")
    async with asyncio.timeout(60):
        while b"last" not in said:
            await asyncio.sleep(0.01)
    supervisor.stop()
    pump.cancel()
    return said, supervisor.counters["events_dropped"]


def test_the_next_event_waits_until_what_the_one_before_said_has_been_taken(tmp_path):
    async def run():
        publish = (
            "(call $publish (i32.const 300) (i32.const 3) (local.get $payload) (local.get $size) (i32.const 290)) (i32.const 0)"
        )
        wanted = spec(tmp_path, contract_module(publish, PUBLISH, '(data (i32.const 300) "out")'))
        said, turns = [], [asyncio.get_running_loop().create_future() for _ in range(20)]

        def outcome(_, done, *cause):
            said.extend(payload for _, payload in done.messages)
            return turns[len(said) - 1] if done.messages else None

        supervisor = Supervisor(outcome, lambda *_: None)
        pump, worker = asyncio.create_task(supervisor.pump()), Worker(wanted, lambda *_: None)
        await worker.start()
        await supervisor.run(worker, b"", {})
        for number in range(20):
            supervisor.offer("in/x", b"%d" % number)
        for number, turn in enumerate(turns):
            async with asyncio.timeout(60):
                while len(said) <= number or supervisor.counters["events_handled"] <= number:
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
            assert said == [b"%d" % each for each in range(number + 1)]
            turn.set_result(None)
        supervisor.stop()
        await asyncio.wait_for(pump, 60)

    asyncio.run(run())


SERIAL = Capabilities.parse({"messaging": {"subscribe": ["#"]}, "serial": {"ports": []}}, "test")


def test_an_event_in_hand_goes_to_the_successor_when_nothing_of_it_can_have_happened(tmp_path):
    assert asyncio.run(in_hand_when_it_failed(tmp_path)) == ([b"event", b"last"], 0)


def test_an_event_in_hand_is_taken_away_when_a_device_may_have_moved(tmp_path):
    assert asyncio.run(in_hand_when_it_failed(tmp_path, capabilities=SERIAL)) == ([b"last"], 1)


def test_an_event_in_hand_goes_to_the_successor_of_an_idempotent_module(tmp_path):
    assert asyncio.run(in_hand_when_it_failed(tmp_path, capabilities=SERIAL, idempotent=True)) == ([b"event", b"last"], 0)


@pytest.mark.parametrize("mode", ["interpreter", "aot"])
def test_a_module_that_ends_where_its_memory_may_not_grow_says_so(mode):
    greedy = "(if (i32.eq (memory.grow (local.get $size)) (i32.const -1)) (then unreachable)) "
    host = hosted(mode, contract_module(greedy + OK, "", "", ""), Limits(memory_pages=4), [])
    told = r"unreachable.*: it asked for 9 more pages of memory, beyond its limit \(memory_pages in \[limits\]\)"
    with pytest.raises(Trap, match=told):
        host.handle("t", b"x" * 9)


def test_a_trap_for_another_reason_does_not_blame_the_memory():
    """An earlier event was refused more memory, and did without."""
    body = """(if (i32.eq (local.get $size) (i32.const 9)) (then (drop (memory.grow (i32.const 99)))))
      (if (i32.eq (local.get $size) (i32.const 1)) (then unreachable)) """
    host = hosted("interpreter", contract_module(body + OK, "", "", ""), Limits(memory_pages=4), [])
    host.handle("t", b"x" * 9)
    with pytest.raises(Trap) as trap:
        host.handle("t", b"x")
    assert "memory_pages" not in str(trap.value)

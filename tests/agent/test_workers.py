"""Worker processes and the supervisor: crash, hang, trap, swap, roll back; no event lost, the agent never taken down."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from device_agent.channel import frames, workers
from device_agent.channel.workers import ModuleSpec, Worker, WorkerFailed
from device_agent.channel.zygote import Zygote
from device_agent.instance.failures import OF_THE_BOARD
from device_agent.instance.supervisor import Supervisor
from device_agent.instance.updates import RETRYABLE
from ota.formats.capabilities import Capabilities
from ota.formats.cbor import sha256
from ota.formats.module import Limits, ModuleDescription
from ota.formats.reasons import Reason
from tests.support.wat import OK, contract_module

PUBLISH = '(import "device:module/messaging@0.1.0" "publish" (func $publish (param i32 i32 i32 i32 i32)))'
COUNT = """
  (global $count (mut i32) (i32.const 0))
  (func (export "device:module/state@0.1.0#save") (result i32)
    (i32.store (i32.const 64) (global.get $count))
    (i32.store (i32.const 72) (i32.const 64)) (i32.store (i32.const 76) (i32.const 4))
    (i32.const 72))
  (func (export "device:module/state@0.1.0#restore") (param i32 i32) (result i32)
    (global.set $count (i32.load (local.get 0))) (i32.const 0))"""
# Publishes [version, count] and does as the payload says: t traps, h hangs.
BODY = """
  (if (i32.gt_u (local.get $size) (i32.const 0)) (then
    (if (i32.eq (i32.load8_u (local.get $payload)) (i32.const {trap})) (then unreachable))
    (if (i32.eq (i32.load8_u (local.get $payload)) (i32.const {hang})) (then (loop br 0)))))
  (global.set $count (i32.add (global.get $count) (i32.const 1)))
  (i32.store8 (i32.const 200) (i32.const {version})) (i32.store8 (i32.const 201) (global.get $count))
  (call $publish (i32.const 100) (i32.const 3) (i32.const 200) (i32.const 2) (i32.const 80)) (i32.const 0)"""


def counting(version: int, trap: str = "t", hang: str = "h") -> bytes:
    body = BODY.format(version=version, trap=ord(trap), hang=ord(hang))
    return contract_module(body, PUBLISH, '(data (i32.const 100) "out")', COUNT)


def spec(folder, wasm: bytes, version: str = "1", **limits) -> ModuleSpec:
    path = folder / sha256(wasm).hex()
    path.write_bytes(wasm)
    capabilities = Capabilities.parse({"messaging": {"publish": ["#"], "subscribe": ["#"]}, "logging": {}}, "test")
    description = ModuleDescription("m", version, capabilities, Limits(**({"memory_pages": 2, "deadline_ms": 1000} | limits)))
    return ModuleSpec(description, path, sha256(wasm), {})


async def handed(state: bytes | None) -> tuple[bytes, dict[str, bytes]]:
    return state or b"", {}


class Rig:
    """A supervisor whose outcomes and failures are lists."""

    def __init__(self):
        self.outcomes: list[bytes] = []
        self.failures: list[WorkerFailed] = []
        self.repair: Callable[[], Awaitable[object]] | None = None
        self.supervisor = Supervisor(self._outcome, self._failed)
        self.pump = asyncio.create_task(self.supervisor.pump())
        self.repairs = []

    async def _outcome(self, spec: ModuleSpec, done: frames.Done) -> None:
        self.outcomes += [payload for _, payload in done.messages]

    def _failed(self, worker: Worker, failure: WorkerFailed) -> None:
        self.failures.append(failure)
        if self.repair is not None:
            self.repairs.append(asyncio.create_task(self.repair()))

    async def worker(self, spec: ModuleSpec) -> Worker:
        worker = Worker(spec, lambda *_: None, self.supervisor.worker_died)
        await worker.start()
        return worker

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0.005)

    async def close(self):
        self.supervisor.stop()
        await self.pump


def with_rig(test):
    def run(tmp_path):
        async def inside():
            rig = Rig()
            try:
                await test(rig, tmp_path)
            finally:
                await rig.close()

        asyncio.run(inside())

    run.__name__ = test.__name__
    return run


@with_rig
async def test_events_are_handled_in_order(rig, tmp_path):
    await rig.supervisor.run(await rig.worker(spec(tmp_path, counting(1))), b"", {})
    for _ in range(50):
        rig.supervisor.offer("t", b"")
    await rig.until(lambda: len(rig.outcomes) == 50)
    assert rig.outcomes == [bytes((1, number)) for number in range(1, 51)]


@with_rig
async def test_a_swap_under_load_loses_no_event_and_keeps_the_state(rig, tmp_path):
    await rig.supervisor.run(await rig.worker(spec(tmp_path, counting(1))), b"", {})
    new = await rig.worker(spec(tmp_path, counting(2), "2"))
    for number in range(200):
        rig.supervisor.offer("t", b"")
        if number == 100:
            swap = asyncio.create_task(rig.supervisor.swap(new, handed))
        await asyncio.sleep(0)
    await swap
    await rig.until(lambda: len(rig.outcomes) == 200)
    assert [count for _, count in rig.outcomes] == [number % 256 for number in range(1, 201)]
    versions = [version for version, _ in rig.outcomes]
    assert versions == sorted(versions)
    assert set(versions) == {1, 2}
    assert rig.supervisor.last_gap_us > 0


@with_rig
async def test_a_trap_on_trial_rolls_back_and_the_old_module_gets_the_event(rig, tmp_path):
    await rig.supervisor.run(await rig.worker(spec(tmp_path, counting(1, trap="x"))), b"", {})
    rig.supervisor.offer("t", b"")
    await rig.until(lambda: len(rig.outcomes) == 1)
    await rig.supervisor.swap(await rig.worker(spec(tmp_path, counting(2), "2")), handed)
    rig.repair = rig.supervisor.roll_back
    for payload in (b"", b"t", b""):
        rig.supervisor.offer("t", payload)
    await rig.until(lambda: len(rig.outcomes) == 4)
    assert rig.outcomes == [b"\1\1", b"\2\2", b"\1\2", b"\1\3"]
    assert [failure.reason for failure in rig.failures] == [Reason.TRAPPED]
    assert rig.supervisor.counters["events_dropped"] == 0


@with_rig
async def test_a_hanging_module_is_killed_at_its_deadline(rig, tmp_path):
    worker = await rig.worker(spec(tmp_path, counting(1), deadline_ms=200))
    await rig.supervisor.run(worker, b"", {})
    rig.supervisor.offer("t", b"h")
    await rig.until(lambda: len(rig.failures) == 1)
    assert rig.failures[0].reason is Reason.DEADLINE_EXCEEDED
    assert not worker.alive
    await rig.until(lambda: not Path(f"/proc/{worker.pid}").exists())


@with_rig
async def test_a_hanging_worker_ends_by_itself_when_the_agent_is_gone(rig, tmp_path):
    worker = await rig.worker(spec(tmp_path, counting(1), deadline_ms=100))
    worker._channel.send(frames.encode_request(frames.Begin(b"", {})))
    worker._channel.send(frames.encode_request(frames.Event("t", b"h")))
    await rig.until(lambda: not Path(f"/proc/{worker.pid}").exists())
    assert not Path(f"/proc/{worker.pid}").exists()


@with_rig
async def test_a_killed_worker_is_noticed_at_once_even_when_idle(rig, tmp_path):
    worker = await rig.worker(spec(tmp_path, counting(1)))
    await rig.supervisor.run(worker, b"", {})
    os.kill(worker.pid, signal.SIGKILL)
    await rig.until(lambda: len(rig.failures) == 1)
    assert rig.failures[0].reason is Reason.CRASHED


@with_rig
async def test_an_event_that_kills_two_workers_is_taken_away(rig, tmp_path):
    async def restart():
        await rig.supervisor.run(await rig.worker(spec(tmp_path, counting(1))), b"", {})

    rig.repair = restart
    await restart()
    for payload in (b"", b"t", b""):
        rig.supervisor.offer("t", payload)
    await rig.until(lambda: len(rig.outcomes) == 2)
    assert len(rig.failures) == 2
    counters = rig.supervisor.counters
    assert counters["events"] == counters["events_handled"] + counters["events_dropped"] == 3


@with_rig
async def test_a_module_that_refuses_the_state_leaves_the_old_one_running(rig, tmp_path):
    refusing = contract_module(
        OK,
        more="""(func (export "device:module/state@0.1.0#save") (result i32) i32.const 72)
                (func (export "device:module/state@0.1.0#restore") (param i32 i32) (result i32) i32.const 16)""",
    )
    await rig.supervisor.run(await rig.worker(spec(tmp_path, counting(1))), b"", {})
    with pytest.raises(WorkerFailed) as caught:
        await rig.supervisor.swap(await rig.worker(spec(tmp_path, refusing, "2")), handed)
    assert caught.value.reason is Reason.STATE_REFUSED
    rig.supervisor.offer("t", b"")
    await rig.until(lambda: rig.outcomes == [b"\1\1"])


@pytest.mark.parametrize(
    ("wasm", "reason"),
    [
        (b"not wasm", Reason.MODULE_INVALID),
        (contract_module()[:-5], Reason.MODULE_INVALID),
        (contract_module(imports='(import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))'), Reason.IMPORT_UNDECLARED),
        (contract_module().replace(b"cabi_realloc", b"other_alloc_"), Reason.EXPORT_MISSING),
        (contract_module(more="(func $s unreachable) (start $s)"), Reason.TRAPPED),
    ],
)
def test_what_does_not_start_says_why(tmp_path, wasm, reason):
    async def inside():
        rig = Rig()
        with pytest.raises(WorkerFailed) as caught:
            await rig.worker(spec(tmp_path, wasm))
        await rig.close()
        return caught.value.reason

    assert asyncio.run(inside()) is reason


def test_a_blob_changed_on_disk_is_not_started(tmp_path):
    async def inside():
        rig = Rig()
        wanted = spec(tmp_path, counting(1))
        wanted.blob.write_bytes(counting(2))
        with pytest.raises(WorkerFailed) as caught:
            await rig.worker(wanted)
        await rig.close()
        return caught.value.reason

    assert asyncio.run(inside()) is Reason.BLOB_DIGEST_MISMATCH


@pytest.mark.parametrize("packet", [b"", b"\xff", frames.encode_answer(frames.Done((), ())), b"\x82\x64done\x00"])
def test_a_worker_that_speaks_nonsense_is_ended(tmp_path, packet):
    """What would arrive if guest code had taken the worker over."""

    async def inside():
        rig = Rig()
        worker = await rig.worker(spec(tmp_path, counting(1)))
        worker._receive(packet)
        alive = worker.alive
        await rig.close()
        return alive

    assert asyncio.run(inside()) is False


@with_rig
async def test_what_each_event_took_is_counted_for_its_module(rig, tmp_path):
    await rig.supervisor.run(await rig.worker(spec(tmp_path, counting(1))), b"", {})
    for _ in range(50):
        rig.supervisor.offer("t", b"")
    await rig.until(lambda: len(rig.outcomes) == 50)
    counters = rig.supervisor.module_counters
    assert (counters["events"], counters["host_calls"], counters["memory_bytes"]) == (50, 50, 65536)
    assert counters["time_us"] > 0
    await rig.supervisor.swap(await rig.worker(spec(tmp_path, counting(2), "2")), handed)
    rig.supervisor.offer("t", b"")
    await rig.until(lambda: len(rig.outcomes) == 51)
    assert (counters["events"], counters["host_calls"]) == (1, 1)


@with_rig
async def test_what_a_refused_event_and_one_that_trapped_took_is_counted_too(rig, tmp_path):
    body = """(call $publish (i32.const 100) (i32.const 3) (i32.const 200) (i32.const 2) (i32.const 80))
      (drop (memory.grow (i32.const 1))) (if (local.get $size) (then unreachable)) (i32.const 16)"""
    refusing = contract_module(body, PUBLISH, '(data (i32.const 100) "out")')
    await rig.supervisor.run(await rig.worker(spec(tmp_path, refusing)), b"", {})
    counters = rig.supervisor.module_counters
    rig.supervisor.offer("t", b"")
    await rig.until(lambda: rig.supervisor.counters["events_refused"] == 1)
    assert (counters["events"], counters["host_calls"], counters["memory_bytes"]) == (1, 1, 2 * 65536)
    took_us = counters["time_us"]
    assert took_us > 0
    rig.supervisor.offer("in/bad", b"x")
    await rig.until(lambda: rig.failures)
    assert (counters["events"], counters["host_calls"], counters["traps"]) == (2, 2, 1)
    assert counters["time_us"] > took_us
    assert str(rig.failures[0]).startswith("trapped: with an event on in/bad in hand: ")


def rogue(tmp_path, monkeypatch):
    """What a worker that was taken over is asked, with the least of grants."""
    monkeypatch.setattr(workers, "zygote", zygote := Zygote("tests.support.rogue"))
    blob = tmp_path / "blob"
    blob.write_bytes(b"module")
    capabilities = Capabilities.parse({"messaging": {"publish": ["out/#"]}, "keyvalue": {"quota_bytes": 100}}, "test")
    description = ModuleDescription("m", "1", capabilities, Limits(memory_pages=2, deadline_ms=1000))
    return ModuleSpec(description, blob, sha256(b"module"), {}), zygote


@pytest.mark.parametrize("what", ["topic", "no-topic", "bytes", "quota", "key", "no-key"])
def test_a_worker_that_lets_its_module_have_more_than_was_granted_is_ended(tmp_path, monkeypatch, what):
    spec, zygote = rogue(tmp_path, monkeypatch)

    async def inside():
        worker = Worker(spec, lambda *_: None)
        await worker.start()
        await worker.begin(b"", {})
        assert (await worker.handle("good", b"")).messages == (("out/x", b"x"),)
        with pytest.raises(WorkerFailed, match="kept its module from"):
            await worker.handle(what, b"")
        assert not worker.alive

    asyncio.run(inside())
    zygote.close()


def test_a_worker_that_floods_the_log_is_ended_and_the_agent_goes_on(tmp_path, monkeypatch):
    spec, zygote = rogue(tmp_path, monkeypatch)
    logged, turns = [], []

    async def count():
        while True:
            turns.append(1)
            await asyncio.sleep(0.001)

    async def inside():
        counting = asyncio.create_task(count())
        worker = Worker(spec, lambda *each: logged.append(each))
        await worker.start()
        await worker.begin(b"", {})
        async with asyncio.timeout(10):
            with pytest.raises(WorkerFailed, match="more log records than its module may"):
                await worker.handle("flood", b"")
        counting.cancel()

    asyncio.run(inside())
    assert len(logged) == 227 + workers.LOGS_OF_OURS  # 101 a second, for a deadline of one second and a little
    zygote.close()


def test_a_worker_that_answered_in_time_lives_though_the_agent_was_late(tmp_path):
    async def inside():
        rig = Rig()
        worker = await rig.worker(spec(tmp_path, counting(1)))
        await worker.begin(b"", {})
        monkey = worker._look_briefly
        worker._look_briefly = lambda: None  # as on one processor
        waiting = asyncio.create_task(worker.handle("t", b""))
        await asyncio.sleep(0)
        time.sleep(1.3)
        assert (await waiting).messages
        worker._look_briefly = monkey
        assert worker.alive
        worker.kill()
        await rig.close()

    asyncio.run(inside())


def test_no_process_for_a_worker_is_no_fault_of_its_module(tmp_path, monkeypatch):
    monkeypatch.setattr(workers.zygote, "fork", lambda channel: (_ for _ in ()).throw(OSError("no more processes")))

    async def inside():
        with pytest.raises(WorkerFailed, match="process-unavailable: no more processes") as caught:
            await Worker(spec(tmp_path, counting(1)), lambda *_: None).start()
        return caught.value.reason

    assert asyncio.run(inside()) is Reason.PROCESS_UNAVAILABLE
    assert Reason.PROCESS_UNAVAILABLE in OF_THE_BOARD & RETRYABLE


def test_images_that_workers_died_in_are_remembered_up_to_a_bound(tmp_path):
    fatal = workers.FatalImages()
    one = spec(tmp_path, counting(1))
    images = [number.to_bytes(32) for number in range(1, 2 * workers.FATAL_IMAGES)]
    for image in images:
        assert fatal.note(SimpleNamespace(fatal_image=image, spec=one))
        assert fatal.without(replace(one, image_digest=image)).image_digest == b""
    known = [image for image in images if not fatal.without(replace(one, image_digest=image)).image_digest]
    assert known == images[-workers.FATAL_IMAGES :]


@with_rig
async def test_a_restart_that_comes_too_late_does_not_replace_a_living_module(rig, tmp_path):
    first = await rig.worker(spec(tmp_path, counting(1)))
    assert await rig.supervisor.run(first, b"", {})
    first.kill()
    late = await rig.worker(spec(tmp_path, counting(1)))
    await rig.supervisor.swap(await rig.worker(spec(tmp_path, counting(2), "2")), handed)
    assert not await rig.supervisor.run(late, b"", {})
    assert not late.alive
    rig.supervisor.offer("t", b"")
    await rig.until(lambda: rig.outcomes == [b"\2\1"])


@with_rig
async def test_a_full_queue_drops_the_oldest_but_never_the_one_in_hand(rig, tmp_path):
    rig.supervisor.queue_limit = 5
    await rig.supervisor.run(await rig.worker(spec(tmp_path, counting(1))), b"", {})
    for _ in range(20):
        rig.supervisor.offer("t", b"")
    await rig.until(lambda: rig.supervisor.waiting == 0)
    counters = rig.supervisor.counters
    assert counters["events"] == 20
    assert counters["events_handled"] + counters["events_dropped"] == 20


class Stopped:
    """A zygote that answers when it is told to."""

    def __init__(self, real) -> None:
        self.real, self.asked, self.go_on = real, threading.Event(), threading.Event()

    def fork(self, channel):
        self.asked.set()
        assert self.go_on.wait(20)
        return self.real.fork(channel)


@pytest.mark.parametrize("killed", [False, True])
def test_the_loop_goes_on_while_the_zygote_is_slow(tmp_path, monkeypatch, killed):
    """And a worker that is stopped meanwhile leaves no process behind."""
    slow = Stopped(workers.zygote)
    monkeypatch.setattr(workers, "zygote", slow)

    async def inside():
        worker = Worker(spec(tmp_path, counting(1)), lambda *_: None)
        starting = asyncio.ensure_future(worker.start())
        for _ in range(50):  # the loop turns, though the process is not there
            await asyncio.sleep(0.001)
        assert slow.asked.is_set()
        assert not starting.done()
        if killed:
            worker.kill()
        slow.go_on.set()
        if killed:
            with pytest.raises(WorkerFailed, match="the worker was stopped"):
                await starting
            process = worker.pid
        else:
            await starting
            process = worker.pid
            worker.kill()
        for _ in range(1000):
            if not Path(f"/proc/{process}").exists():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the process is still there")

    asyncio.run(inside())

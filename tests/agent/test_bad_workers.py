"""Workers that do not start, speak nonsense, flood, hang or end at the wrong moment."""

import asyncio
import os
import select
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from device_agent.channel import frames, workers
from device_agent.channel.fatal_images import FATAL_IMAGES, FatalImages
from device_agent.channel.workers import ModuleSpec, Worker, WorkerFailed
from device_agent.channel.zygote import Zygote
from device_agent.instance.failures import OF_THE_BOARD
from device_agent.instance.updates import RETRYABLE
from ota.formats.capabilities import Capabilities
from ota.formats.cbor import sha256
from ota.formats.module import Limits, ModuleDescription
from ota.formats.reasons import Reason
from tests.support.rogue import PARTING
from tests.support.wat import contract_module
from tests.support.worker_rig import Rig, counting, handed, spec, with_rig


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
    worker._channel.send(frames.encode_request(frames.Events((frames.Event("t", b"h"),))))
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


def rogue(tmp_path, monkeypatch):
    """What a worker that was taken over is asked, with hardly any grants."""
    monkeypatch.setattr(workers, "zygote", zygote := Zygote("tests.support.rogue"))
    blob = tmp_path / "blob"
    blob.write_bytes(b"module")
    capabilities = Capabilities.parse(
        {"messaging": {"publish": ["out/#"], "subscribe": ["#"]}, "keyvalue": {"quota_bytes": 100}}, "test"
    )
    description = ModuleDescription("m", "1", capabilities, Limits(memory_pages=2, deadline_ms=1000))
    return ModuleSpec(description, blob, sha256(b"module"), {}), zygote


@pytest.mark.parametrize("what", ["topic", "no-topic", "bytes", "quota", "key", "no-key", "answer"])
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


def looking_late(worker: Worker) -> None:
    """The answer of a worker that ends at once, and its end, are found in one look."""

    def look() -> None:
        select.select([worker._process.descriptor], [], [], 20)
        worker._readable()

    worker._look_briefly = look


def test_a_worker_that_ends_right_after_its_answer_is_noticed_and_its_answer_counts(tmp_path, monkeypatch):
    """As when the kernel ends it for want of memory: nobody may ask it anything again."""
    spec, zygote = rogue(tmp_path, monkeypatch)

    async def inside():
        rig = Rig()
        worker = await rig.worker(spec)
        await rig.supervisor.run(worker, b"", {})
        looking_late(worker)
        rig.supervisor.offer(PARTING, b"")
        await rig.until(lambda: rig.failures and rig.outcomes)
        assert (rig.outcomes, len(rig.failures), rig.failures[0].reason) == ([b"goodbye"], 1, Reason.CRASHED)
        assert not rig.supervisor.waiting
        await rig.close()

    asyncio.run(inside())
    zygote.close()


def test_a_module_that_ends_right_after_it_began_has_not_begun(tmp_path, monkeypatch):
    spec, zygote = rogue(tmp_path, monkeypatch)

    async def inside():
        rig = Rig()
        worker = await rig.worker(spec)
        looking_late(worker)
        with pytest.raises(WorkerFailed, match="exited without reporting"):
            await rig.supervisor.run(worker, PARTING.encode(), {})
        assert rig.supervisor.current is None
        await rig.close()

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
        async with asyncio.timeout(60):
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
    fatal = FatalImages()
    one = spec(tmp_path, counting(1))
    images = [number.to_bytes(32) for number in range(1, 2 * FATAL_IMAGES)]
    for image in images:
        assert fatal.note(SimpleNamespace(fatal_image=image, spec=one))
        assert fatal.without(replace(one, image_digest=image)).image_digest == b""
    known = [image for image in images if not fatal.without(replace(one, image_digest=image)).image_digest]
    assert known == images[-FATAL_IMAGES:]


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
        assert self.go_on.wait(60)
        return self.real.fork(channel)


@pytest.mark.parametrize("killed", [False, True])
def test_the_loop_goes_on_while_the_zygote_is_slow(tmp_path, monkeypatch, killed):
    """And a worker that is stopped meanwhile leaves no process behind."""
    workers.zygote.start()
    slow = Stopped(workers.zygote)
    monkeypatch.setattr(workers, "zygote", slow)

    async def inside():
        worker = Worker(spec(tmp_path, counting(1)), lambda *_: None)
        starting = asyncio.ensure_future(worker.start())
        async with asyncio.timeout(60):
            while not slow.asked.is_set():
                await asyncio.sleep(0.001)
        for _ in range(50):  # the loop turns, though the process is not there
            await asyncio.sleep(0.001)
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

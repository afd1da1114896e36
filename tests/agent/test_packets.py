"""How large packets between agent and worker may be, how many log lines, and what a worker tells of what ended it."""

import asyncio
import socket
from dataclasses import replace

import pytest

from device_agent.channel import frames, workers
from device_agent.channel.workers import EventRefused, ModuleSpec, Worker, WorkerFailed
from ota.formats.capabilities import Capabilities
from ota.formats.reasons import Reason
from tests.support.wat import CONTRACT, contract_module, wat
from tests.support.worker_rig import PUBLISH, spec


async def answer(wanted: ModuleSpec, topic: str, payload: bytes) -> frames.Done:
    worker = Worker(wanted, lambda *_: None)
    try:
        await worker.start()
        await worker.begin(b"", {})
        return await worker.handle(topic, payload)
    finally:
        worker.kill()


SIZE = """(i32.store (i32.const 200) (local.get $size))
  (call $publish (i32.const 100) (i32.const 3) (i32.const 200) (i32.const 4) (i32.const 80)) (i32.const 0)"""


def roomy(body: str, imports: str = PUBLISH, data: str = '(data (i32.const 100) "out")') -> bytes:
    """A module with a memory that holds the largest of events."""
    text = CONTRACT.replace('(memory (export "memory") 1)', '(memory (export "memory") 40)')
    return wat(text.format(body=body, imports=imports, data=data, more=""))


def test_the_largest_event_arrives_whole_and_a_larger_one_is_refused(tmp_path):
    wanted = spec(tmp_path, roomy(SIZE), memory_pages=40)
    most = frames.FRAME_LIMIT_BYTES - frames.size_of(frames.Event("t", b""))
    done = asyncio.run(answer(wanted, "t", bytes(most)))
    assert int.from_bytes(done.messages[0][1], "little") == most
    with pytest.raises(EventRefused, match="the event has 1048577 bytes, the channel's maximum message size is 1048576"):
        asyncio.run(answer(wanted, "t", bytes(most + 1)))


def test_where_the_way_to_a_worker_is_narrow_what_does_not_fit_is_told(tmp_path, monkeypatch):
    """As for an agent that is not root, on a system that allows no larger buffers."""

    def narrow(end: socket.socket) -> int:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
        return end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 64

    monkeypatch.setattr(workers, "_widen", narrow)
    wanted = spec(tmp_path, roomy(SIZE), memory_pages=40)
    assert asyncio.run(answer(wanted, "t", bytes(100_000))).messages
    with pytest.raises(EventRefused, match="the channel's maximum message size is"):
        asyncio.run(answer(wanted, "t", bytes(200_000)))
    four = " ".join(4 * ["(call $publish (i32.const 100) (i32.const 3) (i32.const 4096) (i32.const 60000) (i32.const 80))"])
    with pytest.raises(WorkerFailed, match=r"an answer of 2\d+ bytes: see net.core.wmem_max") as failed:
        asyncio.run(answer(spec(tmp_path, roomy(f"{four} (i32.const 0)"), memory_pages=40), "t", b""))
    assert failed.value.reason is Reason.TOO_LARGE


def test_a_module_at_all_its_limits_at_once_is_heard(tmp_path):
    topic = "\N{GRINNING FACE}" * 256
    imports = f"""{PUBLISH}
      (import "device:module/keyvalue@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32)))
      (import "device:module/keyvalue@0.1.0" "delete" (func $delete (param i32 i32 i32)))"""
    body = """(local $n i32)
      (memory.fill (i32.const 8192) (i32.const 97) (i32.const 300))
      (call $set (i32.const 8192) (i32.const 256) (i32.const 65536) (i32.const 261888) (i32.const 80))
      (if (i32.load8_u (i32.const 80)) (then unreachable))
      (loop $again
        (i32.store8 (i32.const 8192) (i32.add (i32.const 33) (i32.and (local.get $n) (i32.const 63))))
        (i32.store8 (i32.const 8193) (i32.add (i32.const 48) (i32.shr_u (local.get $n) (i32.const 6))))
        (call $delete (i32.const 8192) (i32.const 256) (i32.const 80))
        (if (i32.load8_u (i32.const 80)) (then unreachable))
        (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1023))))
      (loop $more ;; until there is no room
        (call $publish (i32.const 20480) (i32.const 1024) (i32.const 65536) (i32.const 1024) (i32.const 80))
        (br_if $more (i32.eqz (i32.load8_u (i32.const 80)))))
      (i32.const 0)"""
    wanted = spec(tmp_path, roomy(body, imports, f'(data (i32.const 20480) "{topic}")'), memory_pages=40, deadline_ms=20_000)
    granted = Capabilities.parse({"messaging": {"publish": ["#"]}, "keyvalue": {"quota_bytes": 262_144}}, "test")
    done = asyncio.run(answer(replace(wanted, description=replace(wanted.description, capabilities=granted)), "t", b""))
    assert (len(done.messages), len(done.writes)) == (128, 1024)


def test_an_allocator_that_calls_capabilities_without_end_is_a_trap(tmp_path):
    wasm = wat("""(module (import "device:module/random@0.1.0" "get" (func $random (param i32 i32)))
      (memory (export "memory") 1)
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (call $random (i32.const 4) (i32.const 100)) (i32.const 1024))
      (func (export "device:module/events@0.1.0#handle") (param i32 i32 i32 i32) (result i32) (i32.const 0)))""")
    wanted = spec(tmp_path, wasm)
    granted = Capabilities.parse({"random": {}}, "test")
    with pytest.raises(WorkerFailed, match="stack overflow") as failed:
        asyncio.run(answer(replace(wanted, description=replace(wanted.description, capabilities=granted)), "t", b""))
    assert failed.value.reason is Reason.TRAPPED


def test_a_module_that_may_write_many_log_lines_has_them_all_arrive(tmp_path):
    body = """(local $n i32)
      (loop $again (call $log (i32.const 1) (i32.const 100) (i32.const 2))
        (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 3000)))) (i32.const 0)"""
    wasm = contract_module(
        body, '(import "device:module/logging@0.1.0" "log" (func $log (param i32 i32 i32)))', '(data (i32.const 100) "hi")'
    )
    lines = []

    async def inside():
        worker = Worker(spec(tmp_path, wasm, log_lines_per_s=5000, deadline_ms=5000), lambda _, level, text: lines.append(text))
        await worker.start()
        await worker.begin(b"", {})
        await worker.handle("t", b"")
        worker.kill()

    asyncio.run(inside())
    assert lines == ["hi"] * 3000


def test_a_module_that_logs_beyond_its_rate_for_most_of_its_deadline_goes_on(tmp_path):
    body = """(local $n i32)
      (loop $again (call $log (i32.const 1) (i32.const 100) (i32.const 2))
        (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 250000)))) (i32.const 0)"""
    log = '(import "device:module/logging@0.1.0" "log" (func $log (param i32 i32 i32)))'
    wasm = contract_module(body, log, '(data (i32.const 100) "hi")')
    lines = []

    async def inside():
        worker = Worker(spec(tmp_path, wasm, deadline_ms=30_000), lambda _, level, text: lines.append(text))
        await worker.start()
        await worker.begin(b"", {})
        await worker.handle("t", b"")
        worker.kill()

    asyncio.run(inside())
    assert lines.count("hi") >= 100
    assert len(lines) < 250_000

"""From the agent to a module and back: one event, the first event of a new worker, and what another module costs in memory."""

import asyncio
import os
import socket
import tempfile
import time
from pathlib import Path

from bench.measure import Row, median
from device_agent.channel.workers import ModuleSpec, Worker, zygote
from ota.formats.capabilities import Capabilities
from ota.formats.cbor import sha256
from ota.formats.module import Limits, ModuleDescription
from tests.support.lab import PUBLISH
from tests.support.wat import contract_module

EVENTS = 2000


def measure(rounds: int) -> list[Row]:
    return asyncio.run(_measure(rounds))


def _spec(folder: Path) -> ModuleSpec:
    body = "(call $publish (i32.const 100) (i32.const 3) (i32.const 200) (i32.const 1) (i32.const 80)) (i32.const 0)"
    wasm = contract_module(body, PUBLISH, '(data (i32.const 100) "out")')
    path = folder / "module.wasm"
    path.write_bytes(wasm)
    capabilities = Capabilities.parse({"messaging": {"publish": ["#"], "subscribe": ["#"]}}, "bench")
    limits = Limits(memory_pages=2, messages_per_s=1_000_000)
    return ModuleSpec(ModuleDescription("m", "1", capabilities, limits), path, sha256(wasm), {})


async def _started(spec: ModuleSpec) -> Worker:
    worker = Worker(spec, lambda *_: None)
    await worker.start()
    await worker.begin(b"", {})
    return worker


async def _measure(rounds: int) -> list[Row]:
    zygote.start()
    with tempfile.TemporaryDirectory() as folder:
        spec = _spec(Path(folder))
        worker = await _started(spec)
        trips = []
        for _ in range(EVENTS):
            started = time.perf_counter_ns()
            await worker.handle("in/x", b"reading")
            trips.append((time.perf_counter_ns() - started) / 1000)
        firsts = []
        for _ in range(rounds * 3):
            started = time.perf_counter_ns()
            fresh = await _started(spec)
            await fresh.handle("in/x", b"reading")
            firsts.append((time.perf_counter_ns() - started) / 1e6)
            fresh.kill()
        second = await _started(spec)
        await second.handle("in/x", b"reading")
        private = _private_mb(second.pid)
        for each in (worker, second):
            each.kill()
    return [
        Row("event_roundtrip_us", median(trips), "us", "", None, "bare socket pair between two processes", _socket_floor()),
        Row("worker_first_event_ms", median(firsts), "ms"),
        Row("second_worker_private_mb", private, "MB"),
    ]


def _private_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:"))) / 1024


def _socket_floor() -> float:
    """Microseconds of a round trip of 50 bytes through a SEQPACKET pair, the other end a forked process that echoes."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        ours.close()
        while data := theirs.recv(4096):
            theirs.send(data)
        os._exit(0)
    theirs.close()
    trips = []
    for _ in range(EVENTS):
        started = time.perf_counter_ns()
        ours.send(b"x" * 50)
        ours.recv(4096)
        trips.append((time.perf_counter_ns() - started) / 1000)
    ours.close()
    os.waitpid(child, 0)
    return median(trips)

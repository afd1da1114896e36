"""One module in a real worker, and what its supervisor hands on."""

import asyncio
from collections.abc import Awaitable, Callable

from device_agent.channel import frames
from device_agent.channel.workers import ModuleSpec, Worker, WorkerFailed
from device_agent.instance.supervisor import Supervisor
from ota.formats.capabilities import Capabilities
from ota.formats.cbor import sha256
from ota.formats.module import Limits, ModuleDescription
from tests.support.wat import contract_module

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
        self.causes: list[tuple[int, int]] = []  # hops and bus number of each event that was handled
        self.consumed: list[int] = []
        self.supervisor = Supervisor(self._outcome, self._failed, on_consumed=self.consumed.append, end_trial=self._end_trial)
        self.trials_ended: list[tuple[str, bool]] = []  # version, and whether anything may be fed by then
        self.pump = asyncio.create_task(self.supervisor.pump())
        self.repairs = []

    def _outcome(self, spec: ModuleSpec, done: frames.Done, hops: int, bus_number: int) -> None:
        self.causes.append((hops, bus_number))
        self.outcomes += [payload for _, payload in done.messages]

    async def _end_trial(self, spec: ModuleSpec) -> None:
        self.trials_ended.append((spec.description.version, not self.supervisor._between.locked()))

    def _failed(self, worker: Worker, failure: WorkerFailed) -> None:
        self.failures.append(failure)
        if self.repair is not None:
            self.repairs.append(asyncio.create_task(self.repair()))

    async def worker(self, spec: ModuleSpec) -> Worker:
        worker = Worker(spec, lambda *_: None, self.supervisor.worker_died)
        await worker.start()
        return worker

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
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

"""The real runner and the real instance, with tasks that finish in any order, a slow disk, power cuts and events of updates that
are over. Fakes: the fetcher, the time that the disk takes, workers.
"""

import asyncio
import shutil
import tempfile
from collections import Counter, deque
from pathlib import Path
from types import SimpleNamespace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from device_agent.channel import frames
from device_agent.channel.workers import WorkerFailed
from device_agent.instance import states
from device_agent.instance.instance import Instance, Policy
from device_agent.instance.kept import Kept
from device_agent.instance.runner import Runner
from device_agent.instance.states import Phase
from device_agent.storage.store import Store
from ota.formats.capabilities import Capabilities
from ota.formats.manifest import VerifiedManifest
from ota.formats.reasons import Reason, Refused
from tests.agent.test_states import KINDS, MADE
from tests.support.signing import Signer

SIGNER = Signer()
UPDATES = [SIGNER.update(f"module {number}".encode(), name="m", version=f"{number}.0.0") for number in range(1, 5)]
VERIFIED = {each.envelope: VerifiedManifest(each.manifest, each.digest) for each in UPDATES}
BLOBS = {each.manifest.digest: each.blob for each in UPDATES}
SETTLE = 60  # turns of the loop in which everything that need not wait has happened


class FakeWorker:
    """A worker whose answers come when the machine says so."""

    def __init__(self, board: "Board", spec, died) -> None:
        self.spec, self._board, self._died = spec, board, died
        self.alive, self.started = True, False
        self.interfaces, self.mode, self.lacking, self.fatal_image = frozenset(), "interpreter", (), b""
        self._waiting: set[asyncio.Future] = set()

    async def _ask(self, answer):
        if not self.alive:
            raise WorkerFailed(Reason.CRASHED, "it is gone")
        future = self._board.gate()
        self._waiting.add(future)
        try:
            if not await future:
                self.alive = False
                raise WorkerFailed(Reason.TRAPPED, "the machine wants it so")
        finally:
            self._waiting.discard(future)
        return answer

    async def start(self) -> None:
        await self._ask(None)
        self.started = True

    async def begin(self, state, keys):
        return await self._ask(frames.Done((), ()))

    async def save(self):
        return await self._ask(self.spec.manifest)

    async def check(self) -> None:
        await self._ask(None)

    def kill(self) -> None:
        self.alive = False
        for future in list(self._waiting):
            if not future.done():
                future.set_exception(WorkerFailed(Reason.CRASHED, "the worker was stopped"))

    def die(self) -> None:
        self.alive = False
        self._died(self, WorkerFailed(Reason.TRAPPED, "by itself"))

    async def ended(self) -> None:
        """It is gone at once."""


class Board:
    """One life of the board: from power on to power off."""

    def __init__(self, folder: Path, errors: list) -> None:
        self.errors, self.gates, self.disk, self.tasks = errors, [], deque(), set()
        self.refusing: set[bytes] = set()
        self.store = Store(folder)
        policy = Policy(None, Capabilities({"logging": {}, "messaging": GRANTED}), {}, lambda vendor: (), 0.0, 3600.0, 10, 10**6)
        agent = SimpleNamespace(
            new_worker=lambda spec, died: FakeWorker(self, spec, died),
            check_signers=lambda verified: None,
            follow_topics=lambda worker: None,
            send=None,
            trial_failed=lambda worker, failure: self.runner.worker_failed(worker, failure),
            on_trial=lambda: self.runner.update.phase is Phase.TRIAL,
            blob_is_damaged=lambda name: None,
            report=lambda: None,
        )
        kept = Kept(self.store, self.on_writer, self.flush)
        self.instance = Instance(agent, policy, self.store, kept, self.on_writer, self.spawn, Counter())
        board = SimpleNamespace(
            verify=self.verify,
            report=lambda: None,
            confirmed=lambda: None,
            update_began=lambda: None,
            update_ended=lambda: self.spawn(self.instance.run_best()),
        )
        fetcher = SimpleNamespace(manifest=self.fetch_manifest, blob=self.fetch_blob)
        update = self.store.last_update()
        self.runner = Runner(self.store, fetcher, self.instance, board, self.on_writer, self.spawn, 0.0, 60.0, update)
        self.spawn(self.runner.run())
        self.spawn(self.instance.run_best())
        if not update.ended:
            self.runner.post(states.Resumed(update.id))

    def gate(self) -> asyncio.Future:
        self.gates.append(future := asyncio.get_running_loop().create_future())
        return future

    async def flush(self) -> bool:
        return True

    async def on_writer(self, function, *values):
        future = asyncio.get_running_loop().create_future()
        self.disk.append((future, function, values))
        return await future

    def write(self) -> None:
        """The disk does what it was asked for first, whether or not anybody still waits for it."""
        future, function, values = self.disk.popleft()
        try:
            result = function(*values)
        except Exception as error:
            if not isinstance(error, Refused):
                self.errors.append(error)
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)

    def spawn(self, work) -> asyncio.Task:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.ended)
        return task

    def ended(self, task: asyncio.Task) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.errors.append(task.exception())

    async def fetch_manifest(self, digest: bytes) -> bytes:
        if not await self.gate():
            raise Refused(Reason.MANIFEST_MISSING, "the machine wants it so")
        return next(each.envelope for each in UPDATES if each.digest == digest)

    def verify(self, envelope: bytes) -> VerifiedManifest:
        verified = VERIFIED[envelope]
        if verified.envelope_digest in self.refusing:
            raise Refused(Reason.CLASS_MISMATCH, "the machine wants it so")
        return verified

    async def fetch_blob(self, wanted) -> None:
        if not await self.gate():
            raise Refused(Reason.CHUNK_MISSING, "the machine wants it so")
        await self.on_writer(self.store.add_blob, BLOBS[wanted.digest])

    async def power_off(self) -> None:
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.store.close()


GRANTED = UPDATES[0].manifest.module.capabilities.items["messaging"]


class Boards(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.errors: list[BaseException] = []
        self.offers, self.past, self.refused = 0, [], set()
        self.board = self.loop.run_until_complete(self.power_on())

    async def power_on(self) -> Board:
        return Board(self.folder / "store", self.errors)

    def settle(self) -> None:
        async def turns() -> None:
            for _ in range(SETTLE):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())
        identity = self.board.runner.update.id
        if identity not in self.past:
            self.past.append(identity)

    @property
    def open_gates(self) -> list[asyncio.Future]:
        self.board.gates = [each for each in self.board.gates if not each.done()]
        return self.board.gates

    @rule(number=st.integers(0, len(UPDATES) - 1), refused=st.booleans())
    def offer(self, number, refused):
        self.offers += 1
        manifest = UPDATES[number].digest
        if refused:
            self.board.refusing.add(manifest)
            self.refused.add(manifest)
        else:
            self.board.refusing.discard(manifest)
        self.board.runner.post(states.Offered(self.offers.to_bytes(16), manifest))
        self.settle()

    @precondition(lambda self: self.board.disk)
    @rule(count=st.integers(1, 6))
    def the_disk_writes(self, count):
        for _ in range(count):
            if self.board.disk:
                self.board.write()
                self.settle()

    @precondition(lambda self: self.open_gates)
    @rule(which=st.integers(0, 20), good=st.integers(0, 5).map(bool))
    def something_finishes(self, which, good):
        gates = self.open_gates
        gates[which % len(gates)].set_result(good)
        self.settle()

    @precondition(lambda self: self.past)
    @rule(which=st.integers(0, 50), kind=st.sampled_from(KINDS))
    def an_event_of_an_update_that_is_over(self, which, kind):
        old = self.past[which % len(self.past)]
        present = self.board.runner.update
        if old.number < present.number or (old.deployment, old.manifest) != (present.deployment, present.manifest):
            self.board.runner.post(MADE[kind](old))
            self.settle()

    @rule()
    def the_operator_stops_it(self):
        self.board.runner.post(states.Stopped(self.board.runner.update.id, Reason.DEPLOYMENT_STOPPED, "paused"))
        self.settle()

    @precondition(lambda self: self.board.instance.alive)
    @rule()
    def the_module_that_runs_dies(self):
        self.board.instance.supervisor.current.die()
        self.settle()

    @rule()
    def a_power_cut(self):
        self.loop.run_until_complete(self.board.power_off())
        self.board = self.loop.run_until_complete(self.power_on())
        self.settle()

    @invariant()
    def nothing_of_ours_failed(self):
        assert self.errors == []

    @invariant()
    def what_is_confirmed_is_what_the_slot_holds(self):
        last, slot = self.board.store.last_update(), self.board.store.slots().get("confirmed")
        if last.phase is Phase.CONFIRMED:
            assert slot is not None
            assert slot.envelope == last.manifest
            assert self.board.store.envelope(slot.envelope) is not None

    @invariant()
    def an_update_has_its_own_manifest_and_its_own_worker(self):
        update, worker = self.board.runner.update, self.board.runner.trial_worker
        if update.verified is not None:
            assert update.verified.envelope_digest == update.manifest
        if worker is not None:
            assert worker.spec.manifest == update.manifest

    @invariant()
    def only_what_was_refused_is_rejected(self):
        if self.board.runner.update.phase is Phase.REJECTED:
            assert self.board.runner.update.manifest in self.refused

    @invariant()
    def what_runs_outside_of_a_trial_was_confirmed(self):
        update, instance = self.board.runner.update, self.board.instance
        if update.ended and instance.alive and not self.board.disk and not self.open_gates:
            slots = {slot.envelope for slot in self.board.store.slots().values()}
            assert instance.supervisor.current.spec.manifest in slots

    def teardown(self):
        self.loop.run_until_complete(self.board.power_off())
        self.loop.close()
        shutil.rmtree(self.folder)


Boards.TestCase.settings = settings(deadline=None, max_examples=40, stateful_step_count=50)
TestBoards = Boards.TestCase

"""The real runner and the real instance, with tasks that finish in any order, a slow disk, power cuts and events of updates that
are over. Fakes: the fetcher, the time that the disk takes, workers.
"""

import asyncio
import contextlib
import shutil
import tempfile
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from device_agent.channel import frames
from device_agent.channel.workers import WorkerFailed
from device_agent.instance import states
from device_agent.instance.conductor import Conductor
from device_agent.instance.gate import Now
from device_agent.instance.instance import Instance
from device_agent.instance.kept import Kept
from device_agent.instance.services import InstancePolicy, Services, Times
from device_agent.instance.states import ON_TRIAL, Phase
from device_agent.storage.store import DATABASE, Store
from ota.formats.capabilities import Capabilities
from ota.formats.deployment import Entry
from ota.formats.manifest import VerifiedManifest
from ota.formats.reasons import Reason, Refused
from tests.agent.test_states import KINDS, MADE
from tests.support.signing import Signer

SIGNER = Signer()
NAMES = ("lamp", "meter")
UPDATES = {
    name: [SIGNER.update(f"{name} {number}".encode(), name=name, version=f"{number}.0.0") for number in range(1, 4)]
    for name in NAMES
}
ALL = [each for updates in UPDATES.values() for each in updates]
VERIFIED = {each.envelope: VerifiedManifest(each.manifest, each.digest) for each in ALL}
BLOBS = {each.manifest.digest: each.blob for each in ALL}
CONFIGS = ({}, {"colour": "red"})
SETTLE = 80  # turns of the loop in which everything that need not wait has happened
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
POWER_OFF_S = 30  # for tasks that were cancelled


class CuttableStore(Store):
    """A store whose power can go: with it goes what was not synced, or the end of that."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._database.execute("pragma wal_autocheckpoint=0")
        self._file, self._log = folder / DATABASE, folder / f"{DATABASE}-wal"
        self._synced_bytes = self._log.stat().st_size
        self._rows: set[tuple[str, bytes, Phase]] = set()  # of this life: instance, deployment
        self.synced: set[tuple[str, bytes, Phase]] = set()  # those of them that no power cut takes

    @contextlib.contextmanager
    def _transaction(self, *, synced=True):
        before = self._log.stat().st_size
        with super()._transaction(synced=synced):
            yield
        if synced and self._log.stat().st_size > before:  # SQLite syncs a transaction that changes something
            self._synced_bytes, self.synced = self._log.stat().st_size, set(self._rows)

    def _append(self, instance, update, time_s) -> None:
        super()._append(instance, update, time_s)
        self._rows.add((instance, update.deployment, update.phase))

    def cut(self, left: float) -> None:
        """`left`: the part of what was not synced that is on the disk all the same."""
        log = self._log.read_bytes()
        kept = self._file.read_bytes(), log[: self._synced_bytes + int(left * (len(log) - self._synced_bytes))]
        self.close()
        for file, content in zip((self._file, self._log), kept, strict=True):
            file.write_bytes(content)


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
        name, update = self.spec.instance, self._board.instances[self.spec.instance].update
        if update.phase is Phase.STARTING and update.release == self.spec.release:
            assert (name, update.deployment, Phase.STARTING) in self._board.store.synced, "a restart would not count against it"
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

    def __init__(self, folder: Path, errors: list, wanted: dict[str, Entry]) -> None:
        self.errors, self.gates, self.disk, self.tasks = errors, [], deque(), set()
        self.powered = True
        self.refusing: set[bytes] = set()
        self.store = CuttableStore(folder)
        services = Services(
            self.store,
            self.on_writer,
            self.spawn,
            lambda spec, died: FakeWorker(self, spec, died),
            lambda: SimpleNamespace(manifest=self.fetch_manifest, blob=self.fetch_blob, progress=lambda _: (0, 0)),
            self.verify,
            lambda verified: None,
            lambda vendor: (),
            Kept(self.store, self.on_writer, self.flush),
            Times(0.0, 60.0, 3600.0),
            lambda: 0.0,
            lambda: 0,
        )
        wishes = SimpleNamespace(entry=wanted.get, why_not=lambda name: None)
        consent = SimpleNamespace(why_wait=lambda runner, now: None)
        self.conductor = Conductor(self.runners, lambda _: {}, wishes, lambda: Now(NOON, NOON, True), consent, self.spawn)
        hooks = SimpleNamespace(
            admit=lambda name, verified: None,
            follow=lambda name: None,
            until_free=self.until_free,
            deliver=self.deliver,
            moved=lambda name: self.conductor.poke(),
            began=lambda name: None,
            ended=lambda name: None,
            confirmed=lambda name: None,
            damaged=lambda name, slot: None,
        )
        policy = InstancePolicy(Capabilities({"logging": {}, "messaging": GRANTED}))
        self.instances = {name: Instance(name, policy, services, hooks, self.store.last_update(name)) for name in NAMES}
        for instance in self.instances.values():
            self.spawn(self.begin(instance))

    async def begin(self, instance: Instance) -> None:
        """As the node does it (device_agent.node.instances)."""
        await instance.start()
        await instance.runner.resume()

    def runners(self):
        return {name: each.runner for name, each in self.instances.items()}

    def deliver(self, name, spec, done, hops, bus_number) -> None:
        """Nobody listens."""

    def gate(self) -> asyncio.Future:
        self.gates.append(future := asyncio.get_running_loop().create_future())
        return future

    async def flush(self) -> bool:
        return True

    async def on_writer(self, function, *values):
        if not self.powered:  # what a task does because it was cancelled is not done behind a power cut
            raise asyncio.CancelledError
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

    async def until_free(self, name: str, devices: frozenset[str]) -> None:
        """No module has devices."""

    async def fetch_manifest(self, digest: bytes) -> bytes:
        if not await self.gate():
            raise Refused(Reason.MANIFEST_MISSING, "the machine wants it so")
        return next(each.envelope for each in ALL if each.digest == digest)

    def verify(self, envelope: bytes) -> VerifiedManifest:
        verified = VERIFIED[envelope]
        if verified.envelope_digest in self.refusing:
            raise Refused(Reason.CLASS_MISMATCH, "the machine wants it so")
        return verified

    async def fetch_blob(self, wanted) -> None:
        if not await self.gate():
            raise Refused(Reason.CHUNK_MISSING, "the machine wants it so")
        await self.on_writer(self.store.blob_path(wanted.digest).write_bytes, BLOBS[wanted.digest])

    async def power_off(self, left: float = 1.0) -> None:
        for instance in self.instances.values():
            instance.close()
        self.powered = False
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            _, busy = await asyncio.wait(self.tasks, timeout=POWER_OFF_S)
            assert not busy
        self.store.cut(left)


GRANTED = ALL[0].manifest.module.capabilities.items["messaging"]
name_of = st.sampled_from(NAMES)


class Boards(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.errors: list[BaseException] = []
        self.offers, self.past, self.refused = 0, [], set()
        self.wanted: dict[str, Entry] = {}
        self.sets: dict[bytes, dict[str, Entry]] = {}
        self.board = self.loop.run_until_complete(self.power_on())

    async def power_on(self) -> Board:
        return Board(self.folder / "store", self.errors, self.wanted)

    def settle(self) -> None:
        async def turns() -> None:
            for _ in range(SETTLE):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())
        for name, instance in self.board.instances.items():
            if (name, instance.update.id) not in self.past:
                self.past.append((name, instance.update.id))

    @property
    def open_gates(self) -> list[asyncio.Future]:
        self.board.gates = [each for each in self.board.gates if not each.done()]
        return self.board.gates

    def wants(self, entries: dict[str, Entry]) -> None:
        self.wanted.update(entries)
        self.board.conductor.poke()
        for name, entry in entries.items():
            self.board.instances[name].post(states.Offered.of_entry(entry))
        self.settle()

    def entry(self, name: str, number: int, config: int, *together: str) -> Entry:
        digest = UPDATES[name][number - 1].digest if number else b""
        return Entry(digest, self.offers.to_bytes(16), 0, config=CONFIGS[config] if number else {}, together=together)

    @rule(name=name_of, number=st.integers(0, 3), config=st.integers(0, 1), refused=st.integers(0, 9).map(lambda each: each == 9))
    def offer(self, name, number, config, refused):
        self.offers += 1
        entry = self.entry(name, number, config)
        if refused:
            self.board.refusing.add(entry.manifest_digest)
            self.refused.add(entry.manifest_digest)
        else:
            self.board.refusing.discard(entry.manifest_digest)
        self.wants({name: entry})

    @rule(numbers=st.lists(st.integers(0, 3), min_size=2, max_size=2), config=st.integers(0, 1))
    def offer_a_set(self, numbers, config):
        self.offers += 1
        entries = {name: self.entry(name, number, config, *NAMES) for name, number in zip(NAMES, numbers, strict=True)}
        self.sets[self.offers.to_bytes(16)] = entries
        self.wants(entries)

    @rule()
    def offer_once_more(self):
        self.wants(dict(self.wanted))

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

    @rule(count=st.sampled_from((1, 2, 4, 8, 16, 24)))
    def all_goes_well_for_a_while(self, count):
        for _ in range(count):
            if not self.board.disk and not self.open_gates:
                return
            for gate in self.open_gates:
                gate.set_result(True)
            while self.board.disk:
                self.board.write()
            self.settle()

    @precondition(lambda self: self.past)
    @rule(which=st.integers(0, 50), kind=st.sampled_from(KINDS))
    def an_event_of_an_update_that_is_over(self, which, kind):
        name, old = self.past[which % len(self.past)]
        present = self.board.instances[name].update
        if old.number < present.number or (old.deployment, old.manifest) != (present.deployment, present.manifest):
            self.board.instances[name].post(MADE[kind](old))
            self.settle()

    @rule(name=name_of)
    def the_operator_stops_it(self, name):
        instance = self.board.instances[name]
        instance.post(states.Stopped(instance.update.id, Reason.DEPLOYMENT_STOPPED, "paused"))
        self.settle()

    @rule(name=name_of)
    def the_module_that_runs_dies(self, name):
        if self.board.instances[name].alive:
            self.loop.call_soon(self.board.instances[name].supervisor.current.die)
            self.settle()

    @rule(left=st.sampled_from((0.0, 0.5, 1.0)))
    def a_power_cut(self, left=1.0):
        self.loop.run_until_complete(self.board.power_off(left))
        self.board = self.loop.run_until_complete(self.power_on())
        self.settle()

    @invariant()
    def nothing_of_ours_failed(self):
        assert self.errors == []

    @invariant()
    def what_is_confirmed_is_what_the_slot_holds(self):
        for name in NAMES:
            last, slot = self.board.store.last_update(name), self.board.store.slots(name).get("confirmed")
            if last.phase is Phase.CONFIRMED and last.removal:
                assert slot is None
            elif last.phase is Phase.CONFIRMED:
                assert slot is not None
                assert slot.release == last.release
                assert self.board.store.envelope(slot.envelope) is not None

    @invariant()
    def of_a_set_all_is_confirmed_or_nothing_that_was_not_before(self):
        """Those that ran what is wanted say so at once; of the others, none is confirmed before the last has passed."""
        for deployment, entries in self.sets.items():
            last = {name: self.board.store.last_update(name) for name in entries}
            done = {name for name, each in last.items() if (each.deployment, each.phase) == (deployment, Phase.CONFIRMED)}
            if all(each.deployment == deployment for each in last.values()) and done and done != set(NAMES):
                assert all(name in self.matched(deployment) for name in done)

    def matched(self, deployment: bytes) -> set[str]:
        """Members that went to the end without a trial, or that ended with a set before."""
        rows = self.board.store.home.connection.execute("select instance, phase from journal where deployment = ?", (deployment,))
        passed = {name for name, phase in rows if phase == "passed"}
        return set(NAMES) - passed

    @invariant()
    def an_update_has_its_own_manifest_and_its_own_worker(self):
        for instance in self.board.instances.values():
            update, worker = instance.update, instance.target.on_trial
            if update.verified is not None:
                assert update.verified.envelope_digest == update.manifest
            if worker is not None and update.phase in ON_TRIAL:
                assert worker.spec.release == update.release

    @invariant()
    def only_what_was_refused_is_rejected(self):
        for instance in self.board.instances.values():
            if instance.update.phase is Phase.REJECTED:
                assert instance.update.manifest in self.refused

    @invariant()
    def what_runs_outside_of_a_trial_was_confirmed(self):
        for name, instance in self.board.instances.items():
            if instance.update.ended and instance.alive and not self.board.disk and not self.open_gates:
                releases = {slot.release for slot in self.board.store.slots(name).values()}
                assert instance.supervisor.current.spec.release in releases

    def teardown(self):
        self.loop.run_until_complete(self.board.power_off())
        self.loop.close()
        shutil.rmtree(self.folder)


class ManyBoards(Boards):
    """The same, for longer."""


Boards.TestCase.settings = settings(deadline=None, max_examples=15, stateful_step_count=50)
ManyBoards.TestCase.settings = settings(deadline=None, max_examples=150, stateful_step_count=50)
TestBoards, TestManyBoards = Boards.TestCase, pytest.mark.full(ManyBoards.TestCase)


def started_again(name: str) -> Boards:
    """A board with a confirmed module, after a power cut: nothing was read from its disk yet."""
    boards = Boards()
    boards.offer(name=name, number=1, config=0, refused=False)
    boards.all_goes_well_for_a_while(24)
    assert boards.board.instances[name].alive
    boards.a_power_cut()
    return boards


def test_a_removal_ends_a_module_too_that_is_being_started():
    boards = started_again("lamp")
    while not boards.open_gates:
        boards.the_disk_writes(1)
    boards.offer(name="lamp", number=0, config=0, refused=False)
    while boards.board.disk:
        boards.the_disk_writes(1)
    boards.all_goes_well_for_a_while(24)
    lamp = boards.board.instances["lamp"]
    assert (lamp.update.removal, lamp.update.phase) == (True, Phase.CONFIRMED)
    assert not lamp.alive
    assert not lamp.running.name
    boards.teardown()


def test_a_module_has_its_devices_and_memory_from_the_start_on_until_it_is_removed():
    boards = started_again("lamp")
    lamp = boards.board.instances["lamp"]
    boards.loop.call_soon(lambda: boards.board.spawn(lamp.expect()))
    boards.settle()
    while boards.board.disk:
        boards.the_disk_writes(1)
    assert not lamp.alive
    assert [each.name for each in lamp.modules] == ["lamp"]
    while boards.open_gates:  # it starts no more
        boards.open_gates[0].set_result(False)
        boards.settle()
        while boards.board.disk:
            boards.the_disk_writes(1)
    assert [each.name for each in lamp.modules] == ["lamp"]
    boards.all_goes_well_for_a_while(24)
    boards.offer(name="lamp", number=0, config=0, refused=False)
    boards.all_goes_well_for_a_while(24)
    assert lamp.modules == ()
    boards.teardown()


def test_an_update_that_begins_while_the_module_of_before_is_started_is_not_taken_for_the_journals():
    boards = started_again("lamp")
    while not boards.open_gates:
        boards.the_disk_writes(1)
    (starting,) = boards.open_gates
    boards.offer(name="lamp", number=2, config=0, refused=False)
    lamp = boards.board.instances["lamp"]
    while lamp.update.phase is not Phase.TRIAL:
        for gate in boards.open_gates:
            if gate is not starting:
                gate.set_result(True)
        while boards.board.disk:
            boards.board.write()
        boards.settle()
    starting.set_result(True)
    boards.settle()
    boards.all_goes_well_for_a_while(24)
    rows = boards.board.store.home.connection.execute("select phase, resumptions from journal where instance = 'lamp' order by id")
    last = rows.fetchall()[-6:]
    assert last == [(each, 0) for each in ("offered", "fetching", "staged", "starting", "trial", "confirmed")]
    boards.teardown()

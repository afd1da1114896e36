"""One instance: selects the module that runs, restarts it, and steps down to an older slot and up again.

It owns the supervisor, which feeds the module, the runner, which updates it, and the target that the runner drives.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace

from device_agent.channel import frames
from device_agent.channel.fatal_images import FatalImages
from device_agent.channel.workers import ModuleSpec, Worker, WorkerFailed
from device_agent.instance import slots
from device_agent.instance.crash_loop import CrashLoop
from device_agent.instance.failures import OF_THE_BOARD, START_TRIES, Failures
from device_agent.instance.kept import version_of
from device_agent.instance.runner import Runner
from device_agent.instance.services import Hooks, InstancePolicy, Services
from device_agent.instance.snapshot import Needs, Snapshot, attempt_of
from device_agent.instance.states import ON_TRIAL, Event
from device_agent.instance.supervisor import Supervisor
from device_agent.instance.targets import ModuleTarget
from device_agent.instance.timers import Timers
from device_agent.instance.updates import Update
from device_agent.storage.store import Version
from ota.formats.deployment import config_digest
from ota.formats.manifest import AotImage, Manifest, VerifiedManifest
from ota.formats.module import ModuleDescription
from ota.formats.reasons import Reason, Refused
from ota.formats.report import Running

RESTART_MIN_S, RESTART_MAX_S = 0.05, 30.0
logger = logging.getLogger(__name__)


class Instance:
    """Runs the best module that there is, and keeps it running."""

    def __init__(self, name: str, policy: InstancePolicy, services: Services, hooks: Hooks, update: Update) -> None:
        """`update`: that the instance's journal ends with."""
        self.name, self.policy = name, policy
        self._services, self._hooks = services, hooks
        self.counters: Counter[str] = Counter()
        self.supervisor = Supervisor(
            self._outcome,
            self._worker_failed,
            lambda _: hooks.follow(name),
            policy.event_queue,
            self.counters,
            policy.event_queue_bytes,
            lambda number: hooks.consumed(name, number),
            services.kept.end_trial,
        )
        self.target = ModuleTarget(name, self, services, hooks)
        self.runner = Runner(name, services, hooks, self.target, update)
        self.running = Running()
        self.problems: dict[str, str] = {}  # by slot: why its module can't be used
        self._trial_running = Running()
        self._runs: ModuleSpec | None = None  # the module of `running`
        self._settled: ModuleDescription | None = None  # the module that is to run, though it may not at the moment
        self._failures = Failures(name, services.store, services.on_writer, services.times.forget_s, services.now_s)
        self._crash_loop = CrashLoop()
        self._fatal_images = FatalImages()
        self._starting = asyncio.Lock()  # held while a worker is started to be fed, so that no two want the same device
        self._restart_s = RESTART_MIN_S
        self._timers = Timers(services.spawn_supervised)
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    # -- its life

    async def expect(self) -> None:
        """From now on keeps events, devices and memory for the module that will run, though it has not started yet."""
        services = self._services
        self._settled = await services.on_writer(slots.expected, self.name, services.store, self.policy.factory)
        self.supervisor.expect(self._settled.capabilities.filters("subscribe") if self._settled is not None else ())
        self._hooks.follow(self.name)

    async def start(self) -> None:
        """Runs what is there, and takes events and updates from now on."""
        work = (self.supervisor.pump(), self.runner.run(), self._look_after())
        self._tasks = [self._services.spawn_supervised(each) for each in work]
        await self.run_best()

    async def suspend(self) -> None:
        """Before the agent stops: saves the module's state and ends its workers."""
        await self.runner.suspend()
        await self.supervisor.pause()  # what is handled after the last checkpoint would be handled again
        await self.checkpoint()
        self.close()

    def close(self) -> None:
        """Ends workers, timers and tasks at once."""
        self._closed = True
        self.supervisor.stop()
        self._timers.close()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    async def leave(self) -> None:
        """Its module stops, with its state kept, until it is started again."""
        async with self._starting:
            await self.checkpoint()
            await self.supervisor.retire()

    async def retire(self) -> None:
        """It was removed, on disk too: its module runs no more, also one that is being started."""
        async with self._starting:
            self.supervisor.drop_standby()
            await self.supervisor.retire()
            self.clear()

    def clear(self) -> None:
        """It has nothing any more that could run."""
        self._runs_nothing()
        self._settled = None
        self.supervisor.clear()
        self._hooks.follow(self.name)
        self.problems.clear()
        self._timers.cancel_all()

    # -- what others ask of it

    @property
    def update(self) -> Update:
        """The update under way, or the last one."""
        return self.runner.update

    def post(self, event: Event) -> None:
        """Something that concerns the update."""
        self.runner.post(event)

    @property
    def filters(self) -> tuple[str, ...]:
        """What its module subscribes to now, or will again when it is started once more."""
        return self.supervisor.filters

    def offer(self, topic: str, payload: bytes, hops: int = 0, bus_number: int = 0, sender: str = "", reply_to: str = "") -> None:
        """Queues an event, if the module wants it."""
        self.supervisor.offer(topic, payload, hops, bus_number, sender, reply_to)

    @property
    def modules(self) -> tuple[ModuleDescription, ...]:
        """The modules that it runs, is to run again, or is about to run: each may have devices and memory."""
        found = [self._settled] if self._settled is not None else []
        if self._runs is not None and self._runs.description is not self._settled:
            found.append(self._runs.description)
        if self.wanted is not None:
            found.append(self.wanted)
        return tuple(found)

    @property
    def wanted(self) -> ModuleDescription | None:
        """The module of the update under way."""
        verified = self.update.verified
        if verified is None or self.update.ended or not isinstance(verified.manifest, Manifest):
            return None
        return verified.manifest.module

    @property
    def runs(self) -> ModuleDescription | None:
        """The module that runs, not the one on trial; also where it has died and is started again."""
        return self._runs.description if self._runs is not None else None

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Those that may have devices open."""
        return self.supervisor.workers

    @property
    def empty(self) -> bool:
        """Whether it runs nothing, and has nothing that it could run or is about to run."""
        nothing = not self.running.name and self._settled is None and self.policy.factory is None
        return nothing and self.runner.idle and not self.update.confirmed

    def snapshot(self) -> Snapshot:
        """For the report."""
        update, supervisor, on_trial = self.update, self.supervisor, self.target.on_trial is not None
        worker, idle = supervisor.current, not self.running.name and not on_trial
        return Snapshot(
            self.name,
            replace(
                self._trial_running if on_trial else self.running,
                mode=worker.mode if worker and not idle else "",
                lacking=worker.lacking if worker and not idle else (),
            ),
            attempt_of(self.runner, supervisor.handled if on_trial else update.events),
            dict(self.counters)
            | {"gap_us": supervisor.last_gap_us, "events_waiting": supervisor.waiting}
            | {f"module_{name}": value for name, value in supervisor.module_counters.items()},
            tuple(self.problems.values()),
        )

    # -- which module runs

    @property
    def alive(self) -> bool:
        """Whether a module runs."""
        current = self.supervisor.current
        return current is not None and current.alive

    @property
    def steady(self) -> bool:
        """Whether a module runs that is not on its first trial, and has not failed since it last proved itself."""
        return self.alive and bool(self.running.name) and not self._crash_loop.in_doubt

    async def run_best(self) -> None:
        """Starts the best module there is, if none runs; when none starts, tries them all again later."""
        async with self._starting:
            if not self.alive and not self._closed:
                await self._run_best()

    async def _run_best(self) -> None:
        try:
            for name in slots.ORDER:
                if await self._run_slot(name):
                    self._climb_later(name)
                    return
        except WorkerFailed:  # without a process no module starts: the same slot is tried again
            self._runs_nothing()
            self._run_best_later()
            return
        self._runs_nothing()
        known = await self._services.on_writer(self._services.store.slots, self.name)
        if not known and self.policy.factory is None:
            logger.info("%s: no module is installed yet", self.name)
            return
        logger.error("%s: no module starts: trying again in %.1f s", self.name, self._restart_s)
        for name in known:
            await self._failures.forget(name)
        self._run_best_later()

    def _runs_nothing(self) -> None:
        self.running, self._runs = Running(), None

    async def _run_slot(self, name: str) -> bool:
        """Starts the module of a slot, up to three times since it last proved itself; False when it does not start.

        Raises WorkerFailed PROCESS_UNAVAILABLE.
        """
        while await self._failures.count(name) < START_TRIES:
            try:
                found = await self._candidate(name)
                if found is None:
                    return False
                await self._start(found)
            except (Refused, slots.FactoryError) as error:
                self._unusable(name, error)
                return False
            except WorkerFailed as failure:
                logger.error("%s: the %s module did not start: %s", self.name, name, failure)
                if failure.reason in OF_THE_BOARD:
                    self.problems[name] = f"{failure.reason.value}: the {name} module: {failure.detail}"
                    if failure.reason is Reason.PROCESS_UNAVAILABLE:
                        raise
                    return False
                if not await self._failures.add(name):
                    return False  # the factory module: whatever else there is was tried before
                continue
            self._prove_later(name)
            return True
        logger.error("%s: the %s module failed %d times: stepping down", self.name, name, START_TRIES)
        return False

    async def _candidate(self, name: str) -> slots.Candidate | None:
        services = self._services
        found: slots.Candidate | None = await services.on_writer(
            slots.candidate, name, self.name, services.store, self.policy, services.image_classes
        )
        return found

    def _unusable(self, name: str, error: Refused | slots.FactoryError) -> None:
        logger.error("%s: the %s module can't be used: %s", self.name, name, error)
        if isinstance(error, Refused):
            self.problems[name] = f"{error.reason.value}: the {name} module: {error.detail}"
            if error.reason in (Reason.BLOB_DIGEST_MISMATCH, Reason.MANIFEST_MISSING) and name != "factory":
                self._hooks.damaged(self.name, name)

    async def _start(self, found: slots.Candidate) -> None:
        if self.supervisor.current is not None:
            await self.supervisor.current.ended()  # it may hold a device that the new one opens
        worker = self._worker(found.spec)
        try:
            await self._hooks.until_free(self.name, found.spec.devices)
            await worker.start()
            if not await self.supervisor.run(worker, *await self._services.kept.load(found.spec)):
                return
        except WorkerFailed:
            self.distrust_image(worker)
            worker.kill()
            await worker.ended()
            raise
        except asyncio.CancelledError:  # the agent stops
            worker.kill()
            raise
        self.running, self._runs = found.running, found.spec
        self.problems.pop(found.running.slot, None)
        logger.info("%s: running %s from the %s slot", self.name, found.spec.label, found.running.slot)
        self._hooks.moved(self.name)

    def _prove_later(self, name: str) -> None:
        """A module that runs for the trial period has proved itself again: its failures are forgotten."""

        async def proved() -> None:
            self._restart_s, self._crash_loop.in_doubt = RESTART_MIN_S, False
            await self._failures.forget(name)

        self._timers.later("proof", self._services.times.trial_s, proved)

    def _worker_failed(self, worker: Worker, failure: WorkerFailed) -> None:
        logger.error("%s: %s failed: %s", self.name, worker.spec.label, failure)
        self.distrust_image(worker)
        verdict = self.target.failed(worker, failure)
        if verdict is not None and self.runner.end_trial(verdict):
            return
        proving = self._timers.cancel("proof")
        self.counters["restarts"] += 1
        slot = self.running.slot
        if self._crash_loop.too_many(self.running.manifest, time.monotonic()):
            self._services.spawn_supervised(self._restart(self._failures.exhaust(slot)))
        elif proving:
            self._services.spawn_supervised(self._restart(self._failures.add(slot)))
        else:
            self._run_best_later()

    async def _restart(self, counted: Awaitable[object]) -> None:
        await counted
        self._run_best_later()

    def _run_best_later(self) -> None:
        delay_s, self._restart_s = self._restart_s, min(2 * self._restart_s, RESTART_MAX_S)
        self._timers.later("start", delay_s, self._run_best_again)

    async def _run_best_again(self) -> None:
        if not self._on_trial:
            await self.run_best()

    @property
    def _on_trial(self) -> bool:
        """Whether a new module is on trial, or the old one has left: nothing else is started then."""
        return self.update.phase in ON_TRIAL

    # -- stepping up again

    def _climb_later(self, name: str) -> None:
        """A module of a lower slot runs: in a while those above it get another try."""
        self._timers.cancel("climb")
        if name != slots.ORDER[0]:
            self._timers.later("climb", self._services.times.forget_s, self.climb)

    async def climb(self) -> None:
        """Forgets the failures of the modules above the one that runs, and runs the first of them that can be used."""
        async with self._starting:
            if self._closed:
                return
            if self._on_trial:  # the trial decides, and if it fails the way up is open again
                self._timers.later("climb", RESTART_MAX_S, self.climb)
                return
            name = self.running.slot
            above = slots.ORDER[: slots.ORDER.index(name)] if name in slots.ORDER else slots.ORDER
            for each in above:
                await self._failures.forget(each)
            if self.alive and not await self._any_usable(above):
                self._climb_later(name)
                return
            if self.alive:
                await self.checkpoint()
                await self.supervisor.retire()
            await self._run_best()

    async def mended(self, name: str) -> None:
        """What was lost of the module of a slot is there again."""
        self.problems.pop(name, None)
        self._hooks.moved(self.name)
        await self.climb()

    async def _any_usable(self, names: Sequence[str]) -> bool:
        for name in names:
            try:
                if await self._candidate(name) is not None:
                    return True
            except (Refused, slots.FactoryError) as error:
                self._unusable(name, error)
        return False

    # -- what an update needs (device_agent.instance.targets.Modules)

    def image_for(self, manifest: Manifest) -> AotImage | None:
        """The ahead-of-time image that this board can run, None where there is none."""
        return manifest.image_for(self._services.image_classes(manifest.vendor))

    async def spawn(self, verified: VerifiedManifest, config: Mapping[str, str]) -> Worker:
        """A new worker for a module whose blob is on disk. Raises WorkerFailed, also when its signers have lost their role."""
        try:
            self._services.check_signers(verified)
        except Refused as error:
            raise WorkerFailed(error.reason, error.detail) from error
        manifest, digest, store = verified.manifest, verified.envelope_digest, self._services.store
        about = manifest.module
        self._trial_running = Running(about.name, about.version, digest, config_digest(config), manifest.sequence, "trial")
        spec = slots.module_spec(self.name, manifest, digest, config, self.policy, store.blob_path(manifest.digest))
        classes = self._services.image_classes(manifest.vendor)
        return self._worker(await self._services.on_writer(slots.with_image, spec, manifest, store, classes))

    def _worker(self, spec: ModuleSpec) -> Worker:
        return self._services.new_worker(self._fatal_images.without(spec), self.supervisor.worker_died)

    def distrust_image(self, worker: Worker) -> bool:
        """Whether a worker died in an ahead-of-time image, which is then not used until the agent restarts."""
        return self._fatal_images.note(worker)

    async def swap(self, worker: Worker) -> None:
        """Makes the module on trial the one that is fed. Raises WorkerFailed, with the old module going on."""

        async def prepare(state: bytes | None) -> tuple[bytes, dict[str, bytes]]:
            return await self._services.kept.begin_trial(worker.spec, await self._predecessor(), state)

        try:
            async with self._starting:
                await self.supervisor.swap(worker, prepare)
        except Refused as error:
            raise WorkerFailed(error.reason, error.detail) from error

    async def _predecessor(self) -> Version | None:
        """The version before the one on trial: that of the last worker, else the confirmed one, else the factory's."""
        if self.supervisor.current is not None:
            return version_of(self.supervisor.current.spec)
        for name in ("confirmed", "factory"):
            version: Version | None = await self._services.on_writer(
                slots.version, name, self.name, self._services.store, self.policy.factory
            )
            if version is not None:
                return version
        return None

    async def abandon_trial(self, worker: Worker) -> None:
        """Ends the worker of a trial that failed, and sees to it that another module runs."""
        worker.kill()
        await worker.ended()
        await self.run_best()

    def confirmed(self) -> None:
        """The module on trial is the confirmed one, on disk."""
        self.running = replace(self._trial_running, slot="confirmed")
        self._runs = self.supervisor.current.spec if self.supervisor.current is not None else None
        self._settled = self._runs.description if self._runs is not None else None
        self.problems.clear()
        self._crash_loop.in_doubt = False
        self._climb_later("confirmed")
        self.supervisor.drop_standby()

    def run_confirmed(self) -> None:
        """The operator wants the confirmed module: forget its failures, and run it if another runs."""
        if self.running.slot != "confirmed" or not self.alive:
            self._services.spawn_supervised(self.climb())

    # -- what the module says and keeps

    def _outcome(self, spec: ModuleSpec, done: frames.Done, hops: int, bus_number: int) -> asyncio.Future[None] | None:
        self._services.kept.note(spec, done.writes)
        return self._hooks.deliver(self.name, spec, done, hops, bus_number)

    async def checkpoint(self) -> None:
        """Keeps the module's state, so that a restart continues from here; checks its health first."""
        worker = self.supervisor.current
        if worker is None or not worker.alive:
            return
        illness = await self.supervisor.check()
        if illness is not None:
            logger.warning("%s: %s says that it is not well: %s", self.name, worker.spec.label, illness)
        state = await self.supervisor.save(worker)
        if state is not None:
            with contextlib.suppress(Refused):
                await self._services.kept.save_state(worker.spec, state)

    async def _look_after(self) -> None:
        """Asks the module again and again whether it is well, and keeps its state, unless a trial does so."""
        while True:
            await asyncio.sleep(self._services.times.health_s)
            if not self._on_trial:
                await self.checkpoint()

    def needs(self, *, crowded: bool) -> Needs:
        """For its slots, the module that runs, and its update, as `Update.keeps_parts` has it. On the writer thread."""
        specs = (self._runs, self.supervisor.current.spec if self.supervisor.current is not None else None)
        return slots.needs(
            self.name,
            self._services.store,
            self.policy.factory,
            self._services.image_classes,
            self.update,
            {self.running.manifest, self._trial_running.manifest},
            {spec.release for spec in specs if spec is not None},
            crowded=crowded,
        )

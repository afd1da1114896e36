"""One instance: selects the module that runs, restarts it, and steps down to an older slot and up again.

It owns the supervisor, which feeds the module, and the modules' keys and states. The runner calls it during an update.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from device_agent.channel import frames
from device_agent.channel.workers import FatalImages, ModuleSpec, Worker, WorkerFailed
from device_agent.instance import slots
from device_agent.instance.crash_loop import CrashLoop
from device_agent.instance.failures import OF_THE_BOARD, START_TRIES, Failures
from device_agent.instance.kept import Kept, version_of
from device_agent.instance.supervisor import Supervisor
from device_agent.instance.updates import Update
from device_agent.storage.store import Store, Version
from ota.formats.capabilities import Capabilities
from ota.formats.manifest import AotImage, Manifest, VerifiedManifest
from ota.formats.reasons import Reason, Refused
from ota.formats.report import Running

RESTART_MIN_S, RESTART_MAX_S = 0.05, 30.0
logger = logging.getLogger(__name__)


class Agent(Protocol):
    """What an instance needs of the agent that it is in."""

    def new_worker(self, spec: ModuleSpec, died: Callable[[Worker, WorkerFailed], None]) -> Worker:
        """A process for a module, confined as the board's policy says. Raises WorkerFailed."""

    def check_signers(self, verified: VerifiedManifest) -> None:
        """Raises Refused when those who signed a manifest have lost their role since it was verified."""

    def follow_topics(self, worker: Worker) -> None:
        """Another worker is fed from now on."""

    async def send(self, spec: ModuleSpec, done: frames.Done) -> None:
        """Takes what a handled event asks for."""

    def trial_failed(self, worker: Worker, failure: WorkerFailed) -> bool:
        """Takes the failure of the module on trial; False when it is another's."""

    def on_trial(self) -> bool:
        """Whether a new module is on trial: nothing else is started then."""

    def blob_is_damaged(self, name: str) -> None:
        """The blob or the manifest of a slot is to be fetched again."""

    def report(self) -> None:
        """Publishes the board's report."""


@dataclass(frozen=True)
class Policy:
    """What the board's configuration says of modules. Times in seconds."""

    factory: Path | None
    grants: Capabilities
    module_config: dict[str, str]
    image_classes: Callable[[bytes], Sequence[bytes]]  # of ahead-of-time images that this board can run, best first, by vendor
    trial_s: float
    forget_s: float
    event_queue: int
    event_queue_bytes: int


class Instance:
    """Runs the best module that there is, and keeps it running."""

    def __init__(
        self,
        agent: Agent,
        policy: Policy,
        store: Store,
        kept: Kept,
        on_writer: Callable[..., Awaitable[Any]],
        spawn_supervised: Callable[[Coroutine[Any, Any, None]], object],
        counters: Counter[str],
    ) -> None:
        self._agent, self._policy, self._store, self._kept = agent, policy, store, kept
        self._on_writer, self._spawn_supervised, self._counters = on_writer, spawn_supervised, counters
        self.supervisor = Supervisor(
            self._outcome, self._worker_failed, agent.follow_topics, policy.event_queue, counters, policy.event_queue_bytes
        )
        self.running = Running()
        self.problems: dict[str, str] = {}  # by slot: why its module can't be used
        self._trial_running = Running()
        self._failures = Failures(store, on_writer, policy.forget_s, time.time)
        self._crash_loop = CrashLoop()
        self._fatal_images = FatalImages()
        self._starting = asyncio.Lock()  # held while a worker is started to be fed, so that no two want the same device
        self._restart_s = RESTART_MIN_S
        self._proof: asyncio.TimerHandle | None = None
        self._climb: asyncio.TimerHandle | None = None

    # -- which module runs

    @property
    def alive(self) -> bool:
        """Whether a module runs."""
        current = self.supervisor.current
        return current is not None and current.alive

    async def run_best(self) -> None:
        """Starts the best module there is, if none runs; when none starts, tries them all again later."""
        async with self._starting:
            if not self.alive:
                await self._run_best()

    async def _run_best(self) -> None:
        try:
            for name in slots.ORDER:
                if await self._run_slot(name):
                    self._climb_later(name)
                    return
        except WorkerFailed:  # without a process no module starts: the same slot is tried again
            self.running = Running()
            self._run_best_later()
            return
        self.running = Running()
        known = await self._on_writer(self._store.slots)
        if not known and self._policy.factory is None:
            logger.info("no module is installed yet")
            return
        logger.error("no module starts: trying again in %.1f s", self._restart_s)
        for name in known:
            await self._failures.forget(name)
        self._run_best_later()

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
                logger.error("the %s module did not start: %s", name, failure)
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
        logger.error("the %s module failed %d times: stepping down", name, START_TRIES)
        return False

    async def _candidate(self, name: str) -> slots.Candidate | None:
        policy = self._policy
        found: slots.Candidate | None = await self._on_writer(
            slots.candidate, name, self._store, policy.factory, policy.grants, policy.module_config, policy.image_classes
        )
        return found

    def _unusable(self, name: str, error: Refused | slots.FactoryError) -> None:
        logger.error("the %s module can't be used: %s", name, error)
        if isinstance(error, Refused):
            self.problems[name] = f"{error.reason.value}: the {name} module: {error.detail}"
            if error.reason in (Reason.BLOB_DIGEST_MISMATCH, Reason.MANIFEST_MISSING) and name != "factory":
                self._agent.blob_is_damaged(name)

    async def _start(self, found: slots.Candidate) -> None:
        if self.supervisor.current is not None:
            await self.supervisor.current.ended()  # it may hold a device that the new one opens
        worker = self._worker(found.spec)
        try:
            await worker.start()
            if not await self.supervisor.run(worker, *await self._kept.load(found.spec)):
                return
        except WorkerFailed:
            self.distrust_image(worker)
            worker.kill()
            await worker.ended()
            raise
        except asyncio.CancelledError:  # the agent stops
            worker.kill()
            raise
        self.running = found.running
        self.problems.pop(found.running.slot, None)
        logger.info("running %s from the %s slot", found.spec.label, found.running.slot)
        self._agent.report()

    def _prove_later(self, name: str) -> None:
        """A module that runs for the trial period has proved itself again: its failures are forgotten."""
        self._not_proved()

        def proved() -> None:
            self._restart_s = RESTART_MIN_S
            self._proof = None
            self._spawn_supervised(self._failures.forget(name))

        self._proof = asyncio.get_running_loop().call_later(self._policy.trial_s, proved)

    def _not_proved(self) -> None:
        if self._proof is not None:
            self._proof.cancel()
            self._proof = None

    def _worker_failed(self, worker: Worker, failure: WorkerFailed) -> None:
        logger.error("%s failed: %s", worker.spec.label, failure)
        self.distrust_image(worker)
        if self._agent.trial_failed(worker, failure):
            return
        proving = self._proof is not None
        self._not_proved()
        self._counters["restarts"] += 1
        slot = self.running.slot
        if self._crash_loop.too_many(self.running.manifest, time.monotonic()):
            self._spawn_supervised(self._restart(self._failures.exhaust(slot)))
        elif proving:
            self._spawn_supervised(self._restart(self._failures.add(slot)))
        else:
            self._run_best_later()

    async def _restart(self, counted: Awaitable[object]) -> None:
        await counted
        self._run_best_later()

    def _run_best_later(self) -> None:
        delay_s, self._restart_s = self._restart_s, min(2 * self._restart_s, RESTART_MAX_S)
        asyncio.get_running_loop().call_later(delay_s, lambda: self._spawn_supervised(self._run_best_again()))

    async def _run_best_again(self) -> None:
        if not self._agent.on_trial():
            await self.run_best()

    # -- stepping up again

    def _climb_later(self, name: str) -> None:
        """A module of a lower slot runs: in a while those above it get another try."""
        if self._climb is not None:
            self._climb.cancel()
        if name != slots.ORDER[0]:
            loop = asyncio.get_running_loop()
            self._climb = loop.call_later(self._policy.forget_s, lambda: self._spawn_supervised(self.climb()))

    async def climb(self) -> None:
        """Forgets the failures of the modules above the one that runs, and runs the first of them that can be used."""
        async with self._starting:
            if self._agent.on_trial():
                return  # the trial decides
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
        self._agent.report()
        await self.climb()

    async def _any_usable(self, names: Sequence[str]) -> bool:
        for name in names:
            try:
                if await self._candidate(name) is not None:
                    return True
            except (Refused, slots.FactoryError) as error:
                self._unusable(name, error)
        return False

    # -- what the runner needs (device_agent.instance.runner.Modules)

    def image_for(self, manifest: Manifest) -> AotImage | None:
        """The ahead-of-time image that this board can run, None where there is none."""
        return manifest.image_for(self._policy.image_classes(manifest.vendor))

    def spawn(self, verified: VerifiedManifest) -> Worker:
        """A new worker for a module whose blob is on disk. Raises WorkerFailed, also when its signers have lost their role."""
        try:
            self._agent.check_signers(verified)
        except Refused as error:
            raise WorkerFailed(error.reason, error.detail) from error
        manifest, digest = verified.manifest, verified.envelope_digest
        module = manifest.module
        self._trial_running = Running(module.name, module.version, digest, manifest.sequence, "trial")
        blob = self._store.blob_path(manifest.digest)
        spec = ModuleSpec(module, blob, manifest.digest, self._policy.module_config, manifest=digest)
        return self._worker(slots.with_image(spec, manifest, self._store, self._policy.image_classes(manifest.vendor)))

    def _worker(self, spec: ModuleSpec) -> Worker:
        return self._agent.new_worker(self._fatal_images.without(spec), self.supervisor.worker_died)

    def distrust_image(self, worker: Worker) -> bool:
        """Whether a worker died in an ahead-of-time image, which is then not used until the agent restarts."""
        return self._fatal_images.note(worker)

    async def swap(self, worker: Worker) -> None:
        """Makes the module on trial the one that is fed. Raises WorkerFailed, with the old module going on."""

        async def prepare(state: bytes | None) -> tuple[bytes, dict[str, bytes]]:
            return await self._kept.begin_trial(worker.spec, await self._predecessor(), state)

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
            version: Version | None = await self._on_writer(slots.version, name, self._store, self._policy.factory)
            if version is not None:
                return version
        return None

    async def abandon_trial(self, worker: Worker) -> None:
        """Ends the worker of a trial that failed, drops what its module kept, and sees to it that another module runs."""
        worker.kill()
        with contextlib.suppress(Refused):  # a full disk: the next trial drops it
            await self._kept.forget(worker.spec)
        await worker.ended()
        await self.run_best()

    def confirmed(self) -> None:
        """The module on trial is the confirmed one, on disk."""
        self.running = replace(self._trial_running, slot="confirmed")
        self.problems.clear()
        self._climb_later("confirmed")
        self.supervisor.drop_standby()

    def run_confirmed(self) -> None:
        """The operator wants the confirmed module: forget its failures, and run it if another runs."""
        if self.running.slot != "confirmed" or not self.alive:
            self._spawn_supervised(self.climb())

    @property
    def trial_running(self) -> Running:
        """The module on trial."""
        return self._trial_running

    # -- what the module says and keeps

    async def _outcome(self, spec: ModuleSpec, done: frames.Done) -> None:
        self._kept.note(spec, done.writes)
        await self._agent.send(spec, done)

    async def checkpoint(self) -> None:
        """Keeps the module's state, so that a restart continues from here; checks its health first."""
        worker = self.supervisor.current
        if worker is None or not worker.alive:
            return
        illness = await self.supervisor.check()
        if illness is not None:
            logger.warning("%s says that it is not well: %s", worker.spec.label, illness)
        state = await self.supervisor.save(worker)
        if state is not None:
            with contextlib.suppress(Refused):
                await self._kept.save_state(worker.spec, state)

    def collect(self, update: Update) -> set[bytes]:
        """Deletes what neither a slot, nor the module that runs, nor the update under way needs; returns the manifests of what is
        left. On the writer thread.
        """
        kept_manifests, blobs = {self.running.manifest, self._trial_running.manifest}, set[bytes]()
        for slot in self._store.slots().values():
            kept_manifests.add(slot.envelope)
            envelope = self._store.envelope(slot.envelope)
            with contextlib.suppress(Refused):  # a damaged one can't run: what it needed is of no use
                blobs |= self._blobs_of(slots.parse(envelope or b""))
        if not update.ended:
            kept_manifests.add(update.manifest)
            if update.verified is not None:
                blobs |= self._blobs_of(update.verified.manifest)
        factory = slots.version("factory", self._store, self._policy.factory)
        if factory is not None:
            kept_manifests.add(factory.manifest)
        self._store.collect(kept_manifests, blobs)
        return kept_manifests

    def _blobs_of(self, manifest: Manifest) -> set[bytes]:
        image = self.image_for(manifest)
        return {manifest.digest} | ({image.digest} if image is not None else set())

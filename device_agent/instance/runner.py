"""Carries out the effects of `device_agent.instance.updates`, in order, and turns their results into the next event.

The journal is written before any other effect. Long operations run as one task at a time, which ends by posting an
event. When an update is discarded, its task and its worker are stopped. A task gets the identity and the manifest of its update
when it begins, and its events name that update: one that ends late can't move, or be mistaken for, the update that came after it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Protocol

from device_agent.channel.workers import Worker, WorkerFailed
from device_agent.desired.fetch import Fetcher
from device_agent.instance import states
from device_agent.instance.states import Event, Phase, UpdateId
from device_agent.instance.supervisor import Supervisor
from device_agent.instance.updates import (
    RETRYABLE,
    BeginTrial,
    Commit,
    Discard,
    Effect,
    FetchBlob,
    FetchManifest,
    PublishReport,
    RollBack,
    RunConfirmed,
    StartWorker,
    StopOld,
    Update,
    WriteJournal,
    step,
)
from device_agent.storage.store import Slot, Store
from ota.formats.manifest import AotImage, Manifest, VerifiedManifest
from ota.formats.reasons import Reason, Refused

ENDURED_S = 60.0  # on trial: what ends the board later is not held against the module
NO_EVENT = "no event came during the trial: how the module handles one was not seen"
logger = logging.getLogger(__name__)


class Board(Protocol):
    """What the runner needs of the agent."""

    def verify(self, envelope: bytes) -> VerifiedManifest:
        """The manifest, if this board may install it. On the writer thread. Raises Refused."""

    def report(self) -> None:
        """Publishes the board's report."""

    def confirmed(self) -> None:
        """The module on trial is the confirmed one, on disk."""

    def update_began(self) -> None:
        """An update has begun: the operator may not want it any more."""

    def update_ended(self) -> None:
        """An update has ended; there may be another to begin."""


class Modules(Protocol):
    """What the runner needs of the instance that it updates (device_agent.instance.instance)."""

    @property
    def supervisor(self) -> Supervisor:
        """Feeds the module that runs."""

    def image_for(self, manifest: Manifest) -> AotImage | None:
        """The ahead-of-time image that this board can run, None where there is none."""

    def spawn(self, verified: VerifiedManifest) -> Worker:
        """A new worker for a module whose blob is on disk."""

    async def swap(self, worker: Worker) -> None:
        """Makes the module on trial the one that is fed. Raises WorkerFailed, with the old module going on."""

    async def abandon_trial(self, worker: Worker) -> None:
        """Ends the worker of a trial that failed, drops what its module kept, and sees to it that another module runs."""

    def distrust_image(self, worker: Worker) -> bool:
        """Whether a worker died in an ahead-of-time image, which is not used again then."""

    def confirmed(self) -> None:
        """The module on trial is the confirmed one, on disk."""

    def run_confirmed(self) -> None:
        """The operator wants the confirmed module: forget its failures, and run it if another runs."""


@dataclass
class Runner:
    """The one place where an update moves."""

    store: Store
    fetcher: Fetcher
    modules: Modules
    board: Board
    on_writer: Callable[..., Awaitable[Any]]
    spawn_supervised: Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]  # runs work whose failure ends the agent
    trial_s: float
    trial_max_s: float
    update: Update

    def __post_init__(self) -> None:
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._taking = asyncio.Lock()
        self._suspended = False
        self._task: asyncio.Task[None] | None = None
        self._candidate: Worker | None = None
        self._on_trial: tuple[UpdateId, Worker] | None = None  # the update, and the worker that is fed for it

    def post(self, event: Event) -> None:
        """Something happened."""
        self._events.put_nowait(event)

    @property
    def trial_worker(self) -> Worker | None:
        """The worker that is fed on trial, None outside of one."""
        if self._on_trial is None or self.update.phase is not Phase.TRIAL or self._on_trial[0] != self.update.id:
            return None
        return self._on_trial[1]

    def worker_failed(self, worker: Worker, failure: WorkerFailed) -> bool:
        """Takes the failure of the module on trial; False when it is another's."""
        if worker is not self.trial_worker:
            return False
        handled = self.modules.supervisor.handled
        self.post(states.TrialFailed(self.update.id, failure.reason, failure.detail, handled))
        return True

    async def run(self) -> None:
        """The task that takes events."""
        while True:
            event = await self._events.get()
            async with self._taking:
                if not self._suspended:
                    await self._take(event)

    async def suspend(self) -> None:
        """Accepts no further events. A trial starts again after a restart, and this does not count as a failure."""
        async with self._taking:
            self._suspended = True
            if self._task is not None:
                self._task.cancel()
            await self._take(states.Suspended(self.update.id))

    async def _take(self, event: Event) -> None:
        before = self.update
        moved, effects = step(before, event)
        if not effects:
            return
        logger.info(
            "update %s: %s to %s%s",
            moved.manifest.hex()[:12],
            before.phase.value,
            moved.phase.value,
            f" ({moved.reason.value}: {moved.detail})" if moved.reason else "",
        )
        try:
            await self._record(moved, effects[0])
        except Refused as error:
            await self._no_journal(before, moved, error)
            return
        self.update = moved
        for effect in effects[1:]:
            await self._carry_out(effect, moved.id)
        if moved.ended:
            self.board.update_ended()
        elif moved.phase is Phase.OFFERED:
            self.board.update_began()

    async def _record(self, moved: Update, effect: Effect) -> None:
        now = int(time.time())
        if isinstance(effect, Commit):
            verified = effect.verified
            manifest = verified.manifest
            slot = Slot("confirmed", verified.envelope_digest, manifest.sequence, manifest.module.security_epoch)
            await self.on_writer(self.store.commit, moved, slot, verified.signers, now)
        else:
            assert isinstance(effect, WriteJournal)
            await self.on_writer(self.store.write_journal, moved, now)

    async def _no_journal(self, before: Update, moved: Update, error: Refused) -> None:
        """What can't be written down is not done: the update ends here, in memory, and may be tried again."""
        logger.error("the journal can't be written: %s", error)
        self.update = replace(moved, phase=Phase.FAILED, reason=error.reason, detail=error.detail)
        if before.phase is Phase.TRIAL:
            await self._roll_back()
        self._discard()
        self.board.report()
        self.board.update_ended()

    async def _carry_out(self, effect: Effect, of: UpdateId) -> None:
        match effect:
            case FetchManifest(digest):
                self._begin(self._fetch_manifest(of, digest))
            case FetchBlob(verified):
                self._begin(self._fetch_blob(of, verified.manifest))
            case StartWorker(verified):
                self._begin(self._start_worker(of, verified))
            case BeginTrial(verified):
                self._begin(self._trial(of, verified))
            case RollBack():
                await self._roll_back()
            case StopOld():
                self._on_trial = None
                self.modules.confirmed()
                self.board.confirmed()
            case RunConfirmed():
                self.modules.run_confirmed()
            case Discard():
                self._discard()
            case PublishReport():
                self.board.report()
            case _:
                raise AssertionError(f"{effect} is not carried out here")

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = self.spawn_supervised(work)

    async def _fetch_manifest(self, of: UpdateId, digest: bytes) -> None:
        try:
            envelope = await self.fetcher.manifest(digest)
            verified = await self.on_writer(self.board.verify, envelope)
            await self.on_writer(self.store.add_envelope, envelope)
        except Refused as error:
            kind = states.FetchFailed if error.reason in RETRYABLE else states.Refused
            self.post(kind(of, error.reason, error.detail))
            return
        self.post(states.Verified(of, verified))

    async def _fetch_blob(self, of: UpdateId, manifest: Manifest) -> None:
        try:
            await self.fetcher.blob(manifest)
        except Refused as error:
            self.post(states.FetchFailed(of, error.reason, error.detail))
            return
        image = self.modules.image_for(manifest)
        if image is not None:
            try:
                await self.fetcher.blob(image)
            except Refused as error:
                logger.warning("the ahead-of-time image is not available, the module will be interpreted: %s", error)
        self.post(states.Fetched(of))

    async def _start_worker(self, of: UpdateId, verified: VerifiedManifest) -> None:
        try:
            try:
                await self._spawn(verified)
            except WorkerFailed:
                if self._candidate is None or not self.modules.distrust_image(self._candidate):
                    raise
                await self._spawn(verified)
        except WorkerFailed as failure:
            self.post(states.StartFailed(of, failure.reason, failure.detail))
            return
        self.post(states.Started(of))

    async def _spawn(self, verified: VerifiedManifest) -> None:
        self._candidate = None
        candidate = self._candidate = self.modules.spawn(verified)
        if candidate.spec.devices:
            await candidate.rehearse()  # the old module may have them open: `_trial` starts another worker
        else:
            await candidate.start()

    async def _trial(self, of: UpdateId, verified: VerifiedManifest) -> None:
        try:
            worker = await self._enter(verified)
        except WorkerFailed as failure:
            if self._candidate is not None:
                await self.modules.abandon_trial(self._candidate)
            self.post(states.StartFailed(of, failure.reason, failure.detail))
            return
        self._on_trial, self._candidate = (of, worker), None
        self.board.report()
        self.post(await self._watch(of, verified, worker))

    async def _enter(self, verified: VerifiedManifest) -> Worker:
        """Makes the new module the one that is fed."""
        if self._candidate is None or not self._candidate.started:
            self._candidate = None
            self._candidate = self.modules.spawn(verified)
        await self.modules.swap(self._candidate)
        return self._candidate

    async def _watch(self, of: UpdateId, verified: VerifiedManifest, worker: Worker) -> states.TrialPassed | states.TrialFailed:
        """How the trial ends: it lasts for its time and until its module has handled as many events as its manifest asks for."""
        supervisor, module = self.modules.supervisor, verified.manifest.module
        await asyncio.sleep(min(self.trial_s, ENDURED_S))
        if self.update.resumptions:
            self.post(states.Endured(of))
        await asyncio.sleep(max(0.0, self.trial_s - ENDURED_S))
        wanted = module.limits.trial_events
        try:
            async with asyncio.timeout(max(0.0, self.trial_max_s - self.trial_s)):
                await supervisor.until_handled(wanted)
        except TimeoutError:
            why = f"{supervisor.handled} events were handled in {self.trial_max_s:.0f} s, the manifest asks for {wanted}"
            return states.TrialFailed(of, Reason.TRIAL_SILENT, why, supervisor.handled)
        illness = await supervisor.check()
        if not worker.alive:  # reported before, if it was fed
            return states.TrialFailed(of, Reason.CRASHED, "the worker ended during the trial", supervisor.handled)
        if illness is not None:
            return states.TrialFailed(of, Reason.UNHEALTHY, illness, supervisor.handled)
        untried = not supervisor.handled and module.capabilities.filters("subscribe")
        return states.TrialPassed(of, supervisor.handled, NO_EVENT if untried else "")

    async def _roll_back(self) -> None:
        if self._task is not None:
            self._task.cancel()
        on_trial, self._on_trial = self._on_trial, None
        if on_trial is None or on_trial[1] is not self.modules.supervisor.current:
            return  # the new module was never fed: what ran before still does
        worker = on_trial[1]
        await self.modules.supervisor.roll_back()
        await self.modules.abandon_trial(worker)

    def _discard(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._candidate is not None:
            self._candidate.kill()
            self._candidate = None

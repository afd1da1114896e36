"""Carries out the effects of `device_agent.instance.updates`, in order, and turns what comes of them into the next event.

The journal is written before any other effect. What takes long runs as a task of its own, one at a time, and ends by posting an
event; an update that is discarded takes its task and its worker with it. A task gets the identity and the manifest of its update
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

logger = logging.getLogger(__name__)


class Board(Protocol):
    """What the runner needs of the agent."""

    def verify(self, envelope: bytes) -> VerifiedManifest:
        """The manifest, if this board may install it. Raises Refused."""

    def image_for(self, manifest: Manifest) -> AotImage | None:
        """The ahead-of-time image that this board can run, None where there is none."""

    def spawn(self, verified: VerifiedManifest) -> Worker:
        """A new worker for a module whose blob is on disk."""

    async def swap(self, worker: Worker) -> None:
        """Makes the module on trial the one that is fed. Raises WorkerFailed, with the old module going on."""

    async def forget_trial(self, worker: Worker) -> None:
        """Drops what the module on trial kept: its trial failed."""

    def distrust_image(self, worker: Worker) -> bool:
        """Whether a worker died in an ahead-of-time image, which is not used again then."""

    async def run_best(self) -> None:
        """Starts the best module that there is: nothing runs any more."""

    def report(self) -> None:
        """Publishes the board's report."""

    def confirmed(self) -> None:
        """The module on trial is the confirmed one, on disk."""

    def run_confirmed(self) -> None:
        """The operator wants the confirmed module: forget its failures, and run it if another runs."""

    def update_ended(self) -> None:
        """An update has ended; there may be another to begin."""


@dataclass
class Runner:
    """The one place where an update moves."""

    store: Store
    fetcher: Fetcher
    supervisor: Supervisor
    board: Board
    on_writer: Callable[..., Awaitable[Any]]
    spawn_supervised: Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]  # runs work whose failure ends the agent
    trial_s: float
    update: Update

    def __post_init__(self) -> None:
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._candidate: Worker | None = None
        self.trial_worker: Worker | None = None  # the one that is fed on trial

    def post(self, event: Event) -> None:
        """Something happened."""
        self._events.put_nowait(event)

    def worker_failed(self, worker: Worker, failure: WorkerFailed) -> bool:
        """Takes the failure of the module on trial; False when it is another's."""
        if worker is not self.trial_worker or self.update.phase is not Phase.TRIAL:
            return False
        self.post(states.TrialFailed(self.update.id, failure.reason, failure.detail))
        return True

    async def run(self) -> None:
        """The task that takes events."""
        while True:
            event = await self._events.get()
            await self._take(event)

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
            case BeginTrial():
                self._begin(self._trial(of))
            case RollBack():
                await self._roll_back()
            case StopOld():
                self.supervisor.drop_standby()
                self.board.confirmed()
            case RunConfirmed():
                self.board.run_confirmed()
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
            verified = self.board.verify(envelope)
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
        image = self.board.image_for(manifest)
        if image is not None:
            try:
                await self.fetcher.blob(image)
            except Refused as error:
                logger.warning("the ahead-of-time image is not to be had, the module will be interpreted: %s", error)
        self.post(states.Fetched(of))

    async def _start_worker(self, of: UpdateId, verified: VerifiedManifest) -> None:
        try:
            try:
                await self._spawn(verified)
            except WorkerFailed:
                if self._candidate is None or not self.board.distrust_image(self._candidate):
                    raise
                await self._spawn(verified)
        except WorkerFailed as failure:
            self.post(states.StartFailed(of, failure.reason, failure.detail))
            return
        self.post(states.Started(of))

    async def _spawn(self, verified: VerifiedManifest) -> None:
        self._candidate = None
        self._candidate = self.board.spawn(verified)
        await self._candidate.start()

    async def _trial(self, of: UpdateId) -> None:
        worker, self._candidate = self._candidate, None
        assert worker is not None
        try:
            await self.board.swap(worker)
        except WorkerFailed as failure:
            worker.kill()
            await self.board.forget_trial(worker)
            self.post(states.StartFailed(of, failure.reason, failure.detail))
            return
        self.trial_worker = worker
        self.board.report()
        await asyncio.sleep(self.trial_s)
        illness = await self.supervisor.check()
        if not worker.alive:
            self.post(states.TrialFailed(of, Reason.CRASHED, "the worker ended during the trial"))  # told before, if it was fed
        elif illness is None:
            self.post(states.TrialPassed(of))
        else:
            self.post(states.TrialFailed(of, Reason.UNHEALTHY, illness))

    async def _roll_back(self) -> None:
        if self._task is not None:
            self._task.cancel()
        if self.trial_worker is None or self.trial_worker is not self.supervisor.current:
            return  # the new module was never fed: what ran before still does
        rolled_back = await self.supervisor.roll_back()
        await self.board.forget_trial(self.trial_worker)
        if not rolled_back:
            await self.board.run_best()

    def _discard(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._candidate is not None:
            self._candidate.kill()
            self._candidate = None

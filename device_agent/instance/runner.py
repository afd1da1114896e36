"""Carries out the effects of `device_agent.instance.updates`, in order, and turns their results into the next event.

The journal is written before any other effect. Long operations run as one task at a time, which ends by posting an event. When an
update is discarded, its task is stopped, and what it has loaded. A task gets the identity and the release of its update when it
begins, and its events name that update: one that ends late can't move, or be mistaken for, the update that came after it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

from device_agent.instance import states, updates
from device_agent.instance.gate import Waits
from device_agent.instance.services import Hooks, Services
from device_agent.instance.states import ON_TRIAL, Event, Phase, UpdateId
from device_agent.instance.targets import Release, Target, Verdict
from device_agent.instance.updates import RETRYABLE, Effect, Update, WriteJournal, step
from device_agent.storage.store import Commit, Slot
from ota.formats.manifest import AnyManifest, AnyVerified
from ota.formats.provenance import Kind
from ota.formats.reasons import Refused

logger = logging.getLogger(__name__)


@dataclass
class Runner:
    """The one place where the update of an instance moves."""

    name: str  # of the instance
    services: Services
    hooks: Hooks
    target: Target
    update: Update

    def __post_init__(self) -> None:
        self.fetcher = self.services.new_fetcher()
        self.waits_for: Waits | None = None  # why a staged update has not begun, for the report
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._taking = asyncio.Lock()
        self._kind = Kind.UNSPECIFIED
        self._suspended = False
        self._task: asyncio.Task[None] | None = None

    @property
    def kind(self) -> Kind:
        """What the update is for. Another configuration of what runs, or a removal, mends nothing, whatever its manifest says."""
        return Kind.UNSPECIFIED if self.update.removal else self._kind

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, nor about to be."""
        return self.update.ended and self._events.empty() and not self._taking.locked()

    def post(self, event: Event) -> None:
        """Something happened."""
        self._events.put_nowait(event)

    def wait_for(self, what: Waits) -> None:
        """Why the staged update has not begun."""
        if self.waits_for != what:
            self.waits_for = what
            self.hooks.moved(self.name)

    def end_trial(self, verdict: Verdict) -> bool:
        """Takes the end of a trial; False when there is none."""
        if self.update.phase not in ON_TRIAL:
            return False
        self.post(_ended(self.update.id, verdict))
        return True

    async def resume(self, lapsed: Refused | None = None) -> None:
        """Goes on with an update that the journal ends with. `lapsed`: why the operator does not want it any more."""
        update = self.update
        if update.ended or update.number:  # it was not the journal's any more: another came while the module before was started
            return
        verdict = None
        if self.target.crosses_restart and update.phase is Phase.TRIAL:
            if self.target.is_on_trial(update):
                self.post(await self._trial_goes_on(update))
                return
            verdict = self.target.after_restart(update)
        if verdict is not None:
            self.post(_ended(update.id, verdict))
        elif lapsed is not None:
            self.post(states.Lapsed(update.id, lapsed.reason, lapsed.detail))
        else:
            self.post(states.Resumed(update.id))

    async def _trial_goes_on(self, update: Update) -> Event:
        envelope = await self.services.on_writer(self.services.store.envelope, update.manifest)
        try:
            verified = await self.services.on_writer(self.target.verify, envelope or b"")
        except Refused as error:
            return states.TrialFailed(update.id, error.reason, error.detail)
        return states.Continued(update.id, verified)

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
            if not (self.target.crosses_restart and self.update.phase is Phase.TRIAL):
                await self._take(states.Suspended(self.update.id))

    async def _take(self, event: Event) -> None:
        before = self.update
        moved, effects = step(before, event)
        if not effects:
            return
        try:
            await self._record(moved, effects[0])
        except Refused as error:
            await self._no_journal(before, moved, error)
            return
        await self._move(moved, effects)

    async def _record(self, moved: Update, effect: Effect) -> None:
        services, now_s = self.services, int(self.services.now_s())
        if isinstance(effect, updates.Commit):
            await services.on_writer(services.store.commit_all, (self._commit(effect),), now_s)
        else:
            assert isinstance(effect, WriteJournal)
            synced = effect.synced or self.target.crosses_restart  # what a restart finds must be what it was to find
            await services.on_writer(services.store.write_journal, self.name, moved, now_s, synced)

    def _commit(self, effect: Effect) -> Commit:
        assert isinstance(effect, updates.Commit)
        update, verified = effect.update, effect.verified
        if verified is None:
            return Commit(self.name, update)
        return Commit(self.name, update, Slot.confirmed(self.name, verified, update.config), verified.signers)

    async def _move(self, moved: Update, effects: tuple[Effect, ...]) -> None:
        """The update has moved, and the journal says so."""
        why = f" ({moved.reason.value}: {moved.detail})" if moved.reason else ""
        logger.info(
            "%s, update %s: %s to %s%s", self.name, moved.manifest.hex()[:12], self.update.phase.value, moved.phase.value, why
        )
        self.update, self.waits_for = moved, None
        for effect in effects[1:]:
            await self._carry_out(effect, moved)
        if moved.ended:
            self._has_ended()
        elif moved.phase is Phase.OFFERED:
            self.hooks.began(self.name)

    async def _no_journal(self, before: Update, moved: Update, error: Refused) -> None:
        """What can't be written down is not done: the update ends here, in memory, and may be tried again."""
        logger.error("the journal can't be written: %s", error)
        self.update = replace(moved, phase=Phase.FAILED, reason=error.reason, detail=error.detail, confirmed=before.confirmed)
        if before.phase in ON_TRIAL:
            await self._roll_back()
        self._discard()
        self.hooks.moved(self.name)
        self._has_ended()

    def _has_ended(self) -> None:
        self.target.ended()
        self.hooks.ended(self.name)

    async def _carry_out(self, effect: Effect, update: Update) -> None:
        work = self._work(effect, update)
        if work is not None:
            self._begin(work)
            return
        match effect:
            case updates.RollBack():
                await self._roll_back()
            case updates.StopOld():
                self.target.confirmed()
                self.hooks.confirmed(self.name)
            case updates.Retire():
                await self.target.retire()
            case updates.Leave():
                await self.target.leave()
            case updates.RunConfirmed():
                self.target.run_confirmed()
            case updates.Discard():
                self._discard()
            case updates.PublishReport():
                self.hooks.moved(self.name)
            case _:
                raise AssertionError(f"{effect} is not carried out here")

    def _work(self, effect: Effect, update: Update) -> Coroutine[Any, Any, None] | None:
        """What takes long, None for other effects."""
        match effect:
            case updates.FetchManifest(digest):
                return self._fetch_manifest(update, digest)
            case updates.FetchBlob(verified):
                return self._fetch_blob(update.id, verified.manifest)
            case updates.StartWorker(verified):
                return self._start(update.id, Release(verified, update.config))
            case updates.BeginTrial(verified):
                return self._trial(update.id, Release(verified, update.config))
            case updates.GoOnWithTrial(verified):
                return self._watch(update.id, Release(verified, update.config))
        return None

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._stop_task()
        self._task = self.services.spawn_supervised(work)

    def _stop_task(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _fetch_manifest(self, update: Update, digest: bytes) -> None:
        try:
            envelope = await self.fetcher.manifest(digest)
            verified, self._kind = await self.services.on_writer(self._look_at, update, envelope)
            self.services.owner.check(self._kind)
            self.target.admit(verified)
            await self.services.on_writer(self.services.store.add_envelope, envelope)
        except Refused as error:
            kind = states.FetchFailed if error.reason in RETRYABLE else states.Refused
            self.post(kind(update.id, error.reason, error.detail))
            return
        self.post(states.Verified(update.id, verified))

    def _look_at(self, update: Update, envelope: bytes) -> tuple[AnyVerified, Kind]:
        """The manifest, and what the update is for. On the writer thread. Raises Refused."""
        verified = self.target.verify(envelope)
        confirmed = self.services.store.slots(self.name).get("confirmed")
        runs = confirmed is not None and confirmed.envelope == update.manifest
        return verified, Kind.UNSPECIFIED if runs else verified.manifest.kind

    async def _fetch_blob(self, of: UpdateId, manifest: AnyManifest) -> None:
        try:
            await self.fetcher.blob(manifest)
        except Refused as error:
            self.post(states.FetchFailed(of, error.reason, error.detail))
            return
        image = self.target.image_for(manifest)
        if image is not None:
            try:
                await self.fetcher.blob(image)
            except Refused as error:
                logger.warning("the ahead-of-time image is not available, the module will be interpreted: %s", error)
        self.post(states.Fetched(of))

    async def _start(self, of: UpdateId, release: Release) -> None:
        try:
            await self.target.prepare(release)
        except Refused as error:
            self.post(states.StartFailed(of, error.reason, error.detail))
            return
        self.post(states.Started(of))

    async def _trial(self, of: UpdateId, release: Release) -> None:
        try:
            await self.target.enter(release)
        except Refused as error:
            self.post(states.StartFailed(of, error.reason, error.detail))
            return
        self.hooks.moved(self.name)
        await self._watch(of, release)

    async def _watch(self, of: UpdateId, release: Release) -> None:
        def endured() -> None:
            if self.update.resumptions:
                self.post(states.Endured(of))

        self.post(_ended(of, await self.target.watch(release, endured)))

    async def _roll_back(self) -> None:
        self._stop_task()
        await self.target.roll_back()

    def _discard(self) -> None:
        self._stop_task()
        self.target.discard()

    def _has_passed(self, deployment: bytes) -> bool:
        return not self._suspended and self.update.phase is Phase.PASSED and self.update.deployment == deployment

    @staticmethod
    async def confirm_together(runners: Sequence["Runner"], deployment: bytes) -> None:
        """Confirms the members of a set in one transaction; none, where one of them has not passed or has failed meanwhile."""
        async with contextlib.AsyncExitStack() as stack:
            for each in sorted(runners, key=lambda each: each.name):  # in one order, whoever comes
                await stack.enter_async_context(each._taking)
            if not all(each._has_passed(deployment) for each in runners):
                return
            steps = [(each, *step(each.update, states.SetConfirmed(each.update.id))) for each in runners]
            services = runners[0].services
            commits = [each._commit(effects[0]) for each, _, effects in steps]
            try:
                await services.on_writer(services.store.commit_all, commits, int(services.now_s()))
            except Refused as error:
                for each, moved, _ in steps:
                    await each._no_journal(each.update, moved, error)
                return
            for each, moved, effects in steps:
                await each._move(moved, effects)


def _ended(of: UpdateId, verdict: Verdict) -> states.TrialPassed | states.TrialFailed:
    if verdict.reason is None:
        return states.TrialPassed(of, verdict.events, verdict.detail)
    return states.TrialFailed(of, verdict.reason, verdict.detail, verdict.events)

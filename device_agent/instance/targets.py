"""What an update changes: one class for each kind of thing that can be updated, here the module of an instance.

The runner (`device_agent.instance.runner`) knows no more of it than `Target`, and calls it in the order of the states: verify and
admit before the download, prepare, enter, watch, and then confirmed or roll_back.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from device_agent.channel.workers import Worker, WorkerFailed
from device_agent.instance.gate import Waits
from device_agent.instance.services import Hooks, Services
from device_agent.instance.supervisor import Supervisor
from device_agent.instance.updates import Update
from ota.formats.manifest import AnyManifest, AnyVerified, AotImage, Manifest, VerifiedManifest
from ota.formats.reasons import Reason, Refused

__all__ = ["ModuleTarget", "Modules", "Release", "Target", "Verdict"]

ENDURED_S = 60.0  # on trial: what ends the board later is not held against the module
NO_EVENT = "no event came during the trial: how the module handles one was not seen"


@dataclass(frozen=True)
class Release:
    """What an update is to make run."""

    verified: AnyVerified
    config: Mapping[str, str]  # of the deployment


@dataclass(frozen=True)
class Verdict:
    """How a trial ended."""

    reason: Reason | None = None  # None: passed
    detail: str = ""
    events: int = 0  # that were handled


class Target(Protocol):
    """One thing that can be updated. Only what is said to raise Refused may do so."""

    @property
    def crosses_restart(self) -> bool:
        """Whether a trial goes on in another process: then a restart in its middle is not the end of it."""

    def verify(self, envelope: bytes) -> AnyVerified:
        """The manifest, if this board may install it here. On the writer thread. Raises Refused."""

    def admit(self, verified: AnyVerified) -> None:
        """Before the download: whether there is room for it beside all else. Raises Refused."""

    def why_wait(self) -> Waits | None:
        """What a staged update waits for besides its window and its set, None for nothing."""

    def image_for(self, manifest: AnyManifest) -> AotImage | None:
        """The ahead-of-time image that is to be fetched with it, None where there is none."""

    async def prepare(self, release: Release) -> None:
        """Loads the new one beside the one that runs. Raises Refused."""

    async def enter(self, release: Release) -> None:
        """Makes the new one what runs. Raises Refused, with the old one going on."""

    async def watch(self, release: Release, endured: Callable[[], None]) -> Verdict:
        """Returns how the trial ends; calls `endured` once it has lasted a minute."""

    def is_on_trial(self, update: Update) -> bool:
        """Where the trial of an update crosses a restart: whether this process is what is on trial, or has passed it."""

    def after_restart(self, update: Update) -> Verdict | None:
        """Where it does, and this process is not: how the trial ended, None if it never began or the power was cut."""

    def confirmed(self) -> None:
        """What is on trial is confirmed, on disk: the old one is not needed any more."""

    async def roll_back(self) -> None:
        """Goes back to what ran before; no effect where nothing is on trial."""

    def discard(self) -> None:
        """Drops what `prepare` has loaded and `enter` has not made to run."""

    def run_confirmed(self) -> None:
        """The operator wants the confirmed one: forget its failures, and run it if another runs."""

    async def leave(self) -> None:
        """It is to be removed with its set, which may go back yet: stops what runs. An end of the update starts it again."""

    async def retire(self) -> None:
        """It was removed, on disk too: stops what runs."""

    def ended(self) -> None:
        """An update has ended, one way or another: something is to run."""


class Modules(Protocol):
    """What a module's update needs of the instance that it changes (device_agent.instance.instance)."""

    @property
    def supervisor(self) -> Supervisor:
        """Feeds the module that runs."""

    def image_for(self, manifest: Manifest) -> AotImage | None:
        """The ahead-of-time image that this board can run, None where there is none."""

    async def spawn(self, verified: VerifiedManifest, config: Mapping[str, str]) -> Worker:
        """A new worker for a module whose blob is on disk. Raises WorkerFailed."""

    async def swap(self, worker: Worker) -> None:
        """Makes the module on trial the one that is fed. Raises WorkerFailed, with the old module going on."""

    async def abandon_trial(self, worker: Worker) -> None:
        """Ends the worker of a trial that failed, and sees to it that another module runs."""

    def distrust_image(self, worker: Worker) -> bool:
        """Whether a worker died in an ahead-of-time image, which is not used again then."""

    def confirmed(self) -> None:
        """The module on trial is the confirmed one, on disk."""

    def run_confirmed(self) -> None:
        """The operator wants the confirmed module: forget its failures, and run it if another runs."""

    async def run_best(self) -> None:
        """Starts the best module there is, if none runs."""

    async def leave(self) -> None:
        """Its module stops, with its state kept, until it is started again."""

    async def retire(self) -> None:
        """Its module runs no more, also one that is being started."""


class ModuleTarget:
    """The module of an instance: started in a worker of its own, swapped between two events, watched."""

    crosses_restart = False

    def __init__(self, name: str, modules: Modules, services: Services, hooks: Hooks) -> None:
        self._name, self._modules, self._services, self._hooks = name, modules, services, hooks
        self._candidate: Worker | None = None  # loaded, not fed
        self._on_trial: Worker | None = None  # fed, not confirmed

    @property
    def on_trial(self) -> Worker | None:
        """The worker that is fed on trial, None outside of one."""
        return self._on_trial

    def failed(self, worker: Worker, failure: WorkerFailed) -> Verdict | None:
        """What the failure of a worker means for the trial, None where it is not the one on trial."""
        if worker is not self._on_trial:
            return None
        return Verdict(failure.reason, failure.detail, self._modules.supervisor.handled)

    # -- Target

    def verify(self, envelope: bytes) -> VerifiedManifest:
        """The manifest, if this board may install it. On the writer thread. Raises Refused."""
        return self._services.verify(envelope)

    def admit(self, verified: AnyVerified) -> None:
        """Raises Refused where the policy or another instance leaves no room for it."""
        self._hooks.admit(self._name, _module(verified))

    def why_wait(self) -> Waits | None:
        """Nothing."""
        return None

    def image_for(self, manifest: AnyManifest) -> AotImage | None:
        """The ahead-of-time image that this board can run, None where there is none."""
        return self._modules.image_for(manifest) if isinstance(manifest, Manifest) else None

    async def prepare(self, release: Release) -> None:
        """Starts a worker. Raises Refused."""
        try:
            try:
                await self._load(release)
            except WorkerFailed:
                if self._candidate is None or not self._modules.distrust_image(self._candidate):
                    raise
                await self._load(release)
        except WorkerFailed as failure:
            raise Refused(failure.reason, failure.detail) from failure

    async def _load(self, release: Release) -> None:
        self._candidate = None
        candidate = self._candidate = await self._modules.spawn(_module(release.verified), release.config)
        if candidate.spec.devices:
            await candidate.rehearse()  # the old module may have them open: `enter` starts another worker
        else:
            await candidate.start()

    async def enter(self, release: Release) -> None:
        """Hands the state over and feeds the new module. Raises Refused."""
        try:
            if self._candidate is None or not self._candidate.started:
                self._candidate = None
                self._candidate = await self._modules.spawn(_module(release.verified), release.config)
            await self._modules.swap(self._candidate)
        except WorkerFailed as failure:
            if self._candidate is not None:
                await self._modules.abandon_trial(self._candidate)
            raise Refused(failure.reason, failure.detail) from failure
        self._on_trial, self._candidate = self._candidate, None

    async def watch(self, release: Release, endured: Callable[[], None]) -> Verdict:
        """A trial lasts for its time and until the module has handled as many events as its manifest asks for."""
        supervisor, times = self._modules.supervisor, self._services.times
        module = _module(release.verified).manifest.module
        worker = self._on_trial
        await asyncio.sleep(min(times.trial_s, ENDURED_S))
        endured()
        await asyncio.sleep(max(0.0, times.trial_s - ENDURED_S))
        wanted = module.limits.trial_events
        try:
            async with asyncio.timeout(max(0.0, times.trial_max_s - times.trial_s)):
                await supervisor.until_handled(wanted)
        except TimeoutError:
            why = f"{supervisor.handled} events were handled in {times.trial_max_s:.0f} s, the manifest asks for {wanted}"
            return Verdict(Reason.TRIAL_SILENT, why, supervisor.handled)
        illness = await supervisor.check()
        if worker is None or not worker.alive:  # reported before, if it was fed
            return Verdict(Reason.CRASHED, "the worker ended during the trial", supervisor.handled)
        if illness is not None:
            return Verdict(Reason.UNHEALTHY, illness, supervisor.handled)
        untried = not supervisor.handled and module.capabilities.filters("subscribe")
        return Verdict(None, NO_EVENT if untried else "", supervisor.handled)

    def is_on_trial(self, update: Update) -> bool:
        """Never asked: a module's trial begins again."""
        raise AssertionError(f"the trial of {update.manifest.hex()} began again")

    def after_restart(self, update: Update) -> Verdict | None:
        """Never asked, likewise."""
        raise AssertionError(f"the trial of {update.manifest.hex()} began again")

    def confirmed(self) -> None:
        """Stops the module that ran before."""
        self._on_trial = None
        self._modules.confirmed()

    async def roll_back(self) -> None:
        """Feeds the module that ran before; it was never stopped."""
        worker, self._on_trial = self._on_trial, None
        if worker is None:
            self.discard()  # the new module was never fed: what ran before still does
            return
        await self._modules.supervisor.roll_back(worker)
        await self._modules.abandon_trial(worker)

    def discard(self) -> None:
        """Ends a worker that was started and not fed."""
        if self._candidate is not None:
            self._candidate.kill()
            self._candidate = None

    def run_confirmed(self) -> None:
        """Forgets the confirmed module's failures, and runs it if another runs."""
        self._modules.run_confirmed()

    async def leave(self) -> None:
        """Stops the module, between two events; what comes for it waits."""
        await self._modules.leave()

    async def retire(self) -> None:
        """Stops the module, between two events."""
        self._on_trial = None
        await self._modules.retire()
        self._hooks.confirmed(self._name)

    def ended(self) -> None:
        """Runs the best module there is."""
        self._services.spawn_supervised(self._modules.run_best())


def _module(verified: AnyVerified) -> VerifiedManifest:
    """What `ModuleTarget.verify` has given the runner comes back from it."""
    assert isinstance(verified.manifest, Manifest), "it verifies modules alone"
    return cast(VerifiedManifest, verified)

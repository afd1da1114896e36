"""The agent itself as a thing that is updated: unpacked beside this one, started in its place, confirmed by itself.

The trial crosses a restart. This agent leaves what it expects and ends; the launcher starts the new one, which finds the update on
trial in the journal, goes on with it, and confirms itself when all runs again that ran before, and the broker has acknowledged its
report if the board was online. If it does not, the launcher ends it and starts this one again, which finds the update and says why.
The launcher's pointer is the truth, the database follows: the trial is passed there first.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

from device_agent.instance.gate import Waits
from device_agent.instance.services import Services
from device_agent.instance.targets import Release, Verdict
from device_agent.instance.updates import Update
from device_agent.node.config import Config, load
from device_agent.node.launcher import Expectation, Launcher, host
from device_agent.storage import floors, schema
from ota.errors import OtaError
from ota.formats import manifest as manifests
from ota.formats.agent import NAME, AgentDescription, AgentManifest, check_schema
from ota.formats.manifest import Acceptance, AnyManifest, AnyVerified, AotImage, VerifiedAgent
from ota.formats.reasons import Reason, Refused
from ota.formats.trust import Root

__all__ = ["AgentTarget", "Board"]

LOOK_S = 0.1
ACKNOWLEDGED_S = 30.0
WAITED, LINK = "it waited for ", "a connection to the broker"
WITHOUT_LINK = WAITED + LINK  # what an agent says last that lacked nothing else; agents before and after this one read it
TIMED_OUT = "it did not confirm itself"  # the launcher's words
LINK_TRIES = 3
"""Trials of one update that lacked nothing but the link: that may have gone for reasons of its own, but hardly so often."""
UNMANAGED = "this agent was not started by a launcher: it is updated as it was installed"


class Board(Protocol):
    """What the agent's update needs of the rest of the agent (device_agent.node.node)."""

    @property
    def root(self) -> Root:
        """In force now."""

    @property
    def classes(self) -> Collection[str]:
        """What the board's classes are called."""

    @property
    def running(self) -> frozenset[str]:
        """The instances whose modules run."""

    def steady(self, config: Config) -> frozenset[str]:
        """Those of them whose modules have not failed lately, others may stop at any moment, and run by these settings, too."""

    @property
    def online(self) -> bool:
        """Whether there is a connection to the broker."""

    @property
    def expects_link(self) -> bool:
        """Whether there was one since this agent started, or it has not yet tried for as long as a new agent may."""

    async def report_acknowledged(self) -> bool:
        """Publishes the board's report; whether the broker has acknowledged it."""

    def hand_over(self) -> None:
        """Stops in good order, and lets the launcher start what is to run then."""


@dataclass
class AgentTarget:
    """`device_agent.instance.targets.Target` of the instance "agent"."""

    launcher: Launcher | None
    board: Board
    services: Services
    trial_s: float  # the longest time that a new agent has to confirm itself

    crosses_restart = True

    # -- before the download

    def verify(self, envelope: bytes) -> VerifiedAgent:
        """The manifest, if this board may install it. On the writer thread. Raises Refused."""
        self._launcher()
        root, store, ours = self.board.root, self.services.store, host()
        vendor, keys = manifests.vendor_id(root.vendor), root.roles["release"].keys
        sequence, epoch = (store.floor(name + f"@{NAME}", keys).value for name in (floors.SEQUENCE, floors.EPOCH))
        names = self.board.classes
        acceptance = Acceptance(vendor, ours.classes(vendor, names), sequence, epoch, (*names, ours.text))
        verified = manifests.verify_agent(envelope, root, acceptance)
        check_schema(verified.manifest.agent, schema.SCHEMA, schema.READABLE_BY)
        return verified

    def admit(self, verified: AnyVerified) -> None:
        """There is always room beside modules; the disk is looked at when it is unpacked."""

    def image_for(self, manifest: AnyManifest) -> AotImage | None:
        """It has none."""
        return None

    def why_wait(self) -> Waits | None:
        """Both agents need settings to start with, or none would run. And a new agent is judged by the link, so a board that has
        lost its own, or was just started, waits until it is there.

        One that had none for as long as a new agent may take does not: its agent may be what keeps it from one.
        """
        try:
            self._settings()
        except Refused as error:
            return Waits(error.reason, f"waits: {error.detail}")
        if self.board.expects_link and not self.board.online:
            return Waits(Reason.LINK_AWAITED, "waits for a connection to the broker, which the new agent has to reach, too")
        return None

    # -- beside this one

    async def prepare(self, release: Release) -> None:
        """Unpacks the tarball. Raises Refused."""
        launcher, manifest = self._launcher(), _agent(release)
        self.services.check_signers(release.verified)
        store = self.services.store
        await self.services.on_writer(store.blob, manifest.digest)  # its digest is checked
        agent = manifest.agent
        about = await launcher.prepare(store.blob_path(manifest.digest), agent.version, agent.unpacked_bytes)
        check_about(about, agent)

    async def enter(self, release: Release) -> None:
        """Leaves what is expected of the new agent, and hands over. Raises Refused, with this agent going on."""
        launcher, board = self._launcher(), self.board
        name = _agent(release).agent.version
        try:
            await launcher.warm(name, self.trial_s)
            steady = board.steady(self._settings())
            expected = Expectation(release.verified.envelope_digest, name, launcher.running, steady, board.expects_link)
            await launcher.begin(expected, self.trial_s)
        except BaseException:
            launcher.cool()
            raise
        board.hand_over()

    def discard(self) -> None:
        """What is unpacked stays until the next one is: the launcher starts only what it is pointed at."""

    # -- on trial

    async def watch(self, release: Release, endured: Callable[[], None]) -> Verdict:
        """Returns when this agent has confirmed itself. When it cannot, the launcher ends it; in the old one, this process ends."""
        launcher, expected = self._launcher(), self._launcher().expectation
        if launcher.running != _agent(release).agent.version or expected is None:
            await asyncio.Event().wait()
        assert expected is not None, "it was waited for ever otherwise"
        if not launcher.is_confirmed:
            await self._until_good(launcher, expected)
            await self.services.on_writer(launcher.passed)
            launcher.say("it works, and waits for the launcher to confirm it")
            while not launcher.is_confirmed:
                await asyncio.sleep(LOOK_S)
        return Verdict()

    async def _until_good(self, launcher: Launcher, expected: Expectation) -> None:
        """Everything has to hold for as long as a module's trial lasts, and the report to be acknowledged after that."""
        loop = asyncio.get_running_loop()
        since, said = loop.time(), ""
        while True:
            missing = self._missing(expected)
            if missing:
                since = loop.time()
            elif loop.time() - since >= self.services.times.trial_s:
                if not expected.online or await self._acknowledged():
                    return
                missing = "the broker has not acknowledged its report"
            if missing != said:
                said = missing
                await self.services.on_writer(launcher.say, missing or "all runs; it waits for its trial to last")
            await asyncio.sleep(LOOK_S)

    def _missing(self, expected: Expectation) -> str:
        """What is not as it was before, "" when all is."""
        missing = sorted(expected.instances - self.board.running)
        waits = [f"{', '.join(missing)} to run again"] if missing else []
        if expected.online and not self.board.online:
            waits.append(LINK)
        return f"{WAITED}{' and '.join(waits)}" if waits else ""

    async def _acknowledged(self) -> bool:
        try:
            async with asyncio.timeout(ACKNOWLEDGED_S):
                return await self.board.report_acknowledged()
        except TimeoutError:
            return False

    def is_on_trial(self, update: Update) -> bool:
        """Whether this process is the agent that the update brought."""
        launcher = self.launcher
        expected = launcher.expectation if launcher is not None else None
        if launcher is None or expected is None or (expected.manifest, expected.name) != (update.manifest, launcher.running):
            return False
        return launcher.is_on_trial or launcher.is_confirmed

    def after_restart(self, update: Update) -> Verdict | None:
        """How the trial of another agent ended; None if it is to begin again: it never began, the power was cut in its middle, or
        it lacked the link alone.
        """
        launcher = self.launcher
        expected = launcher.expectation if launcher is not None else None
        if launcher is None or expected is None or expected.manifest != update.manifest:
            return None
        if launcher.running not in (expected.before, expected.name) and not launcher.stepped_down:
            return Verdict(Reason.AGENT_FAILED, f"{launcher.running} was flashed meanwhile")
        why = launcher.failure(expected.name)
        if why.startswith(TIMED_OUT) and why.endswith(WITHOUT_LINK) and update.resumptions + 1 < LINK_TRIES:
            return None
        return Verdict(Reason.AGENT_FAILED, f"{expected.name}: {why}; {launcher.running} runs again") if why else None

    # -- afterwards

    def confirmed(self) -> None:
        """The launcher knows already."""

    async def roll_back(self) -> None:
        """The launcher has done it, or this agent was never left."""

    def run_confirmed(self) -> None:
        """Which agent runs is the launcher's to say."""

    async def leave(self) -> None:
        """It is no member of a set."""

    async def retire(self) -> None:
        """An agent goes on without an entry."""

    def ended(self) -> None:
        """There is always one that runs."""

    def _settings(self) -> Config:
        """What the next agent starts with, and this one if it comes back: the file may have been changed since this one started."""
        try:
            return load(self._launcher().config)
        except OtaError as error:
            raise Refused(Reason.SETTINGS_INVALID, f"no agent would start with its settings: {error}") from error

    def _launcher(self) -> Launcher:
        if self.launcher is None:
            raise Refused(Reason.LAUNCHER_MISSING, UNMANAGED)
        return self.launcher


def _agent(release: Release) -> AgentManifest:
    """What `verify` has given the runner comes back from it."""
    manifest = release.verified.manifest
    assert isinstance(manifest, AgentManifest), "it verifies agents alone"
    return manifest


def check_about(about: dict[str, Any], signed: AgentDescription) -> None:
    """Whether a tarball is what its manifest says. Raises Refused AGENT_INVALID."""
    wanted = {
        "version": signed.version,
        "architecture": signed.platform.architecture,
        "python": signed.platform.python,
        "libc": signed.platform.libc,
        "schema": signed.schema,
        "reads": signed.reads,
        "readable_by": signed.readable_by,
    }
    for name, value in wanted.items():
        if about.get(name) != value:
            raise Refused(Reason.AGENT_INVALID, f"the tarball says {name} {about.get(name)!r}, its manifest {value!r}")

"""The instance "agent": this agent itself, as a thing that is updated and reported."""

import contextlib
from collections.abc import Callable

from device_agent.instance.runner import Runner
from device_agent.instance.services import Hooks, InstancePolicy, Services
from device_agent.instance.snapshot import Needs, Snapshot, attempt_of
from device_agent.instance.states import Event, Phase
from device_agent.instance.updates import Update
from device_agent.node.agent_target import AgentTarget, Board
from device_agent.node.launcher import Launcher
from device_agent.node.version import agent_version
from ota.formats import suit
from ota.formats.agent import AgentManifest
from ota.formats.module import ModuleDescription
from ota.formats.profile import MANIFEST_LIMIT_BYTES
from ota.formats.reasons import Refused
from ota.formats.report import Running

__all__ = ["OwnAgent", "own_agent"]


class OwnAgent:
    """`device_agent.node.kinds.Updated` of the agent itself."""

    modules: tuple[ModuleDescription, ...] = ()

    def __init__(self, name: str, target: AgentTarget, hooks: Hooks, update: Update) -> None:
        """`update`: that its journal ends with."""
        self.name, self._target, self._services = name, target, target.services
        self.runner = Runner(name, target.services, hooks, target, update)

    @property
    def update(self) -> Update:
        """The update under way, or the last one."""
        return self.runner.update

    def post(self, event: Event) -> None:
        """Something that concerns the update."""
        self.runner.post(event)

    async def start(self) -> None:
        """Takes updates from now on."""
        self._services.spawn_supervised(self.runner.run())

    async def suspend(self) -> None:
        """Before the agent stops."""
        await self.runner.suspend()

    def snapshot(self) -> Snapshot:
        """For the report."""
        return Snapshot(self.name, self._running(), attempt_of(self.runner, 0))

    def _running(self) -> Running:
        """By the launcher's word. The manifest is that of the last update, if this is the agent that it brought."""
        update, launcher = self.update, self._target.launcher
        on_trial = update.phase is Phase.TRIAL and self._target.is_on_trial(update)
        confirmed = update.phase is Phase.CONFIRMED and bool(update.manifest) and self._target.is_on_trial(update)
        manifest = update.manifest if on_trial or confirmed else b""
        slot = "trial" if on_trial else "confirmed" if launcher is not None and launcher.is_confirmed else "factory"
        return Running(self.name, agent_version(), manifest, slot=slot)

    def needs(self, *, crowded: bool) -> Needs:
        """The tarball of its update, as `Update.keeps_parts` has it; none once it is confirmed. On the writer thread."""
        store, update = self._services.store, self.update
        manifests = {slot.envelope for slot in store.slots(self.name).values()} | {update.manifest}
        blobs = set[bytes]()
        if update.keeps_parts(crowded=crowded) and (envelope := store.envelope(update.manifest)):
            with contextlib.suppress(Refused):  # a damaged one is fetched again
                blobs.add(AgentManifest.from_envelope(suit.Envelope.from_bytes(envelope, MANIFEST_LIMIT_BYTES)).digest)
        return Needs(frozenset(manifests), frozenset(), frozenset(blobs))


def own_agent(
    board: Board, launcher: Launcher | None, trial_s: float
) -> Callable[[str, InstancePolicy, Services, Hooks, Update], OwnAgent]:
    """How the instance is made (`device_agent.node.kinds.Kind`). `trial_s`: the longest time for a new agent to confirm itself."""

    def make(name: str, _: InstancePolicy, services: Services, hooks: Hooks, update: Update) -> OwnAgent:
        return OwnAgent(name, AgentTarget(launcher, board, services, trial_s), hooks, update)

    return make

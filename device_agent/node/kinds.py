"""The kinds of things that can be updated: one row each. What an instance is follows from its name alone."""

from collections.abc import Callable, Mapping
from typing import Protocol

from device_agent.instance.instance import Instance
from device_agent.instance.runner import Runner
from device_agent.instance.services import Hooks, InstancePolicy, Services
from device_agent.instance.snapshot import Needs, Snapshot
from device_agent.instance.states import Event
from device_agent.instance.updates import Update
from device_agent.node.agent_target import Board
from device_agent.node.launcher import Launcher
from device_agent.node.own_agent import own_agent
from ota.formats.deployment import AGENT
from ota.formats.module import ModuleDescription
from ota.formats.reasons import Reason, Refused

__all__ = ["MODULE", "Kind", "Updated", "kind_of", "kinds"]

MODULE = "module"


class Updated(Protocol):
    """One thing that can be updated, as the node knows it."""

    @property
    def name(self) -> str:
        """Of the instance."""

    @property
    def runner(self) -> Runner:
        """What drives its update."""

    @property
    def update(self) -> Update:
        """The update under way, or the last one."""

    @property
    def modules(self) -> tuple[ModuleDescription, ...]:
        """The modules that it runs, is to run again, or is about to run."""

    def post(self, event: Event) -> None:
        """Something that concerns the update."""

    async def start(self) -> None:
        """Runs what is there, and takes events and updates from now on."""

    async def suspend(self) -> None:
        """Before the agent stops."""

    def snapshot(self) -> Snapshot:
        """For the report."""

    def needs(self, *, crowded: bool) -> Needs:
        """What of the disk may not be deleted; `crowded`: where that is nearly full. On the writer thread."""


Kind = Callable[[str, InstancePolicy, Services, Hooks, Update], Updated]


def kind_of(name: str, kinds: Mapping[str, Kind]) -> Kind:
    """How an instance of this name is made. Raises Refused INSTANCE_RESERVED for a name that stands for what can't be updated."""
    kind = kinds.get(AGENT if name == AGENT else MODULE)
    if kind is None:
        raise Refused(Reason.INSTANCE_RESERVED, f"instance {name} is the agent itself, which this board does not update")
    return kind


def kinds(board: Board, launcher: Launcher | None, agent_trial_s: float) -> Mapping[str, Kind]:
    """The table."""
    return {MODULE: Instance, AGENT: own_agent(board, launcher, agent_trial_s)}

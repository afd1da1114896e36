"""The instances of a board: those that its owner knows, those that its disk has, and those that deployments name."""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from device_agent.broker.inbox import Inbox
from device_agent.instance import slots
from device_agent.instance.instance import Instance
from device_agent.instance.runner import Runner
from device_agent.instance.services import Hooks, Services
from device_agent.instance.states import Phase
from device_agent.instance.updates import Update
from device_agent.node.admission import Modules, check_room, devices_of
from device_agent.node.config import Config
from device_agent.node.kinds import Kind, Updated, kind_of
from device_agent.storage.messages import BusMessage
from ota.formats.deployment import AGENT, Entry
from ota.formats.manifest import VerifiedManifest
from ota.formats.module import ModuleDescription
from ota.formats.reasons import Reason, Refused

__all__ = ["Instances", "Post"]


GIVE_UP_S = 10.0  # for a worker of a set that goes back to end


class Post(Protocol):
    """Who brings events to instances (device_agent.broker.router)."""

    def add(self, inbox: Inbox) -> None:
        """There is an instance."""

    def remove(self, name: str) -> None:
        """It is gone."""


class Instances:
    """All of them, by name."""

    def __init__(self, config: Config, services: Services, hooks: Hooks, post: Post, kinds: Mapping[str, Kind]) -> None:
        self._config, self._services, self._hooks, self._post, self._kinds = config, services, hooks, post, kinds
        self._there: dict[str, Updated] = {}
        self._past: dict[str, Update] = {}  # the last updates of those that are not there
        self._admitted: dict[str, ModuleDescription] = {}  # that have a place, and whose updates have not ended
        self.problems: dict[Reason, str] = {}  # what runs beyond the policy, which has become narrower
        self._started = False
        self._starting: set[asyncio.Task[None]] = set()

    async def restore(self) -> None:
        """Makes those that the configuration and the disk know; `start` starts them."""
        store, on_writer = self._services.store, self._services.on_writer
        self._past = await on_writer(store.last_updates)
        for name in sorted({*self._config.instances, *await on_writer(store.instances)}):
            self.open(name)
            module = self.module(name)
            if module is not None:
                await module.expect()
        self.look_at_room()

    def start(self, why_lapsed: Callable[[str, Update], Refused | None]) -> None:
        """Starts all, none waiting for another, and goes on with their updates. `why_lapsed`: why one is not wanted any more."""
        self._started = True
        self._starting = {self._services.spawn_supervised(self._begin(each, why_lapsed)) for each in self.all()}

    async def until_started(self, timeout_s: float) -> None:
        """Returns when all that `start` began with run, or do not start, or the time is over."""
        starting, self._starting = self._starting, set()
        if starting:
            await asyncio.wait(starting, timeout=timeout_s)

    async def _begin(self, instance: Updated, why_lapsed: Callable[[str, Update], Refused | None]) -> None:
        await instance.start()
        await instance.runner.resume(why_lapsed(instance.name, instance.update))

    async def suspend(self) -> None:
        """Before the agent stops."""
        await asyncio.gather(*(each.suspend() for each in self.all()))

    # -- which there are

    def all(self) -> tuple[Updated, ...]:
        """All that are there."""
        return tuple(self._there.values())

    def names(self) -> Iterable[str]:
        """Of those that are there."""
        return tuple(self._there)

    def runners(self) -> dict[str, Runner]:
        """What drives their updates, by name."""
        return {name: each.runner for name, each in self._there.items()}

    def find(self, name: str) -> Updated | None:
        """The one of a name, None where there is none."""
        return self._there.get(name)

    def module(self, name: str) -> Instance | None:
        """The same, if it runs modules."""
        found = self._there.get(name)
        return found if isinstance(found, Instance) else None

    def open(self, name: str) -> Updated:
        """The same; it is made where there is none. Raises Refused INSTANCE_RESERVED."""
        found = self._there.get(name)
        if found is not None:
            return found
        kind = kind_of(name, self._kinds)
        made = kind(name, self._config.policy(name), self._services, self._hooks, self._past.pop(name, Update()))
        self._there[name] = made
        if isinstance(made, Instance):
            self._post.add(made)
        if self._started:
            self._services.spawn_supervised(made.start())
        return made

    def prune(self, wanted: Collection[str]) -> None:
        """Forgets those that have nothing, and that neither the board's owner nor a deployment names."""
        for name in set(self._there) - set(wanted) - set(self._config.instances):
            instance = self.module(name)
            if instance is not None and instance.empty:
                del self._there[name]
                self._past[name] = instance.update
                self._post.remove(name)
                instance.clear()  # what others have said to it is not for the next of its name
                instance.close()

    # -- what they share

    def admit(self, name: str, verified: VerifiedManifest, entry: Entry | None) -> None:
        """Keeps a place for a module until its update ends, if there is room by the policy of its instance and of the board.

        Of its set, if `entry` has one, only what is to run counts, not what runs yet: they change all at once or not at all.
        Raises Refused.
        """
        module = verified.manifest.module
        slots.check_policy(name, module, self._config.policy(name))
        others = {
            each.name: list(each.modules)
            for each in self.all()
            if each.name != AGENT and not _leaves(each.update, entry, each.name)
        }
        for other, admitted in self._admitted.items():
            others.setdefault(other, []).append(admitted)
        self._check_room(name, module, others)
        self._admitted[name] = module

    def _check_room(self, name: str, module: ModuleDescription, others: Modules) -> None:
        check_room(
            name,
            module,
            others,
            {source: each.devices for source, each in self._config.sources.items()},
            self._config.instances_max,
            self._config.memory_bytes,
        )

    def steady(self, config: Config) -> frozenset[str]:
        """Those whose modules run and have not failed lately, and may run by these settings."""
        found = set[str]()
        for each in self._there.values():
            if isinstance(each, Instance) and each.steady and each.runs is not None:
                with contextlib.suppress(Refused):
                    slots.check_policy(each.name, each.runs, config.policy(each.name))
                    found.add(each.name)
        return frozenset(found)

    def takes(self, names: Collection[str]) -> Mapping[str, frozenset[str]]:
        """For each of these, the others of them whose devices its update is to have."""
        there = [each for each in (self.module(name) for name in names) if each is not None]
        holds = {each.name: devices_of(each.runs) for each in there if each.runs is not None}
        wanted = {each.name: devices_of(each.wanted) for each in there if each.wanted is not None}
        return {
            name: frozenset(other for other, held in holds.items() if other != name and held & devices)
            for name, devices in wanted.items()
        }

    async def until_free(self, name: str, devices: frozenset[str]) -> None:
        """Returns when no worker of another instance has one of these devices open, or has not given it up in time."""
        others = [each for each in (self.module(other) for other in self._there if other != name) if each is not None]
        holders = [worker for each in others for worker in each.workers if worker.spec.devices & devices]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GIVE_UP_S):
                for each in holders:
                    await each.ended()

    def look_at_room(self) -> None:
        """Notes whether what is there already would find room by the policy of now. It is not stopped: none of it is at fault."""
        self.problems.clear()
        there = {each.name: each.modules for each in self.all() if each.modules}
        for name, modules in there.items():
            try:
                self._check_room(name, modules[0], there)
            except Refused as error:
                self.problems.setdefault(error.reason, f"{error.reason.value}: {error.detail}: what runs already goes on")

    def ended(self, name: str) -> bool:
        """The update of an instance has ended, or another begins in its place. Whether there was a place kept for it."""
        return self._admitted.pop(name, None) is not None

    def waiting(self, now_s: float) -> list[BusMessage]:
        """Events that are in memory only, and those behind them, for the bus to keep."""
        modules = [each for each in self._there.values() if isinstance(each, Instance)]
        return [
            BusMessage(event.bus_number, now_s, event.sender, each.name, event.topic, event.payload, event.hops, event.reply_to)
            for each in modules
            for event in each.supervisor.unsaved
        ]

    def collect(self, *, crowded: bool) -> frozenset[tuple[str, bytes]]:
        """Deletes what none of them needs; returns the releases that are left, by instance. On the writer thread.

        `crowded`: the disk is nearly full, so what was fetched for updates that failed is deleted, too.
        """
        needs = [each.needs(crowded=crowded) for each in self.all()]
        manifests = frozenset().union(*(each.manifests for each in needs))
        releases = frozenset().union(*(each.releases for each in needs))
        self._services.store.collect(manifests, releases, frozenset().union(*(each.blobs for each in needs)))
        return releases


def _leaves(update: Update, entry: Entry | None, name: str) -> bool:
    """Whether what an instance runs yet goes with the set of an entry, unless it is what the set wants already."""
    if entry is None or name not in entry.together:
        return False
    return update.deployment != entry.deployment_id or update.phase is not Phase.CONFIRMED

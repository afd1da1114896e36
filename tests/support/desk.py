"""Desired, with a writer that waits until it is let go, and instances that keep what is posted to them."""

import asyncio
from collections import Counter
from types import SimpleNamespace

from device_agent.desired.desired import Desired, Setting
from device_agent.desired.roots import Start
from device_agent.desired.trust import Trust
from device_agent.instance.updates import Update
from device_agent.storage.store import Store
from ota.formats import topics, trust
from ota.formats.deployment import AGENT
from ota.formats.reasons import Reason, Refused
from tests.support.signing import INSTANCE, NOW_S, Signer


class Place:
    """An instance as far as Desired knows it: what is posted to it is kept."""

    def __init__(self, posted: list) -> None:
        self.update, self._posted = Update(), posted

    def post(self, event) -> None:
        self._posted.append(event)


class Places:
    """The instances that there are, by name; others are made when they are asked for."""

    def __init__(self) -> None:
        self.posted: dict[str, list] = {}
        self.there: dict[str, Place] = {}

    def names(self):
        return tuple(self.there)

    def find(self, name):
        return self.there.get(name)

    def open(self, name):
        if name == AGENT:
            raise Refused(Reason.INSTANCE_RESERVED, "the agent itself")
        return self.there.setdefault(name, Place(self.posted.setdefault(name, [])))

    def prune(self, wanted):
        pass


class Desk:
    """Desired whose writer waits until it is let go, and instances that keep what is posted to them."""

    def __init__(self, signer: Signer, folder) -> None:
        self.go = asyncio.Event()
        self.store = Store(folder)
        self.places, self.counters, self.now_s, self.floor_s = Places(), Counter(), NOW_S, 0
        self.tasks = []
        root = trust.first_root(signer.root_document())
        services = SimpleNamespace(
            store=self.store,
            on_writer=self.write,
            spawn_supervised=self.spawn_supervised,
            now_s=lambda: self.now_s,
            floor_s=lambda: self.floor_s,
            times=SimpleNamespace(forget_s=3600.0),
        )
        self.trust = Trust(Start(root), self.store, "generic")
        setting = Setting("board", "lab", 60)
        self.desired = Desired(setting, services, self.trust, None, self.places, lambda: None, self.count)
        self.runner = self.places.open(INSTANCE)

    def count(self, name: str) -> None:
        self.counters[name] += 1

    @property
    def posted(self) -> list:
        return self.places.posted[INSTANCE]

    @property
    def refusal(self) -> Reason | None:
        """Of the group's document, or of its entry."""
        if (document := self.desired.refusals.get("group")) is not None:
            return Reason(document.reason)
        entry = self.desired.refused.get(INSTANCE)
        return entry.refused.reason if entry is not None else None

    async def write(self, function, *values):
        await self.go.wait()
        return function(*values)

    def spawn_supervised(self, work) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    def wants(self, document: bytes, topic: str = topics.desired("lab")) -> None:
        self.desired.received(topic, document)

    async def rest(self) -> None:
        self.go.set()
        while self.tasks:
            await self.tasks.pop()

    async def takes(self, document: bytes, topic: str = topics.desired("lab")) -> list[object]:
        """What is posted to the instance for a document."""
        for posted in self.places.posted.values():
            posted.clear()
        self.wants(document, topic)
        await self.rest()
        return self.posted


def id_of(deployment) -> bytes:
    return deployment.entries[INSTANCE].deployment_id


def under_way(deployment, phase) -> Update:
    entry = deployment.entries[INSTANCE]
    return Update(phase, entry.deployment_id, entry.manifest_digest, number=3)


def offers(desk: Desk) -> dict[str, list[bytes]]:
    """The manifests that were offered, by instance."""
    return {name: [each.manifest for each in posted] for name, posted in desk.places.posted.items() if posted}


def digest(letter: str) -> bytes:
    return letter.encode() * 32

"""Follows the chain of root documents, one by one, however long the board was away: each is stored before the next is asked for.

One document is looked at at a time, and the last one that came meanwhile waits; so a broker that sends without end costs no memory.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from device_agent.desired.acceptance import NO_ROOM
from device_agent.desired.trust import Trust
from device_agent.instance.services import Services
from ota.formats import topics, trust
from ota.formats.reasons import Refused

__all__ = ["ROOTS_A_SESSION", "Documents", "RootWalk"]

ROOTS_A_SESSION = 256
"""Then it goes on after a pause: the chain of a hostile root's owner has no end (TUF 1.0.33, section 5.3.2)."""
logger = logging.getLogger(__name__)


class Documents(Protocol):
    """What brings documents (device_agent.broker.link)."""

    def subscribe(self, topic: str) -> None:
        """From now on."""

    def unsubscribe(self, topic: str) -> None:
        """No more."""


class RootWalk:
    """Changes the root in force. `adopted` is called after each change, `refused` with the number and why."""

    def __init__(
        self,
        services: Services,
        held: Trust,
        link: Documents | None,
        retry_s: float,
        adopted: Callable[[], None],
        refused: Callable[[int, Refused], None],
    ) -> None:
        self._services, self._held, self._link, self._retry_s = services, held, link, retry_s
        self._adopted, self._refused = adopted, refused
        self._waiting: tuple[int, bytes] | None = None  # number and document
        self._busy = False
        self._step = asyncio.Lock()
        self._followed = 0  # in this session

    @property
    def _next(self) -> int:
        return self._held.root.number + 1

    def start(self) -> None:
        """Asks for the next root from now on."""
        self._followed = 0
        if self._link is not None:
            self._link.subscribe(topics.root(self._next))

    def received(self, topic: str, document: bytes) -> bool:
        """Takes a message that is the next root; False for another."""
        if topic != topics.root(self._next):
            return False
        self._waiting = self._next, document
        if not self._busy:
            self._busy = True
            self._services.spawn_supervised(self._follow())
        return True

    async def add(self, document: bytes) -> None:
        """Takes a root that came otherwise than asked for; it is in force when this returns. Raises Refused."""
        async with self._step:
            await self._take(document)

    async def _follow(self) -> None:
        try:
            await self._follow_all()
        finally:  # whatever ended it, the next one is followed
            self._busy = False

    async def _follow_all(self) -> None:
        while self._waiting is not None:
            (number, document), self._waiting = self._waiting, None
            async with self._step:
                if number != self._next:
                    continue
                try:
                    await self._take(document)
                except Refused as error:
                    self._refused(number, error)
                    if error.reason in NO_ROOM:
                        asyncio.get_running_loop().call_later(self._retry_s, self.received, topics.root(number), document)

    async def _take(self, document: bytes) -> None:
        number, root = self._next, trust.next_root(self._held.root, document)
        release, deploy = root.roles["release"].key_ids, root.roles["deploy"].key_ids
        await self._services.on_writer(self._services.store.follow_root, number, document, release, deploy)
        self._held.root = root
        self._held.problems.pop(number, None)
        for key in root.unusable:
            logger.warning("root %d has a key that this agent can't use: %s", number, key)
        self._ask_for_more(number)
        self._adopted()

    def _ask_for_more(self, number: int) -> None:
        if self._link is None:
            return
        self._link.unsubscribe(topics.root(number))
        self._followed += 1
        if self._followed < ROOTS_A_SESSION:
            self._link.subscribe(topics.root(number + 1))
            return
        logger.warning("%d roots followed: the next one in %.0f s", self._followed, self._retry_s)
        asyncio.get_running_loop().call_later(self._retry_s, self.start)

"""Fetches again, by digest, what a slot names and the disk has lost. What was confirmed once needs no new signature check."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from device_agent.desired.fetch import Fetcher
from device_agent.instance import slots
from device_agent.storage.store import Store
from ota.formats.reasons import Refused

RETRY_GROWTH = 60
"""What nobody has any more is asked for ever later, at last after so many times `retry_s`."""
logger = logging.getLogger(__name__)


class Repair:
    """Has a fetcher of its own, beside those of updates. `mended` is called with instance and slot of what is whole again."""

    def __init__(
        self,
        fetcher: Fetcher,
        store: Store,
        on_writer: Callable[..., Awaitable[Any]],
        retry_s: float,
        mended: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._fetcher = fetcher
        self._store, self._on_writer, self._retry_s, self._mended = store, on_writer, retry_s, mended
        self._wanted: set[tuple[str, str]] = set()
        self._wait_s = retry_s
        self._wake = asyncio.Event()

    def want(self, instance: str, slot: str) -> None:
        """The module of a slot can't be used: its manifest or its blob is missing or damaged."""
        if (instance, slot) not in self._wanted:
            self._wanted.add((instance, slot))
            self.poke()

    def poke(self) -> None:
        """What could not be had may be there by now: the link is up again, or something else is lost, too."""
        self._wait_s = self._retry_s
        self._wake.set()

    async def run(self) -> None:
        """The task that fetches; what could not be had again after `retry_s` seconds, and then ever later."""
        while True:
            try:
                async with asyncio.timeout(
                    self._wait_s if self._wanted else None
                ):  # not wait_for, see device_agent.broker.connection
                    await self._wake.wait()
            except TimeoutError:
                self._wait_s = min(2 * self._wait_s, RETRY_GROWTH * self._retry_s)
            await self._fetch_all()
            self._wake.clear()  # what is damaged again at once has its time, too

    async def _fetch_all(self) -> None:
        """Each once, also what is found to be lost while others are fetched."""
        tried: set[tuple[str, str]] = set()
        while left := self._wanted - tried:
            wanted = min(left)
            tried.add(wanted)
            if await self._fetch(*wanted):
                self._wanted.discard(wanted)
                await self._mended(*wanted)

    async def _fetch(self, instance: str, name: str) -> bool:
        slot = (await self._on_writer(self._store.slots, instance)).get(name)
        if slot is None:
            return True
        try:
            envelope = await self._fetcher.manifest(slot.envelope)
            manifest = slots.parse(envelope)
            await self._on_writer(self._store.add_envelope, envelope)
            await self._fetcher.blob(manifest)
        except Refused as error:
            logger.warning("%s: the %s module could not be fetched again: %s", instance, name, error)
            return False
        logger.info("%s: the %s module was fetched again", instance, name)
        return True

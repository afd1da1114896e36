"""Fetches again, by digest, what a slot names and the disk has lost. What was confirmed once needs no new signature check."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from device_agent.desired.fetch import Fetcher
from device_agent.instance import slots
from device_agent.storage.store import Store
from ota.formats.reasons import Refused

logger = logging.getLogger(__name__)


class Repair:
    """Has a fetcher of its own, beside that of updates. `mended` is called with the name of a slot that is whole again."""

    def __init__(
        self,
        fetcher: Fetcher,
        store: Store,
        on_writer: Callable[..., Awaitable[Any]],
        retry_s: float,
        mended: Callable[[str], Awaitable[None]],
    ) -> None:
        self.fetcher = fetcher
        self._store, self._on_writer, self._retry_s, self._mended = store, on_writer, retry_s, mended
        self._names: set[str] = set()
        self._wake = asyncio.Event()

    def want(self, name: str) -> None:
        """The module of a slot can't be used: its manifest or its blob is missing or damaged."""
        self._names.add(name)
        self._wake.set()

    async def run(self) -> None:
        """The task that fetches; again after `retry_s` seconds what could not be had."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            for name in sorted(self._names):
                if await self._fetch(name):
                    self._names.discard(name)
                    await self._mended(name)
            if self._names:
                await asyncio.sleep(self._retry_s)
                self._wake.set()

    async def _fetch(self, name: str) -> bool:
        slot = (await self._on_writer(self._store.slots)).get(name)
        if slot is None:
            return True
        try:
            envelope = await self.fetcher.manifest(slot.envelope)
            manifest = slots.parse(envelope)
            await self._on_writer(self._store.add_envelope, envelope)
            await self.fetcher.blob(manifest)
        except Refused as error:
            logger.warning("the %s module could not be fetched again: %s", name, error)
            return False
        logger.info("the %s module was fetched again", name)
        return True

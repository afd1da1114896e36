"""How often the modules in the slots have failed: what they did themselves, never a stop, a power cut or a fault of the board."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from device_agent.storage.store import Slot, Store
from ota.formats.reasons import Reason, Refused

START_TRIES = 3
OF_THE_BOARD = frozenset(
    (Reason.CONFINEMENT_LACKING, Reason.DEVICE_UNAVAILABLE, Reason.BLOB_DIGEST_MISMATCH, Reason.PROCESS_UNAVAILABLE)
)
"""Why a module may not start that is no fault of its own."""


class Failures:
    """Counts in memory, and on disk as far as that has room. Failures are forgotten `forget_s` seconds after the last one."""

    def __init__(
        self,
        instance: str,
        store: Store,
        on_writer: Callable[..., Awaitable[Any]],
        forget_s: float,
        now_s: Callable[[], float],
    ) -> None:
        self._instance, self._store, self._on_writer = instance, store, on_writer
        self._forget_s, self._now_s = forget_s, now_s
        self._held: dict[str, Slot] = {}

    async def count(self, name: str) -> int:
        """Of the module in a slot, since it last proved itself; 0 for an empty slot and the factory module."""
        slot = await self._slot(name)
        if slot is None:
            return 0
        if slot.failures and not 0 <= self._now_s() - slot.failed_s < self._forget_s:
            await self.forget(name)
        return self._held[name].failures

    async def add(self, name: str) -> int:
        """One more; returns how many there are."""
        return await self._set(name, await self.count(name) + 1)

    async def exhaust(self, name: str) -> None:
        """The module may not be started again until its failures are forgotten."""
        await self._set(name, START_TRIES)

    async def forget(self, name: str) -> None:
        """The module has proved itself, or is to be tried again."""
        await self._set(name, 0)

    async def _slot(self, name: str) -> Slot | None:
        slot: Slot | None = (await self._on_writer(self._store.slots, self._instance)).get(name)
        if slot is None:
            return None
        held = self._held.get(name)
        if held is None or held.release != slot.release:
            held = self._held[name] = slot
        return held

    async def _set(self, name: str, failures: int) -> int:
        slot = await self._slot(name)
        if slot is None:
            return 0
        if slot.failures != failures:
            slot = self._held[name] = replace(slot, failures=failures, failed_s=int(self._now_s()))
            with suppress(Refused):  # a full disk must not keep the module from running
                await self._on_writer(self._store.set_failures, self._instance, name, failures, slot.failed_s)
        return failures

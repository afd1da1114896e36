"""What modules keep: keys and a state for each version, on disk, and the keys in memory too, since every outcome changes them."""

import contextlib
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from device_agent.channel.frames import KeyWrite
from device_agent.channel.workers import ModuleSpec
from device_agent.storage.store import Store, Version
from ota.formats.reasons import Reason, Refused

__all__ = ["Kept", "version_of"]


def version_of(spec: ModuleSpec) -> Version:
    """What keys and state of this module are kept under."""
    return Version(spec.instance, spec.description.name, spec.release)


class Kept:
    """Keys and states of the versions of modules. `flush` writes the outcomes that wait; it says whether that worked."""

    def __init__(self, store: Store, on_writer: Callable[..., Awaitable[Any]], flush: Callable[[], Awaitable[bool]]) -> None:
        self._store, self._on_writer, self._flush = store, on_writer, flush
        self._keys: dict[Version, dict[str, bytes]] = {}

    async def load(self, spec: ModuleSpec) -> tuple[bytes, dict[str, bytes]]:
        """State and keys of a version that is about to run."""
        version = version_of(spec)
        with contextlib.suppress(Refused):  # a full disk: the module runs all the same
            await self._on_writer(self._store.adopt_unversioned, version)
            await self._on_writer(self._store.end_trial, version)  # one that a power cut ended
        if version not in self._keys:
            self._keys[version] = await self._on_writer(self._store.keys, version)
        return await self._on_writer(self._store.state, version), self._keys[version]

    def note(self, spec: ModuleSpec, writes: tuple[KeyWrite, ...]) -> None:
        """Follows the writes of a handled event."""
        if not writes:
            return
        keys = self._keys.setdefault(version_of(spec), {})
        for write in writes:
            if write.value is None:
                keys.pop(write.key, None)
            else:
                keys[write.key] = write.value

    async def save_state(self, spec: ModuleSpec, state: bytes) -> None:
        """Keeps a state, durably. Raises Refused DISK_FULL."""
        await self._on_writer(self._store.save_state, version_of(spec), state)

    async def begin_trial(self, new: ModuleSpec, old: Version | None, state: bytes | None) -> tuple[bytes, dict[str, bytes]]:
        """State and keys that a new version begins its trial with: those of `old`, where that is of the same module.

        `state` is what the old version has just saved, None if it could not. Raises Refused DISK_FULL.
        """
        if not await self._flush():
            raise Refused(Reason.DISK_FULL, "what the old version keeps can't be written")
        version = version_of(new)
        self._keys.pop(version, None)
        begins_with, self._keys[version] = await self._on_writer(self._begin_trial, version, old, state)
        return begins_with, self._keys[version]

    def _begin_trial(self, new: Version, old: Version | None, state: bytes | None) -> tuple[bytes, dict[str, bytes]]:
        self._store.begin_trial(new, old, state)
        return self._store.state(new), self._store.keys(new)

    async def end_trial(self, spec: ModuleSpec) -> None:
        """A version's trial has failed: it keeps what it had before that, and no event of the trial changes it any more."""
        version = version_of(spec)
        await self._flush()
        self._keys.pop(version, None)
        with contextlib.suppress(Refused):  # a full disk: it is given back when it is started, or goes on trial
            await self._on_writer(self._store.end_trial, version)
            self._keys[version] = await self._on_writer(self._store.keys, version)

    def retain(self, releases: Collection[tuple[str, bytes]]) -> None:
        """Drops from memory what is kept for other releases than these, by instance."""
        for version in list(self._keys):
            if (version.instance, version.release) not in releases:
                self._keys.pop(version, None)

"""Bundles that are at hand: files on sticks and in the inbox, read where they lie, a message at a time.

A file may become unreadable at any moment, for a stick may be pulled out. A thread of their own reads them, so that a stick that
hangs holds up nothing else.
"""

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from ota.formats.bundle import Contents, read_contents
from ota.formats.reasons import Reason, Refused

__all__ = ["OPEN_LIMIT", "Bundles", "OpenBundle"]

T = TypeVar("T")
OPEN_LIMIT = 8  # at the same time; further ones wait
logger = logging.getLogger(__name__)


class OpenBundle:
    """One file. Its methods wait for the disk."""

    def __init__(self, path: Path) -> None:
        """Opens it, and reads where its members lie. Raises Refused as `ota.formats.bundle.read_contents`, and BUNDLE_GONE."""
        self.path = path
        self.lost: Refused | None = None  # since when it can't be read
        self.damaged: set[str] = set()  # topics whose messages in it are not what they should be: the broker is asked for them
        self._file = -1
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise Refused(Reason.BUNDLE_GONE, f"{path}: {error.strerror}") from error
        try:
            try:
                found = os.fstat(self._file)
            except OSError as error:
                raise Refused(Reason.BUNDLE_GONE, f"{path}: {error.strerror}") from error
            if not stat.S_ISREG(found.st_mode):
                raise Refused(Reason.BUNDLE_INVALID, f"{path} is not a file")
            self.contents: Contents = read_contents(self._read, found.st_size)
        except BaseException:
            self.close()
            raise

    def read(self, topic: str) -> bytes | None:
        """The message of a topic; None when it is not there. Raises Refused BUNDLE_GONE when the file can't be read any more."""
        span = self.contents.find(topic)
        if span is None:
            return None
        payload = self._read(span.offset, span.size)
        if len(payload) < span.size:
            raise Refused(Reason.BUNDLE_GONE, f"{self.path} has become shorter")
        return payload

    def close(self) -> None:
        """Nothing is read any more."""
        with contextlib.suppress(OSError):
            os.close(self._file)
        self._file = -1

    def __del__(self) -> None:
        """Nobody may wait for it any more once a thread has opened it: a stick with an open file can't be unmounted."""
        self.close()

    def _read(self, offset: int, size: int) -> bytes:
        try:
            return os.pread(self._file, size, offset)
        except OSError as error:
            raise Refused(Reason.BUNDLE_GONE, f"{self.path} can't be read any more: {error.strerror}") from error


class Bundles:
    """Those that are open. `arrived` is called with each message that somebody waits for, when a bundle with it comes."""

    def __init__(self) -> None:
        self._open: list[OpenBundle] = []
        self._thread = ThreadPoolExecutor(1, "bundles")
        self.waited_for: Callable[[], list[str]] = list
        self.arrived: Callable[[str, bytes], object] = lambda topic, payload: None

    async def run(self, function: Callable[..., T], *values: object) -> T:
        """Calls a function that waits for a stick."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *values)

    async def add(self, bundle: OpenBundle) -> None:
        """From now on updates are taken out of it; what is waited for is so at once. Raises Refused BUNDLE_GONE."""
        self._open.append(bundle)
        for topic in self.waited_for():
            payload = await self.run(self._read, bundle, topic)
            if payload is not None:
                self.arrived(topic, payload)

    async def remove(self, bundle: OpenBundle) -> None:
        """Closes one."""
        if bundle in self._open:
            self._open.remove(bundle)
        await self.run(bundle.close)

    def has(self, topic: str) -> bool:
        """Whether one of them claims to have a message."""
        return bool(self._with(topic))

    async def read(self, topic: str) -> AsyncIterator[tuple[OpenBundle, bytes]]:
        """What they have as the message of a topic, one after the other: it may be damaged in one, and whole in the next."""
        for bundle in self._with(topic):
            try:
                payload = await self.run(self._read, bundle, topic)
            except Refused:
                continue
            if payload is not None:
                yield bundle, payload

    def _with(self, topic: str) -> list[OpenBundle]:
        return [each for each in self._open if topic not in each.damaged and each.contents.find(topic) is not None]

    def close(self) -> None:
        """The agent ends. A stick that hangs is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _read(bundle: OpenBundle, topic: str) -> bytes | None:
        if bundle.lost is not None:
            raise bundle.lost
        try:
            return bundle.read(topic)
        except Refused as error:
            bundle.lost = error
            logger.warning("%s: going on with what was taken out of it", error)
            raise

"""Manifests and blobs from the broker: exact topics in a small window, every piece checked on arrival and kept across restarts."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from device_agent.broker.link import Link
from device_agent.storage.store import Store
from ota.formats import topics
from ota.formats.cbor import sha256
from ota.formats.chunks import ChunkIndex
from ota.formats.manifest import MANIFEST_LIMIT_BYTES, AotImage, Manifest
from ota.formats.reasons import Reason, Refused

WINDOW = 8


class Fetcher:
    """Fetches by digest. Time only counts against a timeout while the link is up: a board may be offline for weeks in between."""

    def __init__(self, link: Link | None, store: Store, on_writer: Callable[..., Awaitable[Any]], timeout_s: float) -> None:
        self._link, self._store, self._on_writer = link, store, on_writer
        self._timeout_s = timeout_s
        self._waiting: dict[str, asyncio.Future[bytes]] = {}
        self.done_chunks = self.chunks = 0

    def received(self, topic: str, payload: bytes) -> bool:
        """Takes a message that a fetch waits for; False when none does."""
        waiting = self._waiting.get(topic)
        if waiting is None:
            return False
        if not waiting.done():
            waiting.set_result(payload)
        return True

    async def manifest(self, digest: bytes) -> bytes:
        """An envelope, from the store or the broker. Raises Refused TOO_LARGE, MANIFEST_MISSING, MANIFEST_DIGEST_MISMATCH."""
        kept: bytes | None = await self._on_writer(self._store.envelope, digest)
        if kept is not None:
            return kept
        data = await self._get(topics.manifest(digest), Reason.MANIFEST_MISSING)
        if len(data) > MANIFEST_LIMIT_BYTES:
            raise Refused(Reason.TOO_LARGE, f"the manifest is {len(data)} bytes, the limit is {MANIFEST_LIMIT_BYTES}")
        if sha256(data) != digest:
            raise Refused(
                Reason.MANIFEST_DIGEST_MISMATCH, f"the manifest is {sha256(data).hex()}, the deployment names {digest.hex()}"
            )
        return data

    async def blob(self, wanted: Manifest | AotImage) -> None:
        """Gets the chunks that are missing and makes the blob whole.

        Raises Refused INDEX_MISMATCH, CHUNK_MISSING, CHUNK_DIGEST_MISMATCH, BLOB_DIGEST_MISMATCH, DISK_FULL, MALFORMED.
        """
        self.done_chunks = self.chunks = 0
        if await self._on_writer(self._has_blob, wanted.digest):
            return
        data = await self._get(topics.blob_index(wanted.digest), Reason.CHUNK_MISSING)
        index = ChunkIndex.from_bytes(data, wanted.index_digest, wanted.digest, wanted.size)
        missing = sorted(await self._on_writer(self._store.begin_blob, index), reverse=True)
        self.chunks = len(index.digests)
        self.done_chunks = self.chunks - len(missing)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(WINDOW, len(missing))):
                    group.create_task(self._chunks(index, missing))
        except ExceptionGroup as errors:
            raise _first(errors) from None
        await self._on_writer(self._store.finish_blob, index)

    def _has_blob(self, digest: bytes) -> bool:
        try:
            self._store.blob(digest)
        except Refused:
            return False
        return True

    async def _chunks(self, index: ChunkIndex, missing: list[int]) -> None:
        while missing:
            number = missing.pop()
            chunk = await self._get(topics.blob_chunk(index.digest, number), Reason.CHUNK_MISSING)
            index.check(number, chunk)
            await self._on_writer(self._store.add_chunk, index, number, chunk)
            self.done_chunks += 1

    async def _get(self, topic: str, missing: Reason) -> bytes:
        link = self._link
        if link is None:
            raise Refused(missing, f"{topic} is not here, and no broker is configured")
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[topic] = future
        link.subscribe(topic)
        step_s, waited_s = min(1.0, self._timeout_s / 4), 0.0
        try:
            while True:
                done, _ = await asyncio.wait((future,), timeout=step_s)
                if done:
                    return future.result()
                if link.online:
                    waited_s += step_s
                    link.ask_again(topic)
                if waited_s >= self._timeout_s:
                    raise Refused(missing, f"{topic} did not arrive in {self._timeout_s} s")
        finally:
            link.unsubscribe(topic)
            del self._waiting[topic]


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """The first refusal among what went wrong; if there is none, all of it."""
    refusals = errors.subgroup(Refused)
    while refusals is not None:
        found = refusals.exceptions[0]
        if not isinstance(found, ExceptionGroup):
            return found
        refusals = found
    return errors

"""Manifests and blobs, from a bundle at hand or the broker: exact topics, every piece checked on arrival, kept across restarts."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from device_agent.broker.link import Kind, Link
from device_agent.desired.acceptance import NO_ROOM
from device_agent.desired.bundles import Bundles
from device_agent.desired.reading_keys import KeyFiles
from device_agent.desired.transfer import Pace, Part, Take, Transfer
from device_agent.storage.store import Store
from ota.formats import topics
from ota.formats.cbor import sha256
from ota.formats.chunks import DEFAULT_CHUNK_BYTES, INDEX_LIMIT_BYTES, ChunkIndex
from ota.formats.manifest import MANIFEST_LIMIT_BYTES, AnyManifest, AotImage
from ota.formats.reasons import Reason, Refused

T = TypeVar("T")
TRANSFERS = 4  # at the same time, of all instances: each has a window of its own on its way


class Transfers:
    """What all fetchers of a board share: the link, how fast it is, and what is waited for. Few transfer at the same time."""

    def __init__(
        self,
        link: Link | None,
        bundles: Bundles,
        store: Store,
        on_writer: Callable[..., Awaitable[Any]],
        timeout_s: float,
        keys: KeyFiles,
    ) -> None:
        self._link, self._bundles, self.store, self.on_writer, self.keys = link, bundles, store, on_writer, keys
        self._timeout_s = timeout_s
        self._pace = Pace()
        self._waiting: dict[str, list[Transfer]] = {}
        self._turns = asyncio.Semaphore(TRANSFERS)
        bundles.waited_for, bundles.arrived = lambda: list(self._waiting), self.received

    def fetcher(self) -> "Fetcher":
        """A fetcher that counts the chunks of one update."""
        return Fetcher(self)

    def received(self, topic: str, payload: bytes) -> bool:
        """Takes a message that a fetch waits for; False when none does."""
        waiting = self._waiting.get(topic)
        if waiting is None:
            return False
        for transfer in list(waiting):
            transfer.arrived(topic, payload)
        return True

    async def run(self, parts: list[Part], missing: Reason, take: Take) -> None:
        """Until `take` has had each part. Raises Refused `missing`, and what `take` raises."""
        rest = [part for part in parts if not await self._from_bundle(part, take)]
        if not rest:
            return
        if self._link is None:
            raise Refused(missing, f"{rest[0].topic} is in no bundle, and no broker is configured")
        async with self._turns:
            source = _Asker(self._link, self._bundles, self._waiting)
            transfer = Transfer(source, self._pace, self._timeout_s, missing)
            source.transfer = transfer
            await transfer.run(rest, take)

    async def _from_bundle(self, part: Part, take: Take) -> bool:
        """Whether a bundle has a part. One that is damaged in all of them is asked of the broker, where there is one."""
        first: Refused | None = None
        async for bundle, payload in self._bundles.read(part.topic):
            try:
                await take([(part, payload)])
            except Refused as error:
                first = first or error
                if self._link is not None and error.reason not in NO_ROOM:
                    bundle.damaged.add(part.topic)
            else:
                return True
        if first is not None and self._link is None:
            raise first
        return False


class Fetcher:
    """Fetches by digest. Time only counts against a timeout while the link is up: a board may be offline for weeks in between."""

    def __init__(self, transfers: Transfers) -> None:
        self._transfers, self._store, self._on_writer = transfers, transfers.store, transfers.on_writer
        self._manifest = b""  # of the update that the counts belong to
        self._done_chunks = self._chunks = 0

    def progress(self, manifest: bytes) -> tuple[int, int]:
        """How many chunks of an update are here, and how many it has as far as is known; by the digest of its envelope."""
        return (self._done_chunks, self._chunks) if manifest == self._manifest else (0, 0)

    async def manifest(self, digest: bytes) -> bytes:
        """An envelope, from the store or the broker. Raises Refused TOO_LARGE, MANIFEST_MISSING, MANIFEST_DIGEST_MISMATCH."""
        self._manifest = digest
        self._done_chunks = self._chunks = 0
        kept: bytes | None = await self._on_writer(self._store.envelope, digest)
        if kept is not None:
            return kept

        def check(data: bytes) -> bytes:
            if len(data) > MANIFEST_LIMIT_BYTES:
                raise Refused(Reason.TOO_LARGE, f"the manifest is {len(data)} bytes, the limit is {MANIFEST_LIMIT_BYTES}")
            if sha256(data) != digest:
                raise Refused(
                    Reason.MANIFEST_DIGEST_MISMATCH, f"the manifest is {sha256(data).hex()}, the deployment names {digest.hex()}"
                )
            return data

        return await self._get(Part(topics.manifest(digest), MANIFEST_LIMIT_BYTES), Reason.MANIFEST_MISSING, check)

    async def blob(self, wanted: AnyManifest | AotImage) -> None:
        """Gets the chunks that are missing and makes the blob whole. One that is encrypted is decrypted once it is.

        Raises Refused INDEX_MISMATCH, CHUNK_MISSING, CHUNK_DIGEST_MISMATCH, BLOB_DIGEST_MISMATCH, DISK_FULL, MALFORMED, and where
        it is encrypted RECIPIENT_MISSING, DECRYPTION_FAILED.
        """
        if await self._on_writer(self._has_blob, wanted):
            return
        is_encrypted = wanted.sent_digest != wanted.digest
        key = await self._on_writer(self._transfers.keys.content_key, wanted) if is_encrypted else None
        await self._travelling(wanted)
        if key is not None:
            await self._on_writer(self._store.decrypt_blob, wanted.sent_digest, wanted.digest, key.secret, key.iv)

    async def _travelling(self, wanted: AnyManifest | AotImage) -> None:
        about = min(INDEX_LIMIT_BYTES, 256 + 32 * (wanted.size // DEFAULT_CHUNK_BYTES + 1))

        def check(data: bytes) -> ChunkIndex:
            return ChunkIndex.from_bytes(data, wanted.index_digest, wanted.sent_digest, wanted.size)

        index = await self._get(Part(topics.blob_index(wanted.sent_digest), about, INDEX_LIMIT_BYTES), Reason.CHUNK_MISSING, check)
        missing = sorted(await self._on_writer(self._store.begin_blob, index))
        self._chunks += len(index.digests)
        self._done_chunks += len(index.digests) - len(missing)
        numbers = {topics.blob_chunk(index.digest, number): number for number in missing}

        async def take(arrived: Sequence[tuple[Part, bytes]]) -> None:
            chunks = {numbers[part.topic]: chunk for part, chunk in arrived}
            self._done_chunks += await self._on_writer(self._add, index, chunks)

        if numbers:
            parts = [Part(topic, index.chunk_size(number)) for topic, number in numbers.items()]
            await self._transfers.run(parts, Reason.CHUNK_MISSING, take)
        await self._on_writer(self._store.finish_blob, index)

    def _add(self, index: ChunkIndex, chunks: Mapping[int, bytes]) -> int:
        """How many there were. Raises Refused for one that is not what the index names; those before it are kept."""
        for number, chunk in chunks.items():
            index.check(number, chunk)
            self._store.add_chunk(index, number, chunk)
        return len(chunks)

    def _has_blob(self, wanted: AnyManifest | AotImage) -> bool:
        try:
            self._store.blob(wanted.digest)
        except Refused:
            return False
        if wanted.sent_digest != wanted.digest:
            self._store.drop_blob(wanted.sent_digest)  # the power was cut just after it was decrypted
        return True

    async def _get(self, part: Part, missing: Reason, check: Callable[[bytes], T]) -> T:
        """One message, as `check` reads it."""
        found: list[T] = []

        async def take(arrived: Sequence[tuple[Part, bytes]]) -> None:
            found.extend(check(payload) for _, payload in arrived)

        await self._transfers.run([part], missing, take)
        return found[0]


class _Asker:
    """One transfer's subscriptions: two transfers of one topic share it, and it ends with the last."""

    transfer: Transfer

    def __init__(self, link: Link, bundles: Bundles, waiting: dict[str, list[Transfer]]) -> None:
        self._link, self._bundles, self._waiting = link, bundles, waiting
        self._reading: set[asyncio.Task[None]] = set()
        self.ask_again, self.denied = link.ask_again, link.denied
        self.answers, self.nudge, self.renew = link.answers, link.nudge, link.renew

    @property
    def online(self) -> bool:
        return self._link.online

    @property
    def sessions(self) -> int:
        return self._link.sessions

    @property
    def part_bytes(self) -> int:
        return self._link.part_bytes

    def begin(self, topic: str) -> None:
        self._waiting.setdefault(topic, []).append(self.transfer)
        self._link.subscribe(topic, Kind.PART)
        if self._bundles.has(topic):  # it came while others were waited for
            task = asyncio.ensure_future(self._read(topic))
            self._reading.add(task)
            task.add_done_callback(self._reading.discard)

    async def _read(self, topic: str) -> None:
        async for _, payload in self._bundles.read(topic):
            self.transfer.arrived(topic, payload)

    def end(self, topic: str) -> None:
        waiting = self._waiting[topic]
        waiting.remove(self.transfer)
        if not waiting:
            del self._waiting[topic]
            self._link.unsubscribe(topic)

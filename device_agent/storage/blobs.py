"""Modules and images as files that are named by their digest. One under way is NAME.part, sparse where chunks are missing."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from device_agent.storage.disk import Problems, allocated_bytes, errors_as_reasons, free_bytes
from ota.durable import sync_folder, write_durably
from ota.formats import cbor
from ota.formats.chunks import ChunkIndex
from ota.formats.reasons import Reason, Refused


class Blobs:
    """The folder of blobs."""

    def __init__(self, folder: Path, reserve_bytes: int, problems: Problems) -> None:
        """`reserve_bytes` are left free by a transfer."""
        self._blobs = folder
        self._reserve_bytes = reserve_bytes
        self.problems = problems
        self.collect_unused: Callable[[], None] = lambda: None  # deletes what is not needed, when the disk is nearly full

    def blob_path(self, digest: bytes) -> Path:
        """Where a whole blob lies, or would."""
        return self._blobs / digest.hex()

    def blob(self, digest: bytes) -> bytes:
        """A whole blob, its digest checked. Raises Refused BLOB_DIGEST_MISMATCH, also when it is not there."""
        try:
            content = self.blob_path(digest).read_bytes()
        except OSError as error:
            raise Refused(Reason.BLOB_DIGEST_MISMATCH, f"blob {digest.hex()}: {error.strerror}") from error
        if cbor.sha256(content) != digest:
            raise Refused(Reason.BLOB_DIGEST_MISMATCH, f"blob {digest.hex()} is damaged on disk")
        return content

    def begin_blob(self, index: ChunkIndex) -> set[int]:
        """Makes room for a blob; returns the numbers of the chunks that are missing. None are when it is whole already.

        Raises Refused DISK_FULL, STORAGE_UNWRITABLE.
        """
        with contextlib.suppress(Refused):
            self.blob(index.digest)
            return set()
        self._check_writable()
        part = self._part(index)
        self._make_room(max(0, index.size - allocated_bytes(part)))
        missing = set()
        with errors_as_reasons(self.problems), part.open("ab+") as file:
            file.truncate(index.size)
            file.seek(0)
            for number in range(len(index.digests)):
                try:
                    index.check(number, file.read(index.chunk_size(number)))
                except Refused:
                    missing.add(number)
        return missing

    def add_chunk(self, index: ChunkIndex, number: int, chunk: bytes) -> None:
        """Writes a chunk that was checked. Not durable yet: a chunk that is lost is fetched again.

        Raises Refused DISK_FULL, BLOB_DIGEST_MISMATCH when what was begun is gone.
        """
        if not self._part(index).exists():
            self.blob(index.digest)  # another instance has fetched the same one, and was faster
            return
        with errors_as_reasons(self.problems):
            descriptor = os.open(self._part(index), os.O_WRONLY)
            try:
                os.pwrite(descriptor, chunk, number * index.chunk_bytes)
            finally:
                os.close(descriptor)

    def finish_blob(self, index: ChunkIndex) -> None:
        """Checks the whole and makes it durable. Raises Refused BLOB_DIGEST_MISMATCH, DISK_FULL."""
        part = self._part(index)
        if not part.exists():
            self.blob(index.digest)
            return
        with errors_as_reasons(self.problems):
            content = part.read_bytes()
            if cbor.sha256(content) != index.digest:
                part.unlink()
                raise Refused(Reason.BLOB_DIGEST_MISMATCH, f"the chunks of {index.digest.hex()} do not make the blob")
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.rename(self.blob_path(index.digest))
            sync_folder(self._blobs)

    def add_blob(self, content: bytes) -> None:
        """Keeps a blob that arrived whole, from a file. Raises Refused DISK_FULL."""
        self._check_writable()
        path = self.blob_path(cbor.sha256(content))
        if path.exists() and path.read_bytes() == content:
            return
        with errors_as_reasons(self.problems):
            write_durably(path, content, 0o600)

    def _part(self, index: ChunkIndex) -> Path:
        return self._blobs / f"{index.digest.hex()}.part"

    def _check_writable(self) -> None:
        """Raises Refused STORAGE_UNWRITABLE when nothing new may be kept."""

    def _drop_spare(self) -> None:
        """Deletes what is kept for people to look at."""

    def _make_room(self, wanted_bytes: int) -> None:
        """Raises Refused DISK_FULL when there is not so much room, with what nobody needs gone."""
        for drop in (self.collect_unused, self._drop_spare, None):
            with errors_as_reasons(self.problems):
                free = free_bytes(self._blobs)
            if free - wanted_bytes >= self._reserve_bytes:
                return
            if drop is not None:
                drop()
        raise Refused(Reason.DISK_FULL, f"{free} bytes are free, {wanted_bytes} and a reserve of {self._reserve_bytes} needed")

"""Signed documents that were verified, kept under their floor: no older one, and no second one of the same epoch."""

from collections.abc import Collection
from typing import Protocol

from device_agent.storage.store import Store
from ota.formats.reasons import Reason, Refused

__all__ = ["NO_ROOM", "Signed", "keep_newer"]

NO_ROOM = frozenset((Reason.DISK_FULL, Reason.STORAGE_UNWRITABLE))
"""Refusals that are the disk's, and may not hold later."""


class Signed(Protocol):
    """A document whose signatures count."""

    @property
    def epoch(self) -> int:
        """Rises with each document that takes the place of another."""

    @property
    def digest(self) -> bytes:
        """SHA-256 of what is signed."""

    @property
    def signers(self) -> frozenset[bytes]:
        """The keys that signed it."""


def keep_newer(store: Store, name: str, what: str, found: Signed, document: bytes, keys: Collection[bytes]) -> None:
    """Keeps a document in the place of the one before, and notes who signed it. On the writer.

    `keys`: those that may sign it now. Raises Refused DEPLOYMENT_REPLAYED, DEPLOYMENT_CONFLICT, and those of NO_ROOM.
    """
    floor = store.floor(name, keys)
    if found.epoch < floor.value:
        raise Refused(Reason.DEPLOYMENT_REPLAYED, f"{what}: epoch {found.epoch} is below {floor.value}, which was seen")
    if found.epoch == floor.value and not floor.digests <= {found.digest}:
        raise Refused(Reason.DEPLOYMENT_CONFLICT, f"{what}: another document of epoch {found.epoch} was accepted before")
    if store.document(name) != document or not found.signers <= floor.keys:
        store.keep_document(name, document, found.signers, found.epoch, found.digest)

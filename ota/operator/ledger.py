"""Records of publications: the last deployment document of each group, and the updates on each broker.

It lets `ota republish` put back the same documents, and `ota clean` find topics that nothing names, without asking a broker for
everything that it has: most brokers cut such an answer. Kept in ledger.json.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ota.author.build import Update
from ota.operator.workspace import Workspace, WorkspaceError

__all__ = ["GroupRecord", "Ledger"]

FILE = "ledger.json"
HISTORY = 5  # earlier manifests of a group
MAX_GROUPS = 10_000
MAX_UPDATES = 10_000  # on one broker, until `ota clean`


@dataclass(frozen=True)
class GroupRecord:
    """What was deployed to a group last."""

    group: str
    document: bytes
    manifests: tuple[bytes, ...]  # digests, the present one first
    aborted: bool = False


class Ledger:
    """The record of one workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def group(self, group: str) -> GroupRecord | None:
        """What was deployed to a group last, None when nothing was."""
        about = self._read().get("groups", {}).get(group)
        return _group(group, about) if about else None

    def groups(self) -> list[GroupRecord]:
        """What was deployed last, for every group."""
        return [_group(group, about) for group, about in sorted(self._read().get("groups", {}).items())]

    def needed(self) -> set[bytes]:
        """Digests of the manifests that a group runs, or ran before."""
        return {digest for each in self.groups() for digest in each.manifests[:2]}

    def deployed(self, group: str, document: bytes, manifest: bytes, *, aborted: bool = False) -> None:
        """Records a group's new document. It is written before the broker gets it. Raises WorkspaceError."""
        with self._workspace.record(FILE) as state:
            groups = state.setdefault("groups", {})
            if group not in groups and len(groups) >= MAX_GROUPS:
                raise WorkspaceError(f"{self._workspace.folder / FILE} has {MAX_GROUPS} groups, which is the limit")
            before = [each for each in groups.get(group, {}).get("manifests", []) if each != manifest.hex()]
            groups[group] = {
                "document": document.hex(),
                "manifests": [manifest.hex(), *before][: HISTORY + 1],
                "aborted": aborted,
            }

    def brokers(self) -> dict[str, set[str]]:
        """The groups that were published on each broker, by its address."""
        return {url: set(about.get("groups", [])) for url, about in self._read().get("brokers", {}).items()}

    def published(self, update: Update, group: str) -> None:
        """Records that the workspace's broker is about to have an update, and a group's deployment. Raises WorkspaceError."""
        with self._workspace.record(FILE) as state:
            about = state.setdefault("brokers", {}).setdefault(self._broker, {})
            about["groups"] = sorted({*about.get("groups", []), group})
            updates = about.setdefault("updates", {})
            if update.digest.hex() not in updates and len(updates) >= MAX_UPDATES:
                raise WorkspaceError(f"{MAX_UPDATES} updates are on the broker, which is the limit: `ota clean` removes old ones")
            updates[update.digest.hex()] = [[index.digest.hex(), len(index.digests)] for _, index in update.blobs]

    def updates(self) -> dict[bytes, list[tuple[bytes, int]]]:
        """The updates on the workspace's broker, by the digest of the envelope: each blob's digest and number of chunks."""
        found = self._read().get("brokers", {}).get(self._broker, {}).get("updates", {})
        return {
            bytes.fromhex(digest): [(bytes.fromhex(blob), int(count)) for blob, count in blobs] for digest, blobs in found.items()
        }

    def removed(self, digests: Collection[bytes]) -> None:
        """Records that updates are no longer on the workspace's broker."""
        with self._workspace.record(FILE) as state:
            updates = state.get("brokers", {}).get(self._broker, {}).get("updates", {})
            for digest in digests:
                updates.pop(digest.hex(), None)

    @property
    def _broker(self) -> str:
        return str(self._workspace.settings.broker)

    def _read(self) -> dict[str, Any]:
        return self._workspace.read(FILE)


def _group(group: str, about: dict[str, Any]) -> GroupRecord:
    manifests: Sequence[str] = about["manifests"]
    if not manifests:
        raise WorkspaceError(f"{FILE} is damaged (group {group} has no manifest): restore it from a backup of the workspace")
    return GroupRecord(group, bytes.fromhex(about["document"]), tuple(map(bytes.fromhex, manifests)), bool(about["aborted"]))

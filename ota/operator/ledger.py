"""Records of publications: the last deployment document of each group and device, and the updates on each broker.

It lets `ota republish` put back the same documents, and `ota clean` find topics that nothing names, without asking a broker for
everything that it has: most brokers cut such an answer. Kept in ledger.json.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ota.author.build import Update
from ota.formats.cbor import sha256
from ota.formats.deployment import Deployment
from ota.operator.scope import Scope
from ota.operator.workspace import Workspace, WorkspaceError

__all__ = ["Ledger", "Record", "Release"]

FILE = "ledger.json"
HISTORY = 5  # earlier releases of an instance
MAX_SCOPES = 10_000
MAX_UPDATES = 10_000  # on one broker, until `ota clean`


MAX_INTENDED = 64  # documents that wait for signatures and abort something


@dataclass(frozen=True)
class Release:
    """What an instance ran, or was to run."""

    manifest: bytes  # digest of the envelope; empty: nothing
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """What was deployed to a group or device last."""

    scope: Scope
    document: bytes
    releases: Mapping[str, tuple[Release, ...]]  # by instance, the present one first
    aborted: frozenset[bytes] = frozenset()  # deployment ids of present entries
    kept: bytes = b""  # the last document that a broker was seen to keep; empty: none yet
    left: frozenset[bytes] = frozenset()  # manifests of releases that were aborted


class Ledger:
    """The record of one workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def record(self, scope: Scope) -> Record | None:
        """What was deployed to a group or device last, None when nothing was."""
        about = self._read().get("scopes", {}).get(scope.key)
        return _record(scope.key, about) if about else None

    def records(self) -> list[Record]:
        """What was deployed last, for every group and device."""
        return [_record(key, about) for key, about in sorted(self._read().get("scopes", {}).items())]

    def needed(self) -> set[bytes]:
        """Digests of the manifests that an instance runs, or ran before."""
        found = {each.manifest for record in self.records() for releases in record.releases.values() for each in releases[:2]}
        return found - {b""}

    def deployed(
        self, scope: Scope, document: bytes, deployment: Deployment, aborted: Collection[bytes] = (), *, kept: bool = True
    ) -> None:
        """Records a new document and what it says. It is written before the broker gets it. `aborted`: more deployment ids.

        `kept`: whether the broker has it, read back; what it never had is not put back. Raises WorkspaceError.
        """
        with self._workspace.record(FILE) as state:
            scopes = state.setdefault("scopes", {})
            if scope.key not in scopes and len(scopes) >= MAX_SCOPES:
                raise WorkspaceError(f"{self._workspace.folder / FILE} has {MAX_SCOPES} groups and devices, which is the limit")
            before = scopes.get(scope.key, {})
            intended = state.get("intended", {}).pop(_name_of(deployment), [])
            stopped = {*before.get("aborted", []), *intended, *(each.hex() for each in aborted)}
            releases = {}
            for name, entry in deployment.entries.items():
                present = [entry.manifest_digest.hex(), dict(entry.config)]
                earlier = [each for each in before.get("releases", {}).get(name, []) if list(each) != present]
                releases[name] = [present, *earlier][: HISTORY + 1]
            scopes[scope.key] = {
                "document": document.hex(),
                "releases": releases,
                "aborted": sorted({each.deployment_id.hex() for each in deployment.entries.values() if each.paused} & stopped),
            }
            if not kept:
                scopes[scope.key]["kept"] = before.get("kept", before.get("document", ""))
            scopes[scope.key]["left"] = _left(scopes[scope.key], before.get("left", []), deployment)

    def intended(self, deployment: Deployment, aborted: Collection[bytes]) -> None:
        """Records what a document that others still have to sign aborts: it counts once that document is deployed."""
        with self._workspace.record(FILE) as state:
            waiting = state.setdefault("intended", {})
            waiting[_name_of(deployment)] = sorted(each.hex() for each in aborted)
            for name in list(waiting)[:-MAX_INTENDED]:
                del waiting[name]

    def leave(self, scope: Scope, manifests: Collection[bytes]) -> None:
        """Records that these releases are not to be gone back to."""
        with self._workspace.record(FILE) as state:
            about = state.get("scopes", {}).get(scope.key)
            if about is not None:
                about["left"] = sorted({*about.get("left", []), *(each.hex() for each in manifests)})

    def brokers(self) -> dict[str, set[str]]:
        """The groups and devices that were published to on each broker, by its address; see `Scope.key`."""
        return {url: set(about.get("scopes", [])) for url, about in self._read().get("brokers", {}).items()}

    def published(self, updates: Iterable[Update], scope: Scope) -> None:
        """Records that the workspace's broker is about to have updates, and a document. Raises WorkspaceError."""
        with self._workspace.record(FILE) as state:
            about = state.setdefault("brokers", {}).setdefault(self._broker, {})
            about["scopes"] = sorted({*about.get("scopes", []), scope.key})
            known = about.setdefault("updates", {})
            known |= {each.digest.hex(): [[index.digest.hex(), len(index.digests)] for _, index in each.blobs] for each in updates}
            if len(known) > MAX_UPDATES:
                raise WorkspaceError(f"{MAX_UPDATES} updates are on the broker, which is the limit: `ota clean` removes old ones")

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

    def forget(self, scope: Scope) -> None:
        """What was deployed to a group or device is not to be put back on any broker."""
        with self._workspace.record(FILE) as state:
            state.get("scopes", {}).pop(scope.key, None)
            for about in state.get("brokers", {}).values():
                about["scopes"] = [each for each in about.get("scopes", []) if each != scope.key]

    @property
    def _broker(self) -> str:
        return str(self._workspace.settings.broker)

    def _read(self) -> dict[str, Any]:
        return self._workspace.read(FILE)


def _name_of(deployment: Deployment) -> str:
    return sha256(deployment.to_payload()).hex()


def _record(key: str, about: dict[str, Any]) -> Record:
    releases = {
        name: tuple(Release(bytes.fromhex(digest), config) for digest, config in each) for name, each in about["releases"].items()
    }
    return Record(
        Scope.from_key(key),
        bytes.fromhex(about["document"]),
        releases,
        frozenset(map(bytes.fromhex, about["aborted"])),
        bytes.fromhex(about.get("kept", about["document"])),
        frozenset(map(bytes.fromhex, about.get("left", []))),
    )


def _left(about: dict[str, Any], before: Collection[str], deployment: Deployment) -> list[str]:
    """The aborted releases that are known yet, but those that were deployed again."""
    known = {digest for releases in about["releases"].values() for digest, _ in releases}
    entries = deployment.entries.values()
    aborted = {each.manifest_digest.hex() for each in entries if each.deployment_id.hex() in about["aborted"]}
    under_way = {each.manifest_digest.hex() for each in entries if not each.paused}
    return sorted((({*before} - under_way) | aborted) & known)

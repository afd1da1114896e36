"""Updates that this workspace signed or deployed, kept so that they can be put on a broker again, the same bytes.

published/<module>/<version>-<digest>/   an update, as `ota build` makes it; <digest> begins the SHA-256 of its envelope
published/index.json                     what is there, by digest

Of each module the newest `keep_updates` of ota.toml are kept, and every update that a deployment still names.
"""

import contextlib
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ota.author.build import Draft, Update
from ota.errors import OtaError
from ota.formats import suit
from ota.formats.cbor import sha256
from ota.formats.manifest import MANIFEST_LIMIT_BYTES, AnyManifest, read_manifest, verify_any
from ota.formats.reasons import Refused
from ota.operator.workspace import Workspace

__all__ = ["Kept", "Updates"]

FOLDER, INDEX = "published", "published/index.json"


@dataclass(frozen=True)
class Kept:
    """What the index says of one update. Times are seconds since 1970."""

    digest: bytes  # SHA-256 of the envelope
    module: str
    version: str
    sequence: int
    content: bytes  # ota.author.build.Draft.content
    signed_s: int


class Updates:
    """The updates of one workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def all(self) -> list[Kept]:
        """Everything that is kept, the newest sequence first."""
        index = self._workspace.read(INDEX)
        return sorted((_kept(digest, about) for digest, about in index.items()), key=lambda each: each.sequence, reverse=True)

    def newest(self, module: str) -> Kept | None:
        """The update of a module with the highest sequence."""
        return next((each for each in self.all() if each.module == module), None)

    def find(self, digest: bytes) -> Kept | None:
        """What the index says of an update, by the digest of its envelope."""
        about = self._workspace.read(INDEX).get(digest.hex())
        return _kept(digest.hex(), about) if about else None

    def manifest(self, digest: bytes) -> AnyManifest | None:
        """The manifest of an update; None when it is not kept, or damaged."""
        kept = self.find(digest)
        if kept is None:
            return None
        with contextlib.suppress(OSError, Refused):
            envelope = (self._folder(kept) / "manifest.suit").read_bytes()
            if sha256(envelope) == digest:
                return read_manifest(suit.Envelope.from_bytes(envelope, MANIFEST_LIMIT_BYTES))
        return None

    def load(self, digest: bytes) -> Update:
        """An update, checked as `Update.load` does. Raises OtaError when it is not kept, or damaged."""
        kept = self.find(digest)
        if kept is None:
            raise OtaError(f"manifest {digest.hex()[:16]} is not kept in {self._workspace.folder / FOLDER}")
        update = Update.load(self._folder(kept), bill=False)
        if update.digest != digest:
            raise OtaError(f"{self._folder(kept) / 'manifest.suit'} is not the manifest that was published")
        return update

    def add(self, update: Update, now_s: int, needed: Collection[bytes]) -> None:
        """Keeps an update; the oldest of its module that is not `needed` (digests) may go.

        Raises Refused unless enough release keys of the workspace's root signed it.
        """
        verify_any(update.envelope, self._workspace.root())
        if self.find(update.digest) is not None:
            return
        manifest = update.manifest
        kept = Kept(update.digest, manifest.name, manifest.version, manifest.sequence, update.draft.content, now_s)
        update.write(self._folder(kept))
        with self._workspace.record(INDEX) as index:
            index[kept.digest.hex()] = {
                "module": kept.module,
                "version": kept.version,
                "sequence": kept.sequence,
                "content": kept.content.hex(),
                "signed_s": kept.signed_s,
            }
        self._prune(kept.module, {*needed, kept.digest})

    def _prune(self, module: str, needed: Collection[bytes]) -> None:
        old = [each for each in self.all() if each.module == module][self._workspace.settings.keep_updates :]
        for each in (each for each in old if each.digest not in needed):
            with self._workspace.record(INDEX) as index:
                index.pop(each.digest.hex(), None)
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self._folder(each))

    def reusable(self, draft: Draft, deployed: bytes | None, at_least: int = 0) -> Update | None:
        """The update to publish for this content without a new signature, if there is one.

        It is what is `deployed` (digest) already, or the newest of the module if its sequence is not below `at_least`: boards
        refuse what is not above what they ran of it before.
        """
        newest = self.newest(draft.manifest.name)
        candidates = [
            self.find(deployed) if deployed else None,
            newest if newest is not None and newest.sequence >= at_least else None,
        ]
        for kept in filter(None, candidates):
            if kept.content == draft.content:
                with contextlib.suppress(OtaError):  # damaged, or signed with a key that was replaced: it is signed again
                    update = self.load(kept.digest)
                    verify_any(update.envelope, self._workspace.root())
                    return update
        return None

    def _folder(self, kept: Kept) -> Path:
        return self._workspace.folder / FOLDER / kept.module / f"{kept.version}-{kept.digest.hex()[:16]}"


def _kept(digest: str, about: dict[str, Any]) -> Kept:
    return Kept(
        digest=bytes.fromhex(digest),
        module=str(about["module"]),
        version=str(about["version"]),
        sequence=int(about["sequence"]),
        content=bytes.fromhex(about["content"]),
        signed_s=int(about["signed_s"]),
    )

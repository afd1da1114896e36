"""Documents that collect signatures: roots, deployments and manifests that go from person to person as files.

What a file is says what is in it, and the kind says which role signs it. A key that signed already changes nothing.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ota.durable import write_durably
from ota.errors import OtaError
from ota.formats import cbor, suit
from ota.formats.cose import Sign1
from ota.formats.deployment import DEPLOYMENT_LIMIT_BYTES, DEPLOYMENT_TYPE, Deployment
from ota.formats.manifest import MANIFEST_LIMIT_BYTES, read_manifest
from ota.formats.provenance import Kind
from ota.formats.reasons import Refused, naming
from ota.formats.signed import MAX_SIGNATURES, Role, SignedDocument, good_signers
from ota.formats.trust import ROOT_LIMIT_BYTES, ROOT_TYPE, Root
from ota.keyring import Signer
from ota.operator.keys import Keys, short

__all__ = ["PENDING", "PendingError", "Signable", "SigningError", "at_hand", "chosen", "read_file", "sign"]

LIMIT_BYTES = max(ROOT_LIMIT_BYTES, DEPLOYMENT_LIMIT_BYTES, MANIFEST_LIMIT_BYTES)


PENDING = "pending"
"""Where a workspace puts what others have to sign: <module>-<version>/ and deployment documents."""


class PendingError(OtaError):
    """A document needs more signatures than the keys at hand can give; `path` is where it waits for them."""

    def __init__(self, path: Path, label: str, lack: str) -> None:
        super().__init__(f"{label} has {lack}: have others sign it (`ota sign {path}`), then `ota publish {path}`")
        self.path = path


class SigningError(OtaError):
    """A signature would count for nothing, or the key for it is not here."""


@dataclass(frozen=True)
class Signable:
    """A decoded document, and the signatures that it has so far."""

    data: bytes
    role: str  # whose keys sign it
    kind: str | None  # the type that signatures name
    payload: bytes  # what is signed
    signatures: tuple[Sign1, ...]
    content: Root | Deployment | None  # None: a manifest
    label: str  # for people

    @classmethod
    def from_bytes(cls, data: bytes) -> "Signable":
        """Raises Refused TOO_LARGE, MALFORMED, and what the kind's own reader refuses."""
        if data.startswith(b"\xd8\x6b"):  # tag 107
            envelope = suit.Envelope.from_bytes(data, MANIFEST_LIMIT_BYTES)
            manifest = read_manifest(envelope)
            kind = "" if manifest.kind is Kind.UNSPECIFIED else f", {manifest.kind.text}"
            label = f"manifest of {manifest.name} {manifest.version}, sequence {manifest.sequence}{kind}"
            return cls(data, "release", None, envelope.digest, envelope.signatures, None, label)
        document = SignedDocument.draft(data, "document to be signed", LIMIT_BYTES)
        with contextlib.suppress(Refused):
            deployment = Deployment.from_payload(document.payload)
            label = f"deployment of {deployment.scope}, epoch {deployment.epoch}"
            return cls(data, "deploy", DEPLOYMENT_TYPE, document.payload, document.signatures, deployment, label)
        root = Root.from_payload(document.payload)
        return cls(data, "root", ROOT_TYPE, document.payload, document.signatures, root, f"root {root.number}")

    @classmethod
    def of_root(cls, root: Root) -> "Signable":
        """A root that nobody signed yet."""
        return cls.from_bytes(cbor.encode([root.to_payload(), []]))

    def roles(self, root: Root | None) -> tuple[tuple[str, Role], ...]:
        """The roles that have to sign it under the root in force, each with what it is called. None: it is not known here."""
        if isinstance(self.content, Root):
            known = root is not None and root.number == self.content.number - 1
            before = ((f"root {root.number}", root.roles["root"]),) if root is not None and known else ()
            return (*before, (f"root {self.content.number}", self.content.roles["root"]))
        return ((f"{self.role} of root {root.number}", root.roles[self.role]),) if root is not None else ()

    def signers(self, role: Role) -> frozenset[bytes]:
        """The keys of a role that signed it rightly."""
        return good_signers(self.signatures, self.payload, role, self.kind)

    def lacks(self, root: Root | None) -> tuple[str, ...]:
        """What it still needs, for people: a text for each role that is short of signatures."""
        found = ((name, role.lacks(self.signers(role))) for name, role in self.roles(root))
        return tuple(f"{lack} ({name})" for name, lack in found if lack)

    def wrong(self, root: Root) -> tuple[str, ...]:
        """Signatures that boards would refuse it for, or that count for nothing; for people."""
        roles = self.roles(root)
        found = []
        for each in self.signatures:
            claimed = each.key_id or b""
            whose = [role for _, role in roles if claimed in role.key_ids]
            if not whose:
                found.append(
                    f"a signature by {short(claimed) or 'nobody'}, which is no key of {' nor '.join(name for name, _ in roles)}"
                )
            elif any(claimed in role.keys and not good_signers((each,), self.payload, role, self.kind) for role in whose):
                found.append(f"a signature that claims key {short(claimed)} is wrong")
        return tuple(found)

    def signed_by(self, key: Signer) -> "Signable":
        """With one signature more. Raises SigningError for more than a document may have."""
        if len(self.signatures) >= MAX_SIGNATURES:
            raise SigningError(f"{self.label} has {MAX_SIGNATURES} signatures, which is the limit")
        return self.joined([key.sign1(self.payload, self.kind)])

    def joined(self, signatures: Sequence[bytes]) -> "Signable":
        """With signatures that were made elsewhere over the same payload."""
        data = self.data
        for each in signatures:
            if self.content is None:
                data = suit.add_signature(data, each, MANIFEST_LIMIT_BYTES)
            else:
                payload, there = cbor.decode(data, self.label, LIMIT_BYTES)
                data = cbor.encode([payload, [*there, each] if each not in there else there])
        return Signable.from_bytes(data)

    def encoded_signatures(self) -> list[bytes]:
        """Those of a root or a deployment."""
        found: list[bytes] = cbor.decode(self.data, self.label, LIMIT_BYTES)[1]
        return found


def read_file(path: Path) -> Signable:
    """A document out of a file, or the manifest in the folder of `ota build`. Raises OtaError, Refused with the file's name."""
    path = path / "manifest.suit" if path.is_dir() else path
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise SigningError(f"{path}: {error.strerror}") from error
    with naming(path):
        return Signable.from_bytes(data)


def at_hand(document: Signable, root: Root | None, keys: Keys) -> list[Signer]:
    """As many keys of this workspace as the document still needs; none where it has enough. Raises SigningError, KeyFileError."""
    found: dict[bytes, Signer] = {}
    errors: list[OtaError] = []
    for _, role in document.roles(root):
        signed = document.signers(role) | {each for each in found if each in role.keys}
        more, missing = keys.enough(role, signed)
        found |= {each.public.key_id: each for each in more}
        errors += missing
    if not found and document.lacks(root):
        why = "; ".join(dict.fromkeys(map(str, errors))) or "those that are signed it already"
        raise SigningError(f"{document.label}: no key that may sign it is at hand: {why}")
    return list(found.values())


def chosen(document: Signable, root: Root | None, key: Signer) -> list[Signer]:
    """A key that was named; none where it signed already. Raises SigningError for one whose signature would count for nothing."""
    roles = document.roles(root)
    if roles and not any(key.public.key_id in role.keys for _, role in roles):
        names = " nor ".join(name for name, _ in roles)
        raise SigningError(f"{document.label}: key {short(key.public)} is not of {names}: its signature would count for nothing")
    if roles and any(key.public.key_id in document.signers(role) for _, role in roles):
        return []
    return [key]


def sign(path: Path, document: Signable, keys: Sequence[Signer]) -> Signable:
    """Signs a file with these keys, in its place. Raises SigningError, OSError."""
    for key in keys:
        document = document.signed_by(key)
    if keys:
        write_durably(path / "manifest.suit" if path.is_dir() else path, document.data)
    return document

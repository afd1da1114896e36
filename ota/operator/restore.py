"""Takes back into the workspace what an archive or a bundle holds, so that it can be published again, to an empty broker too.

A workspace that was restored from an old backup gets the deployments and the numbers of later ones with it. What boards have seen
that nobody kept is gone: `renew` signs the same again, with numbers above all that were ever used.
"""

import secrets
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from ota.author.build import Update
from ota.errors import OtaError
from ota.formats import suit, topics
from ota.formats.cbor import sha256
from ota.formats.chunks import ChunkIndex
from ota.formats.deployment import Deployment
from ota.formats.manifest import MANIFEST_LIMIT_BYTES, AnyManifest, AotImage, Manifest, read_manifest
from ota.formats.reasons import Reason, Refused
from ota.operator.holdings import Holdings, bill_topic
from ota.operator.ledger import Ledger
from ota.operator.publish import sign_draft, sign_unsent
from ota.operator.scope import Scope
from ota.operator.survey import ForeignError, is_current, rank, verify_ours
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace

__all__ = ["Taken", "renew", "take_back"]


@dataclass(frozen=True)
class Taken:
    """What was taken back. `lacking`: deployments and manifests that are damaged there, or signed with a replaced key."""

    roots: int
    scopes: tuple[Scope, ...]  # whose deployment was newer there
    updates: int
    lacking: tuple[tuple[Scope, str, str], ...]  # with the instance, "" for the whole deployment, and why


def take_back(workspace: Workspace, source: Holdings, now_s: int) -> Taken:
    """Takes roots, deployments and updates that this workspace's keys signed. Raises ForeignError for those of others."""
    new_roots = _take_roots(workspace, source)
    newer, updates, lacking, foreign, ours = [], 0, [], [], 0
    ledger, kept = Ledger(workspace), Updates(workspace)
    for scope, document in _deployments(source):
        try:
            deployment = verify_ours(workspace, document, scope)
        except Refused as error:
            foreign.append((scope, "", f"its deployment there is damaged, or not signed by this workspace's keys ({error})"))
            continue
        ours += 1
        try:
            if _take_deployment(workspace, scope, deployment, document):
                newer.append(scope)
        except Refused as error:
            lacking.append((scope, "", str(error)))
            continue
        wanted = {name: each for name, each in deployment.entries.items() if not each.absent}
        for name, entry in wanted.items():
            if kept.find(entry.manifest_digest) is not None:
                continue
            try:
                update = _update(source, entry.manifest_digest)
                kept.add(update, now_s, {*ledger.needed(), entry.manifest_digest})
            except Refused as error:
                lacking.append((scope, name, str(error)))
            else:
                workspace.adopt(sequence=update.manifest.sequence)
                updates += 1
    if foreign and not ours:
        raise ForeignError(f"{foreign[0][0]}: {foreign[0][2]}")
    return Taken(new_roots, tuple(newer), updates, (*foreign, *lacking))


def _take_deployment(workspace: Workspace, scope: Scope, deployment: Deployment, document: bytes) -> bool:
    """Whether it is newer than ours, and taken. Raises Refused SIGNER_UNKNOWN: whoever stole a replaced key may have made it."""
    ledger, current = Ledger(workspace), is_current(workspace, document, scope)
    if current:
        workspace.adopt(epochs={scope.key: deployment.epoch})
    if (record := ledger.record(scope)) is not None:
        before = verify_ours(workspace, record.document, scope)
        if rank(workspace, deployment, document) <= rank(workspace, before, record.document):
            return False
    if not current:
        raise Refused(Reason.SIGNER_UNKNOWN, "its deployment there is signed with a key that was replaced: publish to it again")
    ledger.deployed(scope, document, deployment)
    return True


def renew(workspace: Workspace, scopes: Collection[Scope], now_s: int) -> None:
    """Signs the deployments of these groups and devices again, their updates too: what boards saw before is older than both.

    Entries keep everything but their manifests and deployment ids, and sets stay sets. What is paused stays so. The caller has
    looked at the clock. Raises OtaError for an update that is not kept.
    """
    again: dict[bytes, Update] = {}
    ledger = Ledger(workspace)
    for scope in scopes:
        record = ledger.record(scope)
        if record is None:
            raise OtaError(f"this workspace never published to {scope}")
        before = verify_ours(workspace, record.document, scope)
        for digest in {each.manifest_digest for each in before.entries.values()} - {b"", *again}:
            again[digest] = sign_draft(workspace, Updates(workspace).load(digest).draft, now_s, anew=True)
        ids: dict[bytes, bytes] = {}
        entries = {
            name: replace(
                each,
                manifest_digest=again[each.manifest_digest].digest if each.manifest_digest else b"",
                deployment_id=ids.setdefault(each.deployment_id, secrets.token_bytes(16)),
                issued_s=now_s,
            )
            for name, each in before.entries.items()
        }
        sign_unsent(workspace, replace(before, entries=entries), now_s)


def _take_roots(workspace: Workspace, source: Holdings) -> int:
    """How many followed ours. Raises ForeignError."""
    ours, new = workspace.root_documents(), 0
    numbers = sorted(int(topic.rpartition("/")[2]) for topic in source.topics() if topic.startswith(f"{topics.PREFIX}/root/"))
    for number in numbers:
        document = source.read(topics.root(number)) or b""
        if ours.get(number, document) != document:
            raise ForeignError(f"root document {number} there is not this workspace's")
        if number in ours:
            continue
        try:
            workspace.add_root(number, document)
        except Refused as error:
            raise ForeignError(f"root document {number} there is not signed by ours: {error}") from error
        new += 1
    return new


def _deployments(source: Holdings) -> Iterator[tuple[Scope, bytes]]:
    for topic in source.topics():
        kind, _, name = topic.removeprefix(f"{topics.PREFIX}/").removesuffix("/desired").partition("/")
        if topic.endswith("/desired") and (document := source.read(topic)) is not None:
            yield Scope(name) if kind == "group" else Scope(device=name), document


def _update(source: Holdings, digest: bytes) -> Update:
    """An update, every piece of it checked. Raises Refused."""
    envelope = source.read(topics.manifest(digest))
    if envelope is None:
        raise Refused(Reason.MANIFEST_MISSING, f"manifest {digest.hex()[:16]} is not there")
    if sha256(envelope) != digest:
        raise Refused(Reason.MANIFEST_DIGEST_MISMATCH, f"manifest {digest.hex()[:16]} is damaged there")
    manifest = read_manifest(suit.Envelope.from_bytes(envelope, MANIFEST_LIMIT_BYTES))
    images = manifest.images if isinstance(manifest, Manifest) else ()
    blob, index = _blob(source, manifest)
    update = Update(envelope, blob, index, manifest, tuple(_blob(source, each) for each in images))
    bill = (source.read(bill_topic(update.bill)) if update.bill else None) or b""
    return replace(update, sbom=bill if sha256(bill) == update.bill else b"")  # without it boards take the update all the same


def _blob(source: Holdings, wanted: AnyManifest | AotImage) -> tuple[bytes, ChunkIndex]:
    data = source.read(topics.blob_index(wanted.sent_digest))
    if data is None:
        raise Refused(Reason.CHUNK_MISSING, f"the index of blob {wanted.sent_digest.hex()[:16]} is not there")
    index = ChunkIndex.from_bytes(data, wanted.index_digest, wanted.sent_digest, wanted.size)
    chunks = []
    for number in range(len(index.digests)):
        chunk = source.read(topics.blob_chunk(wanted.sent_digest, number))
        if chunk is None:
            raise Refused(Reason.CHUNK_MISSING, f"chunk {number} of blob {wanted.sent_digest.hex()[:16]} is not there")
        index.check(number, chunk)
        chunks.append(chunk)
    whole = b"".join(chunks)
    if sha256(whole) != wanted.sent_digest:
        raise Refused(Reason.BLOB_DIGEST_MISMATCH, f"blob {wanted.sent_digest.hex()[:16]} is not what its manifest names")
    return whole, index

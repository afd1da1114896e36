"""Finds what the broker has lost, and republishes it: the same documents, without a new epoch.

Brokers lose retained messages: at a restart, by expiry, or because somebody set up another one.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ota.author.build import Update
from ota.errors import OtaError
from ota.formats import suit, topics
from ota.formats.cbor import sha256
from ota.formats.chunks import ChunkIndex
from ota.formats.deployment import Deployment
from ota.formats.manifest import MANIFEST_LIMIT_BYTES, Manifest, read_manifest
from ota.formats.reasons import Refused
from ota.operator import presence
from ota.operator.broker import Broker
from ota.operator.ledger import Ledger, Record
from ota.operator.publish import artifacts, roots
from ota.operator.scope import Scope
from ota.operator.survey import ForeignError, is_current, look, rank, verify_ours
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace

__all__ = ["Restored", "is_whole", "lost", "republish"]

DOCUMENT_BYTES = 1024  # about


@dataclass(frozen=True)
class Restored:
    """What `republish` did, or would do.

    `unknown` must be published again: instances whose update is neither kept here nor whole on the broker, and groups or devices
    whose deployment is signed with a key that was replaced since.
    """

    scopes: tuple[Scope, ...]
    put_back: int  # messages
    there: int  # messages that the broker had
    unknown: tuple[tuple[Scope, str], ...]  # with the instance, "" for all of them
    foreign: tuple[Scope, ...] = ()  # devices whose document on the broker is not ours: nothing was done there


def lost(workspace: Workspace, broker: Broker, *, chunks: bool = False) -> list[str]:
    """What the broker does not have any more, a sentence each: root documents, deployments, manifests, chunk indexes; with
    `chunks` these too, which reads all that is deployed. For `ota status`. Raises BrokerError when it can't be known.
    """
    records = Ledger(workspace).records()
    if not records:
        return []
    found = []
    if absent := presence.missing(broker, roots(workspace)):
        found.append(f"the broker lost {len(absent)} root document{'s' * (len(absent) != 1)}")
    documents = presence.read(broker, [each.scope.topic for each in records], DOCUMENT_BYTES)
    gone = [str(each.scope) for each in records if each.kept and documents[each.scope.topic] is None]
    if gone:
        found.append(f"the broker lost the deployment{'s' * (len(gone) != 1)} of {_some(gone)}")
    wanted: dict[str, str] = {}
    for update in _updates(workspace, {one[0].manifest for each in records for one in each.releases.values()}):
        label = f"{update.label} ({update.digest.hex()[:12]})"
        small = [topics.manifest(update.digest), *(topics.blob_index(index.digest) for _, index in update.blobs)]
        wanted |= dict.fromkeys([topic for topic, _ in artifacts(update)] if chunks else small, label)
    absent_by: dict[str, int] = {}
    for topic, payload in presence.read(broker, wanted, 16 * DOCUMENT_BYTES).items():
        if payload is None:
            absent_by[wanted[topic]] = absent_by.get(wanted[topic], 0) + 1
    found += [f"the broker lost {count} message{'s' * (count != 1)} of {label}" for label, count in sorted(absent_by.items())]
    return [f"{each}: `ota republish` puts it back" for each in found]


def republish(
    workspace: Workspace,
    broker: Broker,
    scopes: Collection[Scope],
    progress: Callable[[int, int], None] = lambda _, __: None,
    *,
    dry_run: bool = False,
) -> Restored:
    """Puts back what the broker lost of these groups and devices, the documents last. What it has is not written again.

    `dry_run`: sends nothing; what would be put back counts as put back. `progress` gets how many bytes of how many are done. Raises
    ForeignError when the broker belongs to another workspace, NotKeptError, BrokerError.
    """
    records = [each for each in Ledger(workspace).records() if each.scope in scopes]
    if not records:
        raise OtaError("nothing was published from this workspace yet" if not scopes else "nothing was published to these groups")
    look(workspace, broker, next((each.scope for each in records if each.scope.group), Scope(workspace.settings.group)))
    present, foreign = _present(workspace, broker, records)
    current = {scope: each for scope, each in present.items() if is_current(workspace, each[1], scope)}
    updates = {each.digest: each for each in _updates(workspace, _digests(each for each, _ in current.values()))}
    messages = dict(roots(workspace))
    for scope, (deployment, _) in current.items():
        ours = [updates[digest] for digest in sorted(_digests([deployment]) & updates.keys())]
        if not dry_run:
            Ledger(workspace).published(ours, scope)
        for each in ours:
            messages |= dict(artifacts(each))
    messages |= {scope.topic: document for scope, (_, document) in current.items()}
    absent = presence.missing(broker, list(messages.items()))
    if not dry_run:
        presence.put(broker, absent, progress)
    unknown = [(scope, "") for scope in present.keys() - current.keys()]
    unknown += _strangers(broker, {scope: each for scope, (each, _) in current.items()}, updates)
    return Restored(tuple(current), len(absent), len(messages) - len(absent), tuple(sorted(unknown)), tuple(foreign))


def _strangers(broker: Broker, documents: Mapping[Scope, Deployment], updates: Mapping[bytes, Update]) -> list[tuple[Scope, str]]:
    """Instances whose update is not kept here, and is not whole on the broker either."""
    whole = {digest for digest in _digests(documents.values()) - updates.keys() if is_whole(broker, digest)}
    return [
        (scope, name)
        for scope, deployment in documents.items()
        for name, entry in deployment.entries.items()
        if not entry.absent and entry.manifest_digest not in whole | updates.keys()
    ]


def is_whole(broker: Broker, digest: bytes) -> bool:
    """Whether the broker has all of an update that somebody else published: what the manifest names, by its own bytes."""
    envelope = broker.retained_one(topics.manifest(digest))
    if envelope is None or sha256(envelope) != digest:
        return False
    try:
        manifest = read_manifest(suit.Envelope.from_bytes(envelope, MANIFEST_LIMIT_BYTES))
        blobs = [manifest, *(manifest.images if isinstance(manifest, Manifest) else ())]
        for each in blobs:
            index = broker.retained_one(topics.blob_index(each.sent_digest)) or b""
            count = len(ChunkIndex.from_bytes(index, each.index_digest, each.sent_digest, each.size).digests)
            chunks = [topics.blob_chunk(each.sent_digest, number) for number in range(count)]
            if None in presence.read(broker, chunks, 16 * DOCUMENT_BYTES).values():
                return False
    except Refused:
        return False
    return True


def _digests(deployments: Iterable[Deployment]) -> set[bytes]:
    """The manifests that documents name."""
    return {entry.manifest_digest for each in deployments for entry in each.entries.values()} - {b""}


def _present(
    workspace: Workspace, broker: Broker, records: list[Record]
) -> tuple[dict[Scope, tuple[Deployment, bytes]], list[Scope]]:
    """The deployment that each group or device is to have: the broker's when that is ours and newer, else the recorded one.

    And the devices whose document on the broker is not ours.
    """
    documents = presence.read(broker, [each.scope.topic for each in records], DOCUMENT_BYTES)
    found: dict[Scope, tuple[Deployment, bytes]] = {}
    foreign: list[Scope] = []
    for record in records:
        scope = record.scope
        document = documents[scope.topic]
        arrived = document is not None and document == record.document
        if not record.kept and document is None:
            continue  # publishing it failed: no broker ever had it
        mine = record.document if arrived else record.kept or record.document
        ours = verify_ours(workspace, mine, scope)
        found[scope] = (ours, mine)
        if arrived and record.kept != mine:
            Ledger(workspace).deployed(scope, mine, ours)
        if document is None or document == mine:
            continue
        try:
            theirs = verify_ours(workspace, document, scope)
        except Refused as error:
            if scope.device:  # one board's topic must not keep the rest from being put back
                foreign.append(scope)
                del found[scope]
                continue
            raise ForeignError(f"the deployment of {scope} on the broker is another workspace's ({error})") from error
        if rank(workspace, theirs, document) >= rank(workspace, ours, mine):
            found[scope] = (theirs, document)
            if is_current(workspace, document, scope):
                workspace.adopt(epochs={scope.key: theirs.epoch})
            Ledger(workspace).deployed(scope, document, theirs)
    return found, foreign


def _updates(workspace: Workspace, digests: Collection[bytes]) -> Iterator[Update]:
    kept = Updates(workspace)
    for digest in sorted(digests):
        if kept.find(digest) is not None:
            yield kept.load(digest)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

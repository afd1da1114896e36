"""Removing from the broker what no deployment names: updates of earlier deployments, and finished enrolments.

What there may be is known from this workspace's own records, and is read and removed by exact topics. Before anything is removed,
the deployments of all groups and devices that are known are read: of this workspace, of boards that report, and of what else
wildcards bring. A chunk that an update in use needs stays, whoever published it. Many brokers cut the answer to wildcards, or give
none: when deployments that are known are not in it, the plan says that others may be hidden.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from ota.errors import OtaError
from ota.formats import suit, topics
from ota.formats.deployment import Deployment, claimed
from ota.formats.fields import is_name
from ota.formats.manifest import MANIFEST_LIMIT_BYTES, Manifest, read_manifest
from ota.formats.reasons import Refused
from ota.formats.text import amount
from ota.operator import presence
from ota.operator.broker import Broker
from ota.operator.enrolment import finished
from ota.operator.ledger import Ledger
from ota.operator.pages import Page
from ota.operator.scope import Scope
from ota.operator.survey import ForeignError, verify_ours
from ota.operator.workspace import Workspace

__all__ = ["Plan", "clean", "plan"]

CHUNK_BYTES = 16 * 1024  # about
DOCUMENT_BYTES = 1024  # about


@dataclass(frozen=True)
class Plan:
    """Topics that hold something and that nothing needs."""

    topics: tuple[str, ...]
    updates: tuple[bytes, ...]  # digests of manifests: all that the broker may have of them is in `topics`
    size_bytes: int
    unseen: tuple[str, ...] = ()  # why there may be deployments that were not looked at


def plan(workspace: Workspace, broker: Broker, scopes: Iterable[Scope], now_s: int) -> Plan:
    """What can be removed. `scopes` are boards that report, and their groups.

    Raises ForeignError when a deployment there is another workspace's, BrokerError when something can't be known.
    """
    updates = Ledger(workspace).updates()
    named, needed, unseen = _needed(workspace, broker, scopes)
    doomed = updates.keys() - named
    candidates = [topics.manifest(digest) for digest in doomed]
    for blob, count in {pair for digest in doomed for pair in updates[digest] if pair[0] not in needed}:
        candidates += [topics.blob_index(blob), *(topics.blob_chunk(blob, number) for number in range(count))]
    for where in finished(workspace, now_s):
        candidates += [topics.enrolment_request(where), topics.enrolment_answer(where)]
    found = {
        topic: len(payload) for topic, payload in presence.read(broker, candidates, CHUNK_BYTES).items() if payload is not None
    }
    return Plan(tuple(each for each in candidates if each in found), tuple(sorted(doomed)), sum(found.values()), unseen)


def clean(workspace: Workspace, broker: Broker, planned: Plan, scopes: Iterable[Scope]) -> None:
    """Removes it, reads back that it is gone, and looks whether somebody deployed it meanwhile. Raises OtaError, BrokerError."""
    broker.publish_all([(topic, b"") for topic in planned.topics])
    with Broker(workspace.settings) as another:
        left = [topic for topic, payload in presence.read(another, planned.topics, DOCUMENT_BYTES).items() if payload is not None]
    if left:
        raise OtaError(f"the broker still has {len(left)} of {len(planned.topics)} topics, such as {left[0]}")
    Ledger(workspace).removed(planned.updates)
    named, needed, _ = _needed(workspace, broker, scopes)
    wanted = {each.hex() for each in named | needed}
    if hurt := [topic for topic in planned.topics if topic.split("/")[3] in wanted]:
        raise OtaError(
            f"somebody deployed what was being removed ({len(hurt)} topics, such as {hurt[0]}): `ota republish` in that workspace"
            " puts it back"
        )


def _needed(workspace: Workspace, broker: Broker, scopes: Iterable[Scope]) -> tuple[set[bytes], set[bytes], tuple[str, ...]]:
    """The manifests that deployments name, the blobs of these, and why there may be more."""
    ledger = Ledger(workspace)
    known = {*scopes, *(each.scope for each in ledger.records())}
    documents = presence.read(broker, [each.topic for each in known], DOCUMENT_BYTES)
    seen, unseen = _others(broker, {topic for topic, document in documents.items() if document is not None})
    others = seen - known
    documents |= presence.read(broker, [each.topic for each in others], DOCUMENT_BYTES)
    named = _named(workspace, {each: documents[each.topic] for each in known | others})
    updates = ledger.updates()
    needed = {blob for digest in named & updates.keys() for blob, _ in updates[digest]}
    return named, needed | _blobs(broker, named - updates.keys()), unseen


def _named(workspace: Workspace, documents: Mapping[Scope, bytes | None]) -> set[bytes]:
    """The manifests that deployments name: those on the broker, and those that the broker lost and that may be put back."""
    found = {releases[0].manifest for each in Ledger(workspace).records() for releases in each.releases.values()}
    for scope, document in documents.items():
        if document is None:
            continue
        try:
            deployment: Deployment | None = verify_ours(workspace, document, scope)
        except Refused as error:
            if scope.group:
                raise ForeignError(f"the deployment of {scope} on the broker is another workspace's ({error})") from error
            deployment = claimed(document)  # one board must not keep the whole fleet's broker from being cleaned
        found |= {each.manifest_digest for each in deployment.entries.values()} if deployment is not None else set()
    return found - {b""}


def _others(broker: Broker, there: Set[str]) -> tuple[set[Scope], tuple[str, ...]]:
    """Groups and devices that have deployments, as far as the broker shows them to wildcards, and why some may be missing.

    `there`: topics of deployments that are on the broker.
    """
    found: set[str] = set()
    why: list[str] = []
    if broker.limits.wildcards:
        for page in broker.read([Page((topics.desired("+"),)), Page((topics.device_desired("+"),))]):
            found |= {topic for topic, message in page.found.items() if message.payload}
            why += page.unknown.values()
    if hidden := there - found:
        why.append(
            f"wildcards brought {len(there) - len(hidden)} of {amount(len(there), 'known deployment')}: what other groups and"
            " devices need, which this workspace does not know of, was not looked at"
        )
    names = [each.split("/")[-3:-1] for each in found]
    return {Scope(device=name) if kind == "device" else Scope(name) for kind, name in names if is_name(name)}, tuple(why)


def _blobs(broker: Broker, manifests: set[bytes]) -> set[bytes]:
    """The blobs of updates that somebody else published, as they travel."""
    needed = set()
    for topic, envelope in presence.read(broker, map(topics.manifest, manifests), 4 * DOCUMENT_BYTES).items():
        if envelope is None:
            continue  # no board can fetch it
        try:
            manifest = read_manifest(suit.Envelope.from_bytes(envelope, MANIFEST_LIMIT_BYTES))
        except Refused as error:
            raise OtaError(f"{topic} can't be read, and what it needs is not known: {error}") from error
        images = manifest.images if isinstance(manifest, Manifest) else ()
        needed |= {each.sent_digest for each in (manifest, *images)}
    return needed

"""Finds what the broker has lost, and republishes it: the same documents, without a new epoch.

Brokers lose retained messages: at a restart, by expiry, or because somebody set up another one.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from ota.author.build import Update
from ota.errors import OtaError
from ota.formats import topics
from ota.formats.deployment import Deployment
from ota.formats.reasons import Refused
from ota.operator import presence
from ota.operator.broker import Broker
from ota.operator.ledger import GroupRecord, Ledger
from ota.operator.publish import artifacts, roots
from ota.operator.survey import ForeignError, is_current, look, verify_ours
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace

__all__ = ["Restored", "lost", "republish"]

DOCUMENT_BYTES = 1024  # about


@dataclass(frozen=True)
class Restored:
    """What `republish` did. Groups in `unknown` must be published again: their update is not kept here, or their deployment is
    signed with a key that was replaced since.
    """

    groups: tuple[str, ...]
    put_back: int  # messages
    there: int  # messages that the broker had
    unknown: tuple[str, ...]


def lost(workspace: Workspace, broker: Broker, *, chunks: bool = False) -> list[str]:
    """What the broker does not have any more, a sentence each: root documents, deployments, manifests, chunk indexes; with
    `chunks` these too, which reads all that is deployed. For `ota status`. Raises BrokerError when it can't be known.
    """
    records = Ledger(workspace).groups()
    if not records:
        return []
    found = []
    if absent := presence.missing(broker, roots(workspace)):
        found.append(f"the broker lost {len(absent)} root document{'s' * (len(absent) != 1)}")
    documents = presence.read(broker, [topics.desired(each.group) for each in records], DOCUMENT_BYTES)
    gone = [each.group for each in records if documents[topics.desired(each.group)] is None]
    if gone:
        found.append(f"the broker lost the deployment{'s' * (len(gone) != 1)} of {_some(gone)}")
    wanted: dict[str, str] = {}
    for update in _updates(workspace, {each.manifests[0] for each in records}):
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
    workspace: Workspace, broker: Broker, groups: Collection[str], progress: Callable[[int, int], None] = lambda _, __: None
) -> Restored:
    """Puts back what the broker lost of these groups, the deployments last. What it has is not written again.

    `progress` gets how many bytes of how many are done. Raises ForeignError when the broker belongs to another workspace,
    NotKeptError, BrokerError.
    """
    records = [each for each in Ledger(workspace).groups() if each.group in groups]
    if not records:
        raise OtaError("nothing was published from this workspace yet" if not groups else "nothing was published to these groups")
    look(workspace, broker, records[0].group)
    present = _present(workspace, broker, records)
    updates = {each.digest: each for each in _updates(workspace, {each.manifest_digest for each, _ in present.values()})}
    known = {
        group: (each, document)
        for group, (each, document) in present.items()
        if each.manifest_digest in updates and is_current(workspace, document, group)
    }
    messages = dict(roots(workspace))
    for group, (deployment, _) in known.items():
        Ledger(workspace).published(updates[deployment.manifest_digest], group)
        messages |= dict(artifacts(updates[deployment.manifest_digest]))
    messages |= {topics.desired(group): document for group, (_, document) in known.items()}
    absent = presence.missing(broker, list(messages.items()))
    done, total = 0, 2 * sum(len(payload) for _, payload in absent)  # sent, and read back

    def advance(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    presence.put(broker, absent, advance)
    return Restored(tuple(known), len(absent), len(messages) - len(absent), tuple(sorted(present.keys() - known.keys())))


def _present(workspace: Workspace, broker: Broker, records: list[GroupRecord]) -> dict[str, tuple[Deployment, bytes]]:
    """The deployment that each group is to have: the broker's when that is ours and newer, else the recorded one."""
    documents = presence.read(broker, [topics.desired(each.group) for each in records], DOCUMENT_BYTES)
    found = {}
    for record in records:
        ours = verify_ours(workspace, record.document, record.group)
        found[record.group] = (ours, record.document)
        document = documents[topics.desired(record.group)]
        if document is None or document == record.document:
            continue
        try:
            theirs = verify_ours(workspace, document, record.group)
        except Refused as error:
            raise ForeignError(f"the deployment of group {record.group} on the broker is another workspace's ({error})") from error
        if _rank(workspace, theirs, document) >= _rank(workspace, ours, record.document):
            found[record.group] = (theirs, document)
            if is_current(workspace, document, record.group):
                workspace.adopt(epochs={record.group: theirs.epoch})
            Ledger(workspace).deployed(record.group, document, theirs.manifest_digest)
    return found


def _rank(workspace: Workspace, deployment: Deployment, document: bytes) -> tuple[bool, int]:
    """Boards take the higher one: a key of the newest root before one that was replaced, then the epoch."""
    return is_current(workspace, document, deployment.group), deployment.epoch


def _updates(workspace: Workspace, digests: Collection[bytes]) -> Iterator[Update]:
    kept = Updates(workspace)
    for digest in sorted(digests):
        if kept.find(digest) is not None:
            yield kept.load(digest)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more groups" if len(names) > 5 else "")

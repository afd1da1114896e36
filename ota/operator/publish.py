"""Publishes an update and deploys it to a group. Publishing is idempotent.

The same content gives the same manifest, and a group that has it keeps its deployment: what is missing on the broker is put back,
and nothing else changes. The order is: look at the broker, record, publish, read back; the deployment comes last.
"""

import contextlib
import logging
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from ota.author.build import Draft, Update
from ota.errors import OtaError
from ota.formats import topics
from ota.formats.deployment import DEPLOYMENT_TYPE, FRACTION_ALL, Deployment
from ota.formats.deployment import verify as verify_deployment
from ota.formats.manifest import verify_signed
from ota.formats.reasons import Refused
from ota.keyring import SigningKey, sign_document
from ota.operator import presence
from ota.operator.broker import Broker, BrokerError
from ota.operator.ledger import Ledger
from ota.operator.survey import Survey, is_current, verify_ours
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace

__all__ = ["ConflictError", "Done", "Order", "artifacts", "deploy", "publish_document", "renewed", "roots", "sign_draft"]

TRIES = 3  # when another operator's document crosses ours
ECHO_TIMEOUT_S = 30.0  # until our own document comes back
GIVE_WAY_S = 3.0  # for another operator, who has seen our document, to publish above it
Progress = Callable[[int], None]
logger = logging.getLogger(__name__)


class ConflictError(OtaError):
    """Somebody else published to the same group at the same time."""


@dataclass(frozen=True)
class Order:
    """What is to be deployed where.

    `fraction_ppm` is None for: as it is, or all boards of a new deployment. `lifetime_s` is how long boards may begin the update,
    0 for until another takes its place, None for: as it is, or 0 for a new deployment.
    """

    group: str
    fraction_ppm: int | None = None
    lifetime_s: int | None = None
    take_over: bool = False


@dataclass(frozen=True)
class Done:
    """What became of a publication; it is on the broker, read back."""

    deployment: Deployment
    changed: bool  # there is a new deployment document
    put_back: int  # messages that the broker had lost
    notes: tuple[str, ...] = ()


def artifacts(update: Update) -> list[tuple[str, bytes]]:
    """Chunks, index and manifest as retained messages, in the order in which they may be seen."""
    messages = []
    for blob, index in update.blobs:
        step = index.chunk_bytes
        chunks = (blob[number * step : (number + 1) * step] for number in range(len(index.digests)))
        messages += [(topics.blob_chunk(index.digest, number), chunk) for number, chunk in enumerate(chunks)]
        messages.append((topics.blob_index(index.digest), index.to_bytes()))
    return [*messages, (topics.manifest(update.digest), update.envelope)]


def roots(workspace: Workspace) -> list[tuple[str, bytes]]:
    """The chain of root documents as retained messages."""
    return [(topics.root(number), document) for number, document in workspace.root_documents().items()]


def sign_draft(
    workspace: Workspace, draft: Draft, now_s: int, *, deployed: bytes | None = None, at_least: int = 0, anew: bool = False
) -> Update:
    """The signed update for this content: the one that there is already (see `Updates.reusable`), or with `anew` always a new one.

    `deployed` is the manifest that the group has; another one is used again unless its sequence is below `at_least`. The
    caller has looked at the clock. Raises Refused, KeyFileError, WorkspaceError.
    """
    updates = Updates(workspace)
    if not anew and (kept := updates.reusable(draft, deployed, at_least)) is not None:
        return kept
    key = workspace.role_key("release")
    update = draft.signed(workspace.next_sequence(now_s), key)
    workspace.signed(now_s)
    updates.add(update, now_s, Ledger(workspace).needed())
    return update


def deploy(
    workspace: Workspace,
    broker: Broker,
    update: Update,
    order: Order,
    now_s: int,
    survey: Survey,
    progress: Progress = lambda _: None,
) -> Done:
    """Publishes everything that the group's boards need, the deployment last; returns once the broker has it all.

    `survey` is what `look` found. Raises Refused when our release keys did not sign the update, ConflictError, NotKeptError,
    BrokerError, OtaError for what would narrow or resume a deployment.
    """
    verify_signed(update.envelope, workspace.root())
    ledger, key = Ledger(workspace), workspace.role_key("deploy")
    standing = _standing(workspace, order.group, survey)
    wanted, document = _wanted(workspace, update, order, now_s, standing)
    Updates(workspace).add(update, now_s, ledger.needed())
    known = update.digest in ledger.updates()
    ledger.published(update, order.group)
    workspace.adopt(sequence=update.manifest.sequence)  # it may have been signed elsewhere
    if survey.foreign_roots:
        broker.publish_all([(topic, b"") for topic in survey.foreign_roots])
    messages = [*roots(workspace), *artifacts(update)]
    lost = presence.missing(broker, messages) if known else messages
    presence.put(broker, lost, progress)
    put_back = len(lost) if known else 0
    if document is not None:
        if survey.document is None:
            presence.put(broker, [(topics.desired(order.group), document)], progress)
            put_back += 1
        return Done(wanted, changed=False, put_back=put_back, notes=survey.notes)
    deployment = publish_document(workspace, broker, wanted, survey, key, now_s)
    return Done(deployment, changed=True, put_back=put_back, notes=survey.notes)


def _standing(workspace: Workspace, group: str, survey: Survey) -> tuple[Deployment, bytes] | None:
    """The group's deployment and its document: the broker's, or if that has lost it the last that was recorded here.

    None when there is none, or it was aborted: the same update is then a new deployment.
    """
    record = Ledger(workspace).group(group)
    if record is not None and record.aborted and survey.document in (record.document, None):
        return None
    if survey.document is not None:
        return (survey.present, survey.document) if survey.present is not None else None
    if record is None:
        return None
    with contextlib.suppress(Refused):
        return verify_ours(workspace, record.document, group), record.document
    return None


def _wanted(
    workspace: Workspace, update: Update, order: Order, now_s: int, standing: tuple[Deployment, bytes] | None
) -> tuple[Deployment, bytes | None]:
    """The deployment that there is to be, and its document if it is there already. The epoch of a new one is not set yet."""
    fraction = order.fraction_ppm
    if standing is None or standing[0].manifest_digest != update.digest:
        return _new(update, order, now_s), None
    present, document = standing
    if present.paused:
        raise OtaError(
            f"the deployment of {update.label} to group {order.group} is paused: `ota resume {order.group}` continues it"
        )
    if fraction is not None and fraction < present.fraction_ppm:
        raise OtaError(
            f"{update.label} goes to {present.fraction_ppm / 10_000:g} % of group {order.group} already, and boards that have it"
            f" keep it: `ota pause {order.group}` stops it, `ota abort {order.group} --back` takes it back"
        )
    fraction = fraction or present.fraction_ppm
    expired = 0 < present.expires_s <= now_s
    valid = not expired and is_current(workspace, document, order.group)
    if fraction == present.fraction_ppm and order.lifetime_s is None and valid:
        return present, document
    return renewed(present, now_s, order.lifetime_s, fraction_ppm=fraction), None


def renewed(present: Deployment, now_s: int, lifetime_s: int | None = None, **changes: Any) -> Deployment:
    """The deployment issued again, with changes; valid as long as it was, from now on, unless a lifetime is given."""
    if lifetime_s is None:
        lifetime_s = present.expires_s - present.issued_s if present.expires_s else 0
    return replace(present, issued_s=now_s, expires_s=now_s + lifetime_s if lifetime_s else 0, **changes)


def _new(update: Update, order: Order, now_s: int) -> Deployment:
    return Deployment(
        group=order.group,
        deployment_id=secrets.token_bytes(16),
        manifest_digest=update.digest,
        epoch=0,
        issued_s=now_s,
        expires_s=now_s + order.lifetime_s if order.lifetime_s else 0,
        fraction_ppm=FRACTION_ALL if order.fraction_ppm is None else order.fraction_ppm,
    )


def publish_document(
    workspace: Workspace, broker: Broker, wanted: Deployment, survey: Survey, key: SigningKey, now_s: int, *, aborted: bool = False
) -> Deployment:
    """Signs a group's deployment with the next epoch, publishes it and reads it back; returns it as it is on the broker.

    `survey` is what the decision was made on: when the broker has something else by now, nothing is overwritten. When another
    operator's document crosses ours, one of the two gives way and the other is published once more. Raises ConflictError.
    """
    topic = topics.desired(wanted.group)
    (before,) = broker.retained([topic], keep=True)
    if before.unknown:
        raise BrokerError(f"what is retained under {topic} can't be known: {before.unknown}")
    if before.payload != survey.document:
        raise _conflict(workspace, wanted.group, before.payload)
    beaten: set[bytes] = set()  # documents that we published above already
    for _ in range(TRIES):
        deployment = replace(wanted, epoch=workspace.next_epoch(wanted.group))
        document = sign_document(deployment.to_payload(), DEPLOYMENT_TYPE, [key])
        verify_deployment(document, workspace.root(), wanted.group)  # as boards will
        workspace.signed(now_s)
        Ledger(workspace).deployed(wanted.group, document, wanted.manifest_digest, aborted=aborted)
        broker.publish_all([(topic, document)])
        rival = _rival(workspace, broker, topic, document, beaten)
        if rival is None:
            for each in beaten:
                theirs = verify_deployment(each, workspace.root(), wanted.group).manifest_digest.hex()[:16]
                logger.warning("another operator published manifest %s at the same moment: ours took its place", theirs)
            return deployment
        workspace.adopt(epochs={wanted.group: rival[0]})
        if rival > (deployment.epoch, document):
            raise _conflict(workspace, wanted.group, _give_way(workspace, broker, topic, document, rival[1], key))
        beaten.add(rival[1])
    raise ConflictError(f"another operator keeps publishing to group {wanted.group}: look with `ota status`, and publish again")


def _give_way(workspace: Workspace, broker: Broker, topic: str, ours: bytes, theirs: bytes, key: SigningKey) -> bytes:
    """Sees to it that the other operator's deployment is above ours on the broker; returns its document.

    The other one publishes again if it has seen ours. It may have read back and ended before ours came: then its deployment is
    signed once more here.
    """
    group = topic.split("/")[-2]
    our_epoch = verify_deployment(ours, workspace.root(), group).epoch
    for message in broker.messages(GIVE_WAY_S):
        if message.topic == topic and not message.retained:
            with contextlib.suppress(Refused):
                if verify_deployment(message.payload, workspace.root(), group).epoch > our_epoch:
                    return message.payload
    with Broker(workspace.settings) as another:
        if another.retained_one(topic) != ours:
            return theirs
    again = replace(verify_deployment(theirs, workspace.root(), group), epoch=workspace.next_epoch(group))
    document = sign_document(again.to_payload(), DEPLOYMENT_TYPE, [key])
    broker.publish_all([(topic, document)])
    return document


def _rival(
    workspace: Workspace, broker: Broker, topic: str, document: bytes, beaten: Collection[bytes]
) -> tuple[int, bytes] | None:
    """Epoch and bytes of the highest deployment that somebody else published while we published ours; None when nobody did.

    Raises ConflictError for one that our keys did not sign, NotKeptError.
    """
    group = topic.split("/")[-2]
    rivals = []
    for message in broker.messages(ECHO_TIMEOUT_S):
        if message.topic != topic or message.retained or message.payload in beaten:
            continue
        if message.payload == document:
            break
        with contextlib.suppress(Refused):
            rivals.append((verify_deployment(message.payload, workspace.root(), group).epoch, message.payload))
    with Broker(workspace.settings) as another:  # some brokers hand nothing out twice on one connection
        kept = another.retained_one(topic)
    if kept is None:
        raise presence.NotKeptError(f"the broker acknowledged {topic} and does not keep it: `ota broker check` shows what it keeps")
    if kept != document:
        try:
            rivals.append((verify_deployment(kept, workspace.root(), group).epoch, kept))
        except Refused:
            raise _conflict(workspace, group, kept) from None
    return max(rivals, default=None)


def _conflict(workspace: Workspace, group: str, document: bytes | None) -> ConflictError:
    """Takes over what is known of the other's document, and says what happened."""
    what = "took the deployment away"
    if document is not None:
        try:
            other = verify_deployment(document, workspace.root(), group)
        except Refused:
            what = "published a deployment with other keys"
        else:
            what = f"published manifest {other.manifest_digest.hex()[:16]} (epoch {other.epoch})"
            workspace.adopt(epochs={group: other.epoch})
            if other.epoch == workspace.read()["epochs"][group]:  # nothing newer was recorded by another process
                Ledger(workspace).deployed(group, document, other.manifest_digest)
    return ConflictError(
        f"somebody else {what} to group {group} at the same time: look with `ota status`, and publish again if need be"
    )

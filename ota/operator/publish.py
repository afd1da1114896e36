"""Publishes updates and deploys them to instances of a group, or of a device. Publishing is idempotent.

The same content gives the same manifest, and an instance that has it keeps its deployment: what is missing on the broker is put
back, and nothing else changes. The order is: look at the broker, decide, record, publish, read back; the document comes last.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ota.author.build import Draft, Update
from ota.errors import OtaError
from ota.formats import topics
from ota.formats.deployment import DEPLOYMENT_TYPE, Deployment, Entry
from ota.formats.manifest import verify_any
from ota.formats.reasons import Refused
from ota.keyring import sign_document
from ota.operator import presence
from ota.operator.audit import Audit
from ota.operator.broker import Broker
from ota.operator.checks import check_vendor
from ota.operator.document import check_enough, publish_edit
from ota.operator.edit import Edit, empty
from ota.operator.ledger import Ledger
from ota.operator.order import Item, Order, Present, decide
from ota.operator.scope import Scope
from ota.operator.signing import PENDING, PendingError, Signable
from ota.operator.survey import Survey, is_current, verify_ours
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace

__all__ = ["Done", "PartlyError", "artifacts", "change", "deploy", "deploy_unsent", "present", "roots", "sign_draft", "sign_unsent"]

Progress = Callable[[int, int], None]  # so many bytes are done, of so many


class PartlyError(OtaError):
    """Of several groups or devices some have it, and the next could not be published to."""


@dataclass(frozen=True)
class Done:
    """What became of a publication; it is on the broker, read back."""

    deployment: Deployment
    instances: tuple[str, ...]  # that it was about
    changed: frozenset[str]  # those whose entries are new
    put_back: int  # messages that the broker had lost
    notes: tuple[str, ...] = ()

    @property
    def entries(self) -> dict[str, Entry]:
        """Of the instances that it was about."""
        return {name: self.deployment.entries[name] for name in self.instances}


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

    `deployed` is the manifest that the instance has; another one is used again unless its sequence is below `at_least`. The
    caller has looked at the clock. Raises PendingError where others have to sign it, too, Refused, KeyFileError, WorkspaceError.
    """
    updates = Updates(workspace)
    if not anew and (kept := updates.reusable(draft, deployed, at_least)) is not None:
        return kept
    folder = workspace.folder / PENDING
    update = _waiting(workspace, draft, folder / draft.name)
    if update is None:
        keys = workspace.role_keys("release")
        update = draft.signed(workspace.next_sequence(now_s), *keys)
        workspace.signed(now_s)
        for key in keys:
            Audit(workspace).signed(update.envelope, key, now_s)
    if lacks := Signable.from_bytes(update.envelope).lacks(workspace.root()):
        raise PendingError(update.save(folder), update.label, lacks[0])
    updates.add(update, now_s, Ledger(workspace).needed())
    return update


def _waiting(workspace: Workspace, draft: Draft, folder: Path) -> Update | None:
    """The update of this content that was written to be signed by others, unless a newer one of the module was made since."""
    with contextlib.suppress(OtaError):
        update = Update.load(folder)
        newest = Updates(workspace).newest(draft.manifest.name)
        if update.draft.content == draft.content and (newest is None or newest.sequence < update.manifest.sequence):
            return update
    return None


def present(workspace: Workspace, scope: Scope, survey: Survey) -> Present:
    """What a decision is made on: the broker's document, or if that has lost it the last that was recorded here."""
    record, window = Ledger(workspace).record(scope), workspace.settings.window
    aborted = record.aborted if record is not None else frozenset()
    found, document = survey.present, survey.document
    if document is None and record is not None and record.kept:
        document = record.kept
        with contextlib.suppress(Refused):
            found = verify_ours(workspace, document, scope)
    if found is None or document is None:
        return Present(empty(scope), window=window)
    valid = is_current(workspace, document, scope)
    kept = Updates(workspace)
    lost = {each.manifest_digest for each in found.entries.values()} - survey.manifests.keys()
    manifests = {digest: manifest for digest in lost if (manifest := kept.manifest(digest)) is not None}
    return Present(found, {**survey.manifests, **manifests}, aborted, valid, window)


def deploy(
    workspace: Workspace,
    broker: Broker,
    items: Sequence[Item],
    order: Order,
    now_s: int,
    surveys: Mapping[Scope, Survey],
    progress: Progress = lambda _, __: None,
) -> list[Done]:
    """Publishes everything that boards need, the documents last; returns once the broker has it all.

    `surveys` is what `look` found, for each group or device to deploy to. Raises Refused for what our release keys did not sign or
    boards would refuse, ConflictError, NotKeptError, BrokerError, OtaError for what would narrow or resume a deployment.
    """
    for item in items:
        check_vendor(item.update.manifest, workspace.settings.vendor)
        verify_any(item.update.envelope, workspace.root())
    before = {scope: present(workspace, scope, survey) for scope, survey in surveys.items()}
    edits = {scope: decide(items, order, each, now_s) for scope, each in before.items()}
    workspace.role_keys("deploy")
    names = tuple(each.instance for each in items)
    done: dict[Scope, Done] = {}
    with workspace.publishing():
        put_back = _upload(workspace, broker, items, now_s, surveys, progress)
        for scope, survey in surveys.items():
            deployment, edit = before[scope].deployment, edits[scope]
            with telling_what_is_done(done, surveys):
                if edit.instances:
                    deployment = publish_edit(workspace, broker, deployment, edit, survey.document, now_s)
                elif survey.document is None:
                    put_back += _put_back(workspace, broker, scope)
            done[scope] = Done(deployment, names, frozenset(edit.instances), put_back, survey.notes)
        _still_there(broker, [each.update for each in items])
    return list(done.values())


@contextlib.contextmanager
def telling_what_is_done(done: Collection[Scope], wanted: Collection[Scope]) -> Iterator[None]:
    """For several groups or devices, one after the other: an error at one of them names those that are done. Raises PartlyError."""
    try:
        yield
    except OtaError as error:
        if not done:
            raise
        left = ", ".join(str(each) for each in wanted if each not in done)
        raise PartlyError(f"{error}; published before that to {', '.join(map(str, done))}, and not to {left}") from error


def _still_there(broker: Broker, updates: Iterable[Update]) -> None:
    """Puts back what a cleaning of another workspace has taken away since, which did not see the documents yet.

    It removes an update with its index and manifest; from the documents on it sees that they are needed.
    """
    for update in updates:
        messages = artifacts(update)
        small = {topics.manifest(update.digest), *(topics.blob_index(index.digest) for _, index in update.blobs)}
        if presence.missing(broker, [each for each in messages if each[0] in small]):
            presence.put(broker, presence.missing(broker, messages))


def deploy_unsent(
    workspace: Workspace, items: Sequence[Item], order: Order, now_s: int, surveys: Mapping[Scope, Survey]
) -> list[Done]:
    """As `deploy`, without a broker: signs and records what is to be carried to boards, or put on a broker by `republish`.

    Raises Refused, OtaError likewise.
    """
    for item in items:
        check_vendor(item.update.manifest, workspace.settings.vendor)
        verify_any(item.update.envelope, workspace.root())
    before = {scope: present(workspace, scope, survey) for scope, survey in surveys.items()}
    edits = {scope: decide(items, order, each, now_s) for scope, each in before.items()}
    for item in items:
        Updates(workspace).add(item.update, now_s, Ledger(workspace).needed() | {each.update.digest for each in items})
    workspace.adopt(sequence=max(each.update.manifest.sequence for each in items))
    done = []
    for scope, edit in edits.items():
        deployment = before[scope].deployment
        if edit.instances:
            deployment = sign_unsent(workspace, edit.applied(deployment), now_s)
        done.append(Done(deployment, tuple(each.instance for each in items), frozenset(edit.instances), 0))
    return done


def sign_unsent(workspace: Workspace, deployment: Deployment, now_s: int) -> Deployment:
    """Signs and records a document of the next epoch, and sends it nowhere.

    Raises PendingError where others have to sign it, too, Refused, KeyFileError, WorkspaceError.
    """
    scope = Scope.of(deployment)
    keys = workspace.role_keys("deploy")
    check_enough(workspace, replace(deployment, issued_s=now_s), keys, now_s)
    made = replace(deployment, epoch=workspace.next_epoch(scope.key, now_s), issued_s=now_s)
    document = sign_document(made.to_payload(), DEPLOYMENT_TYPE, keys)
    scope.verify(document, workspace.root())  # as boards will
    workspace.signed(now_s)
    for key in keys:
        Audit(workspace).signed(document, key, now_s)
    Ledger(workspace).deployed(scope, document, made)
    return made


def change(
    workspace: Workspace,
    broker: Broker,
    before: Present,
    edit: Edit,
    survey: Survey,
    now_s: int,
    aborted: Collection[bytes] = (),
) -> Deployment:
    """Publishes an edit that needs no update: what it names is on the broker. Raises as `publish_edit`."""
    if not edit.instances:
        return before.deployment
    Ledger(workspace).published((), Scope.of(before.deployment))
    return publish_edit(workspace, broker, before.deployment, edit, survey.document, now_s, aborted)


def _upload(
    workspace: Workspace,
    broker: Broker,
    items: Sequence[Item],
    now_s: int,
    surveys: Mapping[Scope, Survey],
    progress: Progress,
) -> int:
    """Publishes roots and updates that are not there; returns how many messages the broker had lost."""
    ledger, updates = Ledger(workspace), {each.update.digest: each.update for each in items}
    known = ledger.updates().keys() & updates.keys()
    for update in updates.values():
        Updates(workspace).add(update, now_s, ledger.needed() | updates.keys())
    for scope in surveys:
        ledger.published(updates.values(), scope)
    workspace.adopt(sequence=max(each.manifest.sequence for each in updates.values()))  # they may have been signed elsewhere
    if foreign := sorted({topic for each in surveys.values() for topic in each.foreign_roots}):
        broker.publish_all([(topic, b"") for topic in foreign])
    there = presence.missing(broker, [message for digest in known for message in artifacts(updates[digest])])
    back = presence.missing(broker, roots(workspace))
    new = [message for digest, each in updates.items() if digest not in known for message in artifacts(each)]
    presence.put(broker, [*back, *there, *new], progress)
    return len(there) + (len(back) if known else 0)


def _put_back(workspace: Workspace, broker: Broker, scope: Scope) -> int:
    """The document that was recorded last; returns the number of messages."""
    record = Ledger(workspace).record(scope)
    assert record is not None
    presence.put(broker, [(scope.topic, record.kept)])
    return 1

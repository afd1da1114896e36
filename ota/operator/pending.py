"""Publishes deployments that needed more signatures than one workspace's keys can give, and were signed as files."""

from ota.errors import OtaError
from ota.formats.deployment import Deployment
from ota.operator import presence
from ota.operator.broker import Broker
from ota.operator.document import ConflictError
from ota.operator.keeping import is_whole
from ota.operator.ledger import Ledger
from ota.operator.publish import artifacts, roots
from ota.operator.scope import Scope
from ota.operator.signing import Signable
from ota.operator.survey import look, verify_ours
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace

__all__ = ["publish_document", "record_document"]


def publish_document(workspace: Workspace, broker: Broker, document: bytes) -> Deployment:
    """Publishes a deployment that was signed as a file; returns what is on the broker then.

    Raises ConflictError when somebody published a change since that it would undo, Refused for one that boards would refuse,
    OtaError for an update that is neither kept here nor on the broker, NotKeptError, BrokerError.
    """
    found = Signable.from_bytes(document)
    if not isinstance(found.content, Deployment):
        raise OtaError(f"this is a {found.label}, not a deployment")
    deployment, scope = found.content, Scope.of(found.content)
    survey = look(workspace, broker, scope)
    if lacks := found.lacks(workspace.root()):
        raise OtaError(f"{found.label} can't be published yet: {'; '.join(lacks)}: have it signed with `ota sign FILE`")
    scope.verify(document, workspace.root())
    if survey.document == document:
        return deployment
    if survey.present is not None and (names := _undone(survey.present, deployment)):
        raise ConflictError(
            f"somebody published to {scope} since this document was made, which would undo the change of {', '.join(names)}:"
            " make the change again"
        )
    messages = [*roots(workspace), *_updates(workspace, broker, deployment)]
    presence.put(broker, presence.missing(broker, messages))
    ledger = Ledger(workspace)
    ledger.published((), scope)
    ledger.deployed(scope, document, deployment, kept=False)
    presence.put(broker, [(scope.topic, document)])
    ledger.deployed(scope, document, deployment)
    return deployment


def record_document(workspace: Workspace, document: bytes) -> Deployment:
    """Takes up a deployment that was signed as a file, and sends it nowhere: for a bundle. Raises OtaError, Refused."""
    found = Signable.from_bytes(document)
    if not isinstance(found.content, Deployment):
        raise OtaError(f"this is a {found.label}, not a deployment")
    deployment, scope = found.content, Scope.of(found.content)
    if lacks := found.lacks(workspace.root()):
        raise OtaError(f"{found.label} can't be packed yet: {'; '.join(lacks)}: have it signed with `ota sign FILE`")
    scope.verify(document, workspace.root())
    record = Ledger(workspace).record(scope)
    if (
        record is not None
        and record.document != document
        and verify_ours(workspace, record.document, scope).epoch >= deployment.epoch
    ):
        raise ConflictError(f"a newer deployment of {scope} was published since this document was made: make the change again")
    Ledger(workspace).deployed(scope, document, deployment)
    return deployment


def _undone(present: Deployment, wanted: Deployment) -> list[str]:
    """The instances that were changed after the document was made; all of them where its epoch is not above the present one."""
    if wanted.epoch <= present.epoch:
        return sorted({*present.entries, *wanted.entries})
    found = []
    for name, entry in present.entries.items():
        ours = wanted.entries.get(name)
        if entry.issued_s > (ours.issued_s if ours is not None else wanted.issued_s) or (
            ours is not None and ours != entry and ours.issued_s == entry.issued_s
        ):
            found.append(name)
    return found


def _updates(workspace: Workspace, broker: Broker, deployment: Deployment) -> list[tuple[str, bytes]]:
    kept, messages = Updates(workspace), []
    for name, entry in deployment.entries.items():
        if entry.absent:
            continue
        if kept.find(entry.manifest_digest) is not None:
            messages += artifacts(kept.load(entry.manifest_digest))
        elif not is_whole(broker, entry.manifest_digest):
            raise OtaError(
                f"the update of instance {name}, manifest {entry.manifest_digest.hex()[:16]}, is neither kept here nor on the"
                " broker: publish the document from the workspace that made it"
            )
    return messages

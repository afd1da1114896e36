"""Publishes the next root, and sees to it that what is deployed stays acceptable under it.

A root that takes a deploy key away makes boards refuse the documents that it signed, one that takes a release key away the updates.
So the documents that this workspace recorded are signed again, unchanged, and on request the updates that they name. A document
that somebody else put on the broker is never signed again by itself: a stolen key may have made it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ota.errors import OtaError
from ota.formats.deployment import Deployment, Entry
from ota.formats.manifest import verify_any
from ota.formats.report import Report
from ota.formats.signed import Role
from ota.formats.trust import Root
from ota.operator import presence, root_draft
from ota.operator.broker import Broker
from ota.operator.document import publish_edit
from ota.operator.edit import Edit, changed, members
from ota.operator.ledger import Ledger
from ota.operator.publish import artifacts, present, roots, sign_draft
from ota.operator.scope import Scope
from ota.operator.signing import Signable, read_file
from ota.operator.survey import ForeignError, is_current, look
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace

__all__ = ["Outlook", "Published", "Stale", "outlook", "publish_root", "sign_again", "stale", "take_in"]


@dataclass(frozen=True)
class Stale:
    """An entry whose update the newest root's release keys did not sign: boards that do not have it yet refuse it."""

    scope: Scope
    instance: str
    digest: bytes
    label: str


@dataclass(frozen=True)
class Published:
    """What became of a root and of what is deployed."""

    root: Root
    is_new: bool
    put: int  # root documents that the broker did not have
    renewed: tuple[Scope, ...] = ()  # documents that were signed again
    left: tuple[tuple[Scope, str], ...] = ()  # those that were not, and why
    stale: tuple[Stale, ...] = ()
    notes: tuple[str, ...] = field(default=())


def take_in(workspace: Workspace, files: Sequence[Path]) -> Signable | None:
    """The draft with the signatures that copies of it have; None where there is neither. Raises DraftError, OtaError."""
    draft = root_draft.load(workspace)
    for path in files:
        other = read_file(path)
        if not isinstance(other.content, Root):
            raise OtaError(f"{path} is a {other.label}, not a root")
        if wrong := other.wrong(workspace.root()):
            raise OtaError(f"{path} is not taken in: {'; '.join(wrong)}")
        if draft is None:
            draft = other
        elif other.payload != draft.payload:
            raise OtaError(f"{path} is another root than {workspace.folder / root_draft.DRAFT}: one of them was changed since")
        draft = draft.joined(other.encoded_signatures())
    if draft is not None and files:
        root_draft.save(workspace, draft)
    return root_draft.load(workspace)


def publish_root(workspace: Workspace, broker: Broker, now_s: int, *, again: bool = False) -> Published:
    """The draft becomes the newest root: first in the workspace, then on the broker, then documents are signed under it.

    Without a draft the rest is done: an earlier call may have been cut off. With `again` updates are signed again, too. Raises
    DraftError for a draft that is not signed enough, ForeignError, NotKeptError, BrokerError.
    """
    found = look(workspace, broker, Scope(workspace.settings.group))
    draft = root_draft.load(workspace)
    if draft is not None:
        root_draft.publishable(workspace, draft)
        workspace.add_root(workspace.root().number + 1, draft.data)
        workspace.signed(now_s)
        root_draft.discard(workspace)
    absent = presence.missing(broker, roots(workspace))
    presence.put(broker, absent)
    renewed, left = _renew_all(workspace, broker, now_s, again=again)
    return Published(workspace.root(), draft is not None, len(absent), renewed, left, stale(workspace), found.notes)


def stale(workspace: Workspace, root: Root | None = None) -> tuple[Stale, ...]:
    """What recorded deployments name and the keys of the newest root, or of another, did not sign."""
    root = root or workspace.root()
    kept, found = Updates(workspace), []
    for record in Ledger(workspace).records():
        for name, releases in record.releases.items():
            digest = releases[0].manifest
            if digest and not _is_signed(kept, digest, root):
                known = kept.find(digest)
                label = f"{known.module} {known.version}" if known else f"manifest {digest.hex()[:16]}"
                found.append(Stale(record.scope, name, digest, label))
    return tuple(found)


def _is_signed(kept: Updates, digest: bytes, root: Root) -> bool:
    if kept.find(digest) is None:
        return False
    try:
        verify_any(kept.load(digest).envelope, root)
    except OtaError:
        return False
    return True


def _renew_all(
    workspace: Workspace, broker: Broker, now_s: int, *, again: bool
) -> tuple[tuple[Scope, ...], tuple[tuple[Scope, str], ...]]:
    renewed, left = [], []
    for record in sorted(Ledger(workspace).records(), key=lambda each: each.scope.group):  # devices' first: they override
        try:
            if sign_again(workspace, broker, record.scope, now_s, updates=again):
                renewed.append(record.scope)
        except OtaError as error:
            left.append((record.scope, str(error)))
    return tuple(renewed), tuple(left)


def sign_again(workspace: Workspace, broker: Broker, scope: Scope, now_s: int, *, updates: bool = False) -> bool:
    """Signs the recorded document again where boards would refuse it, and with `updates` what it names; False: no need.

    The entries stay what they are, phase and window too, and so does the deployment. Raises OtaError where the broker has another
    document than the one that was recorded here, and as `publish_edit`.
    """
    record = Ledger(workspace).record(scope)
    assert record is not None
    survey = look(workspace, broker, scope)
    wanted = [each for each in stale(workspace) if each.scope == scope] if updates else []
    if not wanted and is_current(workspace, survey.document or record.kept, scope):
        if survey.document is None:
            presence.put(broker, [(scope.topic, record.kept)])
        return False
    if survey.document not in (None, record.document, record.kept):
        raise ForeignError(
            f"the broker has another deployment of {scope} than the last one of this workspace: look at it with `ota status`,"
            " and publish what is right again"
        )
    before = present(workspace, scope, survey)
    edit = _resigned(workspace, broker, before.deployment, wanted, now_s)
    publish_edit(workspace, broker, before.deployment, edit, survey.document, now_s, record.aborted)
    return True


def _resigned(workspace: Workspace, broker: Broker, deployment: Deployment, wanted: Sequence[Stale], now_s: int) -> Edit:
    """Entries that name the same updates, signed again with a new sequence number."""
    sets: dict[str, Entry] = {}
    digests: dict[bytes, bytes] = {}
    for each in wanted:
        if each.digest not in digests:
            update = sign_draft(workspace, Updates(workspace).load(each.digest).draft, now_s, anew=True)
            Ledger(workspace).published([update], each.scope)
            presence.put(broker, presence.missing(broker, artifacts(update)))
            digests[each.digest] = update.digest
    for each in wanted:
        for name in members(deployment.entries, each.instance):
            entry = deployment.entries[name]
            sets[name] = changed(entry, now_s, manifest_digest=digests.get(entry.manifest_digest, entry.manifest_digest))
    return Edit(sets)


# -- what a root would do to boards


@dataclass(frozen=True)
class Outlook:
    """What becomes of one board when a root is published."""

    device: str
    root: int  # in force there; 0: it does not say
    verdict: str  # follows, unknown, refuses
    why: str = ""


def outlook(device: str, report: Report | None, chain: Sequence[Root], documents: Sequence[Signable]) -> Outlook:
    """Whether a board can follow every root from the one that it has to the last. `documents`: of the chain, the draft last.

    A board refuses a root for which too few keys are of algorithms that its agent knows, and one that only other keys signed.
    """
    if report is None or not report.root:
        return Outlook(device, 0, "unknown", "no report that says which root is in force")
    if report.root > len(documents):
        return Outlook(device, report.root, "refuses", f"it follows another chain: root {report.root} is not one of this workspace")
    if not report.algorithms:
        return Outlook(device, report.root, "unknown", "it does not say which algorithms its agent knows")
    for before, document in zip(chain[report.root - 1 :], documents[report.root :], strict=False):
        if why := _stumbles(report.algorithms, before, document):
            return Outlook(device, report.root, "refuses", why)
    return Outlook(device, report.root, "follows")


def _stumbles(algorithms: Sequence[str], before: Root, document: Signable) -> str:
    root = document.content
    assert isinstance(root, Root)
    known = ", ".join(algorithms)
    for name, role in root.roles.items():
        usable = _usable(role, algorithms)
        if lack := usable.lacks(usable.keys):
            return f"root {root.number}, role {name}: {lack} by keys that its agent can use ({known})"
    for whose in (before, root):
        usable = _usable(whose.roles["root"], algorithms)
        if document.signatures and not document.lacks(before) and (lack := usable.lacks(document.signers(usable))):
            return f"root {root.number}: {lack} of root {whose.number} by keys that its agent can use ({known})"
    return ""


def _usable(role: Role, algorithms: Sequence[str]) -> Role:
    return replace(role, keys={key_id: key for key_id, key in role.keys.items() if key.algorithm.name in algorithms})

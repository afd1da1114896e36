"""Changing a group's deployment while it spreads: widening, pausing, going on, aborting.

The deployment keeps its identifier, so that boards that have it stay in, and gets a new epoch. What boards do: those that
confirmed the update keep it; those that have not begun, or are fetching, stop while it is paused. Aborting is pausing for good:
`resume` and `widen` refuse it. Going back is another update: the module that the group ran before, signed with a new sequence
number, since boards refuse an older one.
"""

from dataclasses import dataclass

from ota.errors import OtaError
from ota.formats import topics
from ota.formats.deployment import FRACTION_ALL, Deployment
from ota.formats.reasons import Refused
from ota.operator.broker import Broker
from ota.operator.ledger import Ledger
from ota.operator.publish import Done, Order, deploy, publish_document, renewed, sign_draft
from ota.operator.survey import Survey, verify_ours
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace

__all__ = ["Standing", "aborted", "back", "change", "paused", "previous", "resumed", "standing", "widened"]


class RolloutError(OtaError):
    """A group's deployment can't be changed so."""


@dataclass(frozen=True)
class Standing:
    """A group's deployment as it is on the broker."""

    deployment: Deployment
    aborted: bool  # as this workspace knows


def standing(workspace: Workspace, broker: Broker, group: str) -> Standing:
    """What is on the broker for a group. Raises RolloutError when that is nothing, or not ours; BrokerError."""
    document, record = broker.retained_one(topics.desired(group)), Ledger(workspace).group(group)
    if document is None:
        lost = "the broker has lost its deployment: `ota republish` puts it back" if record else "nothing was deployed to it"
        raise RolloutError(f"group {group}: {lost}")
    try:
        deployment = verify_ours(workspace, document, group)
    except Refused as error:
        raise RolloutError(
            f"group {group}: the deployment on the broker is not signed by this workspace's keys ({error})"
        ) from error
    return Standing(deployment, aborted=record is not None and record.aborted and record.document == document)


def widened(found: Standing, fraction_ppm: int) -> Deployment:
    """With more of the group's boards."""
    present = _not_aborted(found)
    if fraction_ppm <= present.fraction_ppm:
        raise RolloutError(
            f"group {present.group} is at {_percent(present.fraction_ppm)} already: a fraction only grows,"
            " since boards keep what they confirmed"
        )
    return renewed(present, present.issued_s, fraction_ppm=fraction_ppm)


def paused(found: Standing) -> Deployment:
    """Boards that have not begun wait."""
    present = _not_aborted(found)
    if present.paused:
        raise RolloutError(f"group {present.group} is paused already")
    return renewed(present, present.issued_s, paused=True)


def resumed(found: Standing) -> Deployment:
    """Boards that waited begin."""
    present = _not_aborted(found)
    if not present.paused:
        raise RolloutError(f"group {present.group} is not paused")
    return renewed(present, present.issued_s, paused=False)


def aborted(found: Standing) -> Deployment:
    """No board begins it any more."""
    return renewed(_not_aborted(found), found.deployment.issued_s, paused=True)


def change(
    workspace: Workspace, broker: Broker, wanted: Deployment, survey: Survey, now_s: int, *, final: bool = False
) -> Deployment:
    """Publishes a changed deployment; `final`: it is aborted. Raises as `publish_document` does."""
    key = workspace.role_key("deploy")
    return publish_document(workspace, broker, renewed(wanted, now_s), survey, key, now_s, aborted=final)


def previous(workspace: Workspace, group: str) -> bytes:
    """The manifest that a group had before the present one. Raises RolloutError."""
    record = Ledger(workspace).group(group)
    if record is None or len(record.manifests) < 2:
        raise RolloutError(f"this workspace knows of nothing that group {group} had before")
    return record.manifests[1]


def back(workspace: Workspace, broker: Broker, group: str, survey: Survey, now_s: int) -> Done:
    """Deploys what a group had before to all of its boards, with a new sequence number."""
    old = Updates(workspace).load(previous(workspace, group))
    update = sign_draft(workspace, old.draft, now_s, anew=True)
    return deploy(workspace, broker, update, Order(group, FRACTION_ALL), now_s, survey)


def _not_aborted(found: Standing) -> Deployment:
    if found.aborted:
        raise RolloutError(
            f"the deployment of group {found.deployment.group} was aborted: publish an update, or the same one again"
        )
    return found.deployment


def _percent(fraction_ppm: int) -> str:
    return f"{fraction_ppm / 10_000:g} %"

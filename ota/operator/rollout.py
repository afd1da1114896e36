"""Changing a deployment while it spreads: widening, pausing, going on, aborting. Of one instance, or of a whole set.

The deployment keeps its identifier, so that boards that have it stay in, and its document gets a new epoch. What boards do: those
that confirmed the update keep it; those that have not begun, or are fetching, stop while it is paused. Aborting is pausing for
good: `resume` and `widen` refuse it. Going back is another update: what the instance ran before, signed with a new sequence
number, since boards refuse an older one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ota.errors import OtaError
from ota.formats.deployment import FRACTION_ALL, Entry
from ota.formats.manifest import AnyManifest
from ota.operator.broker import Broker
from ota.operator.document import publish_edit
from ota.operator.edit import Edit, members, renewed
from ota.operator.ledger import Ledger, Release
from ota.operator.order import Item, Order, Present, phase, removed
from ota.operator.publish import Done, deploy, present, sign_draft
from ota.operator.scope import Scope
from ota.operator.survey import Survey
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace

__all__ = ["Standing", "aborted", "back", "older", "paused", "previous", "resumed", "standing", "widened", "withdrawn"]

NAMED = 8  # groups and devices in a message


class RolloutError(OtaError):
    """A deployment can't be changed so."""


@dataclass(frozen=True)
class Standing:
    """A deployment as it is on the broker: the entries of an instance, or of a set."""

    present: Present
    instances: tuple[str, ...]

    @property
    def entry(self) -> Entry:
        """Of the first instance: what says how it is deployed is the same for all of them."""
        return self.present.deployment.entries[self.instances[0]]

    @property
    def label(self) -> str:
        """For a person."""
        return f"instance {', '.join(self.instances)} of {self.present.scope}"

    def renewed(self, now_s: int, fraction_ppm: int, boards: tuple[str, ...], *, paused: bool) -> Edit:
        """All of its entries, changed alike."""
        if self.present.is_aborted(self.entry):
            raise RolloutError(f"the deployment of {self.label} was aborted: publish an update, or the same one again")
        entries = self.present.deployment.entries
        return Edit(
            {
                name: renewed(entries[name], now_s, fraction_ppm=fraction_ppm, boards=boards, paused=paused)
                for name in self.instances
            }
        )


def standing(workspace: Workspace, scope: Scope, survey: Survey, instance: str | None) -> Standing:
    """The deployment of an instance, or of the only one that there is. Raises RolloutError when that can't be told."""
    if survey.document is None:
        if Ledger(workspace).record(scope):
            raise RolloutError(f"{scope}: the broker has lost its deployment: `ota republish` puts it back")
        others = [str(each.scope) for each in Ledger(workspace).records()]
        known = f", but to {', '.join(others[:NAMED])}{' and others' if others[NAMED:] else ''}" if others else ""
        raise RolloutError(f"{scope}: nothing was deployed to it{known}")
    found = present(workspace, scope, survey)
    entries = found.deployment.entries
    if instance is None:
        instance = _only(found)
    if instance not in entries:
        raise RolloutError(f"{scope} has no instance {instance}: it has {', '.join(sorted(entries)) or 'none'}")
    return Standing(found, members(entries, instance))


def _only(found: Present) -> str:
    entries = found.deployment.entries
    names = sorted(name for name, each in entries.items() if not each.absent) or sorted(entries)
    if not names:
        raise RolloutError(f"{found.scope} has no instances any more: nothing is deployed to it")
    if len({members(entries, name) for name in names}) > 1:
        raise RolloutError(f"{found.scope} has several instances, so say which with --instance: {', '.join(names)}")
    return names[0]


def widened(found: Standing, fraction_ppm: int | None, boards: Sequence[str], now_s: int) -> Edit:
    """With more boards: a larger share, or more that are named."""
    entry = found.entry
    share = entry.fraction_ppm if fraction_ppm is None else fraction_ppm
    named = tuple(sorted({*entry.boards, *boards}))
    edit = found.renewed(now_s, share, named, paused=entry.paused)
    if share < entry.fraction_ppm or (share, named) == (entry.fraction_ppm, entry.boards):
        raise RolloutError(
            f"{found.label} is deployed to {phase(entry)} already: a fraction only grows, since boards keep what they confirmed"
        )
    return edit


def paused(found: Standing, now_s: int) -> Edit:
    """Boards that have not begun wait."""
    entry = found.entry
    edit = found.renewed(now_s, entry.fraction_ppm, entry.boards, paused=True)
    if entry.paused:
        raise RolloutError(f"{found.label} is paused already")
    return edit


def resumed(found: Standing, now_s: int) -> Edit:
    """Boards that waited begin."""
    entry = found.entry
    edit = found.renewed(now_s, entry.fraction_ppm, entry.boards, paused=False)
    if not entry.paused:
        raise RolloutError(f"{found.label} is not paused")
    return edit


def aborted(found: Standing, now_s: int) -> Edit:
    """No board begins it any more."""
    entry = found.entry
    return found.renewed(now_s, entry.fraction_ppm, entry.boards, paused=True)


def withdrawn(names: Sequence[str], found: Present) -> Edit:
    """Without entries for these instances: boards keep what they run, and a device follows its group again.

    A set is withdrawn as a whole. Raises RolloutError for a name that is not there.
    """
    entries = found.deployment.entries
    if strange := sorted(set(names) - entries.keys()):
        raise RolloutError(f"{found.scope} has no instance {', '.join(strange)}: it has {', '.join(sorted(entries)) or 'none'}")
    return Edit(drops=frozenset(member for name in names for member in members(entries, name)))


def older(edit: Edit, device: Present, group: Present) -> list[str]:
    """The instances that a device leaves to its group, which has an older sequence of the module for them: it may refuse that."""

    def manifest(present: Present, name: str) -> AnyManifest | None:
        entry = present.deployment.entries.get(name)
        return present.manifests.get(entry.manifest_digest) if entry is not None else None

    pairs = {name: (manifest(device, name), manifest(group, name)) for name in sorted(edit.drops)}
    return [name for name, (own, its) in pairs.items() if own and its and own.name == its.name and own.sequence > its.sequence]


def previous(workspace: Workspace, found: Standing) -> dict[str, Release]:
    """What each of the instances had before and nobody aborted since. Raises RolloutError."""
    record = Ledger(workspace).record(found.present.scope)
    known: dict[str, list[Release]] = {}
    for name in found.instances if record is not None else ():
        earlier = record.releases.get(name, ())[1:] if record is not None else ()
        known[name] = [each for each in earlier if record is not None and each.manifest not in record.left]
    if not known or not all(known.values()):
        raise RolloutError(f"this workspace knows of nothing that {found.label} had before")
    return {name: releases[0] for name, releases in known.items()}


def back(workspace: Workspace, broker: Broker, found: Standing, survey: Survey, now_s: int) -> Done:
    """Deploys what the instances had before, to all boards. A module that is not the present one gets a new sequence number."""
    old, scope = previous(workspace, found), found.present.scope
    order = Order(FRACTION_ALL, now=True, together=len(old) > 1)
    gone = [name for name, each in old.items() if not each.manifest]
    if gone:
        if len(gone) < len(old):
            raise RolloutError(
                f"{found.label}: {', '.join(gone)} was not there before, and the others were: remove or publish them"
            )
        edit = removed(gone, Order(FRACTION_ALL, now=True, apart=True), found.present, now_s)
        deployment = publish_edit(workspace, broker, found.present.deployment, edit, survey.document, now_s)
        return Done(deployment, tuple(gone), frozenset(gone), 0, survey.notes)
    Ledger(workspace).leave(scope, {found.present.deployment.entries[name].manifest_digest for name in found.instances} - {b""})
    items = [_item(workspace, found, name, release, now_s) for name, release in old.items()]
    (done,) = deploy(workspace, broker, items, order, now_s, {scope: survey})
    return done


def _item(workspace: Workspace, found: Standing, name: str, release: Release, now_s: int) -> Item:
    update = Updates(workspace).load(release.manifest)
    if release.manifest != found.present.deployment.entries[name].manifest_digest:
        update = sign_draft(workspace, update.draft, now_s, anew=True)
    return Item(update, name, release.config, exact=True)

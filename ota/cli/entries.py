"""Entries of deployments, as commands look at them and show them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ota.cli import output, scopes
from ota.formats.deployment import FRACTION_ALL, Deployment, Entry
from ota.formats.text import nearest
from ota.operator.broker import Broker
from ota.operator.edit import overridden
from ota.operator.order import phase
from ota.operator.publish import present
from ota.operator.roster import Roster
from ota.operator.scope import Scope
from ota.operator.survey import Survey, look
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace

__all__ = ["about", "as_json", "label", "survey", "warn_of_sets", "warn_of_strangers"]

NAMED = 5  # groups that a message names


def survey(workspace: Workspace, broker: Broker, wanted: Sequence[Scope], *, take_over: bool = False) -> dict[Scope, Survey]:
    """Looks at the broker for each group or device, and says what the operator should know."""
    found = {scope: look(workspace, broker, scope, take_over=take_over) for scope in wanted}
    for note in dict.fromkeys(note for each in found.values() for note in each.notes):
        output.note(f"note: {note}")
    return found


def warn_of_strangers(roster: Roster, wanted: Iterable[Scope], boards: Sequence[str] = ()) -> None:
    """Says which groups no board has, and of which devices, or boards of a group, nothing is known: perhaps misspelt.

    Quiet where no board is known.
    """
    groups, names = roster.groups, roster.names
    for each in wanted:
        if each.group and groups and each.group not in groups:
            meant = nearest(each.group, groups)
            output.note(f"note: no board has reported {each}{meant}; boards have {', '.join(sorted(groups)[:NAMED])}")
        if each.group and names and (strange := [name for name in boards if name not in names]):
            meant = nearest(strange[0], names) if len(strange) == 1 else ""
            output.note(f"note: no board has reported as {', '.join(strange[:NAMED])}{meant}; `ota devices` lists the boards")
        if each.device and names and each.device not in names:
            output.note(f"note: no board has reported as {each}{nearest(each.device, names)}; `ota devices` lists the boards")


def warn_of_sets(
    workspace: Workspace, broker: Broker, roster: Roster, surveys: Mapping[Scope, Survey], names: Sequence[str]
) -> None:
    """Says which sets of their groups devices hold back, once they have deployments of their own for these instances."""
    groups: dict[Scope, Deployment] = {}
    for scope, found in surveys.items():
        group = Scope(roster.group_of(scope.device)) if scope.device else Scope()
        if not group.group:
            continue
        if group not in groups:
            groups[group] = present(workspace, group, look(workspace, broker, group)).deployment
        own = {*names, *(found.present.entries if found.present is not None else ())}
        for together in overridden(groups[group].entries, own):
            members, ours = ", ".join(together), " ".join(each for each in together if each in own)
            output.note(
                f"note: {members} of {group} are a set, of which {scope} is to have {ours} for itself: it holds that set back"
                f" (set-incomplete) until `ota withdraw {ours} --device {scope.device}`"
            )


def as_json(deployment: Deployment, name: str) -> dict[str, Any]:
    """An entry for machines."""
    entry = deployment.entries[name]
    return {
        **scopes.whose(Scope.of(deployment)),
        "instance": name,
        "deployment": entry.deployment_id,
        "manifest": entry.manifest_digest or None,
        "epoch": deployment.epoch or None,  # none: it was not sent
        "fraction": entry.fraction_ppm / FRACTION_ALL,
        "boards": entry.boards,
        "paused": entry.paused,
        "window": str(entry.window) if entry.window else None,
        "config": dict(entry.config),
        "together": entry.together,
    }


def about(name: str, entry: Entry) -> str:
    """The entry of an instance for a person."""
    parts = [f"deployment {entry.deployment_id.hex()[:12]}"]
    if entry.boards or entry.fraction_ppm < FRACTION_ALL:
        parts.append(f"for {phase(entry)}")
    if entry.window is not None:
        parts.append(f"in window {entry.window}")
    if entry.together:
        parts.append(f"together with {', '.join(sorted(set(entry.together) - {name}))}")
    return ", ".join(parts)


def label(workspace: Workspace, digest: bytes) -> str:
    """Name and version of an update, as far as this workspace knows it."""
    if not digest:
        return "nothing"
    kept = Updates(workspace).find(digest)
    return f"{kept.module} {kept.version}" if kept else f"manifest {digest.hex()[:16]}"

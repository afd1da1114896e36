"""Checks the boards that an update goes to, by their reports, before it is published."""

from collections.abc import Iterable

from ota.formats.classes import ANY_BOARD
from ota.formats.manifest import AnyManifest
from ota.formats.reasons import Reason, Refused
from ota.formats.report import Report

__all__ = ["check_classes", "newer"]

NAMED = 5  # boards that a message names


def check_classes(manifest: AnyManifest, reports: Iterable[Report]) -> None:
    """Raises Refused CLASS_MISMATCH when boards that get the update are of another class than it is for."""
    others = [
        report
        for report in reports
        if manifest.class_identifier not in [manifest.class_of(each) for each in (report.board, ANY_BOARD)]
    ]
    if others:
        raise Refused(
            Reason.CLASS_MISMATCH,
            f"{manifest.name} {manifest.version}: the group has {_boards(others)} of another class"
            f" ({', '.join(sorted({each.board for each in others}))}), which would be left with an update that is not for them:"
            " give them a group of their own, or confirm with --mixed-group",
        )


def newer(manifest: AnyManifest, reports: Iterable[Report]) -> str:
    """A note about boards that run the module as it was signed later, and will refuse this; empty when there are none."""
    module = manifest.name
    runs = {
        report.device: max(found, key=lambda each: each.sequence)
        for report in reports
        if (found := [each for each in report.instances if each.module == module and each.sequence > manifest.sequence])
    }
    if not runs:
        return ""
    highest = max(runs.values(), key=lambda each: each.sequence)
    return (
        f"{_names(sorted(runs))} of the group run{'s' * (len(runs) == 1)} {module} {highest.version} (sequence {highest.sequence})"
        f" and will refuse sequence {manifest.sequence} as too old: publish with --new-sequence to take them along"
    )


def _boards(reports: list[Report]) -> str:
    return _names(sorted(each.device for each in reports))


def _names(names: list[str]) -> str:
    if len(names) == 1:
        return f"board {names[0]}"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} boards ({', '.join(names[:NAMED])}{more})"

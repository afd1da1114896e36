"""Checks the boards of a group, by their reports, before an update is published to it."""

from collections.abc import Iterable

from ota.errors import OtaError
from ota.formats.capabilities import ABI
from ota.formats.manifest import ANY_BOARD, Manifest, class_id
from ota.formats.report import Report

__all__ = ["OtherClassesError", "check_classes", "newer"]

NAMED = 5  # boards that a message names


class OtherClassesError(OtaError):
    """The group has boards that the update is not for."""


def check_classes(manifest: Manifest, reports: Iterable[Report]) -> None:
    """Raises OtherClassesError when boards of the group are of another class: a group has one deployment, and it would be this."""
    others = [
        report
        for report in reports
        if manifest.class_identifier not in [class_id(manifest.vendor, each, "wasm", ABI) for each in (report.board, ANY_BOARD)]
    ]
    if others:
        raise OtherClassesError(
            f"the group has {_boards(others)} of another class ({', '.join(sorted({each.board for each in others}))}), which would"
            " be left with an update that is not for them: give them a group of their own, or confirm with --mixed-group"
        )


def newer(manifest: Manifest, reports: Iterable[Report]) -> str:
    """A note about boards that run what was signed later, whichever module, and will refuse this; empty when there are none."""
    ahead = [report for report in reports if report.running.sequence > manifest.sequence]
    if not ahead:
        return ""
    highest = max(ahead, key=lambda each: each.running.sequence).running
    return (
        f"{_boards(ahead)} of the group run{'s' * (len(ahead) == 1)} {highest.name} {highest.version} (sequence {highest.sequence})"
        f" and will refuse sequence {manifest.sequence} as too old: publish with --new-sequence to take them along"
    )


def _boards(reports: list[Report]) -> str:
    names = sorted(each.device for each in reports)
    if len(names) == 1:
        return f"board {names[0]}"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} boards ({', '.join(names[:NAMED])}{more})"

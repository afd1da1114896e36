"""`device-agent status`: which modules are on the board's disk, and what became of the newest update of each instance.

It needs no network, and works beside an agent that runs.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from device_agent.node.config import load
from device_agent.storage.disk import is_locked
from device_agent.storage.overview import Standing, standings
from ota.formats.text import printable

__all__ = ["Status", "status"]

LAST_S = 253_402_300_799  # of the year 9999
_HEAD = ("instance", "module", "previous", "update", "since")


@dataclass(frozen=True)
class Status:
    """What a storage folder says. `running`: an agent uses it."""

    device: str
    group: str
    board: str
    running: bool
    instances: tuple[Standing, ...]

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For a person."""
        agent = "an agent runs" if self.running else "no agent runs"
        yield f"{self.device}, group {self.group}, board {self.board}: {agent}"
        if not self.instances:
            yield "no module is installed, and no update was offered"
            return
        rows = [_HEAD, *map(_row, self.instances)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
        told = [""] + [printable(each.detail) for each in self.instances]
        for row, detail in zip(rows, told, strict=True):
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            if detail:
                yield f"  {detail}"


def _row(each: Standing) -> tuple[str, ...]:
    update = f"{each.update} ({each.reason})" if each.reason else each.update
    since = f"{datetime.fromtimestamp(min(max(each.time_s, 0), LAST_S), UTC):%Y-%m-%d %H:%M:%S} UTC"
    return tuple(printable(cell) for cell in (each.instance, each.confirmed or "none", each.previous or "none", update, since))


def status(path: Path) -> Status:
    """By the configuration at `path`. Raises ConfigError, OtaError."""
    config = load(path)
    found = tuple(standings(config.storage))
    return Status(config.device, config.group, config.board, is_locked(config.storage), found)

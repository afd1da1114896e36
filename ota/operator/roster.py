"""The expected boards: those with a certificate, those seen before, those that the operator lists in a file.

roster.json in the workspace has what was seen: each board's group, and between which times of our own clock its last report
came. It is written at every reading, and is what says that a board is missing when the broker has lost it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ota.errors import OtaError
from ota.formats.fields import is_name
from ota.formats.report import Report
from ota.operator.ca import enrolled
from ota.operator.signers import Signers
from ota.operator.workspace import Workspace, WorkspaceError

FILE = "roster.json"
MAX_BOARDS = 100_000
CLOCK_TOLERANCE_S = 120  # a board's clock that differs by less is not spoken of


@dataclass(frozen=True)
class Sighting:
    """What is remembered of a board. Times in seconds since 1970, by our clock unless the name says otherwise."""

    group: str = ""
    board_time_s: int = 0  # of its last report, by its own clock
    uptime_s: int = -1  # in that report, which it tells apart from others
    after_s: int = 0  # the report came after this; 0 when that is not known
    before_s: int = 0  # and before this
    ahead_s: int | None = None  # of the board's clock, as measured when a report came live
    read_s: int = 0  # when anything of it was read last
    forgotten: bool = False  # its certificate alone does not list it again
    encryption: str = ""  # the board's own key to encrypt for, an encoded COSE_Key in hexadecimal digits
    home: str = ""  # the group whose keys it gets: that it was set up or enrolled for, by the operator's word


def sighted(before: Sighting | None, report: Report, now_s: int, *, live: bool) -> Sighting:
    """The sighting after a report was read at `now_s`; `live` when it came from the board just then."""
    known, own = before or Sighting(), report.encryption.hex()
    if live:
        ahead_s = report.time_s - now_s
        return Sighting(report.group, report.time_s, report.uptime_s, now_s, now_s, ahead_s, now_s, encryption=own)
    if (known.board_time_s, known.uptime_s) == (report.time_s, report.uptime_s):
        return replace(known, group=report.group, read_s=now_s, forgotten=False, encryption=own)
    return Sighting(report.group, report.time_s, report.uptime_s, known.read_s, now_s, known.ahead_s, now_s, encryption=own)


def arrival(sighting: Sighting) -> tuple[int, int]:
    """When a board's last report came, by our clock as far as that is known, and how far ahead the board's clock is (0: not far).

    The board's own time, put right by what was measured, within what our readings prove.
    """
    guess_s = sighting.board_time_s - (sighting.ahead_s or 0)
    came_s = max(sighting.after_s, min(guess_s, sighting.before_s))
    ahead_s = sighting.board_time_s - came_s
    return came_s, ahead_s if abs(ahead_s) > CLOCK_TOLERANCE_S else 0


class Roster:
    """The boards of a workspace. Raises WorkspaceError when roster.json is damaged."""

    def __init__(self, workspace: Workspace, listed: Iterable[str] | None = None) -> None:
        """`listed` are names from the operator's own list, None when there is no such list."""
        self.workspace = workspace
        self.listed = None if listed is None else frozenset(listed)
        self.certificates = enrolled(workspace.folder)
        try:
            self._boards = _parsed(workspace.read(FILE))
        except WorkspaceError as error:
            raise WorkspaceError(f"{error}, or delete it: the next reading creates a new one") from error
        except TypeError as error:
            raise WorkspaceError(f"{workspace.folder / FILE} is damaged ({error}): delete it") from error
        self._fresh: dict[str, Sighting] = {}
        self._decided: set[str] = set()  # boards whose home the operator has changed here
        self.signers = Signers(workspace, self.certificates)

    @property
    def names(self) -> set[str]:
        """Every board that there should be."""
        known = {name for name, each in self._boards.items() if not each.forgotten}
        issued = {name for name in self.certificates if name not in self._boards}
        return known | issued | (self.listed or frozenset())

    @property
    def groups(self) -> set[str]:
        """Groups that boards have reported, or are to have."""
        return {each.group for each in self._boards.values() if each.group and not each.forgotten}

    def group_of(self, name: str) -> str:
        """The group that a board reported last, or is to have; "" when that is not known."""
        sighting = self._boards.get(name)
        return sighting.group if sighting else ""

    def home_of(self, name: str) -> str:
        """The group whose keys a board may have; "" when that is not known. What it reports itself does not count."""
        sighting = self._boards.get(name)
        return sighting.home if sighting else ""

    def encryption_key(self, name: str) -> bytes:
        """The board's own key to encrypt for, an encoded COSE_Key as its last report had it; empty when that is not known."""
        sighting = self._boards.get(name)
        return bytes.fromhex(sighting.encryption) if sighting else b""

    def sight(self, report: Report, now_s: int, *, live: bool) -> tuple[int, int]:
        """Remembers a report; returns what `arrival` says."""
        home = self.home_of(report.device)
        sighting = replace(sighted(self._boards.get(report.device), report, now_s, live=live), home=home)
        self._boards[report.device] = self._fresh[report.device] = sighting
        return arrival(sighting)

    def expect(self, name: str, group: str) -> None:
        """A board was set up for a group: it is missing until it reports, with whatever key it has now."""
        self.signers.forget(name)
        if name not in self._boards or self._boards[name].forgotten:
            self._boards[name] = Sighting(group=group)
        self.assign(name, group)

    def assign(self, name: str, group: str) -> None:
        """The operator says that a board belongs to a group, whatever it reported before."""
        self._decided.add(name)
        self._boards[name] = self._fresh[name] = replace(self._boards.get(name, Sighting(group=group)), home=group)

    def forget(self, name: str) -> None:
        """Takes a board out; it comes back when it reports again."""
        self.signers.forget(name)
        self._decided.add(name)
        self._boards[name] = self._fresh[name] = Sighting(forgotten=True)

    def save(self) -> None:
        """Writes what is new. Should there be more than MAX_BOARDS, those stay that have a certificate, then those with a group by
        the operator's word, then those that were read last: whoever invents names displaces none of them.
        """
        self.signers.save()
        if not self._fresh:
            return
        with self.workspace.record(FILE) as state:
            boards = _parsed(state)
            for name, each in self._fresh.items():  # somebody else may have said meanwhile where a board belongs
                known = boards.get(name)
                boards[name] = each if known is None or name in self._decided else replace(each, home=known.home)
            if len(boards) > MAX_BOARDS:
                boards = dict(sorted(boards.items(), key=self._weight)[-MAX_BOARDS:])
            kept = {name: vars(each) for name, each in sorted(boards.items()) if not each.forgotten or name in self.certificates}
            state.clear()
            state["boards"] = kept
        self._fresh = {}

    def _weight(self, board: tuple[str, Sighting]) -> tuple[bool, bool, int]:
        name, sighting = board
        return name in self.certificates, bool(sighting.home), sighting.read_s


def _parsed(state: Any) -> dict[str, Sighting]:
    return {name: Sighting(**each) for name, each in state.get("boards", {}).items() if is_name(name)}


def listed(path: Path) -> list[str]:
    """Names out of a file, one a line; empty lines and what follows a # are left out. Raises OtaError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise OtaError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise OtaError(f"{path} is not UTF-8 text: a list of boards is expected, one name a line") from None
    names = [name for line in lines if (name := line.partition("#")[0].strip())]
    for name in names:
        if not is_name(name):
            raise OtaError(f"{path}: {name!r} is not the name of a board (letters, digits, - _ . , at most 64)")
    return names

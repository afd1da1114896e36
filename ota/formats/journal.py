"""A board's journal as the operator gets it: rows chained by hashes, and how to find what was removed, changed or reordered.

Each instance has a chain of its own: a row's hash is over the row and the hash of the row before it that is of the same instance.
The head of the journal is one hash over the ends of all chains, with the number of the last row. Boards sign it into their reports;
so a chain that leads to a head that was signed is the one that the board had then.

The export is text: a line of JSON for each row, in the order of their numbers.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ota.formats import cbor
from ota.formats.fields import malformed
from ota.formats.reasons import Reason, Refused
from ota.formats.report import JournalHead

__all__ = [
    "COLUMNS",
    "INSTANCES_KEPT",
    "LINE_LIMIT_CHARACTERS",
    "ROWS_KEPT",
    "Finding",
    "Row",
    "Verdict",
    "chain",
    "head",
    "judge",
    "read",
]

ROWS_KEPT = 500  # of an instance
INSTANCES_KEPT = 256  # that are gone, and whose rows are still kept
EXPORT_LIMIT_BYTES = 256 << 20
LINE_LIMIT_CHARACTERS = 64 * 1024
_OF_UPDATE = ("phase", "deployment", "manifest", "config", "together", "resumptions", "reason", "detail", "events")
COLUMNS = ("time_s", "instance", *_OF_UPDATE)
_BYTES = ("deployment", "manifest", "config")
_NUMBERS = ("time_s", "resumptions", "events")


def chain(before: bytes, row: Sequence[object]) -> bytes:
    """The hash of a row and of all before it that are of the same instance."""
    return cbor.sha256(before + cbor.encode(list(row)))


def head(last_row: int, ends: Mapping[str, bytes]) -> JournalHead:
    """Of a journal whose last row has this number, by the hash of each instance's last row."""
    if not ends:
        return JournalHead()
    return JournalHead(last_row, cbor.sha256(cbor.encode([[name, ends[name]] for name in sorted(ends)])))


@dataclass(frozen=True)
class Row:
    """A row of the journal. `values` are those of COLUMNS; empty for the oldest row of a chain whose beginning is not kept."""

    number: int
    instance: str
    values: tuple[object, ...]
    hash: bytes

    def to_line(self) -> str:
        """As it stands in an export, without the end of the line."""
        about: dict[str, Any] = {"row": self.number, "instance": self.instance}
        found = zip(COLUMNS, self.values, strict=True) if self.values else ()
        about |= {name: each.hex() if isinstance(each, bytes) else each for name, each in found}
        return json.dumps(about | {"hash": self.hash.hex()}, ensure_ascii=False)

    @classmethod
    def from_line(cls, line: str) -> "Row":
        """Raises Refused MALFORMED."""
        try:
            found = json.loads(line)
            values = tuple(_value(name, found[name]) for name in COLUMNS) if "phase" in found else ()
            row = cls(found["row"], str(_value("instance", found["instance"])), values, bytes.fromhex(found["hash"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise malformed("journal", f"a line is not a row of a journal ({error}): {line[:80]!r}") from error
        if type(row.number) is not int:
            raise malformed("journal", f"a line is not a row of a journal: {line[:80]!r}")
        return row


def _value(name: str, found: Any) -> object:
    if name in _BYTES:
        return bytes.fromhex(found)
    if type(found) is not (int if name in _NUMBERS else str):
        raise ValueError(f"{name} is {found!r}")
    if isinstance(found, str):
        found.encode()  # JSON can say half of a character, which no board hashes: raises ValueError
    return found


def read(lines: Iterable[str]) -> list[Row]:
    """An export. Raises Refused TOO_LARGE, MALFORMED. A line longer than LINE_LIMIT_CHARACTERS need not be given whole."""
    rows, size = [], 0
    for line in lines:
        size += len(line)
        if len(line) > LINE_LIMIT_CHARACTERS:
            raise Refused(Reason.TOO_LARGE, f"a line of the export has more than {LINE_LIMIT_CHARACTERS} characters")
        if size > EXPORT_LIMIT_BYTES:
            raise Refused(Reason.TOO_LARGE, f"the export has more than {EXPORT_LIMIT_BYTES} bytes")
        if line.strip():
            rows.append(Row.from_line(line))
    return rows


@dataclass(frozen=True)
class Finding:
    """What is wrong with a journal. `row`: where, 0 for all of it."""

    row: int
    text: str


@dataclass(frozen=True)
class Verdict:
    """What an export proves. `vouched`: the number of the last row whose head the board signed, 0 for none."""

    findings: tuple[Finding, ...]
    vouched: int


def judge(rows: Sequence[Row], signed: Iterable[JournalHead]) -> Verdict:
    """Whether the rows fit each other, and the heads that the board signed.

    A head of a time whose rows are not all kept any more says nothing; a later one vouches for what is kept, through the chains.
    """
    found = [*_order(rows), *_chains(rows)]
    heads = {each.row: each.digest for each in signed if each.row}
    kept_from = _kept_from(rows)
    vouched, ends = 0, dict[str, bytes]()
    for each in rows:
        ends[each.instance] = each.hash
        signed_digest = heads.pop(each.number, None)
        if signed_digest is None:
            continue
        if head(each.number, ends).digest == signed_digest:
            vouched = each.number
        elif each.number >= kept_from:
            found.append(Finding(each.number, "the rows up to here are not those whose head the board signed"))
    missing = (each for each in heads if each >= kept_from)
    found += [Finding(each, f"the board signed the head of row {each}, and there is no such row") for each in sorted(missing)]
    return Verdict(tuple(found), vouched)


def _kept_from(rows: Sequence[Row]) -> int:
    """From which row on every row of its time is still kept."""
    if len({each.instance for each in rows}) >= INSTANCES_KEPT:  # there may have been more of them, whose rows went
        return rows[-1].number
    return max((each.number for each in rows if not each.values), default=0)


def _order(rows: Sequence[Row]) -> Iterable[Finding]:
    for before, after in itertools.pairwise(rows):
        if after.number <= before.number:
            yield Finding(after.number, f"it follows row {before.number}: rows are reordered or repeated")


def _chains(rows: Sequence[Row]) -> Iterable[Finding]:
    ends: dict[str, bytes] = {}
    counts = Counter(each.instance for each in rows)
    for each in rows:
        before = ends.get(each.instance)
        ends[each.instance] = each.hash
        if each.values:
            if chain(before or b"", each.values) != each.hash:
                yield Finding(each.number, f"it was changed, or a row of {each.instance} before it is missing")
        elif before is not None:
            yield Finding(each.number, f"the content of a row of {each.instance} is missing")
        elif counts[each.instance] < ROWS_KEPT:
            yield Finding(each.number, f"the beginning of {each.instance} is missing: it has {counts[each.instance]} rows")

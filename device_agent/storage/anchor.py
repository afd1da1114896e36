"""The anchor: a small file beside the database with what a board must not forget when the database is damaged.

Newer roots, the floors that keep old documents out, and the slots with their manifests. It is written after each transaction that
changes one of these, and read only when the database has to be rebuilt.
"""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agent.storage import floors
from ota.durable import write_durably
from ota.formats import cbor
from ota.formats.fields import malformed
from ota.formats.reasons import Refused

NAME = "anchor.cbor"
LIMIT_BYTES = 8 << 20
_WHAT = "anchor"


@dataclass(frozen=True)
class Anchor:
    """What is kept a second time."""

    roots: tuple[tuple[int, bytes], ...] = ()
    floors: tuple[tuple[str, bytes, int, bytes], ...] = ()  # name, key, value, digest
    slots: tuple[tuple[str, bytes, int, int], ...] = ()  # name, digest of the envelope, sequence, epoch
    envelopes: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, database: sqlite3.Connection) -> "Anchor":
        """What the database has of it."""

        def rows(query: str) -> tuple[Any, ...]:
            return tuple(database.execute(query).fetchall())

        envelopes = rows("select distinct envelopes.envelope from envelopes join slots on digest = slots.envelope order by digest")
        return cls(
            roots=rows("select number, document from roots order by number"),
            floors=rows("select name, key, value, digest from floors order by name, key"),
            slots=rows("select name, envelope, sequence, epoch from slots order by name"),
            envelopes=tuple(each for (each,) in envelopes),
        )

    def restore(self, database: sqlite3.Connection) -> None:
        """Puts it into a database, where that does not know better. Floors only rise."""
        database.executemany("insert or ignore into roots values (?, ?)", self.roots)
        for name, key, value, digest in self.floors:
            floors.lift(database, name, (key,), value, digest)
        if database.execute("select 1 from slots").fetchone() is None:
            database.executemany("insert into slots values (?, ?, ?, ?, 0, 0)", self.slots)
        envelopes = [(cbor.sha256(each), each) for each in self.envelopes]
        database.executemany("insert or replace into envelopes values (?, ?)", envelopes)

    def is_ahead_of(self, other: "Anchor") -> bool:
        """Whether this one has a higher floor than the other, or slots where the other has none."""
        known = {(name, key): value for name, key, value, _ in other.floors}
        higher = any(value > known.get((name, key), 0) for name, key, value, _ in self.floors)
        return higher or (bool(self.slots) and not other.slots)

    def to_bytes(self) -> bytes:
        """Encoded: the content and its digest."""
        content = [1, self.roots, self.floors, self.slots, self.envelopes]
        encoded = cbor.encode(content)
        return cbor.encode([encoded, cbor.sha256(encoded)])

    @classmethod
    def from_bytes(cls, data: bytes) -> "Anchor":
        """Raises Refused TOO_LARGE, MALFORMED."""
        match cbor.decode(data, _WHAT, LIMIT_BYTES):
            case [bytes() as content, bytes() as digest] if cbor.sha256(content) == digest:
                pass
            case _:
                raise malformed(_WHAT, "its digest does not fit")
        match cbor.decode(content, _WHAT, LIMIT_BYTES):
            case [1, list() as roots, list() as lifted, list() as slots, list() as envelopes]:
                return cls(_tuples(roots), _tuples(lifted), _tuples(slots), tuple(envelopes))
        raise malformed(_WHAT, "of another version")


def _tuples(rows: list[Any]) -> tuple[Any, ...]:
    return tuple(tuple(row) for row in rows)


def read(folder: Path) -> Anchor | None:
    """The anchor of a folder; None when it is not there, damaged or can't be read."""
    try:
        with (folder / NAME).open("rb") as file:
            return Anchor.from_bytes(file.read(LIMIT_BYTES + 1))
    except (OSError, Refused):
        return None


def write(folder: Path, anchor: Anchor) -> None:
    """Replaces it, durably. Raises OSError."""
    write_durably(folder / NAME, anchor.to_bytes(), 0o600)

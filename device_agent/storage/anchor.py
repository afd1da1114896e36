"""The anchor: a small file beside the database with what a board must not forget when the database is damaged.

Newer roots, the floors that keep old documents out, the number of the agent's last start, which keeps its reports from being taken
for old ones, and the slots with their manifests. It is written after each transaction that
changes one of these, and read only when the database has to be rebuilt.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agent.storage import floors, migrations, schema
from ota.durable import write_durably
from ota.formats import cbor
from ota.formats.fields import malformed
from ota.formats.reasons import Refused

NAME = "anchor.cbor"
LIMIT_BYTES = 8 << 20
_WHAT = "anchor"
_SLOT = "instance, name, module, envelope, config, sequence, epoch"
_ROOT, _FLOOR, _SLOTS = (int, bytes), (str, bytes, int, bytes), (str, str, str, bytes, bytes, int, int)
_SLOTS_1 = (str, bytes, int, int)  # of version 1: name, envelope, sequence, epoch
_INTEGER_BITS = 63
_START = "start", b"start"  # among the floors, where agents that know of no such number leave it alone


@dataclass(frozen=True)
class Anchor:
    """What is kept a second time."""

    roots: tuple[tuple[int, bytes], ...] = ()
    floors: tuple[tuple[str, bytes, int, bytes], ...] = ()  # name, key, value, digest
    slots: tuple[tuple[str, str, str, bytes, bytes, int, int], ...] = ()  # as in _SLOT
    envelopes: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, database: sqlite3.Connection) -> "Anchor":
        """What the database has of it."""

        def rows(query: str) -> tuple[Any, ...]:
            return tuple(database.execute(query).fetchall())

        started = rows("select value from meta where key = 'start'")
        envelopes = rows("select distinct envelopes.envelope from envelopes join slots on digest = slots.envelope order by digest")
        return cls(
            roots=rows("select number, document from roots order by number"),
            floors=rows("select name, key, value, digest from floors order by name, key")
            + tuple((*_START, number, b"") for (number,) in started),
            slots=rows(f"select {_SLOT} from slots order by instance, name"),
            envelopes=tuple(each for (each,) in envelopes),
        )

    def restore(self, database: sqlite3.Connection) -> None:
        """Puts it into a database, where that does not know better. Floors only rise."""
        database.executemany("insert or ignore into roots (number, document) values (?, ?)", self.roots)
        for name, key, value, digest in self.floors:
            if (name, key) == _START:
                _started(database, value)
            else:
                floors.lift(database, name, (key,), value, digest)
        if database.execute("select 1 from slots").fetchone() is None:
            database.executemany(f"insert into slots ({_SLOT}) values (?, ?, ?, ?, ?, ?, ?)", self.slots)
        envelopes = [(cbor.sha256(each), each) for each in self.envelopes]
        database.executemany("insert or replace into envelopes (digest, envelope) values (?, ?)", envelopes)

    def is_ahead_of(self, other: "Anchor") -> bool:
        """Whether this one has a higher floor than the other, or slots where the other has none."""
        known = {(name, key): value for name, key, value, _ in other.floors}
        higher = any(value > known.get((name, key), 0) for name, key, value, _ in self.floors if (name, key) != _START)
        return higher or (bool(self.slots) and not other.slots)

    def to_bytes(self) -> bytes:
        """Encoded: the content and its digest."""
        content = [2, self.roots, self.floors, self.slots, self.envelopes]
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
            case [2, list() as roots, list() as lifted, list() as slots, list() as envelopes]:
                return cls(_rows(roots, _ROOT), _rows(lifted, _FLOOR), _rows(slots, _SLOTS), _envelopes(envelopes))
            case [1, list() as roots, list() as lifted, list() as slots, list() as envelopes]:
                known = _envelopes(envelopes)
                old = _of_one_instance(_rows(slots, _SLOTS_1), known)
                return cls(_rows(roots, _ROOT), _renamed(_rows(lifted, _FLOOR)), old, known)
        raise malformed(_WHAT, "of another version")


def _started(database: sqlite3.Connection, number: int) -> None:
    known = database.execute("select value from meta where key = 'start'").fetchone()
    database.execute("insert or replace into meta (key, value) values ('start', ?)", (max(number, known[0] if known else 0),))


def _rows(rows: list[Any], kinds: tuple[type, ...]) -> tuple[Any, ...]:
    """Rows whose columns are of these kinds. Raises Refused MALFORMED."""
    for row in rows:
        if not isinstance(row, list) or [type(each) for each in row] != [*kinds]:
            raise malformed(_WHAT, f"a row is not of {', '.join(each.__name__ for each in kinds)}")
        if any(isinstance(each, int) and each.bit_length() > _INTEGER_BITS for each in row):
            raise malformed(_WHAT, "a number is larger than a database keeps")
    return tuple(map(tuple, rows))


def _envelopes(found: list[Any]) -> tuple[bytes, ...]:
    if not all(isinstance(each, bytes) for each in found):
        raise malformed(_WHAT, "an envelope is no byte string")
    return tuple(found)


def _renamed(rows: Iterable[Any]) -> tuple[Any, ...]:
    """Floors of an agent that knew one module: they are of every module."""
    new = {name.removesuffix("."): name for name in (floors.SEQUENCE, floors.EPOCH)}
    return tuple((new.get(name, name), *rest) for name, *rest in rows)


def _of_one_instance(rows: Sequence[Any], envelopes: Iterable[bytes]) -> tuple[Any, ...]:
    """Slots of an agent that knew no instances."""
    modules = {cbor.sha256(each): schema.module_of(each) for each in envelopes}
    instance = migrations.name_instance(modules.get(row[1], "") for row in rows)
    return tuple((instance, name, modules.get(digest, ""), digest, b"", *rest) for name, digest, *rest in rows)


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

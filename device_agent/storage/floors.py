"""Numbers that must not go back: for each key that signed one, the highest that it signed.

A floor is the highest number of the keys that the role has *now*. So a stolen key that signed the highest number possible takes
that number with it when a root rotates the key out (TUF 1.0.33, section 5.3.11: recovery from a fast-forward attack), and what
the other keys signed can't be rolled back. A root that changes only thresholds or dates changes no floor. What a key without a
role signed is kept, for KEYS_KEPT of them: a key that a later root names again begins where it was.
"""

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

DEPLOYMENT = "deployment."  # before the name of a group, or before "@" and that of a device; all other floors are of manifests
SEQUENCE, EPOCH = "sequence.", "epoch."  # before the name of a module; alone: of every module, from an agent that knew one only
KEYS_KEPT = 64  # that have no role any more; those that signed something first long ago are forgotten
_NOBODY = b""  # the key of a floor of schema 1, which did not know who raised it


@dataclass(frozen=True)
class Floor:
    """The number, 0 where none was signed; the keys that signed it, and the digests of the documents, where they are kept."""

    value: int = 0
    keys: frozenset[bytes] = frozenset()
    digests: frozenset[bytes] = frozenset()


def read(database: sqlite3.Connection, name: str, keys: Collection[bytes]) -> Floor:
    """The floor among these keys."""
    rows = database.execute("select key, value, digest from floors where name = ?", (name,)).fetchall()
    rows = [row for row in rows if row[0] in keys]
    value = max((row[1] for row in rows), default=0)
    highest = [row for row in rows if row[1] == value]
    return Floor(value, frozenset(row[0] for row in highest), frozenset(row[2] for row in highest if row[2]))


def of_module(database: sqlite3.Connection, name: str, module: str, keys: Collection[bytes]) -> Floor:
    """The floor SEQUENCE or EPOCH of a module among these keys."""
    return max((read(database, name + module, keys), read(database, name, keys)), key=lambda each: each.value)


def lift(database: sqlite3.Connection, name: str, keys: Collection[bytes], value: int, digest: bytes = b"") -> None:
    """Notes that these keys signed a number; a lower one than before changes nothing."""
    database.executemany(
        "insert into floors (name, key, value, digest) values (?, ?, ?, ?) on conflict (name, key)"
        " do update set value = excluded.value, digest = excluded.digest where excluded.value > value",
        [(name, key, value, digest) for key in keys],
    )


def settle(database: sqlite3.Connection, release: Collection[bytes], deploy: Collection[bytes]) -> None:
    """Gives floors of schema 1 to the keys of the roles, and forgets those of too many keys that have no role any more."""
    for name, value in database.execute("select name, value from floors where key = ?", (_NOBODY,)).fetchall():
        lift(database, name, deploy if name.startswith(DEPLOYMENT) else release, value)
    database.execute("delete from floors where key = ?", (_NOBODY,))
    newest = database.execute("select key from floors group by key order by min(rowid) desc").fetchall()
    without = [(key,) for (key,) in newest if key not in release and key not in deploy]
    database.executemany("delete from floors where key = ?", without[KEYS_KEPT:])

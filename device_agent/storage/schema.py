"""The database's tables, and how those of an older agent become these. In one transaction, which the store begins and ends."""

import itertools
import sqlite3

from ota.errors import OtaError
from ota.formats import cbor, suit
from ota.formats.manifest import MANIFEST_LIMIT_BYTES, Manifest
from ota.formats.reasons import Refused

SCHEMA_VERSION = 2
SCHEMA = """
create table floors (
    name text, key blob, value integer not null, digest blob not null, primary key (name, key)) strict;
create table roots (number integer primary key, document blob not null) strict;
create table envelopes (digest blob primary key, envelope blob not null) strict;
create table journal (
    id integer primary key, time_s integer not null, phase text not null, deployment blob not null, manifest blob not null,
    resumptions integer not null, reason text not null, detail text not null, events integer not null, chain blob not null) strict;
create table slots (
    name text primary key, envelope blob not null, sequence integer not null, epoch integer not null,
    failures integer not null, failed_s integer not null) strict;
create table keyvalue (
    module text, manifest blob, key text, value blob not null, primary key (module, manifest, key)) strict;
create table states (module text, manifest blob, state blob not null, primary key (module, manifest)) strict;
create table documents (name text primary key, document blob not null) strict;
create table outbox (
    number integer primary key autoincrement, time_s real not null, module text not null, topic text not null,
    payload blob not null) strict;
"""
_FROM_1 = """
alter table journal add column events integer not null default 0;
alter table slots add column failed_s integer not null default 0;
alter table keyvalue rename to keyvalue_1;
alter table states rename to states_1;
create table keyvalue (
    module text, manifest blob, key text, value blob not null, primary key (module, manifest, key)) strict;
create table states (module text, manifest blob, state blob not null, primary key (module, manifest)) strict;
create table documents (name text primary key, document blob not null) strict;
create table floors (
    name text, key blob, value integer not null, digest blob not null, primary key (name, key)) strict;
insert into keyvalue select module, x'', key, value from keyvalue_1;
insert into floors select name, x'', value, x'' from numbers;
drop table numbers;
insert into states select module, x'', state from states_1;
drop table keyvalue_1;
drop table states_1;
"""
UPDATE = "phase, deployment, manifest, resumptions, reason, detail, events"
JOURNAL = f"time_s, {UPDATE}"


class SchemaError(OtaError):
    """The database is of an agent that this one does not know."""


def version_of(database: sqlite3.Connection) -> int:
    """The schema of a database, 0 for a new one."""
    return int(database.execute("pragma user_version").fetchone()[0])


def migrate(database: sqlite3.Connection) -> None:
    """Makes the tables, or brings those of schema 1 up to date. Raises SchemaError for any other schema."""
    version = version_of(database)
    if version == 1:
        _migrate_from_1(database)
    elif version == 0:
        _execute(database, SCHEMA)
    else:
        raise SchemaError(f"it was written by another version of the agent (schema {version})")
    database.execute(f"pragma user_version = {SCHEMA_VERSION}")


def chain(before: bytes, row: tuple[object, ...]) -> bytes:
    """The hash of a journal's row and of all before it."""
    return cbor.sha256(before + cbor.encode(list(row)))


def is_chained(database: sqlite3.Connection, columns: str) -> bool:
    """Whether the hash of every row of the journal fits the row and the one before it."""
    rows = database.execute(f"select {columns}, chain from journal order by id").fetchall()
    return all(chain(before[-1], after[:-1]) == after[-1] for before, after in itertools.pairwise(rows))


def adopt(database: sqlite3.Connection, module: str, manifest: bytes) -> None:
    """Gives a version of a module what the module kept under schema 1, which knew no versions."""
    for table in ("keyvalue", "states"):
        database.execute(f"update or ignore {table} set manifest = ? where (module, manifest) = (?, x'')", (manifest, module))


def _migrate_from_1(database: sqlite3.Connection) -> None:
    """What a module keeps goes to its confirmed version, else to its previous one; what neither is waits for `adopt`."""
    whole = is_chained(database, JOURNAL.removesuffix(", events"))
    _execute(database, _FROM_1)
    query = "select slots.envelope, envelopes.envelope from slots left join envelopes on digest = slots.envelope order by name"
    for digest, envelope in database.execute(query).fetchall():  # "confirmed" before "previous"
        if module := _module_of(envelope):
            adopt(database, module, digest)
    if whole:
        _chain_again(database)


def _execute(database: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";\n"):
        if statement.strip():
            database.execute(statement)


def _chain_again(database: sqlite3.Connection) -> None:
    rows = database.execute(f"select id, chain, {JOURNAL} from journal order by id").fetchall()
    last = rows[0][1] if rows else b""
    for number, _, *row in rows[1:]:
        last = chain(last, tuple(row))
        database.execute("update journal set chain = ? where id = ?", (last, number))


def _module_of(envelope: bytes | None) -> str:
    """The name of the module of an envelope that was verified when it came, "" where that can't be read."""
    try:
        return Manifest.from_envelope(suit.Envelope.from_bytes(envelope or b"", MANIFEST_LIMIT_BYTES)).module.name
    except Refused:
        return ""

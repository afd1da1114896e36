"""The database's tables.

From schema 3 on tables and columns are only added, each new column with a default, and rows are written with the names of their
columns. So an agent opens what a newer one has written, and ignores what it does not know: `user_version` is the oldest schema
whose agent can do that, and the table `meta` has the schema that the tables are of.
"""

import itertools
import sqlite3

from ota.errors import OtaError
from ota.formats import suit
from ota.formats.journal import chain
from ota.formats.manifest import MANIFEST_LIMIT_BYTES, Manifest
from ota.formats.reasons import Refused

SCHEMA = 4
OLDEST = 1  # the oldest schema that is brought up to date (device_agent.storage.migrations)
READABLE_BY = 3  # the oldest schema whose agent can use these tables
TABLES = """
create table meta (key text primary key, value integer not null) strict;
create table floors (
    name text, key blob, value integer not null, digest blob not null, primary key (name, key)) strict;
create table roots (number integer primary key, document blob not null) strict;
create table envelopes (digest blob primary key, envelope blob not null) strict;
create table journal (
    id integer primary key, time_s integer not null, instance text not null, phase text not null, deployment blob not null,
    manifest blob not null, config blob not null, together text not null, resumptions integer not null, reason text not null,
    detail text not null, events integer not null, chain blob not null) strict;
create index journal_of on journal (instance, id);
create table slots (
    instance text, name text, module text not null, envelope blob not null, config blob not null, sequence integer not null,
    epoch integer not null, failures integer not null default 0, failed_s integer not null default 0,
    primary key (instance, name)) strict;
create table keyvalue (
    instance text, module text, release blob, key text, value blob not null, primary key (instance, module, release, key)) strict;
create table states (
    instance text, module text, release blob, state blob not null, primary key (instance, module, release)) strict;
create table documents (name text primary key, document blob not null) strict;
create table outbox (
    number integer primary key autoincrement, time_s real not null, instance text not null, module text not null,
    topic text not null, payload blob not null, reply_to text not null default '') strict;
create index outbox_of on outbox (instance, number);
create table bus (
    number integer primary key autoincrement, time_s real not null, source text not null, target text not null,
    topic text not null, payload blob not null, hops integer not null,
    reply_to text not null default '') strict;
create index bus_to on bus (target, number);
"""
UPDATE = "phase, deployment, manifest, config, together, resumptions, reason, detail, events"
JOURNAL = f"time_s, instance, {UPDATE}"


class SchemaError(OtaError):
    """The database is of an agent that this one does not know."""


def version_of(database: sqlite3.Connection) -> int:
    """The oldest schema whose agent can use a database, 0 for a new one."""
    return int(database.execute("pragma user_version").fetchone()[0])


def create(database: sqlite3.Connection) -> None:
    """Makes the tables."""
    execute(database, TABLES)
    mark(database)


def mark(database: sqlite3.Connection) -> None:
    """Notes that the tables are of this schema, or of a newer one already."""
    database.execute(f"pragma user_version = {max(READABLE_BY, version_of(database))}")
    database.execute(
        "insert into meta (key, value) values ('schema', ?) on conflict (key) do update set value = max(value, excluded.value)",
        (SCHEMA,),
    )


def is_chained(rows: list[tuple[object, ...]]) -> bool:
    """Whether the last column of each row, its hash, fits the row and the one before it."""
    return all(isinstance(a[-1], bytes) and chain(a[-1], b[:-1]) == b[-1] for a, b in itertools.pairwise(rows))


def adopt(database: sqlite3.Connection, instance: str, module: str, release: bytes) -> None:
    """Gives a version of a module what the module kept under schema 1, which knew no versions."""
    for table in ("keyvalue", "states"):
        database.execute(
            f"update or ignore {table} set release = ? where (instance, module, release) = (?, ?, x'')",
            (release, instance, module),
        )


def execute(database: sqlite3.Connection, statements: str) -> None:
    """Several statements within the transaction that has begun; `executescript` would end it."""
    for statement in statements.split(";\n"):
        if statement.strip():
            database.execute(statement)


def module_of(envelope: bytes | None) -> str:
    """The name of the module of an envelope that was verified when it came, "" where that can't be read."""
    try:
        return Manifest.from_envelope(suit.Envelope.from_bytes(envelope or b"", MANIFEST_LIMIT_BYTES)).module.name
    except Refused:
        return ""

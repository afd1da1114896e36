"""How the tables of an older agent become those of this one. In one transaction, which the caller begins and ends."""

import sqlite3
from collections.abc import Iterable

from device_agent.storage import floors, schema
from ota.formats.deployment import AGENT
from ota.formats.fields import is_name
from ota.formats.journal import chain

INSTANCE = "module"
"""The instance of what an agent kept that knew no instances, where it does not say which module that was."""
SCHEMA_2 = """
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
_REPLACED_IN_3 = ("journal", "slots", "keyvalue", "states", "outbox")
_KEPT_IN_3 = ("floors", "roots", "envelopes", "documents")


def migrate(database: sqlite3.Connection) -> None:
    """Makes the tables, or brings older ones up to date. Raises SchemaError for those of an agent that this one can't follow."""
    version = schema.version_of(database)
    if version == 0:
        schema.create(database)
        return
    if version > schema.SCHEMA:
        raise schema.SchemaError(f"it was written by another version of the agent (schema {version})")
    if version < 2:
        _from_1(database)
    if version < 3:
        _from_2(database)
    _add_text(database, "outbox", "reply_to")
    _add_text(database, "bus", "reply_to")
    database.execute("create index if not exists outbox_of on outbox (instance, number)")  # agents of schema 4 may lack it
    schema.mark(database)


def _add_text(database: sqlite3.Connection, table: str, column: str) -> None:
    """A column of schema 4 or later. A newer agent may have added it."""
    if column not in {name for _, name, *_ in database.execute(f"pragma table_info({table})")}:
        database.execute(f"alter table {table} add column {column} text not null default ''")


def name_instance(modules: Iterable[str]) -> str:
    """The instance that takes over what an agent kept that knew no instances: the first of these names that can be one."""
    return next((each for each in modules if is_name(each) and each != AGENT), INSTANCE)


def _from_1(database: sqlite3.Connection) -> None:
    """Makes schema 2: what a module keeps goes to its confirmed version, else to its previous one. The rest waits for `adopt`."""
    whole = schema.is_chained(_rows(database, "time_s, phase, deployment, manifest, resumptions, reason, detail, chain"))
    schema.execute(database, _FROM_1)
    for digest, module in _modules(database):
        for table in ("keyvalue", "states"):
            query = f"update or ignore {table} set manifest = ? where (module, manifest) = (?, x'')"
            database.execute(query, (digest, module))
    if whole:
        _chain_again(database, "time_s, phase, deployment, manifest, resumptions, reason, detail, events")


def _from_2(database: sqlite3.Connection) -> None:
    """Makes schema 3: all that there is goes to one instance, named after its module."""
    whole = schema.is_chained(_rows(database, "time_s, phase, deployment, manifest, resumptions, reason, detail, events, chain"))
    modules = dict(_modules(database))
    kept = [name for (name,) in database.execute("select module from keyvalue union select module from states")]
    instance = name_instance((*modules.values(), *kept[:1]))
    last = database.execute("select max(seq) from sqlite_sequence where name = 'outbox'").fetchone()[0] or 0
    for table in _REPLACED_IN_3:
        database.execute(f"alter table {table} rename to {table}_2")
    for statement in schema.TABLES.split(";\n"):
        if statement.strip() and not any(f"create table {table} " in statement for table in _KEPT_IN_3):
            database.execute(statement)
    _move_to(database, instance)
    for digest, module in modules.items():
        database.execute("update slots set module = ? where envelope = ?", (module, digest))
    for table in _REPLACED_IN_3:
        database.execute(f"drop table {table}_2")
    database.execute(
        "insert into sqlite_sequence select 'outbox', 0 where not exists (select 1 from sqlite_sequence where name = 'outbox')"
    )
    database.execute("update sqlite_sequence set seq = max(seq, ?) where name = 'outbox'", (last,))
    for name in (floors.SEQUENCE, floors.EPOCH):  # of every module: nothing is loosened
        database.execute("update floors set name = ? where name = ?", (name, name.removesuffix(".")))
    if whole:
        _chain_again(database, schema.JOURNAL)


def _move_to(database: sqlite3.Connection, instance: str) -> None:
    update = "resumptions, reason, detail, events, chain"
    moves = {
        f"journal (id, time_s, instance, phase, deployment, manifest, config, together, {update})": (
            f"id, time_s, ?, phase, deployment, manifest, x'', '', {update}"
        ),
        "slots (instance, name, module, envelope, config, sequence, epoch, failures, failed_s)": (
            "?, name, '', envelope, x'', sequence, epoch, failures, failed_s"
        ),
        "keyvalue (instance, module, release, key, value)": "?, module, manifest, key, value",
        "states (instance, module, release, state)": "?, module, manifest, state",
        "outbox (number, time_s, instance, module, topic, payload)": "number, time_s, ?, module, topic, payload",
    }
    for into, values in moves.items():
        database.execute(f"insert into {into} select {values} from {into.split()[0]}_2", (instance,))


def _modules(database: sqlite3.Connection) -> list[tuple[bytes, str]]:
    """Digest of the envelope and name of the module of each slot whose manifest can be read; the confirmed one first."""
    query = "select slots.envelope, envelopes.envelope from slots left join envelopes on digest = slots.envelope order by name"
    found = [(digest, schema.module_of(envelope)) for digest, envelope in database.execute(query).fetchall()]
    return [(digest, module) for digest, module in found if module]


def _rows(database: sqlite3.Connection, columns: str) -> list[tuple[object, ...]]:
    return database.execute(f"select {columns} from journal order by id").fetchall()


def _chain_again(database: sqlite3.Connection, columns: str) -> None:
    last = b""
    for number, *row in database.execute(f"select id, {columns} from journal order by id").fetchall():
        last = chain(last, row)
        database.execute("update journal set chain = ? where id = ?", (last, number))

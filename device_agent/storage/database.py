"""Opening the database; what to do when it is damaged or can't be written: read what can be read, put aside, rebuild.

A new database is written as `.new` and renamed to `.next` once it is complete. From then on it replaces the old one: the next start
finishes what a power cut interrupted.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from device_agent.storage import migrations, schema
from ota.durable import sync_folder
from ota.formats import cbor

PUT_ASIDE_KEPT = 2
PAGE_BYTES = 4096
LOG_PAGES_MIN, LOG_PAGES_MAX = 16, 256  # SQLite's log is written back and cut at this length
BUSY_S = 5.0
CACHE_KB = 512  # of pages in memory; SQLite would take 2 MB once many messages have waited
_DAMAGE = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT))
_UNWRITABLE = frozenset(
    (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)
)
_TABLES_2 = ("floors", "roots", "envelopes", "journal", "slots", "keyvalue", "states", "documents", "outbox")
_TABLES = ("meta", *_TABLES_2, "bus")
_DEFAULTS: dict[tuple[str, str], object] = {("keyvalue", "manifest"): b"", ("states", "manifest"): b""}  # schema 1 has none


class Damaged(sqlite3.DatabaseError):
    """The database can be opened, and is not whole."""


def is_damage(error: Exception) -> bool:
    """Whether a database must be rebuilt."""
    return isinstance(error, Damaged) or _code(error) in _DAMAGE


def is_unwritable(error: Exception) -> bool:
    """Whether the disk does not let the database be used where it is."""
    return _code(error) in _UNWRITABLE


def _code(error: Exception) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF  # without the extended part


def connect(path: str | Path) -> sqlite3.Connection:
    """A connection whose transactions are begun and ended by hand, for whichever thread has it at the time.

    SQLite has no checksums: a text that a fault of the disk has changed need not be UTF-8, and is read with U+FFFD where it is not.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_S)
    connection.text_factory = _text
    return connection


def _text(stored: bytes) -> str:
    return stored.decode("utf-8", "replace")


def open_on_disk(path: Path) -> sqlite3.Connection:
    """The database, its tables up to date and whole. Raises sqlite3.Error, SchemaError."""
    if path.is_dir():
        raise Damaged(f"{path} is a folder")
    finish_replacing(path)
    database = connect(path)
    try:
        _prepare(database, _log_pages(path.parent))
        (found,) = database.execute("pragma quick_check(1)").fetchone()
        if found != "ok":
            raise Damaged(found)
    except BaseException:
        database.close()
        raise
    return database


def open_in_memory() -> sqlite3.Connection:
    """An empty database that ends with the agent."""
    database = connect(":memory:")
    _prepare(database, LOG_PAGES_MAX)
    return database


def salvage(path: Path) -> tuple[sqlite3.Connection, set[str]]:
    """What can be read of a database, damaged or not, in a new one in memory; and the tables that may lack rows."""
    lost = set(_TABLES_2)
    into = connect(":memory:")
    into.execute("pragma auto_vacuum=incremental")
    with contextlib.suppress(OSError, sqlite3.Error), _copy(path) as source:
        tables = _tables_of(source)
        into.execute("begin immediate")
        try:
            if tables is _TABLES_2:
                schema.execute(into, migrations.SCHEMA_2)
                into.execute("pragma user_version = 2")
            else:
                schema.create(into)
            for table in tables:
                if _salvage_table(source, into, table):
                    lost.discard(table)
            _salvage_sequence(source, into)
        finally:
            into.execute("commit")
    _prepare(into, LOG_PAGES_MAX)
    return into, lost


def _tables_of(source: sqlite3.Connection) -> tuple[str, ...]:
    """Those of an agent that knew no instances, or ours. The columns tell: a damaged header may have lost the number."""
    columns = {name for _, name, *_ in source.execute("pragma table_info(slots)")}
    before = 0 < schema.version_of(source) < 3 or (columns and "instance" not in columns)
    return _TABLES_2 if before else _TABLES


def _prepare(database: sqlite3.Connection, log_pages: int) -> None:
    if schema.version_of(database) == 0:
        database.execute("pragma auto_vacuum=incremental")
    database.executescript(f"""pragma journal_mode=wal; pragma synchronous=full; pragma foreign_keys=on;
        pragma wal_autocheckpoint={log_pages}; pragma journal_size_limit={log_pages * PAGE_BYTES};
        pragma cache_size=-{CACHE_KB};""")
    if _schema_of(database) < schema.SCHEMA or schema.version_of(database) > schema.SCHEMA:
        database.execute("begin immediate")
        try:
            migrations.migrate(database)
            database.execute("commit")
        except BaseException:
            if database.in_transaction:
                database.execute("rollback")
            raise
    missing = set(_TABLES) - {name for (name,) in database.execute("select name from sqlite_schema where type = 'table'")}
    if missing:
        raise Damaged(f"it has no table {', '.join(sorted(missing))}")


def _schema_of(database: sqlite3.Connection) -> int:
    """The schema of its tables, which may be newer than this agent's. 0 for a database that has none, or does not say."""
    if schema.version_of(database) < 3:
        return schema.version_of(database)
    with contextlib.suppress(sqlite3.OperationalError):  # the table is not there: what is missing is said below
        for (value,) in database.execute("select value from meta where key = 'schema'"):
            return int(value)
    return schema.SCHEMA


def _log_pages(folder: Path) -> int:
    """A thirty-second of a small disk, a megabyte of a large one."""
    found = os.statvfs(folder)
    return max(LOG_PAGES_MIN, min(LOG_PAGES_MAX, found.f_blocks * found.f_frsize // 32 // PAGE_BYTES))


@contextlib.contextmanager
def _copy(path: Path) -> Iterator[sqlite3.Connection]:
    """A copy, log included: SQLite can't use a log on a disk that it can't write to. Else the file itself, without its log."""
    import shutil
    import tempfile  # half a megabyte that an agent whose database is whole does without

    with contextlib.ExitStack() as stack:
        try:
            copy = Path(stack.enter_context(tempfile.TemporaryDirectory())) / path.name
            shutil.copyfile(path, copy)
            if _beside(path, "-wal").exists():
                shutil.copyfile(_beside(path, "-wal"), _beside(copy, "-wal"))
            source = copy.as_uri()
        except OSError:
            source = f"{path.absolute().as_uri()}?immutable=1"
        opened = stack.enter_context(contextlib.closing(sqlite3.connect(source, uri=True, isolation_level=None)))
        opened.text_factory = _text
        yield opened


def _salvage_table(source: sqlite3.Connection, into: sqlite3.Connection, table: str) -> bool:
    """Whether all of it could be read; rows are read from both ends, up to the damage."""
    wanted = [name for _, name, *_ in into.execute(f"pragma table_info({table})")]
    try:
        there = {name for _, name, *_ in source.execute(f"pragma table_info({table})")}
    except sqlite3.Error:
        return False
    columns = [name for name in wanted if name in there]
    if not columns:
        return table == "floors" and _salvage_numbers(source, into)
    extra = {name: _DEFAULTS.get((table, name), 0) for name in wanted if name not in there}
    names, marks = ", ".join((*columns, *extra)), ", ".join("?" * len(wanted))
    for order in ("asc", "desc"):
        try:
            for row in source.execute(f"select {', '.join(columns)} from {table} order by rowid {order}"):
                if _is_right(table, row):
                    with contextlib.suppress(sqlite3.Error):  # a value that its column does not take
                        into.execute(f"insert or ignore into {table} ({names}) values ({marks})", (*row, *extra.values()))
        except (sqlite3.Error, UnicodeDecodeError):
            continue
        return order == "asc"
    return False


def _salvage_numbers(source: sqlite3.Connection, into: sqlite3.Connection) -> bool:
    """The floors of schema 1, which did not know who raised them."""
    try:
        rows = source.execute("select name, value from numbers").fetchall()
    except sqlite3.Error:
        return False
    into.executemany("insert or ignore into floors (name, key, value, digest) values (?, x'', ?, x'')", rows)
    return True


def _is_right(table: str, row: tuple[object, ...]) -> bool:
    return table != "envelopes" or (isinstance(row[1], bytes) and cbor.sha256(row[1]) == row[0])


def _salvage_sequence(source: sqlite3.Connection, into: sqlite3.Connection) -> None:
    """The last number of a message, also of one that was delivered."""
    with contextlib.suppress(sqlite3.Error):
        (last,) = source.execute("select max(seq) from sqlite_sequence where name = 'outbox'").fetchone()
        raise_last_message(into, last or 0)


def raise_last_message(database: sqlite3.Connection, number: int) -> None:
    """The next message has a higher number than this."""
    database.execute(
        "insert into sqlite_sequence select 'outbox', 0 where not exists (select 1 from sqlite_sequence where name = 'outbox')"
    )
    database.execute("update sqlite_sequence set seq = max(seq, ?) where name = 'outbox'", (number,))


def replace(path: Path, memory: sqlite3.Connection, aside: str = "") -> sqlite3.Connection:
    """Puts the database in memory in the place of the one on disk, which is kept under the name `aside`, if there is one.

    Raises sqlite3.Error, OSError; the one on disk is then untouched or replaced, never half of each.
    """
    new = _beside(path, ".new")
    new.unlink(missing_ok=True)
    target = connect(new)
    try:
        memory.backup(target)
        target.execute("pragma journal_mode=delete")
    except BaseException:
        target.close()
        new.unlink(missing_ok=True)
        raise
    target.close()
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.rename(_beside(path, ".next"))
    sync_folder(path.parent)
    if aside:
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                _beside(path, suffix).rename(path.with_name(aside + suffix))
    finish_replacing(path)
    return open_on_disk(path)


def finish_replacing(path: Path) -> None:
    """Completes what a power cut interrupted."""
    ready = _beside(path, ".next")
    if not ready.exists():
        return
    for suffix in ("-wal", "-shm"):
        _beside(path, suffix).unlink(missing_ok=True)
    ready.replace(path)
    sync_folder(path.parent)


def put_aside(path: Path) -> list[Path]:
    """The damaged databases that were put aside, oldest first."""
    return sorted(each for each in path.parent.glob(f"{path.name}.damaged-*") if not each.name.endswith("-wal"))


def drop_put_aside(path: Path, keep: int) -> bool:
    """Deletes the oldest of them; whether there was one to delete."""
    gone = put_aside(path)
    gone = gone[: max(0, len(gone) - keep)]
    for each in gone:
        delete(each)
    return bool(gone)


def delete(path: Path) -> None:
    """Deletes a database with its log."""
    if path.is_dir():
        import shutil

        shutil.rmtree(path, ignore_errors=True)
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(OSError):
            _beside(path, suffix).unlink(missing_ok=True)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)

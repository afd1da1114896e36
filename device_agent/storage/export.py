"""The database, and the journal in it for an auditor: read beside an agent that runs, without its lock, and never written to."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from device_agent.storage import schema
from device_agent.storage.recovery import NAME
from ota.errors import OtaError
from ota.formats.journal import Row, chain

__all__ = ["reading", "rows"]


def rows(folder: Path) -> Iterator[Row]:
    """The rows of the journal of a storage folder, oldest first. Raises OtaError.

    The oldest row of a chain whose beginning is not kept comes without its content, for which nothing vouches.
    """
    query = f"select id, chain, {schema.JOURNAL} from journal order by id"
    seen: set[str] = set()
    with reading(folder) as database:
        for number, found, *values in database.execute(query):
            instance = values[1]
            whole = instance in seen or chain(b"", values) == found
            seen.add(instance)
            yield Row(number, instance, tuple(values) if whole else (), found)


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[sqlite3.Connection]:
    """The database of a storage folder, to read. Raises OtaError, also for what cannot be read within."""
    path = folder / NAME
    if not path.exists():
        raise OtaError(f"{path} is not there: is {folder} the storage folder of an agent?")
    # Without a log beside it no agent runs, and SQLite would make one to read.
    how = "mode=ro" if path.with_name(path.name + "-wal").exists() else "mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)) as database:
            yield database
    except (sqlite3.Error, TypeError) as error:
        raise OtaError(f"{path}: {error}") from error

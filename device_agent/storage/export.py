"""The journal for an auditor: read beside an agent that runs, without its lock, and never written to."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from device_agent.storage import schema
from device_agent.storage.recovery import NAME
from ota.errors import OtaError
from ota.formats.journal import Row, chain

__all__ = ["rows"]


def rows(folder: Path) -> Iterator[Row]:
    """The rows of the journal of a storage folder, oldest first. Raises OtaError.

    The oldest row of a chain whose beginning is not kept comes without its content, for which nothing vouches.
    """
    path = folder / NAME
    if not path.exists():
        raise OtaError(f"{path} is not there: is {folder} the storage folder of an agent?")
    query = f"select id, chain, {schema.JOURNAL} from journal order by id"
    seen: set[str] = set()
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            for number, found, *values in database.execute(query):
                instance = values[1]
                whole = instance in seen or chain(b"", values) == found
                seen.add(instance)
                yield Row(number, instance, tuple(values) if whole else (), found)
    except (sqlite3.Error, TypeError) as error:
        raise OtaError(f"{path}: the journal can't be read: {error}") from error

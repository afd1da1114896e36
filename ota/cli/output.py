"""How the commands speak: results on standard output, everything else on standard error, JSON where it is asked for."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def result(text: str) -> None:
    """A line of the result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def result_json(value: Any) -> None:
    """The result for machines: one JSON value a line."""
    result(json.dumps(value, ensure_ascii=False, default=_plain))


def note(text: str) -> None:
    """Something for a person that is not the result."""
    sys.stderr.write(text + "\n")


def confirm(question: str) -> bool:
    """Asks a person; False where there is none to ask."""
    if not sys.stdin.isatty():
        return False
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{value!r} has no JSON form")


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as they need to be."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows))
    return "\n".join(lines)


def age(seconds: float) -> str:
    """A time span for a person."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar for long work on a terminal; nothing elsewhere. Gives a function that takes how much more is done."""
    if not sys.stderr.isatty() or total < 1:
        yield lambda _: None
        return
    done, started, shown = 0, time.monotonic(), 0.0

    def advance(more: int) -> None:
        nonlocal done, shown
        done += more
        if time.monotonic() - shown < 0.05 and done < total:
            return
        shown = time.monotonic()
        filled = 30 * done // total
        rate = done / max(1e-3, time.monotonic() - started) / 1000
        sys.stderr.write(f"\r{label} [{'#' * filled}{'.' * (30 - filled)}] {100 * done // total:3d} %  {rate:,.0f} kB/s ")
        sys.stderr.flush()

    advance(0)
    try:
        yield advance
    finally:
        sys.stderr.write("\n")

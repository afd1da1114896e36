"""Output of the commands: results on standard output, everything else on standard error, JSON on request."""

import argparse
import getpass
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ota.errors import OtaError
from ota.formats.broker_url import BrokerUrl
from ota.formats.enrolment import is_pattern
from ota.formats.fields import is_name
from ota.formats.reasons import Refused
from ota.formats.text import printable


class UsageError(OtaError):
    """The arguments do not go together in a way that the parser cannot see: exit code 2."""


def result(text: str) -> None:
    """A line of the result, or several; what they hold is not for the terminal to obey."""
    try:
        sys.stdout.write(printable(text, keep="\n") + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error


def result_json(value: Any) -> None:
    """The result for machines: one JSON value a line."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=_plain, allow_nan=False)
    except ValueError:  # what a board says may be no number, for which JSON has no word
        value = _finite(value)
        text = json.dumps(value, ensure_ascii=False, default=_plain)
    result(text if text.isprintable() else json.dumps(value, default=_plain))


def note(text: str) -> None:
    """Something for a person that is not the result."""
    sys.stderr.write(printable(text, keep="\n") + "\n")


def confirm(question: str) -> bool:
    """Asks a person; False where there is none to ask."""
    if not sys.stdin.isatty():
        return False
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def secret(question: str, option: str = "--password-file") -> str:
    """Asks a person for something that is not shown. Raises OtaError where there is none to ask, and names the option instead."""
    if not sys.stdin.isatty():
        raise OtaError(f"{question.rstrip(': ')}: there is no terminal to ask on; name a file with {option}")
    try:
        return getpass.getpass(question)
    except EOFError:
        raise OtaError("no answer") from None


def seconds(text: str) -> float:
    """A span of time on a command line."""
    value = number(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, more than 0")
    return value


def number(text: str) -> float:
    """A number on a command line."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def broker_url(text: str) -> BrokerUrl:
    """The address of a broker on a command line."""
    try:
        return BrokerUrl.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def checked(check: Callable[[str], object], *, empty: bool = False) -> Callable[[str], str]:
    """The type of an option whose text `check` must accept; the value is the text. `empty`: it may be, and is not checked then."""

    def parsed(text: str) -> str:
        try:
            if text or not empty:
                check(text)
        except Refused as error:
            raise argparse.ArgumentTypeError(error.detail) from None
        except OtaError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return parsed


def days(text: str) -> int:
    """A number of days on a command line."""
    value = number(text)
    if not 1 <= value <= 36_500 or value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of days from 1 to 36500")
    return int(value)


def name(text: str) -> str:
    """A name of a group, device or module on a command line."""
    if not is_name(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name: 1 to 64 letters, digits, - _ or . that do not begin with a dot")
    return text


def names(text: str) -> str:
    """The type of an option that names a device, or a batch of them by a pattern."""
    return text if is_pattern(text) else name(text)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{value!r} has no JSON form")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as they need to be."""
    shown = [[printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown)
    return "\n".join(lines)


def age(seconds: float) -> str:
    """A time span for a person."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


class Bar:
    """A progress bar on a terminal; nothing elsewhere. The total may become known only when the work is under way.

    With `after_s` it counts things instead of bytes, is there only while the work takes longer, and leaves nothing behind.
    """

    def __init__(self, label: str, total: int = 0, after_s: float = 0.0) -> None:
        self._label, self._total = label, total
        self._done, self._started, self._shown = 0, time.monotonic(), 0.0
        self._visible = sys.stderr.isatty()
        self._drawn = False
        self._after_s, self._began = after_s, time.monotonic()

    def __call__(self, more: int) -> None:
        """So much more is done."""
        self.at(self._done + more, self._total)

    def at(self, done: int, total: int) -> None:
        """So much of so much is done."""
        if total != self._total:
            self._started = time.monotonic()
        self._done, self._total = done, total
        if not self._visible or total < 1 or (time.monotonic() - self._shown < 0.05 and done < total):
            return
        if self._after_s and (done >= total or time.monotonic() - self._began < self._after_s):
            self.end()
            return
        self._shown, self._drawn = time.monotonic(), True
        rate = done / max(1e-3, time.monotonic() - self._started) / 1000
        end = f" {done} of {total} " if self._after_s else f" {100 * done // total:3d} %  {rate:,.0f} kB/s "
        columns = shutil.get_terminal_size().columns - 1  # a longer line would wrap, and stay there
        width = min(30, columns - len(end) - len(self._label) - 3)
        filled = width * done // total
        bar = f" [{'#' * filled}{'.' * (width - filled)}]" if width >= 5 else ""
        sys.stderr.write(f"\r{self._label[: max(0, columns - len(bar) - len(end))]}{bar}{end}")
        if done >= total:
            self.end()
        sys.stderr.flush()

    def end(self) -> None:
        """The next line begins on a line of its own."""
        if self._drawn:
            blank = " " * (shutil.get_terminal_size().columns - 1)
            sys.stderr.write(f"\r{blank}\r" if self._after_s else "\n")
            sys.stderr.flush()
        self._drawn = False


@contextmanager
def progress(label: str, total: int, after_s: float = 0.0) -> Iterator[Bar]:
    """A progress bar for long work; it is called with how much more is done."""
    bar = Bar(label, total, after_s)
    try:
        yield bar
    finally:
        bar.end()

"""How a board without a screen answers: by an LED, a line on a console, and files on the stick that the bundle came on."""

import contextlib
import logging
import os
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

from device_agent.desired.installation import Answer, Result

__all__ = ["Led", "Pattern", "pattern", "print_line", "write_beside"]

LEDS = Path("/sys/class/leds")
logger = logging.getLogger(__name__)


class Pattern(Enum):
    """What the LED shows: the time that it is on and off, in milliseconds; none where it does not blink."""

    OFF = None
    ON = ()  # all is installed, and the report is on the stick: it may be pulled out
    WORKING = (500, 500)
    REFUSED = (100, 100)


def pattern(answers: Iterable[Answer]) -> Pattern:
    """For the bundles that are there. One for another group, or an older one, says nothing where there is one for this board."""
    found = list(answers)
    ours = [each for each in found if each.speaks] or found
    if not ours:
        return Pattern.OFF
    if any(not each.settled for each in ours):
        return Pattern.WORKING
    return Pattern.REFUSED if any(each.result in (Result.REFUSED, Result.FAILED) for each in ours) else Pattern.ON


class Led:
    """One LED of the kernel's (Documentation/leds/leds-class.rst), by its name; none where the name is empty."""

    def __init__(self, name: str, folder: Path = LEDS) -> None:
        self._folder = folder / name if name else None
        self._shown: Pattern | None = None

    def show(self, wanted: Pattern) -> None:
        """Shows it. An LED that can't be had is said once, and changes nothing else."""
        if self._folder is None or self._shown is wanted:
            return
        try:
            if wanted.value:
                on_ms, off_ms = wanted.value
                self._write("trigger", "timer")
                self._write("delay_on", str(on_ms))
                self._write("delay_off", str(off_ms))
            else:
                self._write("trigger", "none")
                self._write("brightness", "0" if wanted is Pattern.OFF else self._brightest())
        except OSError as error:
            if self._shown is None:
                logger.warning("LED %s: %s", self._folder.name, error.strerror)
        self._shown = wanted

    def _brightest(self) -> str:
        assert self._folder is not None
        return (self._folder / "max_brightness").read_text(encoding="ascii").strip()

    def _write(self, name: str, text: str) -> None:
        assert self._folder is not None
        (self._folder / name).write_text(text, encoding="ascii")


def print_line(console: Path | None, text: str) -> None:
    """A line on a console. One that can't be written to is passed over, and is not waited for."""
    if console is None:
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(console, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_APPEND)
        try:
            os.write(descriptor, (text + "\r\n").encode("utf-8", "backslashreplace"))
        finally:
            os.close(descriptor)


def write_beside(folder: Path, name: str, content: bytes) -> None:
    """A file in a folder of a stranger's, whole or not at all, on the disk when this returns. Links there are not followed.

    Raises OSError.
    """
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    part = f".{name}.part"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part, dir_fd=directory)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=directory)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(part, name, src_dir_fd=directory, dst_dir_fd=directory)
        with contextlib.suppress(OSError):  # not every file system has this for folders
            os.fsync(directory)
    finally:
        os.close(directory)

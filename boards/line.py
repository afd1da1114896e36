"""A serial line: bytes both ways, and one error for a cable that is gone."""

import contextlib
import errno
import os
import select
import time
from types import TracebackType
from typing import Any, Protocol, Self

from boards.errors import BoardError

__all__ = ["Line", "LineLost", "LineSilent", "SerialLine"]

READ_BYTES = 16384
WRITE_S = 10.0
_HINTS = {
    errno.ENOENT: " (is the adapter plugged in?)",
    errno.EACCES: " (whoever may open serial ports is in the group dialout)",
    errno.EAGAIN: " (another program has it open)",
}
POLL_S = 0.01  # for ports that can only be polled


class LineLost(BoardError):
    """The line is gone, or its other end is silent: what was begun can go on once it is back."""


class LineSilent(LineLost):
    """The line is there, but what should come does not."""


class Line(Protocol):
    """What a console needs of a serial line."""

    def read(self, timeout_s: float) -> bytes:
        """What has come, at least one byte unless nothing comes in time. Raises LineLost."""

    def write(self, data: bytes) -> None:
        """Sends all of it. Raises LineLost."""

    def close(self) -> None:
        """Ends the use of the line. Again: no effect."""


class SerialLine:
    """A port as pyserial names it: /dev/ttyUSB0, a pty, socket://host:port, rfc2217://host:port."""

    def __init__(self, port: str, baud_rate: int) -> None:
        """Opens it, 8N1, no flow control. Raises LineLost when it is not there, BoardError without pyserial."""
        try:
            import serial
        except ImportError:
            raise BoardError("serial lines need pyserial: pip install 'wamr-ota[serial]'") from None
        self._lost: tuple[type[Exception], ...] = (serial.SerialException, OSError)
        try:
            self._port: Any = serial.serial_for_url(port, baudrate=baud_rate, timeout=0, write_timeout=WRITE_S, exclusive=True)
        except ValueError as error:
            raise BoardError(f"{port}: {error}") from error
        except self._lost as error:
            number = getattr(error, "errno", None)
            why = f"{os.strerror(number)}{_HINTS.get(number, '')}" if number else str(error)
            raise LineLost(f"{port}: {why}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def read(self, timeout_s: float) -> bytes:
        """See Line."""
        end = time.monotonic() + timeout_s
        try:
            while True:
                if found := self._port.read(READ_BYTES):
                    return bytes(found)
                left = end - time.monotonic()
                if left <= 0:
                    return b""
                self._wait(left)
        except self._lost as error:
            raise LineLost(f"the line is gone: {error}") from error

    def _wait(self, timeout_s: float) -> None:
        try:
            number = self._port.fileno()
        except (AttributeError, OSError):  # rfc2217 has none
            time.sleep(min(POLL_S, timeout_s))
            return
        select.select([number], [], [], timeout_s)

    def write(self, data: bytes) -> None:
        """See Line."""
        try:
            view = memoryview(data)
            while view:
                done = self._port.write(bytes(view[:READ_BYTES])) or 0
                view = view[done:]
        except self._lost as error:
            raise LineLost(f"the line is gone: {error}") from error

    def close(self) -> None:
        """See Line."""
        connection = getattr(self._port, "_socket", None)
        with contextlib.suppress(*self._lost):
            self._port.close()
        if connection is not None:
            connection.close()  # pyserial forgets to when the other end was first

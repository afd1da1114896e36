"""wasi:io 0.2: errors, pollables, streams. Output that is not a file is the log; there is no input but files."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from device_agent.sandbox.errors import ContractError
from device_agent.sandbox.signatures import Failure

__all__ = ["Closed", "Error", "Input", "InputStream", "LogStream", "OutputStream", "Pollable", "Resource", "failed", "hosts"]

PERMIT_BYTES = 64 * 1024  # for one write
BLOCKING_BYTES = 4096  # for one that waits (wasi:io/streams)
READ_LIMIT_BYTES = 64 * 1024
SLEEP_LIMIT_S = 1 << 31
_CLOSED = (1, None)


class Resource:
    """What a module has a handle of."""

    resource = ""

    def close(self) -> None:
        """The module has dropped it."""


class Error(Resource):
    """Why a stream failed; `code` is an error code of wasi:filesystem, where it is one."""

    resource = "error"

    def __init__(self, text: str, code: int | None = None) -> None:
        self.text, self.code = text, code


def failed(text: str, code: int | None = None) -> Failure:
    """A stream's error: its last operation failed."""
    return Failure((0, Error(text, code)))


class Pollable(Resource):
    """Ready at a time of the monotonic clock, in nanoseconds; at 0 at once."""

    resource = "pollable"

    def __init__(self, ready_ns: int = 0) -> None:
        self.ready_ns = ready_ns

    def left_ns(self) -> int:
        """Until it is ready; 0 when it is."""
        return max(0, self.ready_ns - time.monotonic_ns()) if self.ready_ns else 0


class Poll:
    """wasi:io/poll. It waits as long as the module says: what bounds that is the deadline of the event."""

    def pollable_ready(self, pollable: Pollable) -> bool:
        """Without waiting."""
        return pollable.left_ns() == 0

    def pollable_block(self, pollable: Pollable) -> None:
        """Waits."""
        self._wait([pollable])

    def poll(self, pollables: Sequence[Pollable]) -> list[int]:
        """The places of those that are ready. Raises ContractError for none at all, of which none would ever be."""
        if not pollables:
            raise ContractError("the module polls nothing: it would wait for ever")
        self._wait(pollables)
        return [number for number, each in enumerate(pollables) if each.left_ns() == 0]

    @staticmethod
    def _wait(pollables: Sequence[Pollable]) -> None:
        while (left_ns := min(each.left_ns() for each in pollables)) > 0:
            time.sleep(min(left_ns / 1e9, SLEEP_LIMIT_S))


class InputStream(Protocol):
    """What can be read, a part at a time. Raises Failure."""

    resource: str

    def read(self, size: int) -> bytes:
        """At most so much; raises `Failure` closed at the end."""


class OutputStream(Protocol):
    """What can be written. Raises Failure."""

    resource: str

    def write(self, content: bytes) -> None:
        """All of it."""


class Closed(Resource):
    """An input without anything in it."""

    resource = "input-stream"

    def read(self, size: int) -> bytes:
        """Raises Failure: closed."""
        raise Failure(_CLOSED)


class Input(Resource):
    """What a command is given. It is always ready: reading waits."""

    resource = "input-stream"

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def read(self, size: int) -> bytes:
        """At most so much. Raises Failure: closed, at the end."""
        content = self._read(size) if size else b""
        if size and not content:
            raise Failure(_CLOSED)
        return content


class LogStream(Resource):
    """Output to the log, by its lines."""

    resource = "output-stream"

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.write = write


class Streams:
    """wasi:io/streams. Nothing here waits: a file, the log and the end of an input are always ready."""

    def input_stream_read(self, stream: InputStream, size: int) -> bytes:
        """At most `size` bytes."""
        return stream.read(min(size, READ_LIMIT_BYTES))

    input_stream_blocking_read = input_stream_read

    def input_stream_skip(self, stream: InputStream, size: int) -> int:
        """How many bytes were skipped."""
        return len(self.input_stream_read(stream, size))

    input_stream_blocking_skip = input_stream_skip

    def input_stream_subscribe(self, stream: InputStream) -> Pollable:
        """Ready."""
        return Pollable()

    def output_stream_check_write(self, stream: OutputStream) -> int:
        """How much may be written at once."""
        return PERMIT_BYTES

    def output_stream_write(self, stream: OutputStream, content: bytes) -> None:
        """Raises ContractError for more than `check-write` permits."""
        _permitted(len(content), PERMIT_BYTES)
        stream.write(content)

    def output_stream_blocking_write_and_flush(self, stream: OutputStream, content: bytes) -> None:
        """Raises ContractError for more than the interface permits."""
        _permitted(len(content), BLOCKING_BYTES)
        stream.write(content)

    def output_stream_flush(self, stream: OutputStream) -> None:
        """Nothing waits in a stream."""

    output_stream_blocking_flush = output_stream_flush

    def output_stream_subscribe(self, stream: OutputStream) -> Pollable:
        """Ready."""
        return Pollable()

    def output_stream_write_zeroes(self, stream: OutputStream, size: int) -> None:
        """Raises ContractError as `output_stream_write` does."""
        _permitted(size, PERMIT_BYTES)
        stream.write(bytes(size))

    def output_stream_blocking_write_zeroes_and_flush(self, stream: OutputStream, size: int) -> None:
        """Raises ContractError as `output_stream_blocking_write_and_flush` does."""
        _permitted(size, BLOCKING_BYTES)
        stream.write(bytes(size))

    def output_stream_splice(self, stream: OutputStream, source: InputStream, size: int) -> int:
        """How many bytes went from one to the other."""
        content = source.read(min(size, READ_LIMIT_BYTES))
        stream.write(content)
        return len(content)

    output_stream_blocking_splice = output_stream_splice


class Errors:
    """wasi:io/error."""

    def error_to_debug_string(self, error: Error) -> str:
        """For people."""
        return error.text


def _permitted(size: int, limit: int) -> None:
    if size > limit:
        raise ContractError(f"the module writes {size} bytes to a stream at once, it may write {limit}")


def hosts() -> dict[str, Any]:
    """What answers for each of these interfaces."""
    return {"wasi:io/error": Errors(), "wasi:io/poll": Poll(), "wasi:io/streams": Streams()}

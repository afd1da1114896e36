"""Sending a file to `boards/onboard/helper.py receive` over a console: frames with a CRC, a window, and resumption by offset."""

import contextlib
import re
import struct
import time
import zlib
from collections.abc import Callable

from boards.console import Console, parse_answer
from boards.line import LineLost, LineSilent

__all__ = ["CHUNK_BYTES", "GOODBYE", "send"]

CHUNK_BYTES = 4096
# In flight: less than the buffers of a tty, more than the time of a round trip.
WINDOW_BYTES = 4 * CHUNK_BYTES
AGAIN_S, SILENCE_S = 3.0, 20.0
START_S = 120.0  # for Python to start on a board that is slow or busy, and for a file to be looked at
_FRAME = b"\x02WO"
# Ends a receiver that may still be waiting from before the line was lost. A shell takes it for an unknown command.
GOODBYE = _FRAME + bytes(10)
_REPLY = re.compile(rb"@((ready|have|again) (\d+)) ([0-9a-f]{8})\r*\n")
_ANSWER = re.compile(rb"\n:[A-Za-z0-9+/=]+:\r*\n")


def send(console: Console, content: bytes, progress: Callable[[int], None] = lambda _: None) -> bool:
    """Sends what the receiver does not have yet; `progress` is called with bytes taken. True when it has all of them.

    Raises LineLost when the line goes or stays silent: the receiver keeps what it has. When it is interrupted, the receiver ends.
    """
    try:
        return _send(console, content, progress)
    except LineLost:
        raise
    except BaseException:
        with contextlib.suppress(LineLost):
            console.write(GOODBYE)
        raise


def _send(console: Console, content: bytes, progress: Callable[[int], None]) -> bool:
    at = have = _ready(console)
    progress(have)
    heard = time.monotonic()
    seen = b""
    while have < len(content) and not _ANSWER.search(seen):
        while at < min(len(content), have + WINDOW_BYTES):
            chunk = content[at : at + CHUNK_BYTES]
            console.write(_frame(at, chunk))
            at += len(chunk)
        more = console.read(AGAIN_S)
        seen += more
        now = time.monotonic()
        if not more:
            at = have  # nothing was heard: the frames or the answers were lost
            if now - heard > SILENCE_S:
                raise LineSilent(f"the board has said nothing for {SILENCE_S:.0f} s of the transfer")
            continue
        taken = 0
        for reply in _REPLY.finditer(seen):
            taken = reply.end()
            if zlib.crc32(reply[1]) != int(reply[4], 16):
                continue
            heard = now
            offset = int(reply[3])
            if offset > have:
                progress(offset - have)
                have = offset
            if reply[2] == b"again":
                at = have
        seen = seen[taken:]
    console.push_back(seen)
    found = console.expect(_ANSWER, START_S, "what the board makes of the file")
    return bool(parse_answer(found[0].decode(), "receive")["whole"])


def _ready(console: Console) -> int:
    found = console.expect(re.compile(rb"@(ready (\d+)) ([0-9a-f]{8})\r*\n"), START_S, "the receiver")
    if zlib.crc32(found[1]) != int(found[3], 16):
        raise LineSilent("the receiver's greeting arrived damaged")
    return int(found[2])


def _frame(offset: int, chunk: bytes) -> bytes:
    head = struct.pack(">IH", offset, len(chunk))
    return _FRAME + head + struct.pack(">I", zlib.crc32(head + chunk)) + chunk

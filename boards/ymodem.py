"""Sending a file by YMODEM with blocks of 1 kB, as U-Boot's `loady` takes it (Chuck Forsberg, XMODEM/YMODEM protocol reference)."""

import binascii
from collections.abc import Callable

from boards.console import Console
from boards.errors import BoardError
from boards.line import LineSilent

__all__ = ["send_ymodem"]

SOH, STX, EOT, ACK, NAK, CAN, CRC = b"\x01", b"\x02", b"\x04", b"\x06", b"\x15", b"\x18", b"C"
BLOCK_BYTES = 1024
TRIES = 10
ANSWER_S = 10.0


def send_ymodem(console: Console, name: str, content: bytes, progress: Callable[[int], None] = lambda _: None) -> None:
    """Sends one file to a receiver that is asking for it; `progress` is called with how many more bytes it has.

    Raises LineSilent when it stops answering, BoardError when it gives up.
    """
    _wait(console, CRC)
    _block(console, SOH, 0, f"{name}\0{len(content)}".encode().ljust(128, b"\0"))
    _wait(console, CRC)
    for number, at in enumerate(range(0, len(content), BLOCK_BYTES), 1):
        block = content[at : at + BLOCK_BYTES]
        _block(console, STX, number, block.ljust(BLOCK_BYTES, b"\x1a"))
        progress(len(block))
    console.write(EOT)
    if _wait(console, ACK, NAK) == NAK:
        console.write(EOT)
        _wait(console, ACK)
    _wait(console, CRC)
    _block(console, SOH, 0, bytes(128))  # no more files


def _block(console: Console, kind: bytes, number: int, data: bytes) -> None:
    head = kind + bytes((number & 255, 255 - (number & 255)))
    for _ in range(TRIES):
        console.write(head + data + binascii.crc_hqx(data, 0).to_bytes(2))
        if _wait(console, ACK, NAK) == ACK:
            return
    raise BoardError(f"the boot loader refused block {number} of the file {TRIES} times")


def _wait(console: Console, *wanted: bytes) -> bytes:
    """The next of the answers that are wanted; others are passed over."""
    silent = 0
    while silent < TRIES:
        seen = console.read(ANSWER_S / TRIES)
        silent = 0 if seen else silent + 1
        for index, each in enumerate(seen):
            answer = bytes((each,))
            if answer in wanted:
                console.push_back(seen[index + 1 :])
                return answer
            if answer == CAN:
                raise BoardError("the boot loader cancelled the transfer")
    raise LineSilent("the boot loader says nothing more of the file")

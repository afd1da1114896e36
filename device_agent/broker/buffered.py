"""A socket that takes many packets with one call of the system.

What arrives is kept until whole packets of it are handed out: to the connection itself, or to the library, which asks for the head,
the length and the body of a packet one after the other.
"""

import contextlib
import socket
import ssl
import struct
from typing import Any

READ_BYTES = 64 << 10  # at once
WRITE_BYTES = 64 << 10  # of the library's, kept until `flush`; then it is sent in between
_TCPI_BYTES_RECEIVED = 128  # its offset in Linux' struct tcp_info, since 4.1
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class BufferedSocket:
    """Around a socket that does not block, plain or TLS. What is not said here is the socket's own."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.arrived = bytearray()  # and not handed out
        self.ended = False  # nothing comes any more
        self._given, self._at = b"", 0  # to the library
        self._out = bytearray()

    def fill(self) -> bool:
        """Takes what has come; False when that is nothing. Raises OSError for a broken connection."""
        try:
            data = self._inner.recv(READ_BYTES)
        except _NOT_NOW:
            return False
        self.ended = not data
        self.arrived += data
        return True

    def give(self, packet: bytes) -> None:
        """Gives the library a whole packet to read."""
        self._given, self._at = self._given[self._at :] + packet, 0

    @property
    def has_given(self) -> bool:
        """Whether the library has not read all that it was given."""
        return self._at < len(self._given)

    def recv(self, size: int) -> bytes:
        """For the library. Raises BlockingIOError when there is nothing."""
        if not self.has_given:
            raise BlockingIOError
        found = self._given[self._at : self._at + size]
        self._at += len(found)
        return found

    def send(self, data: bytes | bytearray) -> int:
        """For the library: takes all of it, for the next `flush`, or raises BlockingIOError where there is no room, OSError for a
        broken connection.
        """
        if len(self._out) >= WRITE_BYTES and not self.flush():
            raise BlockingIOError
        self._out += data
        return len(data)

    def put(self, packet: bytes) -> None:
        """Takes a whole packet, for the next `flush`. Who calls it keeps it in bounds."""
        self._out += packet

    def flush(self) -> bool:
        """Sends what there is; False when the socket takes no more now. Raises OSError for a broken connection."""
        while self._out:
            try:
                sent = self._inner.send(self._out)
            except _NOT_NOW:
                return False
            del self._out[:sent]
        return True

    @property
    def unsent_bytes(self) -> int:
        """How many bytes wait for `flush`."""
        return len(self._out)

    @property
    def has_unsent(self) -> bool:
        """Whether bytes wait for `flush`."""
        return bool(self._out)

    @property
    def has_decrypted(self) -> bool:
        """Whether bytes are there that make no socket readable again."""
        return isinstance(self._inner, ssl.SSLSocket) and self._inner.pending() > 0

    @property
    def received_bytes(self) -> int:
        """All that has arrived by TCP, handed out or not; 0 where the system does not say."""
        try:
            info = self._inner.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCPI_BYTES_RECEIVED + 8)
            return int(struct.unpack_from("=Q", info, _TCPI_BYTES_RECEIVED)[0])
        except (OSError, struct.error):
            return 0

    def close(self) -> None:
        """Sends what is left, as far as that goes at once, and closes."""
        with contextlib.suppress(OSError):
            self.flush()
        self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

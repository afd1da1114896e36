"""A Unix datagram socket: each datagram that another program of the board sends is one event."""

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from device_agent.sources.records import readable
from device_agent.sources.settings import Settings
from device_agent.sources.source import Sink

LOOK_S = 10.0  # between two looks whether the socket's file is still there


@dataclass(frozen=True)
class Datagrams:
    """The socket's file is made when it is run, and removed when it ends."""

    path: str
    topic: str
    mode: int  # of the socket's file: who may write may send
    record_bytes: int
    devices: frozenset[str] = frozenset()

    async def run(self, sink: Sink) -> None:
        """Raises OSError when the file cannot be made, is another program's, or was removed."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as ours:
            made = self._bind(ours)
            try:
                while True:
                    if await readable(ours.fileno(), LOOK_S):
                        await self._receive(ours, sink)
                    elif not os.path.samestat(made, Path(self.path).lstat()):
                        raise OSError(f"{self.path} was replaced")
            finally:
                self._remove(made)

    async def _receive(self, ours: socket.socket, sink: Sink) -> None:
        try:
            payload = ours.recv(self.record_bytes + 1)
        except BlockingIOError:
            return
        if len(payload) > self.record_bytes:
            sink.drop()
            await sink.pace(len(payload))
        else:
            await sink.put(self.topic, payload)

    def _bind(self, ours: socket.socket) -> os.stat_result:
        self._remove_stale()
        os.fchmod(ours.fileno(), self.mode)  # from its first moment on (unix(7)), less the process's umask
        ours.bind(self.path)
        Path(self.path).chmod(self.mode)
        return Path(self.path).lstat()

    def _remove_stale(self) -> None:
        """The file that an earlier agent left. Raises OSError where another program has it, or it is no socket."""
        path = Path(self.path)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise OSError(f"{path} is there, and is no socket")
            if _answers(self.path):
                raise OSError(errno.EADDRINUSE, f"{path} belongs to another program")
            path.unlink()

    def _remove(self, made: os.stat_result) -> None:
        with contextlib.suppress(OSError):
            if os.path.samestat(made, Path(self.path).lstat()):
                Path(self.path).unlink()


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
    return True


def parse(settings: Settings) -> Datagrams:
    """From `[sources.NAME]`."""
    path = settings.text("path", pattern=r"/[^\0\n]{1,100}", expected="an absolute path of at most 101 characters")  # unix(7)
    mode = settings.text("mode", "0600", pattern="0?[0-7]{3}", expected='an octal mode such as "0660"')
    return Datagrams(path, settings.topic(), int(mode, 8), settings.record_bytes())

"""Serial lines for tests: a cable that can be pulled, a line that damages what passes, a program on a pty."""

import fcntl
import os
import pty
import random
import select
import socket
import subprocess
import termios
import threading
import time

from boards.line import LineLost


class Cable:
    """A TCP port that leads to another one (a board's console), until it is pulled."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pulls: list[tuple[int, float]] = []
        self._sent = 0
        self.pulled = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"socket://127.0.0.1:{self.port}"

    def pull_at(self, sent_bytes: int, away_s: float) -> None:
        """Pulls the cable once so many bytes more went to the board, and plugs it in again after a while."""
        self._pulls.append((sent_bytes, away_s))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)

    def _serve(self) -> None:
        while True:
            try:
                ours, _ = self._listener.accept()
            except OSError:
                return
            try:
                with ours, socket.create_connection(("127.0.0.1", self._target)) as board:
                    away_s = self._pass(ours, board)
            except OSError:
                continue
            time.sleep(away_s)

    def _pass(self, ours: socket.socket, board: socket.socket) -> float:
        while True:
            for ready in select.select([ours, board], [], [])[0]:
                data = ready.recv(4096)
                if not data:
                    return 0.0
                if ready is board:
                    ours.sendall(data)
                    continue
                self._sent += len(data)
                if self._pulls and self._sent >= self._pulls[0][0]:
                    self.pulled += 1
                    self._sent = 0
                    return self._pulls.pop(0)[1]
                board.sendall(data)


class Program:
    """A program on a pty: the line to it."""

    def __init__(self, *command: str, **environment: str) -> None:
        ours, theirs = pty.openpty()
        self._file = ours
        self._process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, **environment},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)

    def read(self, timeout_s: float) -> bytes:
        if not select.select([self._file], [], [], timeout_s)[0]:
            return b""
        try:
            return os.read(self._file, 16384)
        except OSError as error:
            raise LineLost(str(error)) from error

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Noisy:
    """A line that damages, loses and repeats what goes to the board, and talks in between what comes back."""

    def __init__(self, line: Program, seed: int, rate: float) -> None:
        self._line, self._chance, self._rate = line, random.Random(seed), rate

    def read(self, timeout_s: float) -> bytes:
        found = self._line.read(timeout_s)
        if found and self._chance.random() < self._rate:
            return b"[  12.345678] a message of the kernel\r\n" + found
        return found

    def write(self, data: bytes) -> None:
        dice = self._chance.random()
        if dice < self._rate and data:
            at = self._chance.randrange(len(data))
            data = data[:at] + bytes((data[at] ^ 1 << self._chance.randrange(8),)) + data[at + 1 :]
        elif dice < 2 * self._rate:
            data = data[: self._chance.randrange(len(data) + 1)]
        elif dice < 3 * self._rate:
            data = data + data
        self._line.write(data)

    def close(self) -> None:
        self._line.close()

"""Slow retrieval, by its name in TUF: a broker, or somebody on the way, lets an update trickle and never ends it."""

import contextlib
import socket
import threading
import time

import pytest

from device_agent.storage.store import DATABASE
from tests.support.lab import INSTANCE, echo, open_lab

TRICKLE_BYTES_S = 8000
UPDATE_BYTES = 400_000


class Trickle:
    """Between a board and its broker. What goes to the board is let through as it is, or so many bytes a second."""

    def __init__(self, broker_port):
        self.slow = False
        self._broker_port = broker_port
        self._server = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.url = f"mqtt://127.0.0.1:{self._server.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                board, _ = self._server.accept()
                self._sockets.append(board)
                board.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                broker = socket.create_connection(("127.0.0.1", self._broker_port))
                self._sockets.append(broker)
                for ways in ((board, broker, False), (broker, board, True)):
                    threading.Thread(target=self._copy, args=ways, daemon=True).start()

    def _copy(self, source, sink, to_board):
        with contextlib.suppress(OSError):
            while data := source.recv(TRICKLE_BYTES_S // 10 if to_board and self.slow else 65536):
                sink.sendall(data)
                if to_board and self.slow:
                    time.sleep(0.1)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self):
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # close alone does not wake up who accepts
        self._accepting.join(10)
        for each in (self._server, *self._sockets):
            each.close()


@pytest.fixture
def board(tmp_path):
    lab = open_lab(tmp_path, fetch_timeout=60)
    trickle = Trickle(lab.broker.port)
    config = lab.config
    lab.config = lambda _, store: config(trickle.url, store)
    lab.start()
    yield lab, trickle
    trickle.slow = False
    lab.close()
    trickle.close()


def fetched_bytes(lab):
    """All files but those of the database, whose log grows and shrinks as modules speak."""
    return sum(
        each.stat().st_size for each in (lab.folder / "store").rglob("*") if each.is_file() and not each.name.startswith(DATABASE)
    )


def test_slow_retrieval(board):
    """The module goes on all the time, the disk holds no more than the update, and it is taken once it comes whole."""
    lab, trickle = board
    lab.install(1)
    before = fetched_bytes(lab)
    trickle.slow = True
    update = lab.signer.update(echo(2, padding=UPDATE_BYTES), name="echo", version="2.0.0", chunk_bytes=4096)
    deployment = lab.deploy(update)
    lab.wait_state("fetching", deployment=deployment)
    end = time.monotonic() + 12  # more than a silence may last before the connection is doubted
    while time.monotonic() < end:
        assert lab.of(INSTANCE).attempt.state == "fetching", lab.of(INSTANCE).attempt
        assert fetched_bytes(lab) <= before + len(update.blob) + 4096
        time.sleep(0.5)
    lab.still_answers(1)
    trickle.slow = False
    lab.wait_state("confirmed", deployment=deployment)
    lab.running("2.0.0")

"""The cable of the demonstration and of emulated boards."""

import socket
import threading

import pytest

from ota.demo.cable import LOOPBACK, Cable


@pytest.fixture
def echo():
    """A server that says again what it hears, and the cable to it."""
    with socket.create_server((LOOPBACK, 0)) as server:
        thread = threading.Thread(target=_answer, args=(server,))
        thread.start()
        cable = Cable(server.getsockname()[1])
        yield cable
        cable.close()
        server.shutdown(socket.SHUT_RDWR)  # ends `accept`
        thread.join()


def _answer(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            while piece := connection.recv(1 << 16):
                connection.sendall(piece)


def _asked(connection: socket.socket, question: bytes) -> bytes:
    connection.sendall(question)
    answer = b""
    while len(answer) < len(question) and (piece := connection.recv(1 << 16)):
        answer += piece
    return answer


def test_what_is_said_over_a_cable_arrives(echo):
    with socket.create_connection((LOOPBACK, echo.port), timeout=30) as connection:
        assert _asked(connection, bytes(range(256)) * 64) == bytes(range(256)) * 64


def test_a_pulled_cable_ends_connections_and_takes_no_more_until_it_is_back(echo):
    with socket.create_connection((LOOPBACK, echo.port), timeout=30) as connection:
        assert _asked(connection, b"one") == b"one"
        echo.pull()
        assert connection.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, echo.port), timeout=30)
    echo.pull()
    echo.plug()
    with socket.create_connection((LOOPBACK, echo.port), timeout=30) as connection:
        assert _asked(connection, b"two") == b"two"


def test_a_cable_to_nobody_ends_what_connects():
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
    cable = Cable(port)
    try:
        with socket.create_connection((LOOPBACK, cable.port), timeout=30) as connection:
            assert connection.recv(1) == b""
    finally:
        cable.close()

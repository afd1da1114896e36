"""Agents and brokers forked from a process that has imported all that they import, which takes an agent half of its start, and a
broker nearly all of it.

`python -m tests.support.preloaded PROGRAM DESCRIPTOR` is that process. What is forked has a guardian between it and that process,
which waits for its end and tells it.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO

AGENT, BROKER = "agent", "broker"
MODULES = {  # the first has the program's `main`
    AGENT: (
        "device_agent.command",
        "device_agent.node.service",
        "device_agent.node.node",
        "device_agent.broker.certificates",
        "cryptography.hazmat.backends.openssl.backend",
        "encodings.idna",
    ),
    BROKER: ("iotcore._serve",),
}
LIMIT_BYTES = 1 << 20
SHORT_BYTES = 64


class Forked:
    """One process, like a `subprocess.Popen`."""

    def __init__(
        self, server: socket.socket, arguments: list[str], standard_input: int, log: IO[bytes], environment: dict[str, str]
    ) -> None:
        self._told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._told.settimeout(60)
        request = json.dumps({"arguments": arguments, "folder": str(Path.cwd()), "environment": environment})
        with theirs:
            socket.send_fds(server, [request.encode()], [theirs.fileno(), log.fileno(), standard_input])
        self.arguments, self.returncode = arguments, None
        self.pid = int(self._told.recv(SHORT_BYTES))

    def poll(self) -> int | None:
        """Its exit code; below zero when a signal ended it; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout_s: float | None = None) -> int:
        """Waits for its end. Raises TimeoutExpired."""
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._told, selectors.EVENT_READ)
                if not selector.select(timeout_s):
                    raise subprocess.TimeoutExpired(self.arguments, timeout_s or 0)
            self.returncode = os.waitstatus_to_exitcode(int(self._told.recv(SHORT_BYTES)))
            self._told.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends it a signal, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Asks it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it."""
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        self._told.close()


@functools.cache
def _server(program: str) -> socket.socket:
    """The process that they are forked from: one for each process of tests, which it ends with."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-m", __name__, program, str(theirs.fileno())]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()])

    def close() -> None:
        ours.close()
        process.wait()

    atexit.register(close)
    ours.settimeout(120)
    assert ours.recv(SHORT_BYTES) == b"ready"
    return ours


def start(arguments: list[str], log: IO[bytes], environment: dict[str, str]) -> Forked:
    """An agent in a session of its own. `log` gets what it writes to its standard error."""
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 (no file of ours)
        return Forked(_server(AGENT), arguments, nothing.fileno(), log, environment)


def start_broker(options: dict[str, str], standard_input: int, log: IO[bytes]) -> Forked:
    """A broker that ends with its standard input."""
    return Forked(_server(BROKER), [json.dumps(options)], standard_input, log, dict(os.environ))


def _serve(program: str, control: socket.socket) -> None:
    """Forks one process after the other; returns in each of them, with what it is to do in `sys.argv`."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # guardians
    for each in MODULES[program]:
        importlib.import_module(each)
    gc.collect()
    gc.freeze()
    control.send(b"ready")
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, LIMIT_BYTES, 3)
        if not request:
            os._exit(0)
        if os.fork() == 0:
            control.close()
            _become(program, json.loads(request), *descriptors)
            return
        for each in descriptors:
            os.close(each)


def _become(program: str, request: dict, told: int, log: int, standard_input: int) -> None:
    """Returns in the new process. The one that calls it is its guardian, and ends here."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child:
        with socket.socket(fileno=told) as channel, contextlib.suppress(OSError):
            os.close(log)
            os.close(standard_input)
            os.setsid()
            channel.send(str(child).encode())
            _, status = os.waitpid(child, 0)
            channel.send(str(status).encode())
        os._exit(0)
    os.setsid()
    os.dup2(standard_input, 0)
    os.dup2(log, 2)
    for each in (standard_input, log, told):
        os.close(each)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [program, *request["arguments"]]


if __name__ == "__main__":
    chosen = sys.argv[1]
    _serve(chosen, socket.socket(fileno=int(sys.argv[2])))
    sys.exit(importlib.import_module(MODULES[chosen][0]).main())

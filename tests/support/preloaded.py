"""Agents forked from a process that has imported all that they import, which takes an agent half of its start.

`python -m tests.support.preloaded DESCRIPTOR` is that process. Each agent has a guardian between it and that process, which waits
for its end and tells it.
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

MODULES = ("device_agent.__main__", "device_agent.node.service", "device_agent.node.node", "device_agent.broker.certificates")
LIMIT_BYTES = 1 << 20
SHORT_BYTES = 64


class Agent:
    """One agent, like a `subprocess.Popen`."""

    def __init__(self, server: socket.socket, arguments: list[str], log: IO[bytes], environment: dict[str, str]) -> None:
        self._told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._told.settimeout(60)
        request = json.dumps({"arguments": arguments, "folder": str(Path.cwd()), "environment": environment})
        with theirs:
            socket.send_fds(server, [request.encode()], [theirs.fileno(), log.fileno()])
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
def _server() -> socket.socket:
    """The process that agents are forked from: one for each process of tests, which it ends with."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-m", __name__, str(theirs.fileno())]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()])

    def close() -> None:
        ours.close()
        process.wait()

    atexit.register(close)
    ours.settimeout(120)
    assert ours.recv(SHORT_BYTES) == b"ready"
    return ours


def start(arguments: list[str], log: IO[bytes], environment: dict[str, str]) -> Agent:
    """An agent in a session of its own. `log` gets what it writes to its standard error."""
    return Agent(_server(), arguments, log, environment)


def _serve(control: socket.socket) -> None:
    """Forks one agent after the other; returns in each of them, with what it is to do in `sys.argv`."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # guardians
    for each in MODULES:
        importlib.import_module(each)
    gc.collect()
    gc.freeze()
    control.send(b"ready")
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, LIMIT_BYTES, 2)
        if not request:
            os._exit(0)
        if os.fork() == 0:
            control.close()
            _become(json.loads(request), *descriptors)
            return
        for each in descriptors:
            os.close(each)


def _become(request: dict, told: int, log: int) -> None:
    """Returns in the agent. The process that calls it is the agent's guardian, and ends here."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    agent = os.fork()
    if agent:
        with socket.socket(fileno=told) as channel, contextlib.suppress(OSError):
            os.close(log)
            os.setsid()
            channel.send(str(agent).encode())
            _, status = os.waitpid(agent, 0)
            channel.send(str(status).encode())
        os._exit(0)
    os.setsid()
    os.dup2(log, 2)
    os.close(log)
    os.close(told)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["device-agent", *request["arguments"]]


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.exit(importlib.import_module("device_agent.__main__").main())

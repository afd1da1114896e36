"""The zygote: a process that has loaded what workers need, and forks one whenever the agent asks.

What it holds stays shared by all workers for as long as nobody touches it: that makes a worker small, and quick to start.
It has one thread and one socket, on which the agent sends the channel of a new worker, and gets the worker's number and a
descriptor of its process (pidfd), so that nothing else is ever killed in its place. It ends when the agent does.
"""

import contextlib
import gc
import importlib
import os
import signal
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

__all__ = ["Child", "Zygote"]

PRELOAD = "device_agent.worker"
ANSWER_S = 20.0  # starting Python on a slow board included
_LIMIT_BYTES = 64


@dataclass
class Child:
    """A process that the zygote has forked."""

    pid: int
    _descriptor: int

    def send(self, number: int) -> None:
        """Sends it a signal, if it is still there."""
        if self._descriptor >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        """Ends it. Again: no effect."""
        if self._descriptor < 0:
            return
        self.send(signal.SIGKILL)
        os.close(self._descriptor)
        self._descriptor = -1

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


class Zygote:
    """The agent's end. Starts the process with the first child, and again when it has died."""

    def __init__(self, preload: str = PRELOAD) -> None:
        """`preload` is a module: its `rehearse()` is called once, and then its `main(channel)` is the life of each child."""
        self._preload = preload
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process, and waits until it has loaded everything. Running already: no effect. Raises OSError."""
        import subprocess  # the agent's end only: the other is to be small

        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-P", "-m", "device_agent.zygote", str(theirs.fileno()), self._preload]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=environment)
        ours.settimeout(ANSWER_S)
        self._socket = ours
        try:
            ready = ours.recv(_LIMIT_BYTES) == b"ready"
        except OSError:
            ready = False
        if not ready:
            self.close()
            raise OSError("the process that workers are forked from does not start")

    def fork(self, channel: socket.socket) -> Child:
        """A new child that has this channel and nothing else. Raises OSError."""
        for last in (False, True):
            self.start()
            try:
                return self._fork(channel)
            except (BrokenPipeError, ConnectionResetError):  # it has died: once more
                if last:
                    raise
        raise AssertionError

    def _fork(self, channel: socket.socket) -> Child:
        assert self._socket is not None
        try:
            socket.send_fds(self._socket, [b"fork"], [channel.fileno()])
            answer, descriptors, _, _ = socket.recv_fds(self._socket, _LIMIT_BYTES, 1)
            if not answer:
                raise ConnectionResetError("the process that workers are forked from has ended")
        except OSError:
            self.close()  # an answer that comes late must not pass for the next one
            raise
        if not descriptors:
            raise OSError(f"no worker can be forked: {answer.decode()}")
        return Child(int(answer), descriptors[0])

    def close(self) -> None:
        """Ends the process; its children go on. Again: no effect."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _serve(control: socket.socket, life: Any) -> None:
    """The zygote's end: forks until the agent's end is closed."""
    for each in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C and `killall` are for the agent, which ends us, children included
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets children by itself
    control.send(b"ready")
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, _LIMIT_BYTES, 1)
        if not request:
            return
        try:
            pid = os.fork()
        except OSError as error:
            control.send(str(error.strerror).encode()[:_LIMIT_BYTES])
            os.close(descriptors[0])
            continue
        if pid == 0:
            _child(control, descriptors[0], life)
        os.close(descriptors[0])
        try:
            process = os.pidfd_open(pid)
        except OSError as error:
            control.send(str(error.strerror).encode()[:_LIMIT_BYTES])
            continue
        socket.send_fds(control, [str(pid).encode()], [process])
        os.close(process)


def _child(control: socket.socket, descriptor: int, life: Any) -> None:
    """Never returns."""
    status = 1
    try:
        control.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        life(socket.socket(fileno=descriptor))
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001  (it ends here, and nothing of the zygote's may run in the child)
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """`python -m device_agent.zygote DESCRIPTOR MODULE`: by the agent only."""
    control = socket.socket(fileno=int(sys.argv[1]))
    module = importlib.import_module(sys.argv[2])
    module.rehearse()
    gc.collect()
    gc.freeze()
    _serve(control, module.main)


if __name__ == "__main__":
    main()

"""The agent's end of the zygote (`device_agent.sandbox.zygote`): starts that process and asks it for workers."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from ota.interrupts import blocked

__all__ = ["Child", "Zygote"]

PRELOAD = "device_agent.sandbox.worker"
SERVER = "device_agent.sandbox.zygote"
ANSWER_S = 20.0  # for a worker; and for the process itself to use the processor again while it loads
LOADED_S = 600.0  # for all that it loads, however slow and busy the board is
_LIMIT_BYTES = 64


@dataclass
class Child:
    """A process that the zygote has forked."""

    pid: int
    descriptor: int  # a pidfd, its own: readable once the process has ended

    def send(self, number: int) -> None:
        """Sends it a signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.descriptor, number)

    def kill(self) -> None:
        """Ends it. Again: no effect."""
        self.send(signal.SIGKILL)

    def __del__(self) -> None:
        os.close(self.descriptor)


class Zygote:
    """The agent's end. Starts the process with the first child, and again when it has died."""

    def __init__(self, preload: str = PRELOAD) -> None:
        """`preload` is a module: its `warm_up()` is called once, and then its `main(channel)` is what each child runs."""
        self._preload = preload
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._awaited: subprocess.Popen[bytes] | None = None  # while it loads or forks
        self._interrupted: subprocess.Popen[bytes] | None = None
        self.aot_target = ""  # what ahead-of-time images are to be compiled for here (`pywamr.aot_target`), once it has started
        self._lock = threading.RLock()  # workers are forked on threads: this may take as long as Python takes to start

    def start(self) -> None:
        """Starts the process, and waits until it has loaded everything. Running already: no effect. Raises OSError."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()

    def interrupt(self) -> None:
        """Ends a start or a fork that another thread waits for: that gets OSError. On any thread."""
        if (awaited := self._awaited) is not None:
            self._interrupted = awaited
            awaited.kill()

    def _start(self) -> None:
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-P", "-m", SERVER, str(theirs.fileno()), self._preload]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            with blocked():
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=environment)
        ours.settimeout(ANSWER_S)
        self._socket = ours
        self._awaited = self._process
        loaded = self._loaded(ours)
        self._awaited = None
        if not loaded:
            self.close()
            raise OSError("the zygote (the process that workers are forked from) does not start")

    def _loaded(self, ours: socket.socket) -> bool:
        """Waits until the process has loaded everything, for as long as it gets on with it."""
        used, end = 0.0, time.monotonic() + LOADED_S
        while time.monotonic() < end:
            try:
                ready, _, target = ours.recv(_LIMIT_BYTES).decode(errors="replace").partition(" ")
                self.aot_target = target
                return ready == "ready"
            except TimeoutError:
                before, used = used, self._processor_s()
                if used <= before:
                    return False
            except OSError:
                return False
        return False

    def _processor_s(self) -> float:
        """Processor time that the process has used, seconds; 0 when it has ended."""
        assert self._process is not None
        try:
            fields = (
                Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            )
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # proc_pid_stat(5): utime, stime

    def fork(self, channel: socket.socket) -> Child:
        """A new child that has this channel and nothing else. Raises OSError."""
        with self._lock:
            self.start()
            self._awaited = asked = self._process
            try:
                return self._fork(channel)
            except (BrokenPipeError, ConnectionResetError):  # it has died: once more
                if self._interrupted is asked:
                    raise
                self.start()
                return self._fork(channel)
            finally:
                self._awaited = None

    def _fork(self, channel: socket.socket) -> Child:
        assert self._socket is not None
        try:
            socket.send_fds(self._socket, [b"fork"], [channel.fileno()])
            answer, descriptors, _, _ = socket.recv_fds(self._socket, _LIMIT_BYTES, 1)
            if not answer:
                raise ConnectionResetError("the zygote (the process that workers are forked from) has exited")
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

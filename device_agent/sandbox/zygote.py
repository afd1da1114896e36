"""The zygote: a process that has loaded what workers need, and forks one whenever the agent asks.

Its memory is shared with all workers until it is written to: that makes a worker small, and quick to start.
It has one thread and one socket, on which the agent sends the channel of a new worker, and gets the worker's number and a
descriptor of its process (pidfd), so that nothing else is ever killed in its place. It ends when the agent does.
"""

import contextlib
import importlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from pywamr import aot_target, keep_shared

_LIMIT_BYTES = 64


def _serve(control: socket.socket, child_main: Any) -> None:
    """The zygote's end: forks until the agent's end is closed."""
    for each in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C and `killall` are for the agent, which ends us, children included
        signal.signal(each, signal.SIG_IGN)
    _forget_children()
    control.send(f"ready {aot_target()}".encode())
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, _LIMIT_BYTES, 1)
        if not request:
            return
        try:
            pid, process = _fork(control, descriptors[0], child_main)
        except OSError as error:
            control.send(str(error.strerror).encode()[:_LIMIT_BYTES])
            continue
        finally:
            os.close(descriptors[0])
        socket.send_fds(control, [str(pid).encode()], [process])
        os.close(process)


def _fork(control: socket.socket, descriptor: int, child_main: Any) -> tuple[int, int]:
    """A child and the descriptor of its process. Raises OSError.

    A child that ends at once stays until it has a descriptor: its number would be free, and might be another process's by then.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        pid = os.fork()
        if pid == 0:
            _child(control, descriptor, child_main)
        return pid, os.pidfd_open(pid)
    finally:
        _forget_children()


def _forget_children() -> None:
    """From now on the kernel forgets children that have ended; those that ended before are forgotten here."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _child(control: socket.socket, descriptor: int, child_main: Any) -> NoReturn:
    def live() -> None:
        control.close()
        child_main(socket.socket(fileno=descriptor))

    _end_with(live)


def _end_with(work: Callable[[], None]) -> NoReturn:
    """Does the last work of this process; its interpreter is not taken down (`pywamr.keep_shared`)."""
    status = 1
    try:
        work()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001  (it ends here, and nothing of the zygote's may run in a child)
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """`python -m device_agent.sandbox.zygote DESCRIPTOR MODULE`: by the agent only."""
    control = socket.socket(fileno=int(sys.argv[1]))
    module = importlib.import_module(sys.argv[2])
    module.warm_up()
    keep_shared()
    _end_with(lambda: _serve(control, module.main))


if __name__ == "__main__":
    main()

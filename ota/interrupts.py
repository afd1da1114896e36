"""Ctrl-C while a command is loaded or ends: Python would print a traceback of whatever it was about to do.

So it ends the process at once then, as it does programs in C, and is an exception only while the command works.
"""

import contextlib
import signal
from collections.abc import Iterator

__all__ = ["blocked", "end_at_once", "raise_exception"]


def end_at_once() -> None:
    """From now on SIGINT ends the process, unless it is ignored or taken by something else."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_exception() -> None:
    """From now on it raises KeyboardInterrupt, where it would have ended the process at once."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """For a process that is started meanwhile: a terminal's Ctrl-C is for who started it, and ends it in good order."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

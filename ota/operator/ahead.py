"""Work on many items in a forked child, while this process does something else."""

import contextlib
import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Generic, NoReturn, TypeVar

__all__ = ["Ahead"]

T = TypeVar("T")
R = TypeVar("R")
LEAST = 256  # items that are worth a child


class Ahead(Generic[T, R]):
    """What `work`, which changes nothing, finds for each item.

    There is no child for few items, on one processor, or where there are threads, which a fork would tear apart: `results` does the
    work then.
    """

    def __init__(self, items: Sequence[T], work: Callable[[T], R | None]) -> None:
        """Begins. Whoever does so calls `close`, whatever happens."""
        self._items, self._work, self._child = items, work, 0
        if len(items) < LEAST or _processors() < 2 or threading.active_count() > 1:
            return
        self._reading, writing = os.pipe()
        self._child = os.fork()
        if not self._child:
            os.close(self._reading)
            _serve(items, work, writing)
        os.close(writing)

    def results(self) -> list[R | None]:
        """Waits for them, once; None also where the child was to find something and did not."""
        if not self._child:
            return [self._work(each) for each in self._items]
        found: list[R | None] = []
        with open(os.dup(self._reading), "rb") as pipe, contextlib.suppress(EOFError, pickle.UnpicklingError):  # noqa: PTH123
            found = pickle.loads(pipe.read())  # noqa: S301 (from this program's own child)
        return found if len(found) == len(self._items) else [None] * len(self._items)

    def close(self) -> None:
        """Ends the child, and lets go of the items. Again: no effect."""
        self._items = ()
        if self._child:
            os.close(self._reading)
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = 0


def _processors() -> int:
    """Those that this process may use; one on systems other than Linux, where a fork is not safe with every library."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def _serve(items: Sequence[T], work: Callable[[T], R | None], writing: int) -> NoReturn:
    """The child. It ends here, whatever happens: nothing of what it has from its parent is closed, flushed or told."""
    with contextlib.suppress(BaseException), open(writing, "wb") as pipe:
        pickle.dump([work(each) for each in items], pipe)
    os._exit(0)

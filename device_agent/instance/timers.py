"""What is to be done later, one of each kind: another one of the same kind takes its place."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["Timers"]


class Timers:
    """Those of one instance. `spawn_supervised` runs what is due."""

    def __init__(self, spawn_supervised: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._spawn_supervised = spawn_supervised
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closed = False

    def later(self, what: str, delay_s: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Does it after a time, in seconds."""
        self.cancel(what)
        if self._closed:
            return

        def due() -> None:
            self._timers.pop(what, None)
            self._spawn_supervised(work())

        self._timers[what] = asyncio.get_running_loop().call_later(delay_s, due)

    def cancel(self, what: str) -> bool:
        """Whether it was to be done."""
        timer = self._timers.pop(what, None)
        if timer is not None:
            timer.cancel()
        return timer is not None

    def cancel_all(self) -> None:
        """Nothing of what was to be done is done."""
        for name in list(self._timers):
            self.cancel(name)

    def close(self) -> None:
        """Does nothing any more."""
        self._closed = True
        self.cancel_all()

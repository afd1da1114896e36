"""The agent's tasks and its one writer thread: an error of ours in one of them ends the agent, to be started again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ota.formats.reasons import Refused

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Tasks:
    """Everything that runs in the event loop, and what waits for the disk."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._writer = ThreadPoolExecutor(1, "writer")
        self._tasks: set[asyncio.Task[Any]] = set()
        self.stopping = asyncio.Event()
        self.failed = False  # whether an error of ours ended the agent

    async def on_writer(self, function: Callable[..., T], *values: Any) -> T:
        """Runs a function on the one thread that waits for the disk, in the order of the calls."""
        return await self.loop.run_in_executor(self._writer, function, *values)

    def spawn_supervised(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Runs a coroutine as a task whose failure is logged, and ends the agent to be restarted."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def every(self, period_s: float, work: Callable[[], Awaitable[None]]) -> None:
        """Does it again and again. Never ends."""
        while True:
            await asyncio.sleep(period_s)
            await work()

    async def close(self) -> None:
        """Cancels all tasks, and waits for the writer."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._writer.shutdown()

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        if isinstance(error, Refused):
            logger.error("%s", error)
            return
        logger.critical("a task of the agent failed", exc_info=error)
        self.failed = True
        self.stopping.set()

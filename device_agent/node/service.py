"""Running the agent as a process: logging, signals, and the exit code that tells systemd to start it again."""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import stat
import sys
import time
from pathlib import Path
from typing import TextIO

from device_agent.channel.frames import TEXT_LIMIT
from device_agent.channel.workers import zygote
from device_agent.node.config import load
from device_agent.node.launcher import Launcher
from device_agent.node.node import Node
from ota.formats.report import LogRecord

_LEVELS = {"DEBUG": "debug", "INFO": "info", "WARNING": "warn", "ERROR": "error", "CRITICAL": "error"}


class _JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _Bounded(logging.StreamHandler[TextIO]):
    """To standard error. Where that is a file of ours alone to keep in bounds, its end is kept when it has grown long."""

    LIMIT_BYTES, KEPT_BYTES, EVERY = 1_000_000, 200_000, 100

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        if self._count % self.EVERY == 0:
            self._shorten()
        self._count += 1

    def _shorten(self) -> None:
        """Whoever else writes to the same file goes on at its new end, as files opened for appending do."""
        try:
            number = self.stream.fileno()
            found = os.fstat(number)
            appends = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_APPEND
            if not stat.S_ISREG(found.st_mode) or not appends or found.st_size <= self.LIMIT_BYTES:
                return
            with Path(f"/proc/self/fd/{number}").open("rb") as file:
                file.seek(-self.KEPT_BYTES, os.SEEK_END)
                file.readline()
                kept = file.read()
            os.ftruncate(number, 0)
            os.write(number, kept)
        except (OSError, ValueError):  # a log that cannot be shortened must not end the agent
            return


def _utf8(text: str) -> str:
    """The text with escapes for what has no UTF-8: bytes of file names that are none."""
    return text.encode("utf-8", "backslashreplace").decode()


class _ToOperator(logging.Handler):
    """Hands log records to the agent, which sends them when it can."""

    def __init__(self, node: Node, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(logging.INFO)
        self._node, self._loop = node, loop

    def emit(self, record: logging.LogRecord) -> None:
        line = LogRecord(record.created, _LEVELS.get(record.levelname, "info"), "", "", _utf8(record.getMessage()[:TEXT_LIMIT]))
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._node.log, line)


class _ToLauncher(logging.Handler):
    """Keeps the errors of an agent on trial for the one that runs next, should this one fail."""

    def __init__(self, launcher: Launcher) -> None:
        super().__init__(logging.ERROR)
        self._launcher = launcher

    def emit(self, record: logging.LogRecord) -> None:
        self._launcher.say(_utf8(record.getMessage()))


def _warm_up() -> None:
    with contextlib.suppress(OSError):  # it is started later, then
        zygote.start()


def serve(path: Path, log_format: str | None, *, debug: bool) -> int:
    """Runs the agent until SIGTERM or SIGINT; returns the exit code."""
    launcher = Launcher.here(os.environ, path)
    if launcher is not None:
        launcher.take_log()
        launcher.wait_for_turn(os.environ, _warm_up)
    handler = _Bounded()
    as_json = log_format == "json" or (log_format is None and not sys.stderr.isatty())
    handler.setFormatter(_JsonLines() if as_json else logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler])
    if launcher is not None and launcher.on_trial:
        logging.getLogger("device_agent").addHandler(_ToLauncher(launcher))
    try:
        node = asyncio.run(_serve(path, launcher))
    except Exception as error:
        if launcher is not None:
            launcher.say(f"{type(error).__name__}: {error}")
        raise
    if node.hands_over and launcher is not None and not node.failed:
        launcher.hand_over()
    return 1 if node.failed else 0


async def _serve(path: Path, launcher: Launcher | None) -> Node:
    node = Node(load(path), launcher)
    loop = asyncio.get_running_loop()
    logging.getLogger("device_agent").addHandler(_ToOperator(node, loop))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.stop)
    await node.run()
    if node.hands_over and launcher is not None and not node.failed:
        launcher.let_begin()  # Python takes a while to end
    return node

"""Finds bundles in the agent's inbox and on sticks, has them installed, and answers.

The inbox is a folder in the agent's storage, where `device-agent install` puts them: what is there goes on after a power cut, and
is deleted when it has been answered. A stick keeps its bundle, and gets the answer and the board's reports when all is over.
"""

import asyncio
import contextlib
import glob
import itertools
import json
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agent.desired import answers
from device_agent.desired.bundles import OPEN_LIMIT, OpenBundle
from device_agent.desired.installation import Answer, Board, Installation, refused
from ota.formats.bundle import SUFFIX, pack_reports
from ota.formats.reasons import Refused
from ota.formats.text import printable

__all__ = ["ANSWER", "INBOX", "PART", "Watch", "WatchSettings"]

INBOX, ANSWER, PART = "inbox", ".answer.json", ".part"
PERIOD_S, LOOK_S = 1.0, 0.2
FOLDERS_LIMIT, FILES_LIMIT, NAMES_LIMIT = 32, 32, 10_000  # folders that are watched; bundles and names of any kind in each
ANSWERS_KEPT = 32  # in the inbox
logger = logging.getLogger(__name__)
Mark = tuple[int, int, int, int]


@dataclass(frozen=True)
class WatchSettings:
    """What `[bundles]` says."""

    watch: tuple[str, ...] = ()  # patterns of folders
    led: str = ""
    console: Path | None = None


class Watch:
    """Looks again and again. `reports` are the board's own, by topic."""

    def __init__(
        self,
        settings: WatchSettings,
        storage: Path,
        board: Board,
        reports: Callable[[], Awaitable[list[tuple[str, bytes]]]],
        spawn_supervised: Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"],
    ) -> None:
        self._settings, self._inbox, self._board, self._reports = settings, storage / INBOX, board, reports
        self._spawn = spawn_supervised
        self._led = answers.Led(settings.led)
        self._there: dict[Path, tuple[Mark, asyncio.Task[None]]] = {}
        self._answers: dict[Path, Answer] = {}
        self._places = asyncio.Semaphore(OPEN_LIMIT)

    async def run(self) -> None:
        """Never ends."""
        run = self._board.bundles.run
        await run(_tidy, self._inbox)
        while True:
            found = await run(_found, self._inbox, self._settings.watch)
            for path in [path for path, (mark, _) in self._there.items() if found.get(path) != mark]:
                await self._gone(path)
            for path, mark in found.items():
                if path not in self._there:
                    self._there[path] = mark, self._spawn(self._install(path))
            await asyncio.sleep(PERIOD_S)

    async def _gone(self, path: Path) -> None:
        """What was begun goes on with what was taken out of it."""
        _, task = self._there.pop(path)
        task.cancel()
        answer = self._answers.pop(path, None)
        if answer is not None and not answer.settled:
            logger.warning("%s is gone before all of it was installed: going on with what was taken out of it", path)
        await self._show()

    async def _install(self, path: Path) -> None:
        run, device = self._board.bundles.run, self._board.setting.device
        async with self._places:
            try:
                bundle = await run(OpenBundle, path)
            except Refused as error:
                await self._tell(path, refused(path.name, device, error))
                return
            try:
                await self._follow(path, Installation(self._board, bundle))
            finally:
                await self._board.bundles.remove(bundle)

    async def _follow(self, path: Path, installation: Installation) -> None:
        """A stick is followed for as long as it is there: what waits may begin, what failed may be tried again.

        One that is refused at once, or that a newer one has replaced, gives its place to others.
        """
        answer = await installation.begin()
        written = await self._tell(path, answer)
        in_inbox = path.parent == self._inbox
        while not (answer.settled and (written if in_inbox else not answer.instances or answer.replaced)):
            await asyncio.sleep(LOOK_S if written else PERIOD_S)
            now = installation.look()
            if now != answer or (in_inbox and not written):  # somebody waits for it: a full disk may have room by now
                written = await self._tell(path, now)
            answer = now

    async def _tell(self, path: Path, answer: Answer) -> bool:
        """Whether it could be written."""
        before = self._answers.get(path)
        self._answers[path] = answer
        written = True
        if before is None or before.result is not answer.result:
            logger.info("%s", answer)
        try:
            if path.parent == self._inbox or answer.speaks or not self._others_speak(path):
                reports = await self._reports() if answer.settled else []  # all of it is on the disk by then
                await self._board.bundles.run(self._write, path, answer, reports)
        except OSError as error:
            written = False
            if before != answer:
                logger.warning("%s: the answer can't be written: %s", path.parent, error.strerror)
        if answer.settled and before != answer:
            answers.print_line(self._settings.console, printable(f"wamr-ota {answer.device}: {answer}"))
        await self._show()
        return written

    def _others_speak(self, path: Path) -> bool:
        """Whether another bundle on the same stick is what the board's answer there is about."""
        return any(each.speaks for where, each in self._answers.items() if where != path and where.parent == path.parent)

    def _write(self, path: Path, answer: Answer, reports: list[tuple[str, bytes]]) -> None:
        """On the thread of the sticks. In the inbox each change; onto a stick only the end, and the reports with it."""
        content = json.dumps(answer.as_json(), ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace") + b"\n"
        if path.parent == self._inbox:
            answers.write_beside(self._inbox, path.name + ANSWER, content)
            if answer.settled:
                path.unlink(missing_ok=True)
        elif answer.settled:
            answers.write_beside(path.parent, f"{answer.device}.reports", pack_reports(reports))
            answers.write_beside(path.parent, f"{answer.device}{ANSWER}", content)

    async def _show(self) -> None:
        await asyncio.to_thread(self._led.show, answers.pattern(list(self._answers.values())))


def _found(inbox: Path, patterns: tuple[str, ...]) -> dict[Path, Mark]:
    """The bundles that are there; what is changed or replaced has another mark."""
    folders = [inbox]
    for pattern in patterns:
        # It passes over what can't be read, such as a stick that was pulled out. Before Python 3.13 pathlib's raises.
        matching = glob.iglob(pattern)  # noqa: PTH207
        folders += map(Path, itertools.islice(matching, FOLDERS_LIMIT - len(folders)))
    found: dict[Path, Mark] = {}
    for folder in folders:
        with contextlib.suppress(OSError):
            for entry in _bundles(folder):
                about = entry.stat(follow_symlinks=False)
                found[Path(entry.path)] = about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
    return found


def _bundles(folder: Path) -> list["os.DirEntry[str]"]:
    if folder.is_symlink():
        return []
    with os.scandir(folder) as entries:
        there = [
            each
            for each in itertools.islice(entries, NAMES_LIMIT)
            if each.name.endswith(SUFFIX) and not each.name.startswith(".") and each.is_file(follow_symlinks=False)
        ]
    return sorted(there, key=lambda each: each.name)[:FILES_LIMIT]


def _tidy(inbox: Path) -> None:
    """Deletes copies that were not finished, and answers that nobody has read for long."""
    with contextlib.suppress(OSError):
        for part in [each for each in inbox.iterdir() if each.name.endswith(PART)]:
            part.unlink()
        old = sorted((each for each in inbox.iterdir() if each.name.endswith(ANSWER)), key=lambda each: each.stat().st_mtime)
        for each in old[:-ANSWERS_KEPT]:
            each.unlink()

"""`device-agent install FILE`: puts a bundle into the inbox, and waits for the answer of the agent that runs; else runs one.

That agent has no connection to a broker. It runs what the board runs, and ends when the bundle is answered.
"""

import asyncio
import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from device_agent.desired.bundles import OpenBundle
from device_agent.desired.installation import Result
from device_agent.desired.watch import ANSWER, INBOX, PART
from device_agent.node.config import Config, load
from device_agent.node.node import Node
from device_agent.storage import disk
from ota.durable import sync_folder
from ota.formats.bundle import SUFFIX
from ota.formats.reasons import Reason, Refused
from ota.formats.text import printable

__all__ = ["INBOX_LIMIT", "install"]

INBOX_LIMIT = 8  # bundles that wait
COPY_BYTES = 256 << 10
LOOK_S = 0.2
TAKEN_S = 60.0
"""An agent that runs has taken the bundle up by then, and has begun anew where it ended."""
SETTLED_S = 3600.0
"""After the longest trial, it has answered."""
EXIT_CODES = {Result.CONFIRMED: 0, Result.NOTHING: 0, Result.WAITING: 3}  # 3 as `ota` has it where boards wait for a window


def install(path: Path, file: Path, say: Callable[[str], None], *, as_json: bool) -> int:
    """By the configuration at `path`; `say` gets lines of the result.

    Returns 0 when it is installed, 3 when it waits for its time, 1 when it is not.
    Raises Refused for what is no bundle, where there is no room for it, and when the agent that runs does not answer.
    """
    config = load(path)
    file = file.resolve()  # who names it may do so by a link; in a folder that is watched a link is no bundle
    try:
        OpenBundle(file).close()  # what is none is not copied
    except Refused as error:
        raise error if str(file) in error.detail else Refused(error.reason, f"{file}: {error.detail}") from error
    name = _put(file, config)
    answer_file = config.storage / INBOX / (name + ANSWER)
    answers = _Answers(answer_file, say if not as_json else lambda line: None)
    if disk.is_locked(config.storage):
        _wait(config, answers, config.storage / INBOX / name)
    else:
        asyncio.run(_alone(replace(config, broker=None), answers))
    answer_file.unlink(missing_ok=True)
    if as_json:
        say(json.dumps(answers.last))
    return EXIT_CODES.get(Result(answers.last["result"]), 1)


def _wait(config: Config, answers: "_Answers", bundle: Path) -> None:
    """For the agent that runs. Raises Refused STORAGE_UNWRITABLE when it is silent for too long."""
    begun = heard = time.monotonic()
    while not answers.settled():
        now = time.monotonic()
        if answers.begun and disk.is_locked(config.storage):
            heard = now
        if now - begun > config.trial_max_s + SETTLED_S:
            raise Refused(
                Reason.STORAGE_UNWRITABLE, f"{bundle} is not installed after {now - begun:.0f} s: the agent goes on with it"
            )
        if now - heard > TAKEN_S and answers.begun:
            raise Refused(Reason.STORAGE_UNWRITABLE, f"the agent has ended: it goes on with {bundle} when it runs again")
        if now - heard > TAKEN_S:
            bundle.unlink(missing_ok=True)
            raise Refused(
                Reason.STORAGE_UNWRITABLE,
                f"the agent that runs has not taken up {bundle.name} in {TAKEN_S:.0f} s, and it is removed again: can it read and"
                f" write {bundle.parent}, and are fewer bundles at hand than it follows? Its log says more",
            )
        time.sleep(LOOK_S)


def _put(file: Path, config: Config) -> str:
    """Copies it into the inbox, whole or not at all; returns its name there. Raises Refused DISK_FULL, STORAGE_UNWRITABLE."""
    inbox = config.storage / INBOX
    try:
        _make_inbox(inbox)
        if len([each for each in inbox.iterdir() if each.suffix == SUFFIX]) >= INBOX_LIMIT:
            raise Refused(Reason.TOO_LARGE, f"{INBOX_LIMIT} bundles wait in {inbox}, which is the limit")
        if disk.free_bytes(inbox) < file.stat().st_size + config.free_bytes:
            raise Refused(Reason.DISK_FULL, f"{inbox} has no room for {file.stat().st_size} bytes more")
        name = f"{file.stem[:64]}-{secrets.token_hex(4)}{SUFFIX}"
        part = inbox / (name + PART)
        try:
            with file.open("rb") as source, part.open("xb") as target:
                while block := source.read(COPY_BYTES):
                    target.write(block)
                target.flush()
                _give(target.fileno(), inbox)
                os.fsync(target.fileno())
            part.rename(inbox / name)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_folder(inbox)
    except OSError as error:
        reason = Reason.DISK_FULL if error.errno in disk.FULL else Reason.STORAGE_UNWRITABLE
        raise Refused(reason, f"{error.filename or inbox}: {error.strerror}") from error
    return name


def _make_inbox(inbox: Path) -> None:
    """It is the agent's, whoever makes it."""
    try:
        inbox.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return
    _give(inbox, inbox.parent)


def _give(what: Path | int, folder: Path) -> None:
    """Gives root's new file to who has the folder."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.chown(what, owner.st_uid, owner.st_gid)


class _Answers:
    """Says the answers as they change."""

    def __init__(self, file: Path, say: Callable[[str], None]) -> None:
        self._file, self._say = file, say
        self.last: dict[str, Any] = {"result": Result.INSTALLING.value}
        self.begun = False  # whether there is one

    def settled(self) -> bool:
        """Whether the last of them is there."""
        with contextlib.suppress(FileNotFoundError):
            found = json.loads(self._file.read_text(encoding="utf-8"))
            for line in _lines(found) if found != self.last else ():
                self._say(line)
            self.last, self.begun = found, True
        return bool(self.last["result"] != Result.INSTALLING.value)


def _lines(answer: dict[str, Any]) -> Iterator[str]:
    why = f": {answer['reason']}: {answer['detail']}" if answer["reason"] else ""
    yield printable(f"{answer['bundle']}: {answer['result']}{why}")
    for each in answer["instances"]:
        because = f" ({each['reason']}: {each['detail']})" if each["reason"] else ""
        yield printable(f"  {each['instance']}: {each['state']}{because}")


async def _alone(config: Config, answers: _Answers) -> None:
    """With an agent of our own, which ends with the installation."""
    node = Node(config)
    running = asyncio.ensure_future(node.run())
    while not answers.settled() and not running.done():
        await asyncio.sleep(LOOK_S)
    node.stop()
    await running
    if not answers.settled():
        raise Refused(Reason.STORAGE_UNWRITABLE, "the agent ended before the bundle was installed: its log says why")

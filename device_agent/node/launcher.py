"""What this agent and the launcher that started it (boards/onboard/launch) tell each other, over a folder of the board.

An agent that came over the air is on trial there until it confirms itself. The one before it has left what it expects of it.
"""

import asyncio
import contextlib
import errno
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ota.durable import write_durably
from ota.formats.agent import ABI, Host
from ota.formats.reasons import Reason, Refused

__all__ = ["Expectation", "Launcher", "host"]

PREPARE_S = 1800.0  # to unpack, compile and import an agent on a slow board
BEGIN_S = 60.0
NOTE_CHARACTERS = 600
SAID_BYTES = 8192
LOG = 3  # the descriptor of the launcher's log, where this agent is on trial
EXPECTS = "trial.expects"
WARM_S = 600.0  # for an agent to import itself beside another one, which serves meanwhile
WARM, READY, WARM_NOTE = "WAMR_OTA_WARM", b"ready\n", Path("/run/wamr-ota/warm")  # gone with the next boot, as processes are
_MACHINES = {"x86_64": "x86_64", "aarch64": "aarch64", "riscv64": "riscv64"}
logger = logging.getLogger(__name__)


def host() -> Host:
    """What this board has, as agents' classes see it."""
    machine, wide = platform.machine(), sys.maxsize > 1 << 32
    architecture = _MACHINES.get(machine, machine) if wide else "armv7" if machine in ("armv7l", "armv8l", "aarch64") else machine
    return Host(architecture, sys.version_info[1], _glibc())


def _glibc() -> int:
    with contextlib.suppress(ValueError, OSError):
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        if name == "glibc" and version.startswith("2."):
            return int(version.split(".")[1])
    return 0


@dataclass(frozen=True)
class Expectation:
    """What an agent on trial has to reach: what ran before it."""

    manifest: bytes  # digest of the envelope of its update
    name: str  # of the agent on trial
    before: str  # of the agent that ran before
    instances: frozenset[str]  # whose modules ran
    online: bool

    def to_bytes(self) -> bytes:
        """For a file."""
        value = {
            "manifest": self.manifest.hex(),
            "name": self.name,
            "before": self.before,
            "instances": sorted(self.instances),
            "online": self.online,
        }
        return json.dumps(value).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Expectation":
        """Raises ValueError, KeyError, TypeError for what no agent has written."""
        value: dict[str, Any] = json.loads(data)
        return cls(
            manifest=bytes.fromhex(value["manifest"]),
            name=str(value["name"]),
            before=str(value["before"]),
            instances=frozenset(map(str, value["instances"])),
            online=bool(value["online"]),
        )


@dataclass(frozen=True)
class Launcher:
    """The launcher of this process."""

    base: Path  # the folder of the board's agents
    script: Path
    running: str  # the agent that this process is, as the launcher names it
    config: Path
    on_trial: bool  # whether this process was started as the one on trial
    parent: int  # the launcher's process; this one, where it took the launcher's place
    stepped_down: str = ""  # the confirmed agent, where it starts no more and this one runs instead
    next: list["subprocess.Popen[bytes]"] = field(default_factory=list)  # the agent that waits for this one to end

    @classmethod
    def here(cls, environment: Mapping[str, str], config: Path = Path("agent.toml")) -> "Launcher | None":
        """`config`: this agent's. None for an agent that no launcher started, or one that expects something else of it."""
        base, script = environment.get("WAMR_OTA_BASE", ""), environment.get("WAMR_OTA_LAUNCH", "")
        name, parent = environment.get("WAMR_OTA_TARBALL", ""), environment.get("WAMR_OTA_PARENT", "")
        if not (base and script and name and parent.isdecimal()) or environment.get("WAMR_OTA_LAUNCHER") != ABI.rpartition("@")[2]:
            return None
        trial, stepped_down = environment.get("WAMR_OTA_TRIAL", ""), environment.get("WAMR_OTA_STEPPED_DOWN", "")
        return cls(Path(base), Path(script), name, config.absolute(), trial == name, int(parent), stepped_down)

    # -- before a trial

    async def prepare(self, tarball: Path, name: str, unpacked_bytes: int) -> dict[str, Any]:
        """Unpacks an agent beside this one and sees to it that it can be imported; returns what the tarball says of itself.

        Raises Refused AGENT_INVALID, DISK_FULL, AGENT_ON_TRIAL, AGENT_FAILED.
        """
        answer = await self._step(PREPARE_S, "prepare", str(tarball), str(self.base), name, str(unpacked_bytes))
        about = answer.get("about")
        return about if isinstance(about, dict) else {}

    async def warm(self, name: str, timeout_s: float) -> None:
        """Starts an agent that was prepared beside this one: it imports everything, and waits for `let_begin` or our end.

        Raises Refused AGENT_FAILED where it ends before, or can't be started.
        """
        version, said = self.base / "versions" / name, self.base / "trial.said"
        with _refusing():
            said.unlink(missing_ok=True)
        paths = f"{version}/lib:{version}/packages"
        environment = {**os.environ, "PYTHONPATH": paths, "WAMR_OTA_TARBALL": name, "WAMR_OTA_TRIAL": name, WARM: "1"}
        agent = (sys.executable, "-m", "device_agent", "--log-format", "text", "--config", str(self.config))
        command = ("sh", "-c", f'exec "$@" {LOG}>&2 2>>"$0"', str(said), *agent)
        with _refusing():
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", env=environment)
        assert process.stdout is not None, "it is a pipe"
        good, limit_s = False, min(timeout_s, WARM_S)
        timer = threading.Timer(limit_s, process.kill)
        timer.start()
        try:
            good = await asyncio.to_thread(process.stdout.readline) == READY
        finally:
            timer.cancel()  # Python does not end before its threads have
            if not good:
                await asyncio.to_thread(_kill, process)
        if not good:
            with _refusing():
                why = await asyncio.to_thread(said.read_text, "utf-8", "replace")
            why = why.strip()[-NOTE_CHARACTERS:] or f"it ended, or was not ready within {limit_s:.0f} s, and said nothing"
            raise Refused(Reason.AGENT_FAILED, f"{name} was not ready to begin: {why}")
        self.next.append(process)

    def cool(self) -> None:
        """Ends an agent that was started beside this one and is not to begin."""
        if self.next:
            with contextlib.suppress(OSError):  # its number may be another process's soon
                WARM_NOTE.unlink(missing_ok=True)
        while self.next:
            _kill(self.next.pop())

    def wait_for_turn(self, environment: Mapping[str, str], prepare: Callable[[], None]) -> None:
        """Where this agent was started beside another one: `prepare`s what it can, and returns when that one has stopped.

        Ends this process where it is not to run: the other one has changed its mind, or was ended.
        """
        if not environment.get(WARM):
            return
        prepare()
        os.write(1, READY)
        while os.read(0, 1024):
            pass
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1):
            os.dup2(nothing, number)
        os.close(nothing)
        if not self.is_on_trial:
            sys.exit(1)

    async def begin(self, expectation: Expectation, trial_s: float) -> None:
        """Puts an agent on trial that was prepared: it begins when this one hands over. Raises Refused AGENT_ON_TRIAL, DISK_FULL.

        The launcher is told first which process it is: from the pointer on, this process may end at any moment, and the one that
        waits for that goes on. The launcher must not start a second one beside it.
        """
        with _refusing():
            await asyncio.to_thread(write_durably, self.base / EXPECTS, expectation.to_bytes())
            WARM_NOTE.unlink(missing_ok=True)
            for process in self.next:
                WARM_NOTE.write_text(f"{expectation.name} {process.pid}\n")
        try:
            await self._step(BEGIN_S, "begin", str(self.base), expectation.name, f"{trial_s:.0f}")
        except Refused:
            if not self._has_on_trial(expectation.name):  # else the step was too slow to say so, or ended behind the pointer
                raise

    async def _step(self, timeout_s: float, *arguments: str) -> dict[str, Any]:
        """A step of boards/onboard/versions.py, in a process of its own."""
        command = (sys.executable, "-B", "-m", "boards.onboard.versions", *arguments)
        pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        starts = asyncio.ensure_future(
            asyncio.create_subprocess_exec(*command, stdin=nothing, stdout=pipe, start_new_session=True, cwd="/")
        )
        try:
            with _refusing():
                process = await asyncio.shield(starts)
        except asyncio.CancelledError:  # it is there all the same, or about to be
            with contextlib.suppress(OSError):
                await _end(await starts)
            raise
        try:
            async with asyncio.timeout(timeout_s):
                out, _ = await process.communicate()
        except TimeoutError:
            raise Refused(Reason.AGENT_FAILED, f"the new agent was not ready within {timeout_s:.0f} s") from None
        finally:
            await _end(process)  # it hangs, or this update was stopped
        return _answer(out, f"{arguments[0]} ended with status {process.returncode}")

    # -- on trial

    @property
    def expectation(self) -> Expectation | None:
        """Of the last trial over the air, whoever asks."""
        try:
            return Expectation.from_bytes((self.base / EXPECTS).read_bytes())
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def is_confirmed(self) -> bool:
        """Whether this agent is the confirmed one, and none is on trial."""
        return _pointer(self.base / "confirmed") == self.running and not _pointer(self.base / "trial")

    @property
    def is_on_trial(self) -> bool:
        """Whether this process is on a trial that it may confirm itself: it came over the air."""
        return self.on_trial and self._has_on_trial(self.running)

    def _has_on_trial(self, name: str) -> bool:
        return _pointer(self.base / "trial") == name and _first_line(self.base / "trial.air") == name

    def passed(self) -> None:
        """Says that this agent works: the launcher makes it the confirmed one."""
        write_durably(self.base / "trial.passed", f"{self.running}\n".encode())

    def say(self, text: str) -> None:
        """For the agent that runs next, should this one fail its trial."""
        if self.on_trial:
            with contextlib.suppress(OSError), (self.base / "trial.said").open("a", encoding="utf-8", errors="replace") as file:
                if file.tell() > SAID_BYTES:
                    file.truncate(0)
                file.write(text[:NOTE_CHARACTERS] + "\n")

    def failure(self, name: str) -> str:
        """Why an agent failed its trial, as the launcher and the agent itself have it; "" where the launcher says nothing of it."""
        try:
            found, _, why = (self.base / "trial.failed").read_text("utf-8", "replace").partition("\n")
        except OSError:
            return ""
        if found != name:
            return ""
        first, *said = [line.strip() for line in why.splitlines() if line.strip()] or ["it failed"]
        return first + (f"; it said last: {' / '.join(said)[-NOTE_CHARACTERS:]}" if said else "")

    def let_begin(self) -> None:
        """Lets the agent that waits go on, though this process has not ended: it needs nothing of it any more."""
        for process in self.next:
            assert process.stdin is not None, "it is a pipe"
            process.stdin.close()

    # -- this process

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the agents of this board, each as "code: text"."""
        if not self.stepped_down:
            return ()
        return (f"agent-stepped-down: {self.stepped_down} did not start, again and again; {self.running} runs instead",)

    def started(self) -> None:
        """Notes that this agent runs: it is not one of those that start no more."""
        with contextlib.suppress(OSError):
            (self.base / "starts").unlink(missing_ok=True)
            if not self.stepped_down and not self.on_trial:
                (self.base / "stepped-down").unlink(missing_ok=True)

    def hand_over(self) -> None:
        """Lets the launcher start what is to run now. Returns where it waits for this process to end; else it takes its place."""
        if self.parent == os.getpid():
            os.execv("/bin/sh", ["sh", str(self.script), str(self.config)])  # noqa: S606  (the launcher's own name for itself)

    def take_log(self) -> None:
        """Logs go where the launcher's go from now on. What an agent on trial says before is kept for the one that runs next."""
        if self.on_trial:
            with contextlib.suppress(OSError):
                os.dup2(LOG, 2)
                os.close(LOG)


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """What the system does not give ends the update, not this agent. Raises Refused DISK_FULL, AGENT_FAILED."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise Refused(Reason.DISK_FULL if full else Reason.AGENT_FAILED, f"the new agent can't begin: {error}") from error


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends a process that still runs, and what it has started."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kills a process; returns when it is gone, its pipes closed."""
    with process:
        process.kill()


def _answer(out: bytes, otherwise: str) -> dict[str, Any]:
    """The line of JSON that a step ends with. Raises Refused for one that was not taken."""
    try:
        found = json.loads(out.splitlines()[-1])
        good, reason, why = bool(found["good"]), str(found["reason"]), str(found["why"])
    except (IndexError, ValueError, KeyError, TypeError, RecursionError):
        raise Refused(Reason.AGENT_FAILED, otherwise) from None
    if not good and reason not in {each.value for each in Reason}:  # a newer agent may have more of them
        raise Refused(Reason.AGENT_FAILED, f"{reason}: {why}")
    if not good:
        raise Refused(Reason(reason), why)
    return dict(found)


def _pointer(path: Path) -> str:
    try:
        return path.readlink().name
    except OSError:
        return ""


def _first_line(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").partition("\n")[0]
    except OSError:
        return ""

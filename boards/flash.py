"""Installs the agent on a board's existing Linux over its serial console.

Each step can be done again: a cable that is pulled is waited for, and the transfer goes on where it ended. The agent that runs is
left alone until the new one lies beside it, whole and checked; then that one gets one try, and what ran before comes back unless
the flasher sees it report and confirms it (boards/onboard/launch).
"""

import hashlib
import io
import re
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from boards.console import CommandFailed, Console, Login
from boards.definition import Board
from boards.errors import BoardError
from boards.line import Line, LineLost
from boards.tarball import LOCKED_PYTHON, PACKAGES, Tarball, make_tarball
from boards.transfer import GOODBYE, send

__all__ = ["Facts", "Flasher", "Operator", "Outcome"]

T = TypeVar("T")
HELPER, VERSIONS = (Path(__file__).with_name("onboard") / name for name in ("helper.py", "versions.py"))
MACHINES = {"x86_64": ("x86_64",), "aarch64": ("aarch64",), "armv7": ("armv7l", "armv8l", "aarch64"), "riscv64": ("riscv64",)}
LEAST_PYTHON = (3, 11)
SPARE_BYTES = 24 << 20
CLOCK_OFF_S = 60.0
FIRST_YEAR_S = 1735689600  # 2025: no clock that was ever set is before this
SILENCE_S = 120.0  # a step of the board's may take as long as it needs, but not be silent for so long
NOTE_S = 10.0  # between notes of how far a long step has come
LOOK_S, CONFIRM_S = 5.0, 15.0
# An agent on trial that uses so much of the processor is still starting; it is given up to LONGEST times the trial's length.
BUSY, LONGEST = 0.2, 3
# Those that `pywamr.confine` reports, which need a kernel that has them. A limit on memory and a user of its own every board has.
MEASURES = ("no-new-privileges", "seccomp", "landlock")
TRIES = 5  # without progress
_BASE = re.compile(r"/[A-Za-z0-9._/-]{1,100}")


class Operator(Protocol):
    """What flashing needs of the operator's side."""

    def settings(self, device: str, signing_request: bytes) -> Mapping[str, bytes]:
        """A board's settings by file name, its certificate among them."""

    def check(self) -> None:
        """Raises when nobody could see a report, before anything is changed."""

    def reported(self, device: str, agent: str, up_s: float, timeout_s: float) -> bool:
        """Whether this version of the agent, up for no longer than `up_s`, reports over the broker in time."""


@dataclass(frozen=True)
class Facts:
    """What the board said of itself before anything was changed."""

    machine: str
    python: tuple[int, ...]
    bits: int
    standard_missing: tuple[str, ...]
    packages: Mapping[str, str]
    free_bytes: int
    writable: bool
    time_s: float
    manager: str
    confirmed: str
    provisioned: bool

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> "Facts":
        """Out of the helper's answer."""
        return cls(
            machine=str(value["machine"]),
            python=tuple(int(each) for each in value["python"]),
            bits=int(value["bits"]),
            standard_missing=tuple(value["standard_missing"]),
            packages=dict(value["packages"]),
            free_bytes=int(value["free_bytes"]),
            writable=bool(value["writable"]),
            time_s=float(value["time_s"]),
            manager=str(value["manager"]),
            confirmed=str(value["confirmed"]),
            provisioned=bool(value["provisioned"]),
        )

    def check(self, board: Board, base: str) -> None:
        """Raises BoardError when the agent cannot live there."""
        target = board.processor.target
        if (
            self.machine not in MACHINES[target]
            or (target == "armv7" and self.bits != 32)
            or (target != "armv7" and self.bits != 64)
        ):
            raise BoardError(f"{board.name} is a board with {target}, this one is {self.machine} ({self.bits} bits)")
        if self.standard_missing:
            raise BoardError(f"the board's Python is not whole (no {', '.join(self.standard_missing)}): apt-get install python3")
        if not self.writable:
            raise BoardError(f"nothing can be written to {base} on the board: name another folder with --base")
        if self.free_bytes < SPARE_BYTES:
            raise BoardError(f"the board has {self.free_bytes >> 20} MB free for {base}, {SPARE_BYTES >> 20} MB are needed")
        if not self.manager:
            raise BoardError("the board is started neither by systemd nor from /etc/inittab: nothing would start the agent")

    def lacking(self) -> tuple[str, ...]:
        """The Python packages to send along. Raises BoardError when they are not available for the board's Python."""
        found = tuple(name for name, (least, _, _) in PACKAGES.items() if _version(self.packages.get(name, "")) < _version(least))
        if found and self.python[:2] != LOCKED_PYTHON:
            names = ", ".join(f"{name} {PACKAGES[name][0]}" for name in found)
            raise BoardError(f"the board's Python {'.'.join(map(str, self.python))} lacks {names} or newer: install them with pip")
        return found


def _indented(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines) or "  (it is empty)"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", text)[:3])


@dataclass(frozen=True)
class Outcome:
    """What was done: the version that runs now, the one before, whether the board got its identity."""

    agent: str
    before: str
    provisioned: bool
    sent_bytes: int
    lost: int  # how often the line was
    bundle: Mapping[str, Any] | None = None  # the agent's answer to it


@dataclass
class Flasher:
    """One board on one line. `open_line` opens the line, again after it was lost."""

    board: Board
    wheel: Path
    cache: Path
    open_line: Callable[[], Line]
    operator: Operator
    login: Login
    device: str = ""  # "" leaves the identity alone
    bundle: bytes = b""  # an update to install afterwards
    base: str = ""
    provision_again: bool = False
    set_clock: bool = True
    trial_s: float = 120.0
    patience_s: float = 60.0  # for a line that was lost; three times as long where the board has answered before
    note: Callable[[str], None] = lambda _: None
    progress: Callable[[int, int], None] = lambda _done, _of: None
    config: str = field(default="", init=False)
    _console: Console | None = field(default=None, init=False)
    _before: Console | None = field(default=None, init=False)  # what it knew of the console's state
    _line: Line | None = field(default=None, init=False)
    _looking: bool = field(default=False, init=False)
    _opened: bool = field(default=False, init=False)  # whether the line was ever there
    _lost: int = field(default=0, init=False)
    _sent: int = field(default=0, init=False)

    def run(self) -> Outcome:
        """Flashes. Raises BoardError, LineLost when the line does not come back; what ran before runs on."""
        if self.base and not _BASE.fullmatch(self.base):
            raise BoardError(f"{self.base!r} is no folder that can be named on a command line")
        try:
            facts = self._again(self._look)
            provision = bool(self.device) and (self.provision_again or not facts.provisioned)
            device = self.device if provision else self._again(self._device) if facts.provisioned else ""
            if self.device and self.device != device:
                raise BoardError(f"this board is {device}: --provision-again makes it {self.device}")
            if not device:
                raise BoardError("the board has no settings yet: name it with --device")
            self.operator.check()
            tarball = make_tarball(self.wheel, self.board.debian, facts.lacking(), self.cache)
            same = facts.confirmed == tarball.name and not provision
            if same and self.alive(tarball.name):
                self.note(f"{tarball.name} runs there already")
                answer = self._install()
                return Outcome(tarball.name, tarball.name, False, self._sent, self._lost, answer)
            self.note(f"sending {tarball.name}: {len(tarball.content)} bytes")
            self._again(lambda: self._send(f"{self._work}/tarball", tarball.content, tarball.sha256))
            self._again(lambda: self._verb("unpack", f"{self._work}/tarball", self.base, tarball.name))
            self._check(tarball)
            if provision:
                self._provision(tarball)
            self._switch(tarball, device, provisioned=provision)
            answer = self._install()
            return Outcome(tarball.name, facts.confirmed, provision, self._sent, self._lost, answer)
        finally:
            self._close()

    def alive(self, agent: str) -> bool:
        """Whether a version of the agent runs there, as the board says."""
        return bool(self._again(lambda: self._verb("alive", agent))["alive"])

    def _install(self) -> Mapping[str, Any] | None:
        """What the agent says of the bundle, if there is one. Raises BoardError when it did not say anything."""
        if not self.bundle:
            return None
        path, digest = f"{self._work}/flashed.bundle", hashlib.sha256(self.bundle).hexdigest()
        self.note(f"sending the bundle: {len(self.bundle)} bytes")
        self._again(lambda: self._send(path, self.bundle, digest))
        self.note("the board installs it")
        answer = self._again(lambda: self._verb("install", self.base, self.config, path))
        self._again(lambda: self.console.run(f"{self.console.sudo}rm -f {path}"))
        if answer["answer"] is None:
            raise BoardError(f"the bundle was not installed:\n{_indented(answer['why'])}")
        return dict(answer["answer"])

    @property
    def _work(self) -> str:
        return f"{self.base}/flashing"

    def look(self) -> Facts:
        """Only what `run` would find out first. Raises as it does."""
        self._looking = True
        try:
            return self._again(self._look)
        finally:
            self._close()

    # -- the line

    def _again(self, step: Callable[[], T]) -> T:
        """Does a step, and once more when the line was lost and has come back. Raises BoardError when it was never there."""
        lost_s, tries = 0.0, 0
        while True:
            before, attached = self._sent, False
            try:
                self._attach()
                lost_s, attached = 0.0, True
                return step()
            except LineLost as error:
                if not self._opened:
                    raise BoardError(f"the serial port cannot be opened: {error}") from error
                self._lost += 1
                self._close()
                lost_s = lost_s or time.monotonic()
                tries = 0 if self._sent > before else tries + attached
                known = self._before is not None and self._before.prompted
                if time.monotonic() - lost_s > self.patience_s * (3 if known else 1) or tries > TRIES:
                    raise
                self.note(f"{error}; trying again")
                time.sleep(1.0)

    def _attach(self) -> None:
        if self._console is not None:
            return
        self._line = self.open_line()
        self._opened = True
        console = self._console = Console(self._line, self.login, self._before, b"\x03" + GOODBYE)
        self._before = console
        console.write(b"\x15" + GOODBYE)  # clears a line that was only partly typed
        console.attach()
        if not self.base:
            image = console.try_run("test -d /usr/lib/wamr-ota-system")[0] == 0
            self.base, self.config = ("/data/agent", "/data/etc") if image else ("/opt/wamr-ota", "/opt/wamr-ota/etc")
        elif not self.config:
            self.config = f"{self.base}/etc"

    def _close(self) -> None:
        if self._console is not None:
            self._console.detach()
        if self._line is not None:
            self._line.close()
        self._console = self._line = None

    @property
    def console(self) -> Console:
        """The console; there is one while a step runs."""
        assert self._console is not None
        return self._console

    def _verb(self, name: str, *arguments: str) -> dict[str, Any]:
        """What a verb of the helper answers. It is waited for as long as the board says how far it has come."""
        words = " ".join(arguments)

        noted = time.monotonic()

        def advance(kind: str, count: int) -> None:
            nonlocal noted
            if time.monotonic() - noted > NOTE_S:
                noted = time.monotonic()
                self.note(f"the board has {kind} {count} files" if kind != "looked" else "the board is still installing it")

        answer = self.console.ask(f"{self.console.sudo}python3 -B {self._work}/helper.py {name} {words}", SILENCE_S, advance)
        assert isinstance(answer, dict)
        return answer

    # -- steps

    def _look(self) -> Facts:
        """What the board is; the helper is there afterwards."""
        console = self.console
        try:
            found = console.run("python3 -c 'import sys; print(*sys.version_info[:2])'", SILENCE_S).split()
        except CommandFailed as error:
            raise BoardError("the board has no python3: apt-get install python3") from error
        if tuple(int(each) for each in found) < LEAST_PYTHON:
            raise BoardError(f"the board's Python is {'.'.join(found)}, {'.'.join(map(str, LEAST_PYTHON))} or newer is needed")
        try:
            console.run(f"{console.sudo}mkdir -p {self._work}/boards/onboard && {console.sudo}chmod 700 {self._work}")
            console.run(f"{console.sudo}touch {self._work}/boards/__init__.py")  # it is found before one that is installed
        except CommandFailed as error:
            raise BoardError(f"nothing can be written to {self.base} on the board: {error.output.strip()}") from error
        console.put(f"{self._work}/boards/onboard/versions.py", VERSIONS.read_bytes())
        console.put(f"{self._work}/helper.py", HELPER.read_bytes())
        facts = Facts.of(self._verb("facts", self.base, self.config))
        facts.check(self.board, self.base)
        self._clock(facts)
        python = ".".join(map(str, facts.python))
        now = facts.confirmed or "no agent that was flashed"
        self.note(f"{facts.machine}, Python {python}, {facts.free_bytes >> 20} MB free, started by {facts.manager}, running {now}")
        return facts

    def _clock(self, facts: Facts) -> None:
        """A board whose clock is wrong would refuse certificates and deployments."""
        off_s = facts.time_s - time.time()
        if abs(off_s) < CLOCK_OFF_S:
            return
        if self._looking:
            self.note(f"the board's clock is {off_s:+.0f} s off")
        elif not self.set_clock:
            if facts.time_s < FIRST_YEAR_S:
                raise BoardError("the board's clock was never set, and --leave-clock says to leave it so")
            self.note(f"the board's clock is {off_s:+.0f} s off")
        else:
            self._verb("set-clock", f"{time.time():.3f}")
            self.note(f"the board's clock was {off_s:+.0f} s off: set")

    def _send(self, path: str, content: bytes, digest: str) -> None:
        console = self.console
        console.write(f" {console.sudo}python3 -B {self._work}/helper.py receive {path} {len(content)} {digest}\r".encode())
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            self._sent = max(self._sent, done)
            self.progress(done, len(content))

        if not send(console, content, advance):
            raise LineLost(f"{path} arrived damaged")

    def _check(self, tarball: Tarball) -> None:
        answer = self._again(lambda: self._verb("probe", self.base, tarball.name))
        if not answer["good"]:
            raise BoardError(f"the agent cannot run on this board:\n{_indented(answer['why'])}")
        if missing := [each for each in MEASURES if each not in answer["measures"]]:
            self.note(
                f"the board's kernel cannot confine modules by {', '.join(missing)}: none will run there unless its policy says "
                '[policy] confinement = "best-effort"'
            )

    def _provision(self, tarball: Tarball) -> None:
        """The board makes its key and asks for a certificate; settings and certificate come back."""
        key = f"{self._work}/device.key"
        self.note(f"{self.device}: the board makes its key")

        def ask() -> bytes:
            answer = self._verb("request", self.base, tarball.name, self.device, key)
            return str(answer["request"]).encode()

        settings = _tar(self.operator.settings(self.device, self._again(ask)))
        digest = Tarball("", settings).sha256
        self._again(lambda: self._send(f"{self._work}/settings", settings, digest))
        self._again(lambda: self._verb("settings", f"{self._work}/settings", self.config, key))
        self.note(f"{self.device}: has its identity and its settings")

    def _switch(self, tarball: Tarball, device: str, *, provisioned: bool) -> None:
        self._again(lambda: self._verb("begin", self.base, self.config, tarball.name, f"{LONGEST * self.trial_s:.0f}"))
        self.note(f"{tarball.name} is on trial; waiting for its report")
        began = looked = idle_since = time.monotonic()
        used_s = 0.0
        while not self.operator.reported(device, tarball.name, time.monotonic() - began + LOOK_S, LOOK_S):
            state = self._again(lambda: self._verb("state", self.base))
            before_s, looked = looked, time.monotonic()
            if state["used_s"] - used_s > BUSY * (looked - before_s):
                idle_since = looked
            used_s = state["used_s"]
            end = min(idle_since + self.trial_s, began + LONGEST * self.trial_s) - CONFIRM_S
            if looked > end or state["trial"] != tarball.name:
                before = self._again(lambda: self._verb("revert", self.base))["confirmed"]
                now = f"{before} runs again" if before else "it was taken away again"
                raise BoardError(f"{tarball.name} did not report: {now}. The board's log ends:\n{_indented(state['said'])}")
        self._again(lambda: self._verb("confirm", self.base, tarball.name))
        if provisioned:  # it restarts, with its settings in place
            began = time.monotonic()
            while not self.operator.reported(device, tarball.name, time.monotonic() - began + LOOK_S, LOOK_S):
                if time.monotonic() - began > self.trial_s:
                    said = _indented(self._again(lambda: self._verb("state", self.base))["said"])
                    raise BoardError(f"{tarball.name} is confirmed, but does not report any more. The board's log ends:\n{said}")

    def _device(self) -> str:
        found = re.search(
            r'^id\s*=\s*"([^"]+)"', self.console.run(f"{self.console.sudo}cat {self.config}/agent.toml"), re.MULTILINE
        )
        if found is None:
            raise BoardError(f"{self.config}/agent.toml names no device")
        return found[1]


def _tar(files: Mapping[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(files[name]), 0o600
            archive.addfile(entry, io.BytesIO(files[name]))
    return raw.getvalue()

"""The console of a board over a serial line: logs in, and runs commands in its shell.

Commands are bracketed by marks that the line typed does not contain, so an echo, a prompt and a line editor do no harm. What it
does not do: full-screen programs, and shells that are no POSIX shell.
"""

import base64
import binascii
import contextlib
import gzip
import hashlib
import json
import re
import secrets
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from boards.errors import BoardError
from boards.line import Line, LineLost, LineSilent

__all__ = ["CommandFailed", "Console", "Login"]

ANSWER_S = 60.0  # for a command of the shell, on a board that is slow or busy
QUIET_S = 0.4
SHELL_S = 3.0  # for a shell to answer, the first time that it is asked; longer each time
LOGINS = 3  # that attaching gets its time anew for
# Commands are cut to lines that every line editor takes.
LINE_CHARACTERS = 480
TAIL_CHARACTERS = 400
_LOGIN, _PASSWORD = re.compile(rb"(?i)login: *$"), re.compile(rb"(?i)password( for [^:]*)?: *$")
_AFTER_NAME = re.compile(rb"(?i)password( for [^:]*)?: *$|[#$%>~] *(\x1b\[[0-9;?]*[a-zA-Z])* *$|login incorrect|login: *$")
_LOGGED_IN = re.compile(rb"[#$%>~] *(\x1b\[[0-9;?]*[a-zA-Z])* *$|(?i:login incorrect|authentication failure)")
_TERMINAL = re.compile(r"[0-9a-f:]{8,200}")
# A line of boards/onboard/helper.py that says how far something has come.
_PROGRESS = re.compile(rb"@(([a-z]+) (\d+)) ([0-9a-f]{8})\r*\n")
_WRONG = re.compile(rb"(?i)login incorrect|authentication failure")


class CommandFailed(BoardError):
    """A command on the board ended with another code than 0; `status` is that, `output` what it printed."""

    def __init__(self, what: str, status: int, output: str) -> None:
        super().__init__(f"{what} failed on the board ({status}): {output.strip()[-500:] or 'it said nothing'}")
        self.status = status
        self.output = output


@dataclass(frozen=True)
class Login:
    """Who to log in as, where the console asks. `password` is asked for only when it is needed."""

    user: str = "root"
    password: Callable[[], str] = lambda: ""


class Console:
    """A console on an open line. Every method raises LineLost when the line is gone or silent."""

    def __init__(self, line: Line, login: Login | None = None, before: "Console | None" = None, interrupt: bytes = b"\x03") -> None:
        """`before` is the same console, on a line that was lost: what is to be put right at the end. `interrupt` ends whatever may
        still run there from before.
        """
        self._interrupt = interrupt
        self._line = line
        self._login = login or Login()
        self._buffer = b""
        self._logged_in: bool = before is not None and before._logged_in
        self.prompted: bool = before is not None and before.prompted  # whether a login or a shell was ever met
        self._printk: str = before._printk if before is not None else ""
        self._terminal: str = before._terminal if before is not None else ""
        self.sudo = ""

    # -- bytes

    def read(self, timeout_s: float) -> bytes:
        """What has come and was not taken yet, waiting for it if need be."""
        if self._buffer:
            found, self._buffer = self._buffer, b""
            return found
        return self._line.read(timeout_s)

    def write(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self._line.write(data)

    def push_back(self, data: bytes) -> None:
        """Makes bytes that were read be read again."""
        self._buffer = data + self._buffer

    def expect(
        self, pattern: "re.Pattern[bytes]", timeout_s: float, what: str, progress: Callable[[str, int], None] | None = None
    ) -> "re.Match[bytes]":
        """Reads until the pattern is there; what follows it stays to be read. Raises LineSilent naming `what` after `timeout_s`.

        With `progress`, which is told of each line of progress, the time counts from the last of those.
        """
        seen, end, at = b"", time.monotonic() + timeout_s, 0
        since = ""
        while True:
            for step in _PROGRESS.finditer(seen, at) if progress is not None else ():
                at = step.end()
                if progress is not None and zlib.crc32(step[1]) == int(step[4], 16):
                    progress(step[2].decode(), int(step[3]))
                    end, since = time.monotonic() + timeout_s, f" since it had {step[2].decode()} {int(step[3])}"
            if found := pattern.search(seen):
                self._buffer = seen[found.end() :] + self._buffer
                return found
            left = end - time.monotonic()
            if left <= 0:
                raise LineSilent(f"waited {timeout_s:.0f} s for {what}{since}; the console said: {_tail(seen)}")
            seen += self.read(left)

    def screen(self, quiet_s: float = QUIET_S, timeout_s: float = 5.0) -> bytes:
        """All that comes until nothing has come for `quiet_s`."""
        seen, end = b"", time.monotonic() + timeout_s
        while time.monotonic() < end and (more := self.read(quiet_s)):
            seen += more
        return seen

    # -- a shell

    def attach(self, timeout_s: float = 60.0) -> None:
        """Comes to a shell, logging in where it is asked to. Raises BoardError when the login is refused.

        `timeout_s` counts from the last login, of which there may be LOGINS.
        """
        end = time.monotonic() + timeout_s
        passwords, logins, strange, seen = 0, 0, 0, b""
        while time.monotonic() < end:
            # An interrupted command may have left a quotation open or the output stopped: interrupt after two attempts.
            self.write(b"\x15\r" if strange < 2 else self._interrupt + b"\x15\r")
            seen = self.screen() or seen
            tail = seen[-200:].rstrip(b"\0")
            if _WRONG.search(seen) and passwords:
                raise BoardError(f"the board refused the login of {self._login.user!r}")
            if _LOGIN.search(tail):
                self.prompted = True
                passwords += self._log_in()
                self._logged_in = True
                logins += 1
                end = time.monotonic() + timeout_s if logins <= LOGINS else end
            elif _PASSWORD.search(tail):
                self.write(b"\r")  # somebody else began this login: an empty password is refused, and the prompt comes again
                self.screen(3.0)
            elif self._is_shell(SHELL_S * (1 + strange)):
                self.prompted = True
                self._settle()
                return
            else:
                strange += 1
        raise LineSilent(f"no prompt in {timeout_s:.0f} s; the console said: {_tail(seen)}")

    def _log_in(self) -> int:
        """Answers a login prompt; 1 when a password was asked for. Raises BoardError when the login is refused."""
        self.write(self._login.user.encode() + b"\r")
        self.expect(re.compile(b"\n"), ANSWER_S, "the echo of a name")
        if not _PASSWORD.search(self._comes(_AFTER_NAME, ANSWER_S)):
            return 0
        self.write(self._login.password().encode() + b"\r")
        seen = self._comes(_LOGGED_IN, ANSWER_S)
        if _WRONG.search(seen):
            raise BoardError(f"the board refused the login of {self._login.user!r}")
        return 1

    def _comes(self, pattern: "re.Pattern[bytes]", timeout_s: float) -> bytes:
        """What was seen up to a pattern at the end of it, nothing when it does not come."""
        seen, end = b"", time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            seen += self.read(left)
            if pattern.search(seen[-200:]):
                return seen
        return b""

    def _is_shell(self, timeout_s: float) -> bool:
        mark = secrets.token_hex(4)
        self.write(f"\x15 printf '%s%s\\n' wamr- {mark}\r".encode())
        try:
            self.expect(re.compile(f"wamr-{mark}".encode()), timeout_s, "a shell")
        except LineSilent:
            return False
        return True

    def _settle(self) -> None:
        """A shell that is easy to talk to: no messages of the kernel, no echo, no XOFF, no history, root if that can be had."""
        if not self._terminal and _TERMINAL.fullmatch(found := self.try_run("stty -g 2>/dev/null")[1].strip()):
            self._terminal = found
        self.run("stty -echo -ixon 2>/dev/null; unset HISTFILE PROMPT_COMMAND; TMOUT=600; PS1='# '; export LC_ALL=C TERM=dumb")
        if self.run("id -u").strip() != "0":
            self._become_root()
        self._printk = self._printk or self.run("cut -f1 /proc/sys/kernel/printk").strip()
        self.run(f"{self.sudo}dmesg -n 1 2>/dev/null; true")

    def _become_root(self) -> None:
        try:
            self.run("sudo -n true")
        except CommandFailed as error:
            mark = secrets.token_hex(4)
            self.write(f" sudo -p 'wamr-''{mark}:' -v; printf '%s%s\\n' {mark} $?\r".encode())
            found = self.expect(re.compile(f"wamr-{mark}:|{mark}([0-9]+)".encode()), ANSWER_S, "sudo's question")
            if found[1] is None:
                self.write(self._login.password().encode() + b"\r")
                found = self.expect(re.compile(f"wamr-{mark}:|{mark}([0-9]+)".encode()), ANSWER_S, "sudo's answer")
            if found[1] != b"0":
                self.write(b"\x03")
                raise BoardError(f"{self._login.user!r} is not root on the board, and may not become it by sudo") from error
        self.sudo = "sudo "

    def detach(self) -> None:
        """Leaves the console as it was found. Never raises for a line that is gone."""
        try:
            if self._printk:
                self.run(f"{self.sudo}dmesg -n {self._printk} 2>/dev/null; stty {self._terminal} echo 2>/dev/null; true")
            if self._logged_in:
                self.write(b"\x15 exit\r")
        except (LineLost, CommandFailed):
            return

    def run(self, command: str, timeout_s: float = ANSWER_S, progress: Callable[[str, int], None] | None = None) -> str:
        """What a command printed. Raises CommandFailed when it ends with another code than 0."""
        status, output = self.try_run(command, timeout_s, progress)
        if status:
            raise CommandFailed(command.split(maxsplit=1)[0] if len(command) > 60 else command, status, output)
        return output

    def try_run(
        self, command: str, timeout_s: float = ANSWER_S, progress: Callable[[str, int], None] | None = None
    ) -> tuple[int, str]:
        """Exit code and output of a command of one line."""
        mark = secrets.token_hex(4)
        line = f" printf '%s%s\\n' b {mark}; {command}; printf '\\n%s%s %d.\\n' e {mark} $?"
        if len(line) > 2 * LINE_CHARACTERS:
            raise BoardError(f"a command of {len(line)} characters is too long for a console")
        self.write(line.encode() + b"\r")
        pattern = re.compile(rf"b{mark}\r?\n(.*?)\r?\ne{mark} ([0-9]+)\.\r?\n".encode(), re.DOTALL)
        try:
            found = self.expect(pattern, timeout_s, f"the end of: {command[:60]}", progress)
        except KeyboardInterrupt:
            with contextlib.suppress(LineLost):
                self.write(b"\x03")  # on the board too
            raise
        return int(found[2]), found[1].decode(errors="replace").replace("\r\n", "\n")

    def put(self, path: str, content: bytes) -> None:
        """Writes a small file, through base64 and lines that fit, and checks it."""
        text = base64.b64encode(gzip.compress(content, 9)).decode()
        self.run(f"{self.sudo}rm -f {path}.b64; true")
        tee = f"| {self.sudo}tee -a {path}.b64 >/dev/null" if self.sudo else f">> {path}.b64"
        for at in range(0, len(text), LINE_CHARACTERS):
            self.run(f"printf %s '{text[at : at + LINE_CHARACTERS]}' {tee}")
        into = f"| {self.sudo}tee {path} >/dev/null" if self.sudo else f"> {path}"
        self.run(f"{self.sudo}base64 -d {path}.b64 | gzip -dc {into} && {self.sudo}rm -f {path}.b64")
        if self.run(f"{self.sudo}cat {path} | sha256sum").split()[:1] != [hashlib.sha256(content).hexdigest()]:
            raise LineLost(f"{path} arrived damaged")

    def ask(self, command: str, timeout_s: float = ANSWER_S, progress: Callable[[str, int], None] | None = None) -> Any:
        """The JSON that a verb of the helper answers with. Raises CommandFailed."""
        output = self.run(command, timeout_s, progress)
        return parse_answer(output, command)


def parse_answer(output: str, command: str) -> Any:
    """The JSON between two colons on a line of its own. Raises LineLost when it is damaged."""
    for found in re.finditer(r"^:([A-Za-z0-9+/=]+):\s*$", output, re.MULTILINE):
        try:
            return json.loads(base64.b64decode(found[1], validate=True))
        except (binascii.Error, ValueError):
            continue
    raise LineLost(f"no answer that can be read to: {command[:60]}; the board said: {_tail(output.encode())}")


def _tail(seen: bytes) -> str:
    """The last lines of what a console said, each on a line of its own."""
    lines = [each.strip() for each in seen.decode(errors="replace").splitlines()]
    text = "\n".join("".join(c for c in each if c.isprintable()) for each in lines if each)[-TAIL_CHARACTERS:]
    return "\n  " + text.replace("\n", "\n  ") if text else "nothing"

"""Users for workers: each live worker of an agent that is root runs as a user that nothing else on the system uses.

A user is taken by a lock on one byte of a file, so that two agents on one system never hand out the same one, and is passed over
while any process runs as it (a worker that outlived its agent) or while it is listed in /etc/passwd or /etc/group.
"""

import contextlib
import errno
import fcntl
import os
import threading
from pathlib import Path

__all__ = ["USERS", "NoUser", "WorkerUsers"]

USERS = range(60706, 61184)
"""Unused by systemd (https://systemd.io/UIDS-GIDS/: dynamic users begin at 61184, greeters end at 60705), never given to ordinary
users by Debian's policy (9.2.2: from 60000 on only static allocations, of which none is here), outside the subordinate ids of
login.defs, and inside the first 65,536 numbers, which is all that many containers have."""

LOCK = Path("/run/wamr-ota/users")
ACCOUNTS = (Path("/etc/passwd"), Path("/etc/group"))
PROCESSES = Path("/proc")


class NoUser(OSError):
    """No user can be handed out."""


class WorkerUsers:
    """Hands out users of a range, on any thread."""

    def __init__(self, users: range = USERS, lock: Path = LOCK) -> None:
        self._users = users
        self._lock = lock
        self._descriptor = -1
        self._taken: set[int] = set()
        self._next = 0
        self._one = threading.Lock()

    def take(self) -> int:
        """A user, whose number is its group's too; looks through all processes. Raises NoUser, OSError for its lock file."""
        with self._one:
            return self._take()

    def _take(self) -> int:
        if self._descriptor < 0:
            self._lock.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        used = self._taken | _listed() | _running()
        for step in range(len(self._users)):
            position = (self._next + step) % len(self._users)
            user = self._users[position]
            if user not in used and self._claim(user):
                self._taken.add(user)
                self._next = position + 1  # one that was given back is the last to be used again
                return user
        raise NoUser(errno.EAGAIN, f"all users from {self._users[0]} to {self._users[-1]} are in use")

    def give_back(self, user: int) -> None:
        """The worker was ended. Its user is used again once no process runs as it. One that is not taken: no effect."""
        with self._one:
            if user in self._taken:
                self._taken.remove(user)
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, user)

    def _claim(self, user: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, user)
        except BlockingIOError:
            return False
        return True


def _listed() -> set[int]:
    """The users and groups that have an account."""
    found: set[int] = set()
    for path in ACCOUNTS:
        with contextlib.suppress(FileNotFoundError):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                number = line.split(":")[2:3]
                found.update(int(each) for each in number if each.isdecimal())
    return found


def _running() -> set[int]:
    """The users that processes run as."""
    found = set()
    for each in os.scandir(PROCESSES):
        if each.name.isdecimal():
            with contextlib.suppress(OSError):  # it has ended
                found.add(each.stat().st_uid)
    return found

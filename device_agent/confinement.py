"""What a worker gives up before it touches guest code. What the kernel lacks is told to the agent, which tells the operator."""

import os
import resource
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from pywamr import confine

OWN_USER = "own-user"
MEASURES = ("no-new-privileges", "seccomp", "landlock", OWN_USER)
"""Everything that a worker should have; a user of its own only where the agent is root."""

FIRST_UID, UIDS = 61184, 4000
"""Workers of an agent that is root run as one of these users, which nothing else uses (systemd's range for dynamic users)."""

MAX_FILES = 64
DATA_HEADROOM_BYTES = 64 << 20


def seclude(channel: socket.socket) -> None:
    """First of all: no inherited descriptor but the channel, no core file, no file growth, no signal from the terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the agent, which then ends its workers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(nothing, standard)
    os.close(nothing)
    os.closerange(3, channel.fileno())
    os.closerange(channel.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))


def give_up(memory_bytes: int, folders: Sequence[tuple[int, bool]] = (), *, devices: bool = False) -> frozenset[str]:
    """Before guest code: at most `memory_bytes` more memory and some headroom, a user of its own, no privileges, no files but in
    `folders`, no sockets, no processes. Returns the measures of MEASURES that are in force.
    """
    limit = _data_bytes() + memory_bytes + DATA_HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    own = _take_own_user()
    return confine(folders, devices=devices) | own


def _data_bytes() -> int:
    """Private writable memory of this process now."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))


def _take_own_user() -> frozenset[str]:
    if os.geteuid() != 0:
        return frozenset()
    number = FIRST_UID + os.getpid() % UIDS
    try:
        os.setgroups([])
        os.setresgid(number, number, number)
        os.setresuid(number, number, number)
    except OSError:
        return frozenset()
    return frozenset({OWN_USER})


def lacking(measures: frozenset[str]) -> tuple[str, ...]:
    """The measures that a worker should have and has not."""
    wanted = MEASURES if os.geteuid() == 0 else MEASURES[:-1]
    return tuple(each for each in wanted if each not in measures)

"""What a worker gives up before it touches guest code. What the kernel lacks is told to the agent, which tells the operator."""

import os
import resource
import signal
import socket
from collections.abc import Sequence

from device_agent.channel.measures import OWN_USER
from ota.formats.reasons import Reason, Refused
from pywamr import confine

FIRST_UID, UIDS = 61184, 4000
"""Workers of an agent that is root run as one of these users, which nothing else uses (systemd's range for dynamic users)."""

MAX_FILES = 64
DATA_HEADROOM_BYTES = 64 << 20
FILE_LIMIT_BYTES = 64 << 20  # for each file of a module that may write any
_STATM_DATA = 5  # proc_pid_statm(5): pages of "data + stack"


def close_inherited_fds(channel: socket.socket) -> None:
    """First of all: no inherited descriptor but the channel, no core file, no signal from the terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the agent, which then ends its workers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _silence(0, 1)
    os.closerange(3, channel.fileno())
    os.closerange(channel.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))


def drop_privileges(memory_bytes: int, folders: Sequence[tuple[int, bool]] = (), *, devices: bool = False) -> frozenset[str]:
    """Before guest code: at most `memory_bytes` more memory and some headroom, a user of its own, no privileges, no files but in
    `folders`, no sockets, no processes. Returns the measures of MEASURES that are in force. Raises Refused DEVICE_UNAVAILABLE.
    """
    _silence(2)  # the agent's own until now, for what Python had to say
    limit = _data_bytes() + memory_bytes + DATA_HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    writable = [descriptor for descriptor, write in folders if write]
    file_limit = FILE_LIMIT_BYTES if writable else 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error of the call is enough
    own = _take_own_user(writable)
    return confine(folders, devices=devices) | own


def _silence(*standard: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for each in standard:
        os.dup2(nothing, each)
    os.close(nothing)


def _data_bytes() -> int:
    """Private writable memory of this process now: what RLIMIT_DATA counts, and the stack."""
    descriptor = os.open("/proc/self/statm", os.O_RDONLY)
    try:
        return int(os.read(descriptor, 256).split()[_STATM_DATA]) * resource.getpagesize()
    finally:
        os.close(descriptor)


def _take_own_user(writable: Sequence[int]) -> frozenset[str]:
    """A user that nothing else uses; for a module that writes files, the one that its folder belongs to."""
    if os.geteuid() != 0:
        return frozenset()
    user = group = FIRST_UID + os.getpid() % UIDS
    if writable:
        about = os.fstat(writable[0])
        user, group = about.st_uid, about.st_gid
        if user == 0:
            raise Refused(Reason.DEVICE_UNAVAILABLE, "a folder that a module may write belongs to root: give it to another user")
    try:
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    except OSError:
        return frozenset()
    return frozenset({OWN_USER})

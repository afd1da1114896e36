"""Drops a worker's privileges before it loads guest code.

Where confinement is required, a worker that lacks a measure exits here. Otherwise the missing measures are reported to the agent.
"""

import os
import resource
import signal
import socket
from collections.abc import Sequence

from device_agent.channel.measures import MEMORY_LIMIT, OWN_USER, intolerable
from ota.formats.reasons import Reason, Refused
from pywamr import confine

MAX_FILES = 64
DATA_HEADROOM_BYTES = 64 << 20
CODE_FACTOR = 8  # what loading takes of memory, by the size of the code: 1.5 to 2 times measured
FILE_LIMIT_BYTES = 64 << 20  # for each file of a module that may write any
_STATM_DATA = 5  # proc_pid_statm(5): pages of "data + stack"


def close_inherited_fds(channel: socket.socket) -> None:
    """First of all: no inherited descriptor but the channel, no core file, no signal from the terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the agent, which then ends its workers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _silence(0, 1)
    os.closerange(3, channel.fileno())
    os.closerange(channel.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, MAX_FILES)


def drop_privileges(
    memory_bytes: int,
    folders: Sequence[tuple[int, bool]] = (),
    *,
    code_bytes: int = 0,
    devices: bool = False,
    user: int = 0,
    required: bool = True,
) -> frozenset[str]:
    """Before guest code: at most `memory_bytes` more memory, what loading `code_bytes` takes and some headroom, the user `user`
    (0: stay the agent's), no privileges, no files but in `folders`, no sockets, no processes. Returns the measures of MEASURES
    that are in force.

    Raises Refused CONFINEMENT_LACKING when one is missing that is `required`, DEVICE_UNAVAILABLE for a folder of root's.
    """
    _silence(2)  # the agent's own until now, for what Python had to say
    data_bytes = _data_bytes() + memory_bytes + CODE_FACTOR * code_bytes + DATA_HEADROOM_BYTES
    bounded = frozenset({MEMORY_LIMIT} if _limit(resource.RLIMIT_DATA, data_bytes) else ())
    writable = [descriptor for descriptor, write in folders if write]
    _limit(resource.RLIMIT_FSIZE, FILE_LIMIT_BYTES if writable else 0)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error of the call is enough
    root = os.geteuid() == 0
    own, why = _take_own_user(user, writable)
    measures = confine(folders, devices=devices) | bounded | own
    if required and (missing := intolerable(measures, root=root)):
        raise Refused(Reason.CONFINEMENT_LACKING, lacking_text(missing, why))
    return measures


def lacking_text(missing: Sequence[str], why: str = "") -> str:
    """The error text for a board that cannot confine a module."""
    cause = f" ({why})" if why and OWN_USER in missing else ""
    return (
        f"this board cannot confine a module by {', '.join(missing)}{cause}; "
        '[policy] confinement = "best-effort" in agent.toml would run it without'
    )


def measures_here(user: int) -> frozenset[str]:
    """The measures that a worker of this process would have, tried in a child of it. For a process with one thread."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        measures: frozenset[str] = frozenset()
        try:
            measures = drop_privileges(0, user=user, required=False)
        finally:
            os.write(writing, " ".join(measures).encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as found:
        measures = frozenset(found.read().decode().split())
    os.waitpid(child, 0)
    return measures


def _limit(resource_number: int, most: int) -> bool:
    """A limit that cannot be raised again; the system's own where that is lower. Whether it holds: QEMU's user mode takes limits of
    memory and forgets them.
    """
    hard = resource.getrlimit(resource_number)[1]
    limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource_number, (limit, limit))
    return resource.getrlimit(resource_number) == (limit, limit)


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


def _take_own_user(user: int, writable: Sequence[int]) -> tuple[frozenset[str], str]:
    """Becomes `user`; for a module that writes files, the user that its folder belongs to. The measure, or why it is lacking."""
    if os.geteuid() != 0:
        return frozenset(), "the agent is not root"
    group = user
    if writable:
        about = os.fstat(writable[0])
        user, group = about.st_uid, about.st_gid or about.st_uid
        if user == 0:
            raise Refused(Reason.DEVICE_UNAVAILABLE, "a folder that a module may write belongs to root: give it to another user")
    if user == 0:
        return frozenset(), "the agent has no user for it"
    try:
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    except OSError as error:
        return frozenset(), f"user {user}: {error.strerror}"
    return frozenset({OWN_USER}), ""

"""Giving up, before guest code runs, what it never needs."""

import ctypes
from collections.abc import Sequence

from pywamr import _abi


def confine(folders: Sequence[tuple[int, bool]] = (), *, devices: bool = False) -> frozenset[str]:
    """Confines this process for good, and returns the measures that are in force: those of "no-new-privileges", "seccomp" and
    "landlock" that the kernel has.

    From then on it has no capabilities (capabilities(7)) and can't gain any. It can't open a file, make a socket, a thread or a
    process, or signal or look into another one: calls that try fail with PermissionError. What is open stays usable. `folders`
    are open descriptors of folders, each with whether it may be written, below which files can still be opened (only "landlock"
    keeps others shut); `devices` keeps ioctl and the like on what is open. For a process that has one thread. Raises LibraryError.
    """
    descriptors = (ctypes.c_int32 * len(folders))(*(descriptor for descriptor, _ in folders))
    writable = bytes(write for _, write in folders)
    needs = _abi.NEEDS_DEVICES if devices else 0
    found = _abi.library().pw_confine(descriptors, writable, len(folders), needs)
    measures = {_abi.NO_NEW_PRIVILEGES: "no-new-privileges", _abi.SECCOMP: "seccomp", _abi.LANDLOCK: "landlock"}
    return frozenset(name for bit, name in measures.items() if found & bit)

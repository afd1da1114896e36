"""What the zygote loads instead of the worker: the same worker on a system that lacks something, named in LACKING.

Its module writes its name to the log as soon as it is loaded, so that a test sees whether guest code could have run.
"""

import errno
import os
import resource

from device_agent.sandbox import confinement, worker
from device_agent.sandbox.contract import Outcome
from pywamr import confine

_LACKING = frozenset(os.environ["LACKING"].split(","))


class EagerHost:
    """A module that says so when it runs."""

    interfaces = frozenset({"events"})
    host_calls = memory_bytes = 0

    def __init__(self, *arguments: object, **_: object) -> None:
        if len(arguments) > 3 and arguments[0] == b"module":
            arguments[3]("info", "guest code runs")

    def terminate_on(self, _: int) -> None:
        """It does not listen."""

    def begin(self, *_: object) -> Outcome:
        return Outcome()


def _refuse(*_: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


worker.open_host = EagerHost
confinement.confine = lambda folders, *, devices: confine(folders, devices=devices) - _LACKING
if "own-user" in _LACKING:
    os.setresuid = _refuse
if "memory-limit" in _LACKING:  # as QEMU's user mode does it
    resource.setrlimit = lambda *_: None
main = worker.main


def warm_up() -> None:
    """There is nothing to make ready."""

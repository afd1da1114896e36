"""What the zygote loads instead of the worker: the same worker, with a host that hands over to attempts.c."""

import ctypes
import os

from device_agent.sandbox import worker
from device_agent.sandbox.contract import Outcome

_LIBRARY = ctypes.CDLL(os.environ["HOSTILE_LIBRARY"])


class HostileHost:
    """Answers an event: the topic is what to try, the payload a path and a victim's process number."""

    interfaces = frozenset({"events"})
    host_calls = memory_bytes = 0

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def terminate_on(self, _: int) -> None:
        """It does not listen."""

    def begin(self, *_: object) -> Outcome:
        return Outcome()

    def handle(self, topic: str, payload: bytes, reply_to: str = "") -> Outcome:
        if topic == "descriptors":
            found = _LIBRARY.descriptors()
        else:
            path, victim = payload.decode().split()
            found = _LIBRARY.attempt(topic.encode(), path.encode(), int(victim))
        return Outcome(((topic, str(found).encode()),))


worker.open_host = HostileHost
main = worker.main


def warm_up() -> None:
    """There is nothing to make ready."""

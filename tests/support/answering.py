"""A fleet that answers: each of its boards that a deployment includes says at once what became of the update."""

import threading
import time
from collections.abc import Callable, Sequence

from ota.formats import topics
from ota.formats.report import Attempt, Running
from tests.support import fleet
from tests.support.publishing import GROUP, Publishing

POLL_S = 0.05


class AnsweringFleet:
    """Looks at the deployment again and again, on a thread; a board says what `answers` has for it once it is included."""

    def __init__(self, site: Publishing, boards: Sequence[str], answers: Callable[[str], str], instance: str = "echo") -> None:
        self._site, self._left, self._answers, self._instance = site, set(boards), answers, instance
        with site.connect() as broker:
            fleet.leave(broker, list(boards), group=GROUP)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> "AnsweringFleet":
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(POLL_S):
            if self._site.retained(topics.desired(GROUP)) is None:
                continue
            entry = self._site.entry(self._instance)
            for name in [each for each in sorted(self._left) if entry.includes(each) and not entry.paused]:
                self._left.discard(name)
                state = self._answers(name)
                if state:
                    self.say(name, state)

    def say(self, name: str, state: str, slot: str = "confirmed", manifest: bytes = b"") -> None:
        """What a board reports of the present deployment."""
        entry = self._site.entry(self._instance)
        attempt = Attempt(state, entry.deployment_id, entry.manifest_digest, reason="" if state == "confirmed" else "trapped")
        running = Running("echo", "1.0.0", manifest or entry.manifest_digest, slot=slot, sequence=int(time.time()))
        with self._site.connect() as broker:
            fleet.leave_instance(broker, [name], self._instance, attempt=attempt, running=running)

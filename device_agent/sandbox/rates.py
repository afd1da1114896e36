"""How often something may happen."""

import time
from collections.abc import Callable


class Rate:
    """How often something may happen: so many times a second, a second's worth at once."""

    def __init__(self, per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second = per_second
        self._clock = clock
        self._left, self._seen = float(per_second), clock()

    def take(self) -> bool:
        """Whether it may happen once more now."""
        now = self._clock()
        self._left = min(float(self.per_second), self._left + (now - self._seen) * self.per_second)
        self._seen = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def limited(log: Callable[[str, str], None], per_second: int) -> Callable[[str, str], None]:
    """Drops lines beyond the rate, and says once a second at most how many were dropped."""
    rate, dropped, notices = Rate(per_second), 0, Rate(1)

    def write(level: str, message: str) -> None:
        nonlocal dropped
        if not rate.take():
            dropped += 1
            return
        if dropped and notices.take():
            log("warn", f"{dropped} log lines were dropped: the module may write {per_second} a second")
            dropped = 0
        log(level, message)

    return write

"""Detects crash loops: modules that start each time and fail again and again."""

import collections

MAX_RESTARTS, WITHIN_S = 20, 3600.0


class CrashLoop:
    """Counts failures of the module that runs: too many of them are as bad as one that does not come up."""

    def __init__(self) -> None:
        self.in_doubt = False  # it has failed, and whoever sees it prove itself has not said so
        self._manifest = b""
        self._times: collections.deque[float] = collections.deque(maxlen=MAX_RESTARTS)

    def too_many(self, manifest: bytes, now_s: float) -> bool:
        """Notes a failure of the module of this manifest at a time of a monotonic clock. Returns True at the limit, and starts
        to count from zero.
        """
        self.in_doubt = True
        if self._manifest != manifest:
            self._manifest = manifest
            self._times.clear()
        self._times.append(now_s)
        if len(self._times) < MAX_RESTARTS or now_s - self._times[0] >= WITHIN_S:
            return False
        self._times.clear()
        return True

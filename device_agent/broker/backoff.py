"""How long to wait before the next connection, and whether another client uses this board's name. Times are parameters."""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

RECONNECT_MIN_S, RECONNECT_MAX_S = 0.5, 60.0
CONTENTION_MAX_S = 300.0
WORKED_S = 10.0  # a session that lasted this long, with a subscription granted, worked
CONTENTION_LOSSES, CONTENTION_WINDOW_S = 3, 60.0
CONTENTION_FORGET_S = 600.0  # a session that lasted this long had the name for itself


@dataclass(frozen=True)
class Ended:
    """How a connection, or an attempt at one, ended."""

    reason: str
    lasted_s: float = 0.0  # since the broker accepted it
    accepted: bool = False  # CONNACK said success
    granted: bool = False  # a subscription was granted
    progress: bool = False  # a part of an update arrived
    closed: bool = False  # by the broker, without a reason
    taken_over: bool = False  # DISCONNECT with Session taken over
    packet_refused: bool = False  # DISCONNECT with a reason that may be a packet of ours
    too_large: bool = False  # DISCONNECT with Packet too large
    unusable: bool = False  # the broker's limits rule it out

    @property
    def worked(self) -> bool:
        """Whether the session did what it is for."""
        return self.granted and (self.progress or self.lasted_s >= WORKED_S)


class Backoff:
    """Doubles from half a second to a minute, each delay shortened at random by up to a half. Only a session that worked ends it.

    Two clients with the same id disconnect each other. A broker says so (0x8E), or closes the connection without a reason within
    seconds; several such losses in a minute count as the same. Then delays grow to five minutes, even if sessions worked between
    them.
    """

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self._delay_s = RECONNECT_MIN_S
        self._losses: deque[float] = deque(maxlen=CONTENTION_LOSSES)
        self.contended = False

    def after(self, ended: Ended, now_s: float) -> float:
        """Seconds to wait after a connection has ended."""
        self._judge(ended, now_s)
        if ended.unusable:
            return self._jittered(RECONNECT_MAX_S)
        if ended.worked and not self.contended:
            self._delay_s = RECONNECT_MIN_S
        delay_s = self._delay_s
        self._delay_s = min(2 * delay_s, CONTENTION_MAX_S if self.contended else RECONNECT_MAX_S)
        return self._jittered(delay_s)

    def lasts(self, lasted_s: float) -> None:
        """The present session has lasted this long."""
        if lasted_s >= CONTENTION_FORGET_S:
            self.contended = False
            self._losses.clear()

    def _judge(self, ended: Ended, now_s: float) -> None:
        self.lasts(ended.lasted_s)
        if ended.taken_over:
            self.contended = True
        elif ended.accepted and ended.closed and not ended.worked:
            self._losses.append(now_s)
            full = len(self._losses) == CONTENTION_LOSSES
            self.contended = self.contended or (full and now_s - self._losses[0] <= CONTENTION_WINDOW_S)

    def _jittered(self, delay_s: float) -> float:
        return delay_s * self._uniform(0.5, 1.0)

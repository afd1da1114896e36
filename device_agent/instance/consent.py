"""Asks the owner's rules about updates that are ready, and remembers since when they are: on disk, where a restart finds it."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from device_agent.instance.gate import Now, Waits
from device_agent.instance.owner import Owner
from device_agent.instance.runner import Runner
from ota.formats.reasons import Refused

__all__ = ["Consent"]

KEPT = 256  # instances


class Consent:
    """Of one board. `ready_since`: notes durably when an update of an instance was ready, or says when that was."""

    def __init__(
        self,
        owner: Owner,
        ready_since: Callable[[str, bytes, int], Awaitable[int]],
        spawn_supervised: Callable[[Coroutine[Any, Any, None]], object],
        changed: Callable[[], None],
    ) -> None:
        self._owner, self._ready_since, self._spawn_supervised, self._changed = owner, ready_since, spawn_supervised, changed
        self._since: dict[str, tuple[bytes, int]] = {}  # by instance: of which update, in seconds since 1970
        self._asked: set[str] = set()

    def why_wait(self, runner: Runner, now: Now) -> Waits | None:
        """What a staged update waits for, None when the owner lets it begin. When the clock goes back the time begins anew."""
        name, update = runner.name, runner.update
        what = update.release or update.deployment  # another configuration is another update
        known, now_s = self._since.get(name), int(now.utc.timestamp())
        since_s = known[1] if known is not None and known[0] == what and known[1] <= now_s else None
        if since_s is None and now.trusted and self._owner.rule(runner.kind).postpone_s and name not in self._asked:
            self._asked.add(name)
            self._spawn_supervised(self._learn(name, what, now_s))
        return self._owner.why_wait(runner.kind, since_s, now)

    async def _learn(self, name: str, what: bytes, now_s: int) -> None:
        try:
            self._since[name] = (what, await self._ready_since(name, what, now_s))
        except Refused:  # a full disk: it counts from here in memory, and anew after a restart
            self._since[name] = (what, now_s)
        finally:
            self._asked.discard(name)
        while len(self._since) > KEPT:
            self._since.pop(next(iter(self._since)))  # it is on disk
        self._changed()

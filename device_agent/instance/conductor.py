"""Lets staged updates begin, in their windows and with their sets, and confirms sets.

It looks when an update has moved, when what the operator wants has changed, when the clock was set, and each minute while an update
waits. What it decides is in `device_agent.instance.gate`, `device_agent.instance.owner` and `device_agent.instance.sets`.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any, Protocol

from device_agent.instance import gate, sets, states
from device_agent.instance.consent import Consent
from device_agent.instance.gate import Now, Waits
from device_agent.instance.runner import Runner
from device_agent.instance.states import LOADED, Phase
from device_agent.instance.updates import HELD_BACK
from ota.formats.deployment import AGENT, Entry
from ota.formats.reasons import Reason, Refused

MINUTE_S = 60.0


class Wishes(Protocol):
    """What the operator wants (device_agent.desired)."""

    def entry(self, name: str) -> Entry | None:
        """The entry in force for an instance."""

    def why_not(self, name: str) -> Refused | None:
        """Why the update of an instance may not start now."""


class Conductor:
    """One for all instances of a board, the agent itself among them. `runners`: of all instances, by name; `takes`: which of them
    are to have devices that others of them hold, by name.
    """

    def __init__(
        self,
        runners: Callable[[], Mapping[str, Runner]],
        takes: Callable[[Collection[str]], Mapping[str, frozenset[str]]],
        wishes: Wishes,
        now: Callable[[], Now],
        consent: Consent,
        spawn_supervised: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._runners, self._takes, self._wishes, self._now = runners, takes, wishes, now
        self._consent, self._spawn_supervised = consent, spawn_supervised
        self._loop = asyncio.get_running_loop()
        self._soon = False
        self._timer: asyncio.TimerHandle | None = None
        self._confirming: set[bytes] = set()  # deployments

    def poke(self) -> None:
        """Something has changed."""
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._soon = False
        runners = self._runners()
        for runner in runners.values():
            if runner.update.phase is Phase.STAGED and not runner.update.together and runner.update.number:
                self._let_begin(runner, ())
        for deployment, together in sets.sets_of(each.update for each in runners.values()):
            self._go_on(deployment, {name: runners.get(name) for name in together})
        self._look_again(any(each.update.phase is Phase.STAGED for each in runners.values()))

    def _look_again(self, waiting: bool) -> None:
        """At the next full minute: windows open and close then."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if waiting:
            self._timer = self._loop.call_later(MINUTE_S - self._now().utc.second % MINUTE_S, self._look)

    def _let_begin(self, runner: Runner, others: Iterable[Runner]) -> None:
        """Lets a staged update begin, if it may now. `others`: of its set, which wait for the same and end for the same."""
        name, waiting = runner.name, [runner, *others]
        held = self._wishes.why_not(name)
        if held is not None and held.reason in HELD_BACK:
            for each in waiting:
                each.post(states.Stopped(each.update.id, held.reason, held.detail))
            return
        now = self._now()
        owner = [self._consent.why_wait(each, now) for each in waiting if each.update.phase is Phase.STAGED]
        closed = gate.why_wait(runner.update.deployment, self._wishes.entry(name), now)
        why = self._agent_changes(name) or closed or runner.target.why_wait()
        why = next(filter(None, owner), why)  # the owner's rules hold for a set when they hold for one of it
        if why:
            _tell(waiting, why)
        else:
            runner.post(states.Cleared(runner.update.id))

    def _agent_changes(self, name: str) -> Waits | None:
        """While the agent is on trial nothing else changes: that all instances run as before is what it is judged by."""
        agent = self._runners().get(AGENT)
        if agent is None or name == AGENT or agent.update.phase not in LOADED:
            return None
        return Waits(Reason.AGENT_ON_TRIAL, "waits for the update of the agent")

    def _go_on(self, deployment: bytes, members: Mapping[str, Runner | None]) -> None:
        present = {name: each for name, each in members.items() if each is not None and each.update.deployment == deployment}
        updates = {name: each.update if each is not None else None for name, each in members.items()}
        match sets.next_step(deployment, updates, self._takes(tuple(present))):
            case sets.Wait(why):
                _tell(present.values(), Waits(Reason.SET_AWAITED, why))
            case sets.Begin(member, first=True):
                self._let_begin(present[member], [each for name, each in present.items() if name != member])
            case sets.Begin(member):
                present[member].post(states.Cleared(present[member].update.id))
            case sets.Fail(names, reason, detail):
                for name in names:
                    present[name].post(states.SetFailed(present[name].update.id, reason, detail))
            case sets.Confirm(names) if deployment not in self._confirming:
                self._confirming.add(deployment)
                self._spawn_supervised(self._confirm([present[name] for name in names], deployment))

    async def _confirm(self, runners: list[Runner], deployment: bytes) -> None:
        try:
            await Runner.confirm_together(runners, deployment)
        finally:
            self._confirming.discard(deployment)


def _tell(runners: Iterable[Runner], why: Waits) -> None:
    for each in runners:
        if each.update.phase is Phase.STAGED:
            each.wait_for(why)

"""Tells the operator what the board and its instances do: retained reports, each when it has changed and from time to time."""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from device_agent.broker.identity import IdentityError
from device_agent.broker.statements import Statements
from device_agent.desired.desired import EntryRefusal
from device_agent.instance.snapshot import Snapshot
from ota.formats import topics
from ota.formats.deployment import config_digest
from ota.formats.reasons import Refused
from ota.formats.report import NO_ROWS, Attempt, InstanceReport, JournalHead, Refusal, Report, Summary
from ota.formats.signed_report import INSTANCE_REPORT, REPORT

__all__ = ["BoardState", "Reporter"]

PAUSE_S = 0.1
"""From a change to its report: a fast update is told at its end, not phase by phase, and does not wait for reports."""


@dataclass(frozen=True)
class BoardState:
    """What a board has to say of itself at a moment."""

    uptime_s: int
    instances: tuple[Snapshot, ...]
    refused: Mapping[str, EntryRefusal]  # entries that are no updates yet, by instance
    refusals: tuple[Refusal, ...]
    counters: Mapping[str, int]
    problems: tuple[str, ...]
    root: int = 0  # number of the root document in force
    journal: JournalHead = NO_ROWS
    group_keys: tuple[bytes, ...] = ()  # identifiers
    documents: Mapping[str, int] = field(default_factory=dict)  # epochs of the deployments in force, by kind


class Reporter:
    """Publishes what has changed, a little later, and on the disk by then: no power cut takes back what a report says."""

    def __init__(
        self,
        about: Report,
        publish: Callable[[str, bytes], bool],
        online: Callable[[], bool],
        statements: Statements,
        look: Callable[[], BoardState],
        sync: Callable[[], Awaitable[None]],
        now_s: Callable[[], float],
    ) -> None:
        """`about`: who the board is. `publish`: a retained message; whether there is a connection for it. `look`: its state.

        `sync`: makes what was written until now outlive a power cut; raises Refused where the disk does not take it.
        """
        self._about, self._publish, self._statements, self._look, self._now_s = about, publish, statements, look, now_s
        self._online, self._sync = online, sync
        self._wake = asyncio.Event()
        self._said: dict[str, InstanceReport] = {}  # by instance; each with the counter that it was published with

    def poke(self) -> None:
        """Something has changed."""
        self._wake.set()

    def report(self) -> None:
        """Publishes all reports, with the counters of now: the connection is new, or the last reports are old."""
        self._said.clear()
        self._wake.set()

    async def run(self) -> None:
        """The task that publishes. Never ends."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(PAUSE_S)
            self._wake.clear()
            state = await self._kept_state()
            if self._online():
                await self._report_changes(state)

    async def _kept_state(self) -> BoardState:
        """The state of now, once it is on the disk. What can't be kept is told all the same, with what is wrong with the disk."""
        state = self._look()
        with contextlib.suppress(Refused):
            await self._sync()
        return state

    async def _report_changes(self, state: BoardState) -> None:
        time_s = max(0, int(self._now_s()))
        seen = tuple(_with_refusals(state.instances, state.refused))
        for each in seen:
            report = InstanceReport(self._about.device, each.name, 0, each.running, each.attempt, dict(each.counters))
            said = self._said.get(each.name)
            if said is not None and replace(said, counters={}, counter=0) == replace(report, counters={}):
                continue
            with contextlib.suppress(IdentityError):  # the token with the board's key does not sign now, and has said so
                await self._publish_of_instance(report, time_s)
        for name in set(self._said) - {each.name for each in seen}:
            del self._said[name]
        with contextlib.suppress(IdentityError):
            self._publish(topics.report(self._about.device), await self._board(state, seen, time_s))

    async def _publish_of_instance(self, report: InstanceReport, time_s: int) -> None:
        numbered = report

        def encoded(counter: int) -> bytes:
            nonlocal numbered
            numbered = replace(report, counter=counter)
            return replace(numbered, time_s=time_s).to_bytes()

        signed = await self._statements.sign(INSTANCE_REPORT, encoded)
        if self._publish(topics.instance_report(self._about.device, report.instance), signed):
            self._said[report.instance] = numbered

    def snapshots(self) -> dict[str, Snapshot]:
        """Each instance as its report has it, refusals to begin an update among them."""
        state = self._look()
        return {each.name: each for each in _with_refusals(state.instances, state.refused)}

    async def all(self) -> list[tuple[str, bytes]]:
        """All reports as they are now, signed, by topic; none while the token with the board's key does not sign."""
        try:
            return await self._all()
        except IdentityError:
            return []

    async def _all(self) -> list[tuple[str, bytes]]:
        state, time_s, device = await self._kept_state(), max(0, int(self._now_s())), self._about.device
        found = [(topics.report(device), await self.board())]
        for each in _with_refusals(state.instances, state.refused):
            report = InstanceReport(device, each.name, time_s, each.running, each.attempt, dict(each.counters))
            signed = await self._statements.sign(INSTANCE_REPORT, functools.partial(_counted, report))
            found.append((topics.instance_report(device, each.name), signed))
        return found

    async def board(self) -> bytes:
        """The board's own report, as it is now; signed. Raises IdentityError while the token with the board's key does not sign."""
        state = await self._kept_state()
        return await self._board(state, tuple(_with_refusals(state.instances, state.refused)), max(0, int(self._now_s())))

    async def _board(self, state: BoardState, seen: tuple[Snapshot, ...], time_s: int) -> bytes:
        board = replace(
            self._about,
            time_s=time_s,
            uptime_s=state.uptime_s,
            instances=tuple(self._summary(each) for each in seen if not _is_gone(each)),
            refusals=state.refusals,
            counters=dict(state.counters),
            problems=(*state.problems, *(f"{text}" for each in seen for text in each.problems)),
            root=state.root,
            journal=state.journal,
            group_keys=state.group_keys,
            documents=state.documents,
        )
        return await self._statements.sign(REPORT, lambda counter: replace(board, counter=counter).to_bytes(), introduce=True)

    def _summary(self, snapshot: Snapshot) -> Summary:
        running, attempt, said = snapshot.running, snapshot.attempt, self._said.get(snapshot.name)
        about = (running.name, running.version, running.sequence, running.slot, attempt.state, attempt.reason)
        return Summary(snapshot.name, *about, counter=said.counter if said is not None else 0)


def _counted(report: InstanceReport, counter: int) -> bytes:
    return replace(report, counter=counter).to_bytes()


def _with_refusals(instances: Iterable[Snapshot], refused: Mapping[str, EntryRefusal]) -> Iterable[Snapshot]:
    """An entry that may not start is the last attempt of its instance, also where there is none."""
    there = {each.name: each for each in instances}
    for name in sorted({*there, *refused}):
        found, refusal = there.get(name, Snapshot(name)), refused.get(name)
        if refusal is None or found.attempt.state not in ("idle", "confirmed", "rejected", "failed", "rolled-back"):
            yield found
            continue
        entry, why = refusal.entry, refusal.refused
        yield replace(
            found,
            attempt=Attempt(
                "rejected",
                entry.deployment_id,
                entry.manifest_digest,
                config_digest(entry.config),
                why.reason.value,
                why.detail,
            ),
        )


def _is_gone(snapshot: Snapshot) -> bool:
    """Whether it was removed; its own report says so."""
    return not snapshot.running.name and snapshot.attempt.state == "confirmed" and not snapshot.attempt.manifest

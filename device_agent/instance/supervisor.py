"""Feeds events to the module that runs, and changes modules between two events.

A worker handles one event at a time; a quick one has some more before it. An event leaves the queue when a module has handled it.
When a worker dies with an event in hand, the event goes to its successor once more; a second worker that dies of the same event has
it taken away, so that one bad event can't stop a board.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from device_agent.channel import frames
from device_agent.channel.workers import EventRefused, ModuleSpec, Worker, WorkerFailed
from device_agent.instance.event_queue import EventQueue, Pending
from ota.formats import topics
from ota.formats.reasons import Reason

MAX_TRIES = 2
ROW_US = 5000  # that a module may take for a row of events; one that needs longer for each gets one at a time
Prepare = Callable[[bytes | None], Awaitable[tuple[bytes, dict[str, bytes]]]]
logger = logging.getLogger(__name__)


async def _keeps_nothing(spec: ModuleSpec) -> None:
    """Of a module that keeps nothing, a trial that fails leaves nothing."""


@dataclass
class Supervisor:
    """Owns the event queue and the worker that is fed. `on_outcome` gets what handled events ask for, with the event's hops and its
    number on the bus; the next event waits for what it returns. `on_failure` gets each dead worker; after a failure nothing is fed
    until `run` or `roll_back` is called.
    """

    on_outcome: Callable[[ModuleSpec, frames.Done, int, int], "asyncio.Future[None] | None"]
    on_failure: Callable[[Worker, WorkerFailed], None]
    on_use: Callable[[Worker], None] = lambda worker: None  # another worker is fed from now on
    queue_limit: int = 10_000
    counters: Counter[str] = field(default_factory=Counter)
    queue_bytes: int = 8 << 20
    on_consumed: Callable[[int], None] = lambda bus_number: None  # an event of the bus that had no outcome and won't have one
    end_trial: Callable[[ModuleSpec], Awaitable[None]] = _keeps_nothing  # takes back what a module kept in a trial that failed
    last_gap_us: int = 0
    last_handled_ns: int = 0  # monotonic, of the last event that was handled

    def __post_init__(self) -> None:
        self._queue = EventQueue(self.queue_limit, self.queue_bytes, self.counters, self._consumed)
        self.module_counters: Counter[str] = Counter()  # of the module that is fed, over its restarts
        self._counted = ""
        self._current: Worker | None = None
        self._filters: tuple[str, ...] = ()  # of the module that is fed, or will be again
        self._filters_before: tuple[str, ...] = ()  # of the one before the last swap
        self._progress = asyncio.Event()
        self.handled = 0  # events that the worker that is fed has handled
        self._standby: Worker | None = None  # the one that ran before, kept during a trial
        self._wake = asyncio.Event()
        self._between = asyncio.Lock()  # held while events are in hand, and while modules change
        self._next_tick: float | None = None
        self._stopped = self._paused = False
        self._row = 1  # events that the module is given at once
        self._turn: asyncio.Future[None] | None = None  # what the next event waits for

    @property
    def current(self) -> Worker | None:
        """The worker that is fed."""
        return self._current

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The one that is fed, and the one that ran before."""
        return tuple(each for each in (self._current, self._standby) if each is not None)

    @property
    def waiting(self) -> int:
        """How many events wait."""
        return len(self._queue)

    @property
    def unsaved(self) -> tuple[Pending, ...]:
        """Those from the first on that is nowhere else, so not in the durable bus: kept together they stay in their order."""
        return tuple(itertools.dropwhile(lambda each: bool(each.bus_number), self._queue))

    @property
    def filters(self) -> tuple[str, ...]:
        """What the module subscribes to that is fed, or will be again."""
        return self._filters

    def expect(self, filters: tuple[str, ...]) -> None:
        """What the module will subscribe to that is started first: events for it are kept from now on."""
        if self._current is None:
            self._filters = filters

    def offer(self, topic: str, payload: bytes, hops: int = 0, bus_number: int = 0, sender: str = "", reply_to: str = "") -> None:
        """Queues an event that the module wants which runs or is started again. Others go when the queue is full.

        One of the durable bus may come before a module has started: whether that wants it shows then.
        """
        if not bus_number and not self._wants(topic):
            return
        self.counters["events"] += 1
        self._queue.append(Pending(topic, payload, hops, bus_number, sender=sender, reply_to=reply_to))
        self._wake.set()

    def _consumed(self, event: Pending) -> None:
        if event.bus_number:
            self.on_consumed(event.bus_number)

    def _wants(self, topic: str) -> bool:
        return any(topics.covers(each, topic) for each in self._filters)

    async def run(self, worker: Worker, state: bytes, keys: dict[str, bytes]) -> bool:
        """Makes a started worker the one that is fed, unless a living one is: a swap may have come first. Then it is stopped.

        Raises WorkerFailed, with nothing changed, when it does not begin.
        """
        async with self._between:
            if self._current is not None and self._current.alive:
                worker.kill()
                return False
            done = await self._begin(worker, state, keys)
            self._use(worker)
        self._account(done.usage)
        self.on_outcome(worker.spec, done, 0, 0)
        return True

    def _account(self, usage: frames.Usage) -> None:
        self.module_counters["host_calls"] += usage.host_calls
        self.module_counters["time_us"] += usage.took_us
        self.module_counters["memory_bytes"] = max(self.module_counters["memory_bytes"], usage.memory_bytes)

    async def swap(self, new: Worker, prepare: Prepare) -> None:
        """Feeds `new` from the next event on; the old worker is kept, paused, for `roll_back`.

        `prepare` gets the state that the old module has just saved, None when it could not, and returns what the new one begins
        with. Raises WorkerFailed when the new one does not start, refuses the state or fails to begin, and what `prepare` raises.
        The old module goes on then, unless it had to give up its devices, to the new one or another instance: it has ended, and is
        to be started again.
        """
        async with self._between:
            started = time.monotonic_ns()
            old = self._current
            state = None
            if old is not None and old.alive:
                try:
                    state = await old.save()
                except WorkerFailed as failure:
                    logger.warning("the old module could not save its state, the last one is taken: %s", failure)
            try:
                state_and_keys = await prepare(state)
                if old is not None and old.spec.devices:
                    old.kill()  # devices are opened before a worker gives up its rights: it could never open them again
                    await old.ended()
                if not new.started:
                    await new.start()
                done = await self._begin(new, *state_and_keys)
            except BaseException:
                new.kill()
                await self.end_trial(new.spec)  # before the old one is fed, which may be of the same version
                raise
            self._standby, self._filters_before = old if old is not None and old.alive else None, self._filters
            self._use(new)
            self.last_gap_us = (time.monotonic_ns() - started) // 1000
            self.counters["swaps"] += 1
        self._account(done.usage)
        self.on_outcome(new.spec, done, 0, 0)

    async def roll_back(self, tried: Worker) -> bool:
        """Goes back to the worker that ran before the last swap; the event that was in hand is its next. False if it is gone.

        `tried`: that the swap brought. Where it has died and another one is fed already, that goes on.
        """
        async with self._between:
            old, self._standby = self._standby, None
            self.counters["rollbacks"] += 1
            tried.kill()
            await self.end_trial(tried.spec)
            if tried is not self._current:
                if old is not None:
                    old.kill()
                return False
            if old is None or not old.alive:
                self._filters = self._filters_before  # for the worker that comes
                self._queue.keep(lambda each: bool(each.bus_number) or self._wants(each.topic))
                return False
            self._use(old)
            return True

    async def retire(self) -> None:
        """Ends the worker that is fed, between two events; what comes for its module waits for the next one."""
        async with self._between:
            if self._current is not None:
                self._current.kill()
                await self._current.ended()

    def clear(self) -> None:
        """The module that ran is not to run again: it wants no events, and those that wait are dropped."""
        self._filters, self._current = (), None
        self._queue.keep(lambda event: False)

    async def pause(self) -> None:
        """Feeds nothing any more, once the event in hand is handled."""
        self._paused = True
        async with self._between:
            return

    def drop_standby(self) -> None:
        """Stops the worker that ran before: the new one is confirmed."""
        if self._standby is not None:
            self._standby.kill()
            self._standby = None

    async def save(self, worker: Worker) -> bytes | None:
        """The state of the module that is fed, between two events; None when there is none, or another worker is fed by now."""
        async with self._between:
            if worker is not self._current or not worker.alive:
                return None
            try:
                return await worker.save()
            except WorkerFailed as failure:
                self._failed(worker, failure)
                return None

    async def until_handled(self, count: int) -> None:
        """Returns once the worker that is fed has handled so many events."""
        while self.handled < count:
            self._progress.clear()
            await self._progress.wait()

    async def check(self) -> str | None:
        """Asks the module whether it is well; None if so, else why not. A dead worker is reported through on_failure."""
        async with self._between:
            worker = self._current
            if worker is None or not worker.alive:
                return "no module is running"
            try:
                await worker.check()
            except EventRefused as error:
                return str(error)
            except WorkerFailed as failure:
                self._failed(worker, failure)
                return str(failure)
            return None

    def worker_died(self, worker: Worker, failure: WorkerFailed) -> None:
        """For workers to call when they die with nothing asked of them."""
        if worker is self._current and not self._stopped:
            self._failed(worker, failure)

    def stop(self) -> None:
        """Stops all workers."""
        self._stopped = True
        for worker in (self._current, self._standby):
            if worker is not None:
                worker.kill()
        self._wake.set()

    async def pump(self) -> None:
        """Feeds events until `stop`. The one task that does."""
        while not self._stopped:
            worker = self._current
            if self._paused or worker is None or not worker.alive or not (self._queue or self._tick_is_due()):
                self._wake.clear()
                await self._wait()
                continue
            async with self._between:
                worker = self._current
                if worker is not None and worker.alive and not self._paused:
                    await self._feed(worker)

    async def _feed(self, worker: Worker) -> None:
        """A tick that is due, and then what waits: where ticks take longer than their period, events come between them."""
        try:
            if self._tick_is_due():
                self._schedule_tick(worker)
                await self._has_turn()
                await self._deliver(worker, worker.tick(time.time_ns()), Pending("", b""))
            if self._queue:
                await self._feed_row(worker)
        except WorkerFailed as failure:
            if not self._stopped:
                self._failed(worker, failure)

    async def _feed_row(self, worker: Worker) -> None:
        """Feeds as many events as the module was seen to handle in a moment, and takes the answer to each."""
        limit, limit_bytes = worker.row
        repeatable = worker.spec.description.repeatable  # else one at a time: it is certain then which it had in hand
        row = self._queue.hand_out(min(limit, self._row) if repeatable else 1, limit_bytes)
        before_us = self.module_counters["time_us"]
        try:
            for event in row:
                await self._has_turn()
                self.module_counters["events"] += 1
                call = worker.answered() if event is not row[0] else self._first(worker, row)
                self._took(await self._deliver(worker, call, event))
        except WorkerFailed as failure:
            self._queue.put_back()
            if not self._stopped:
                failure.detail = f"with an event on {self._queue[0].topic[:100]} in hand: {failure.detail}"
                self._give_up_on_poison(worker.spec)
            raise
        if self.module_counters["time_us"] - before_us > ROW_US:  # its own time: others may have the processor
            self._row = max(1, self._row // 2)
        elif len(row) >= self._row:
            self._row = min(2 * self._row, limit)

    async def _first(self, worker: Worker, row: list[Pending]) -> frames.Done:
        worker.post([frames.Event(each.topic, each.payload, each.reply_to) for each in row])
        return await worker.answered()

    def _took(self, handled: bool) -> None:
        self._queue.popleft()
        self.counters["events_handled" if handled else "events_refused"] += 1
        self.handled += handled
        self._progress.set()
        self.last_handled_ns = time.monotonic_ns()

    async def _has_turn(self) -> None:
        if self._turn is not None:
            await asyncio.wait([self._turn])  # not alone: others may wait for it
            self._turn = None

    async def _deliver(self, worker: Worker, call: Coroutine[Any, Any, frames.Done], event: Pending) -> bool:
        try:
            done = await call
        except EventRefused as error:
            logger.info("%s refused an event: %s", worker.spec.label, error)
            self._account(error.usage)
            self._consumed(event)
            return False
        self._account(done.usage)
        self._turn = self.on_outcome(worker.spec, done, event.hops, event.bus_number)
        return True

    def _give_up_on_poison(self, spec: ModuleSpec) -> None:
        """The event that was in hand goes to the successor, unless it did twice, or may have moved something in the world."""
        if not self._queue or not self._queue[0].tries:
            return
        spent = self._queue[0].tries >= MAX_TRIES and self._standby is None
        if spent or not spec.description.repeatable:
            event = self._queue.popleft()
            self.counters["events_dropped"] += 1
            self._consumed(event)
            why = f"after {event.tries} tries" if spent else "because the module does not say that it is idempotent"
            logger.error("an event on %s, in hand when %s failed, was taken away %s", event.topic, spec.label, why)

    def _failed(self, worker: Worker, failure: WorkerFailed) -> None:
        self._account(failure.usage)
        self.counters["failures"] += 1
        self.module_counters["traps" if failure.reason is Reason.TRAPPED else "failures"] += 1
        self.on_failure(worker, failure)

    def _use(self, worker: Worker) -> None:
        if self._counted != worker.spec.label:
            self._counted = worker.spec.label
            self.module_counters.clear()
        self._current, self.handled, self._row = worker, 0, 1
        self._filters = worker.spec.description.capabilities.filters("subscribe")
        self._queue.keep(lambda each: self._wants(each.topic))
        self._next_tick = None
        self._schedule_tick(worker)
        self._wake.set()
        self.on_use(worker)

    def _schedule_tick(self, worker: Worker) -> None:
        period_s = worker.spec.description.limits.tick_ms / 1000
        if period_s and "timer" in worker.interfaces:
            self._next_tick = time.monotonic() + period_s

    def _tick_is_due(self) -> bool:
        return self._next_tick is not None and time.monotonic() >= self._next_tick

    async def _wait(self) -> None:
        timeout_s = None
        if self._next_tick is not None and not self._paused and self._current is not None and self._current.alive:
            timeout_s = max(0.0, self._next_tick - time.monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):  # not wait_for, see device_agent.broker.link
                await self._wake.wait()

    async def _begin(self, worker: Worker, state: bytes, keys: dict[str, bytes]) -> frames.Done:
        try:
            return await worker.begin(state, keys)
        except EventRefused as error:
            raise WorkerFailed(Reason.START_FAILED, str(error)) from error

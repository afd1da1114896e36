"""Results that wait in memory while the disk is full."""

import asyncio
from collections import Counter

import pytest

from device_agent.broker import outcomes
from device_agent.broker.outcomes import HELD_BYTES, Outcomes, size_of
from device_agent.channel.frames import KeyWrite
from device_agent.storage.messages import MESSAGE_BYTES, Added, Bounds, BusMessage, Outcome, Version
from ota.formats.reasons import Reason, Refused
from ota.formats.report import Message
from tests.support.outbox import VERSION, of, on_writer


class FullDisk:
    """A store that takes nothing for a while."""

    def __init__(self) -> None:
        self.full = True
        self.kept: list[Outcome] = []

    def add_outcomes(self, batch, bounds, delivered):
        if self.full:
            raise Refused(Reason.DISK_FULL, "no room")
        self.kept += batch
        return Added(0, 0, 0)


def held(results: list[Outcome]) -> tuple[Outcomes, Counter, list[BusMessage]]:
    """What waits in memory after these outcomes, one after the other, on a full disk; and what was handed to instances."""

    async def run():
        counters, said = Counter(), []
        waiting = Outcomes(FullDisk(), on_writer, Bounds(), counters)
        waiting.on_bus = said.extend
        for each in results:
            waiting.add(each)
            assert not await waiting.flush()
        return waiting, counters, said

    return asyncio.run(run())


def test_results_that_wait_in_memory_are_bounded_in_bytes():
    waiting, counters, _ = held([of(60_000)] * 300)
    assert waiting._fresh_bytes <= HELD_BYTES
    assert waiting._fresh_bytes == sum(60_000 + 3 + MESSAGE_BYTES for _ in waiting._fresh)
    assert len(waiting._fresh) + counters["messages_dropped"] == 300
    assert counters["messages_dropped_bytes"] >= counters["messages_dropped"] * 60_000


@pytest.mark.parametrize(("size", "events"), [(60_000, 5000), (10, 50)])
def test_a_flood_takes_no_room_in_memory_from_other_instances(monkeypatch, size, events):
    monkeypatch.setattr(outcomes, "HELD_EVENTS", events)
    waiting, counters, _ = held([*map(quiet, range(9)), *[of(size)] * 200])
    left = [message.payload for each in waiting._fresh for message in each.messages if message.instance == "quiet"]
    assert left == [b"%d" % each for each in range(9)]
    assert counters["messages_dropped"] > 0


def quiet(number: int) -> Outcome:
    return Outcome(Version("quiet", "m", b""), (), [Message(0, 0.5, "quiet", "m 1", "out", b"%d" % number)])


@pytest.mark.parametrize(("size", "enough"), [(10, outcomes.TURN_MESSAGES), (60_000, 5)], ids=["many", "large"])
def test_who_floods_waits_until_what_it_said_is_taken_and_nobody_else_does(size, enough):
    async def run():
        disk = FullDisk()
        disk.full = False
        waiting = Outcomes(disk, on_writer, Bounds(), Counter())
        assert [waiting.add(of(size)) for _ in range(enough - 1)] == [None] * (enough - 1)
        turn = waiting.add(of(size))
        assert turn is not None
        assert waiting.add(quiet(1)) is None
        assert not turn.done()
        await waiting.flush()
        assert turn.done()
        assert waiting.add(of(size)) is None
        assert len(disk.kept) == enough + 1

    asyncio.run(run())


def test_a_full_disk_stops_no_module():
    async def run():
        waiting = Outcomes(FullDisk(), on_writer, Bounds(), Counter())
        turn = [waiting.add(of(60_000)) for _ in range(9)][-1]
        assert not await waiting.flush()
        assert turn.done()
        assert [waiting.add(of(60_000)) for _ in range(9)] == [None] * 9

    asyncio.run(run())


def test_key_writes_outlive_the_messages_that_there_is_no_room_for():
    writes = [KeyWrite(f"k{number % 7}", None if number % 5 == 0 else str(number).encode()) for number in range(400)]
    waiting, counters, _ = held([of(60_000, write) for write in writes])
    assert counters["messages_dropped"] > 100
    assert counters["key_writes_dropped"] == 0
    kept = {write.key: write.value for outcome in waiting._fresh for write in outcome.writes}
    assert kept == {write.key: write.value for write in writes}
    assert waiting._fresh_bytes == sum(map(size_of, waiting._fresh)) <= HELD_BYTES


def test_key_writes_without_end_are_bounded_and_their_loss_is_counted(caplog):
    waiting, counters, _ = held([of(10, KeyWrite(f"k{number}", bytes(200_000))) for number in range(100)])
    kept = [write.key for outcome in waiting._fresh for write in outcome.writes]
    assert kept == [f"k{number}" for number in range(100 - len(kept), 100)]
    assert len(kept) + counters["key_writes_dropped"] == 100
    assert waiting._fresh_bytes <= HELD_BYTES
    assert "key writes are lost" in caplog.text


def test_on_a_full_disk_instances_go_on_talking_in_order_and_what_they_handled_is_forgotten_later():
    said = [BusMessage(0, 0.5, "a", "b", "local/x", bytes(60_000) + bytes((number,)), 1) for number in range(200)]
    results = [
        Outcome(VERSION, (), [Message(0, 0.5, "m", "m 1", "x", bytes(60_000))], [each], [number])
        for number, each in enumerate(said)
    ]
    waiting, counters, handed = held(results)
    assert handed == said
    assert all(each.number == 0 for each in handed)
    assert counters["bus_not_kept"] == 200
    assert sorted(number for each in waiting._fresh for number in each.consumed) == list(range(200))

    async def again():
        waiting._writing = asyncio.Lock()  # of this loop
        waiting._store.full = False
        assert await waiting.flush()

    asyncio.run(again())
    assert sum(len(each.bus) for each in waiting._store.kept) == 0
    assert sorted(number for each in waiting._store.kept for number in each.consumed) == list(range(200))


def test_what_was_delivered_is_forgotten_with_the_next_outcomes_or_soon(monkeypatch):
    monkeypatch.setattr(outcomes, "FORGET_S", 0.01)
    forgotten = []

    class Disk(FullDisk):
        def add_outcomes(self, batch, bounds, delivered):
            forgotten.append((len(batch), delivered))
            return super().add_outcomes(batch, bounds, delivered)

    async def run():
        disk = Disk()
        writing = Outcomes(disk, on_writer, Bounds(), Counter())
        writing.forget({"lamp": 3})
        writing.add(of(1))
        assert not await writing.flush()  # no room: not forgotten
        disk.full = False
        writing.forget({"lamp": 5})
        assert await writing.flush()
        task = asyncio.create_task(writing.write())
        writing.forget({"lamp": 7})
        async with asyncio.timeout(60):
            while len(forgotten) < 3:
                await asyncio.sleep(0.005)
        task.cancel()

    asyncio.run(run())
    assert forgotten == [(1, {"lamp": 3}), (1, {"lamp": 5}), (0, {"lamp": 7})]

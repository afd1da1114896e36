"""Batches of telemetry and of log lines: cut to what the broker and the reader take, and what is dropped when nothing helps."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from device_agent.broker import logs
from device_agent.broker.connection import Sent
from device_agent.broker.logs import LINES_KEPT, LogQueue
from device_agent.broker.outbox import HELD_BYTES, Outbox, _outcome_size
from device_agent.channel.frames import Done, KeyWrite
from device_agent.channel.workers import ModuleSpec
from ota.formats.capabilities import Capabilities
from ota.formats.module import ModuleDescription
from ota.formats.reasons import Reason, Refused
from ota.formats.report import BATCH_LIMIT_BYTES, LogRecord, Message, decode_logs, decode_messages


class Rows:
    """The outbox's table, in memory."""

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages

    def add_outcomes(self, *_) -> None:
        raise AssertionError("the disk is full in these tests")

    def outbox(self, after: int, count: int) -> list[Message]:
        return [each for each in self.messages if each.number > after][:count]

    def delivered(self, number: int) -> None:
        self.messages = [each for each in self.messages if each.number > number]


async def delivered(sizes: list[int], send, room: int) -> tuple[Rows, Counter]:
    """Runs the delivery until nothing waits."""
    rows = Rows([Message(number + 1, 0.5, "m 1.0.0", "out/x", bytes(size)) for number, size in enumerate(sizes)])
    counters: Counter[str] = Counter()

    async def on_writer(function, *values):
        return function(*values)

    outbox = Outbox(rows, on_writer, send, lambda: room, counters, 1000, 1 << 20)
    task = asyncio.create_task(outbox.deliver())
    async with asyncio.timeout(20):
        while rows.messages:
            await asyncio.sleep(0.01)
            outbox.poke()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return rows, counters


@pytest.mark.parametrize("room", [BATCH_LIMIT_BYTES, 100_000, 5000])
def test_batches_fit_the_brokers_packets_and_the_readers_limit(room):
    got, sizes = [], []

    async def send(batch: bytes) -> Sent:
        sizes.append(len(batch))
        got.extend(decode_messages(batch))
        return Sent.ACKNOWLEDGED

    asyncio.run(delivered([4000] * 400, send, room))
    assert [each.number for each in got] == list(range(1, 401))
    assert max(sizes) <= room


def test_one_message_that_fits_no_packet_is_dropped_counted_and_said_once(caplog):
    got = []

    async def send(batch: bytes) -> Sent:
        if len(batch) > 10_000:
            return Sent.TOO_LARGE
        got.extend(decode_messages(batch))
        return Sent.ACKNOWLEDGED

    _, counters = asyncio.run(delivered([10, 20_000, 10, 30_000, 10], send, 10_000))
    assert [each.number for each in got] == [1, 3, 5]
    assert counters["messages_too_large"] == counters["messages_dropped"] == 2
    assert caplog.text.count("is too large and dropped") == 1


def test_one_message_at_which_the_broker_always_closes_does_not_stop_the_others():
    got = []

    async def send(batch: bytes) -> Sent:
        if any(len(each.payload) == 20_000 for each in decode_messages(batch)):
            return Sent.CLOSED
        got.extend(decode_messages(batch))
        return Sent.ACKNOWLEDGED

    asyncio.run(delivered([10, 20_000, 10], send, 5000))
    assert [each.number for each in got] == [1, 3]


def test_a_link_that_breaks_drops_nothing():
    got, tries = [], 0

    async def send(batch: bytes) -> Sent:
        nonlocal tries
        tries += 1
        if tries % 10:
            return Sent.LOST
        got.extend(decode_messages(batch))
        return Sent.ACKNOWLEDGED

    _, counters = asyncio.run(delivered([20_000] * 3, send, 5000))
    assert len(got) == 3
    assert not counters["messages_dropped"]


async def sent_lines(lines: int, size: int, *, room: int, fail: int = 0) -> list[list[LogRecord]]:
    """What arrives of log lines that were there before the link was, after `fail` lost batches."""
    batches: list[list[LogRecord]] = []
    failures = 0

    async def send(batch: bytes) -> Sent:
        nonlocal failures
        assert len(batch) <= room
        failures += 1
        if failures <= fail:
            for number in range(10):
                queue.add(LogRecord(0.5, "info", "", f"late {number}"))
            return Sent.LOST
        batches.append(decode_logs(batch))
        return Sent.ACKNOWLEDGED

    queue = LogQueue(send, lambda: room)
    for number in range(lines):
        queue.add(LogRecord(0.5, "info", "m", f"{number} " + "x" * size))
    task = asyncio.create_task(queue.deliver())
    async with asyncio.timeout(20):
        while not batches or queue._lines:
            await asyncio.sleep(0.01)
            queue.poke()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return batches


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(logs, "PERIOD_S", 0.01)


def test_of_too_many_log_lines_the_newest_are_kept_and_a_line_counts_the_rest():
    (batch,) = asyncio.run(sent_lines(LINES_KEPT + 99 + 1, 1, room=BATCH_LIMIT_BYTES))[:1]
    assert batch[0].message == "100 older log lines were dropped"
    assert batch[1].message.startswith("100 ")


def test_lines_that_come_while_a_batch_is_lost_drop_the_oldest():
    batches = asyncio.run(sent_lines(LINES_KEPT, 1, room=BATCH_LIMIT_BYTES, fail=1))
    lines = [each.message for batch in batches for each in batch]
    assert lines[0] == "10 older log lines were dropped"
    assert lines[1].startswith("10 ")
    assert lines[-1] == "late 9"


def test_log_batches_fit_what_the_broker_takes():
    batches = asyncio.run(sent_lines(50, 500, room=2000))
    assert [each.message.split()[0] for batch in batches for each in batch] == [str(number) for number in range(50)]


def test_a_log_line_that_fits_no_packet_is_shortened():
    (batch,) = asyncio.run(sent_lines(1, 5000, room=1000))
    assert 800 < len(batch[0].message) < 1000


def test_results_that_wait_in_memory_are_bounded_in_bytes():
    async def run():
        async def full(*_):
            raise Refused(Reason.DISK_FULL, "no room")

        counters = Counter()
        description = ModuleDescription("m", "1.0.0", Capabilities({}))
        spec = ModuleSpec(description, Path("m.wasm"), b"", {})
        outbox = Outbox(Rows([]), full, None, lambda: 1 << 20, counters, 1000, 1 << 20)
        for _ in range(300):
            await outbox.add(spec, Done((("out", bytes(60_000)),), ()))
            await outbox.flush()
        return outbox, counters

    outbox, counters = asyncio.run(run())
    assert outbox._fresh_bytes <= HELD_BYTES
    assert outbox._fresh_bytes == sum(60_000 + 51 + len("m 1.0.0") for _ in outbox._fresh)
    assert len(outbox._fresh) + counters["messages_dropped"] == 300
    assert counters["messages_dropped_bytes"] >= counters["messages_dropped"] * 60_000


def held(writes, size=60_000):
    """What waits in memory after one event for each of these writes, each with a message of `size` bytes, on a full disk."""

    async def run():
        async def full(*_):
            raise Refused(Reason.DISK_FULL, "no room")

        counters = Counter()
        spec = ModuleSpec(ModuleDescription("m", "1.0.0", Capabilities({})), Path("m.wasm"), b"", {})
        outbox = Outbox(Rows([]), full, None, lambda: 1 << 20, counters, 1000, 1 << 20)
        for write in writes:
            await outbox.add(spec, Done((("out", bytes(size)),), (write,)))
            await outbox.flush()
        return outbox, counters

    return asyncio.run(run())


def test_key_writes_outlive_the_messages_that_there_is_no_room_for():
    writes = [KeyWrite(f"k{number % 7}", None if number % 5 == 0 else str(number).encode()) for number in range(400)]
    outbox, counters = held(writes)
    assert counters["messages_dropped"] > 100
    assert counters["key_writes_dropped"] == 0
    kept = {write.key: write.value for _, of_keys, _ in outbox._fresh for write in of_keys}
    assert kept == {write.key: write.value for write in writes}
    assert outbox._fresh_bytes == sum(map(_outcome_size, outbox._fresh)) <= HELD_BYTES


def test_key_writes_without_end_are_bounded_and_their_loss_is_counted(caplog):
    outbox, counters = held([KeyWrite(f"k{number}", bytes(200_000)) for number in range(100)], size=10)
    kept = [write.key for _, of_keys, _ in outbox._fresh for write in of_keys]
    assert kept == [f"k{number}" for number in range(100 - len(kept), 100)]
    assert len(kept) + counters["key_writes_dropped"] == 100
    assert outbox._fresh_bytes <= HELD_BYTES
    assert "key writes are lost" in caplog.text

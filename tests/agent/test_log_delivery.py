"""Log lines on their way to the broker: what a batch holds, and which of too many are dropped."""

import asyncio

import pytest

from device_agent.broker import logs
from device_agent.broker.connection import Sent
from device_agent.broker.logs import LINES_KEPT, LogQueue
from ota.formats.report import BATCH_LIMIT_BYTES, LogRecord, decode_logs
from ota.formats.signed_report import LOG, Statement
from tests.support.reports import signed_logs


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
                queue.add(LogRecord(0.5, "info", "", "", f"late {number}"))
            return Sent.LOST
        batches.append(decode_logs(Statement.from_bytes(batch, LOG).claimed).records)
        return Sent.ACKNOWLEDGED

    async def encoded(records):
        return signed_logs("board", records)

    queue = LogQueue(send, lambda: room, encoded)
    for number in range(lines):
        queue.add(LogRecord(0.5, "info", "i", "m", f"{number} " + "x" * size))
    task = asyncio.create_task(queue.deliver())
    async with asyncio.timeout(60):
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


@pytest.mark.parametrize("size", [1, 4000])
def test_a_module_that_logs_without_end_takes_no_line_of_others(size):
    """In number and in bytes; what is left comes in the order in which it was said."""

    async def main():
        queue = LogQueue(None, lambda: BATCH_LIMIT_BYTES, None)
        for number in range(2 * LINES_KEPT):
            if number < 100:
                queue.add(LogRecord(number, "info", ("", "quiet")[number % 2], "m", f"{number}"))
            queue.add(LogRecord(number, "info", "loud", "m", "x" * size))
        found = []
        while queue._lines:
            found += [record for _, record in queue._take()[0] if not record.message.endswith("were dropped")]
        return found

    found = asyncio.run(main())
    assert [each.message for each in found if each.instance != "loud"] == [f"{number}" for number in range(100)]
    assert [each.time_s for each in found] == sorted(each.time_s for each in found)
    assert found[-1].time_s == 2 * LINES_KEPT - 1


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
    assert 600 < len(batch[0].message) < 1000

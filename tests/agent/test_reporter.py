"""Reports are signed one after the other while the board goes on: what changes meanwhile is in the next ones."""

import asyncio

import pytest

from device_agent.instance.snapshot import Snapshot
from device_agent.node import reporter
from device_agent.node.reporter import BoardState, Reporter
from ota.formats import topics
from ota.formats.reasons import Reason, Refused
from ota.formats.report import InstanceReport, Report, Running


class Board:
    """A board with one instance, a key that signs when it is told to, and a link that comes and goes."""

    def __init__(self) -> None:
        self.version, self.online, self.counter = "1", True, 0
        self.asked, self.may_sign = asyncio.Event(), asyncio.Event()
        self.on_disk, self.disk = "", asyncio.Event()  # the version that a power cut does not take; set while the disk works
        self.disk.set()
        self.sent: list[tuple[str, bytes]] = []
        self.reporter = Reporter(
            Report("a", "lab", "any", "1", 0, 0), self.publish, lambda: self.online, self, self.state, self.sync, lambda: 1.0
        )
        self.task = asyncio.ensure_future(self.reporter.run())

    def state(self) -> BoardState:
        return BoardState(0, (Snapshot("m", Running("m", self.version)),), {}, (), {}, ())

    async def sync(self) -> None:
        on_disk = self.version
        await self.disk.wait()
        self.on_disk = on_disk

    async def sign(self, kind: str, encode, *, introduce: bool = False) -> bytes:
        self.counter += 1
        payload = encode(self.counter)
        self.asked.set()
        await self.may_sign.wait()
        return payload

    def publish(self, topic: str, payload: bytes) -> bool:
        if self.online:
            self.sent.append((topic, payload))
        return self.online

    async def settled(self) -> list[str]:
        """The versions in the reports of the instance, and the counters that the board's reports have of them, as they came."""
        for _ in range(20):
            await asyncio.sleep(0)
        sent, self.sent = self.sent, []
        mine = [InstanceReport.from_bytes(each).running.version for topic, each in sent if topic != topics.report("a")]
        return mine + [Report.from_bytes(each).instances[0].counter for topic, each in sent if topic == topics.report("a")]


def with_board(test):
    def run():
        async def inside():
            board = Board()
            try:
                await test(board)
            finally:
                board.task.cancel()

        asyncio.run(inside())

    run.__name__ = test.__name__
    return run


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(reporter, "PAUSE_S", 0)


@with_board
async def test_the_phases_of_a_fast_update_are_one_report(board):
    reporter.PAUSE_S = 0.5
    board.may_sign.set()
    for board.version in ("2", "3", "4"):
        board.reporter.poke()
        assert await board.settled() == []
    while not board.sent:
        await asyncio.sleep(0.01)
    assert await board.settled() == ["4", 1]


@with_board
async def test_a_report_waits_until_what_it_says_is_on_the_disk(board):
    board.disk.clear()
    board.may_sign.set()
    board.reporter.poke()
    assert await board.settled() == []
    board.version = "2"
    board.disk.set()
    assert await board.settled() == ["1", 1]  # the second one came later, and may not be on the disk
    assert board.on_disk == "1"
    assert [topic for topic, _ in await board.reporter.all()] == [topics.report("a"), topics.instance_report("a", "m")]
    assert board.on_disk == "2"


@with_board
async def test_what_a_full_disk_does_not_take_is_told_all_the_same(board):
    async def full() -> None:
        raise Refused(Reason.DISK_FULL, "full")

    board.reporter._sync = full
    board.may_sign.set()
    board.reporter.poke()
    assert await board.settled() == ["1", 1]


@with_board
async def test_without_a_link_what_changes_is_on_the_disk_soon_too(board):
    board.online = False
    board.reporter.poke()
    assert await board.settled() == []
    assert board.on_disk == "1"


@with_board
async def test_what_changes_while_a_report_is_signed_is_one_report_after_it(board):
    board.reporter.poke()
    await board.asked.wait()
    for board.version in ("2", "3"):
        board.reporter.poke()
    assert await board.settled() == []
    board.may_sign.set()
    assert await board.settled() == ["1", "3", 1, 3]
    board.reporter.poke()
    assert await board.settled() == [3]  # the instance has not changed


@with_board
async def test_a_report_that_no_connection_took_is_made_again_for_the_next_one(board):
    board.reporter.poke()
    await board.asked.wait()
    board.online = False
    board.may_sign.set()
    assert await board.settled() == []
    signed = board.counter
    board.reporter.poke()
    assert await board.settled() == []
    assert board.counter == signed  # nothing is signed that can't be sent
    board.online = True
    board.reporter.poke()
    assert await board.settled() == ["1", signed + 1]

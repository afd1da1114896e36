"""The counter of what a board says rises over restarts, whatever the clock said."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from device_agent.broker.statements import Statements
from device_agent.storage.store import Store
from ota.formats.report import Report
from ota.formats.signed_report import REPORT, Statement

YEAR_S = 365 * 86_400


def said(folder, now_s: int) -> int:
    """The counter of the first statement of a start of the agent, as the operator reads it."""
    store = Store(folder)
    try:
        statements = Statements(None, folder)
        statements.begin(store.next_start(now_s))
    finally:
        store.close()
    data = asyncio.run(statements.sign(REPORT, lambda counter: Report("a", "lab", "any", "1", 0, 0, counter=counter).to_bytes()))
    return Report.from_bytes(Statement.from_bytes(data, REPORT).claimed).counter


@pytest.mark.parametrize("wrong_s", [0, 1 << 31, 130 * YEAR_S, 1000 * YEAR_S])
def test_a_counter_rises_with_each_start_after_the_clock_was_wrong(tmp_path, wrong_s):
    now_s = 56 * YEAR_S
    counters = [said(tmp_path, each) for each in (now_s, wrong_s, now_s + 60, now_s + 120)]
    assert counters == sorted(set(counters))


@pytest.mark.parametrize("later_s", [0, 1, -50 * YEAR_S])
def test_a_counter_rises_after_a_database_was_damaged_in_the_same_second_or_with_the_clock_lost(tmp_path, later_s):
    """The operator would take the board's reports for old ones."""
    now_s = 56 * YEAR_S
    before = said(tmp_path, now_s)
    (tmp_path / "agent.sqlite").write_bytes(b"damaged" * 1000)
    assert said(tmp_path, now_s + later_s) > before


def test_a_counter_rises_after_2038_on_a_board_whose_storage_was_lost(tmp_path):
    assert said(tmp_path / "old", 70 * YEAR_S) < said(tmp_path / "new", 70 * YEAR_S + 1)


def test_a_key_that_signs_slowly_holds_nobody_but_what_is_signed_after_it(tmp_path):
    """A token may take seconds; the loop brings events to modules meanwhile."""
    goes_on = threading.Event()

    def sign1(payload: bytes, *_, **__) -> bytes:
        assert goes_on.wait(60), "the loop waits for the signature"
        return payload

    async def main() -> None:
        statements = Statements(None, tmp_path)
        statements._identity = SimpleNamespace(sign1=sign1)
        signing = [asyncio.ensure_future(statements.sign(REPORT, lambda counter: b"%d" % counter)) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert not any(each.done() for each in signing)
        goes_on.set()
        assert await asyncio.gather(*signing) == [b"0", b"1", b"2", b"3", b"4"]

    asyncio.run(main())

"""What an audit of a board's journal finds."""

import json
from dataclasses import replace

import pytest

from device_agent.instance.states import Phase
from device_agent.instance.updates import Update
from device_agent.storage import store as stores
from device_agent.storage.export import rows as exported
from device_agent.storage.store import Store
from ota.formats import journal
from ota.formats.reasons import Reason, Refused
from ota.formats.report import JournalHead


@pytest.fixture
def board(tmp_path):
    """A board whose two instances had updates in turns, with the heads that it signed; and its export."""
    store, heads = Store(tmp_path), []
    for number in range(12):
        update = Update(Phase.FAILED, bytes([number]) * 16, b"m" * 32, 0, Reason.TRAPPED, f"attempt {number} ü")
        store.write_journal("ab"[number % 2], update, 1_800_000_000 + number)
        heads.append(store.journal_head)
    rows = list(exported(tmp_path))  # beside the agent
    store.close()
    return rows, heads


def texts(rows, heads) -> list[str]:
    return [f"{each.row}: {each.text}" for each in journal.judge(rows, heads).findings]


def test_a_journal_that_is_whole_is_vouched_for_up_to_the_last_head(board):
    rows, heads = board
    assert journal.judge(rows, heads) == journal.Verdict((), 12)
    assert journal.judge(rows, heads[:7]) == journal.Verdict((), 7)
    assert journal.judge(rows, []) == journal.Verdict((), 0)


def test_it_is_read_back_as_it_was_written(board):
    rows, _ = board
    assert journal.read(each.to_line() for each in rows) == rows


@pytest.mark.parametrize("place", [0, 1, 5, 10, 11])
def test_a_removed_row_is_found(board, place):
    rows, heads = board
    assert texts(rows[:place] + rows[place + 1 :], heads)


@pytest.mark.parametrize("place", [0, 1, 5, 10, 11])
def test_a_changed_row_is_found(board, place):
    rows, heads = board
    changed = list(rows[place].values)
    changed[journal.COLUMNS.index("reason")] = "unhealthy"
    rows[place] = replace(rows[place], values=tuple(changed))
    assert texts(rows, heads[-1:])


def test_a_journal_that_was_written_anew_is_found_by_a_head_that_was_signed_before(board):
    rows, heads = board
    ends, forged = {}, []
    for each in rows:
        values = (*each.values[:-1], 99)
        ends[each.instance] = journal.chain(ends.get(each.instance, b""), values)
        forged.append(replace(each, values=values, hash=ends[each.instance]))
    last = journal.head(12, ends)
    assert journal.judge(forged, [last]).findings == ()
    assert texts(forged, [heads[4], last]) == ["5: the rows up to here are not those whose head the board signed"]


@pytest.mark.parametrize(("one", "other"), [(0, 1), (3, 5), (10, 11)])
def test_reordered_rows_are_found(board, one, other):
    rows, heads = board
    rows[one], rows[other] = rows[other], rows[one]
    assert texts(rows, heads)
    rows[one], rows[other] = replace(rows[one], number=rows[other].number), replace(rows[other], number=rows[one].number)
    assert texts(rows, heads)  # with the numbers that belong to the places


def test_a_journal_whose_end_was_cut_off_is_found(board):
    rows, heads = board
    assert texts(rows[:9], heads[-1:]) == ["12: the board signed the head of row 12, and there is no such row"]


def test_an_instance_that_is_missing_as_a_whole_is_found(board):
    rows, heads = board
    assert texts([each for each in rows if each.instance == "a"], heads[-2:])


def test_the_beginning_of_a_long_journal_is_not_kept_and_the_rest_is_proven(tmp_path, monkeypatch):
    for place in (stores, journal):
        monkeypatch.setattr(place, "JOURNAL_ROWS" if place is stores else "ROWS_KEPT", 5)
    store, heads = Store(tmp_path), []
    for number in range(9):
        store.write_journal("a", Update(Phase.FAILED, b"d", b"m", 0, Reason.TRAPPED), number)
        heads.append(store.journal_head)
    store.close()
    rows = list(exported(tmp_path))
    assert [bool(each.values) for each in rows] == [False, True, True, True, True]
    assert journal.judge(rows, heads) == journal.Verdict((), 9)
    assert texts(rows[1:], heads)  # the oldest of them is missing
    assert texts([replace(rows[0], values=()), *rows[2:]], heads)


def test_a_journal_of_nothing_has_no_head(tmp_path):
    store = Store(tmp_path)
    assert store.journal_head == JournalHead()
    store.close()
    assert list(exported(tmp_path)) == []


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "7", '{"row": 1}', '{"row": true, "instance": "a", "hash": ""}', '{"row": 1, "instance": 2, "hash": ""}'],
)
def test_what_is_no_row_is_refused(line):
    with pytest.raises(Refused) as caught:
        journal.Row.from_line(line)
    assert caught.value.reason is Reason.MALFORMED


def test_a_row_under_the_name_of_another_instance_is_found(board):
    rows, heads = board
    found = json.loads(rows[-1].to_line()) | {"instance": "other"}
    assert texts([*rows[:-1], *journal.read([json.dumps(found)])], heads)


def test_an_export_too_large_is_refused(board, monkeypatch):
    monkeypatch.setattr(journal, "EXPORT_LIMIT_BYTES", 100)
    with pytest.raises(Refused) as caught:
        journal.read(each.to_line() for each in board[0])
    assert caught.value.reason is Reason.TOO_LARGE

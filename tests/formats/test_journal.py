"""What an audit of a board's journal finds."""

import json
from dataclasses import replace

import pytest

from device_agent.instance.states import Phase
from device_agent.instance.updates import Update
from device_agent.storage import store as stores
from device_agent.storage.export import rows as exported
from device_agent.storage.store import Store
from ota.formats import cbor, journal
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


# -- by hand: each rule for itself


def rows_of(*names: str) -> list[journal.Row]:
    """A row for each name, in chains that fit."""
    ends, rows = {}, []
    for number, name in enumerate(names, 1):
        values = (number, name, "failed", b"d", b"m", b"c", "set", 0, "trapped", "grün", 3)
        ends[name] = journal.chain(ends.get(name, b""), values)
        rows.append(journal.Row(number, name, values, ends[name]))
    return rows


def head_at(rows, number) -> JournalHead:
    return journal.head(number, {each.instance: each.hash for each in rows if each.number <= number})


def test_rows_of_different_instances_that_changed_places_are_found_without_a_head():
    rows = rows_of("a", "b", "c")
    assert texts(rows, []) == []
    assert texts([rows[0], rows[2], rows[1]], []) == ["2: it follows row 3: rows are reordered or repeated"]
    assert texts([rows[0], rows[1], rows[1], rows[2]], [])[0] == "2: it follows row 2: rows are reordered or repeated"


def test_each_fault_of_a_chain_is_named():
    rows = rows_of("a", "b", "a", "b")
    assert texts([rows[0], rows[1], rows[3]], []) == []  # nothing but a head tells what was at the end
    assert texts([rows[1], rows[2], rows[3]], []) == ["3: it was changed, or a row of a before it is missing"]
    cut = [replace(rows[0], values=()), *rows[1:]]
    assert texts(cut, []) == ["1: the beginning of a is missing: it has 2 rows"]
    assert texts([*rows[:2], replace(rows[2], values=()), rows[3]], []) == ["3: the content of a row of a is missing"]


def test_a_beginning_that_is_not_kept_is_believed_of_a_chain_with_all_rows_that_are_kept(monkeypatch):
    rows = rows_of("a", "b", "a")
    cut = [replace(rows[0], values=()), *rows[1:]]
    monkeypatch.setattr(journal, "ROWS_KEPT", 2)
    assert texts(cut, []) == []
    monkeypatch.setattr(journal, "ROWS_KEPT", 3)
    assert texts(cut, []) == ["1: the beginning of a is missing: it has 2 rows"]


def test_a_head_vouches_for_its_rows_and_one_that_differs_is_named():
    rows = rows_of("a", "b", "a")
    assert journal.judge(rows, [head_at(rows, 2)]) == journal.Verdict((), 2)
    assert journal.judge(rows, [JournalHead()]) == journal.Verdict((), 0)
    wrong = JournalHead(2, bytes(32))
    assert journal.judge(rows, [wrong, head_at(rows, 3)]) == journal.Verdict(
        (journal.Finding(2, "the rows up to here are not those whose head the board signed"),), 3
    )
    lost = [JournalHead(9, bytes(32)), JournalHead(7, bytes(32))]
    assert texts(rows, lost) == [f"{each}: the board signed the head of row {each}, and there is no such row" for each in (7, 9)]


def test_heads_of_rows_that_are_not_kept_any_more_say_nothing(monkeypatch):
    rows = rows_of("a", "b", "a", "b")
    strange = [JournalHead(number, bytes(32)) for number in (1, 2)]
    monkeypatch.setattr(journal, "ROWS_KEPT", 2)
    kept = [rows[0], replace(rows[1], values=()), *rows[2:]]
    assert texts(kept, strange[:1]) == []  # before the row whose content went
    assert texts(kept, strange) == ["2: the rows up to here are not those whose head the board signed"]
    monkeypatch.setattr(journal, "INSTANCES_KEPT", 3)
    assert texts(rows, strange[:1]) == ["1: the rows up to here are not those whose head the board signed"]
    monkeypatch.setattr(journal, "INSTANCES_KEPT", 2)  # there may have been more instances, whose rows went
    assert texts(rows, [*strange, JournalHead(3, bytes(32))]) == []
    assert texts(rows, [JournalHead(4, bytes(32))]) == ["4: the rows up to here are not those whose head the board signed"]


@pytest.mark.parametrize(
    "change",
    [{"time_s": "1"}, {"time_s": True}, {"events": 1.0}, {"phase": 7}, {"reason": None}, {"manifest": "0g"}, {"hash": "0"},
     {"instance": 2}, {"row": "1"}, {"instance": "\ud800"}, {"detail": "\ud800"}],
)  # fmt: skip
def test_a_line_with_a_value_of_another_kind_is_refused(change):
    line = rows_of("a")[0].to_line()
    assert '"detail": "grün"' in line
    assert journal.Row.from_line(line) == rows_of("a")[0]
    with pytest.raises(Refused) as caught:
        journal.Row.from_line(json.dumps(json.loads(line) | change))
    assert caught.value.reason is Reason.MALFORMED
    assert caught.value.detail.startswith("journal: a line is not a row of a journal")


def test_a_line_of_a_row_whose_content_went_reads_back_and_empty_lines_are_none():
    bare = journal.Row(1, "a", (), bytes(32))
    assert journal.read([bare.to_line() + "\n", "\n", ""]) == [bare]


def test_an_export_may_have_as_many_bytes_as_the_limit(monkeypatch):
    lines = [each.to_line() + "\n" for each in rows_of("a", "b")]
    monkeypatch.setattr(journal, "EXPORT_LIMIT_BYTES", sum(map(len, lines)))
    assert journal.read(lines) == rows_of("a", "b")
    with pytest.raises(Refused, match=r"the export has more than \d+ bytes"):
        journal.read([*lines, "\n"])


def test_the_head_of_a_journal_covers_every_chain_in_the_order_of_names():
    ends = {"b": b"2", "a": b"1"}
    assert journal.head(7, ends) == JournalHead(7, cbor.sha256(cbor.encode([["a", b"1"], ["b", b"2"]])))
    assert journal.head(7, {}) == JournalHead()
    assert (journal.ROWS_KEPT, journal.INSTANCES_KEPT, journal.EXPORT_LIMIT_BYTES) == (500, 256, 1 << 28)

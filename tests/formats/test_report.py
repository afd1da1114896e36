"""Reports, log records and messages at the edges of what is read."""

from dataclasses import replace

import pytest

from ota.formats import cbor, report
from ota.formats.reasons import Reason, Refused
from ota.formats.report import (
    BATCH_LIMIT_RECORDS,
    Attempt,
    InstanceReport,
    JournalHead,
    LogRecord,
    Message,
    Refusal,
    Report,
    Running,
    Summary,
    decode_logs,
    decode_messages,
    encode_logs,
    encode_messages,
)

LARGEST = (1 << 63) - 1
WORD = "w" * 64
BOARD = Report(
    "d", "g", "generic", "0.1.0", 5, 6, (Summary("i", "m", "1", 3, "trial", "trial"),), (Refusal("group", 4, "malformed", "x"),),
    {"events": 7}, ("a: b",), 2, ("es256",), 8, JournalHead(3, bytes(32)), b"key", (bytes(8),),
)  # fmt: skip
INSTANCE = InstanceReport("d", "i", 5, Running("m", "1", bytes(32), bytes(32), 3), Attempt("trial", bytes(16)), {"events": 7}, 9)


def refusal(function, *values) -> Refused:
    with pytest.raises(Refused) as caught:
        function(*values)
    return caught.value


def changed(data: bytes, where: tuple, content: object) -> bytes:
    value = cbor.decode(data, "test", 1 << 20)
    inner = value
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = content
    return cbor.encode(value)


SAID_OF_A_BOARD = [
    (("v",), [2], [1, 3]),
    (("device",), ["n" * 64], ["n" * 65, "", ".a"]),
    (("group",), ["n" * 64], ["a/b"]),
    (("board",), ["n" * 64], ["+"]),
    (("agent",), ["a" * 64, ""], ["a" * 65]),
    (("time",), [0, LARGEST], [-1, LARGEST + 1]),
    (("uptime",), [0], [-1]),
    (("root",), [0], [-1]),
    (("counter",), [0], [-1]),
    (("instances", 0, "version"), ["v" * 64], ["v" * 65]),
    (("instances", 0, "module"), ["v" * 64], ["v" * 65]),
    (("instances", 0, "name"), ["n" * 64], ["a b"]),
    (("instances", 0, "slot"), [WORD], [WORD + "w", "Trial", "a b"]),
    (("instances", 0, "state"), [WORD], [WORD + "w"]),
    (("instances", 0, "reason"), [WORD, ""], [WORD + "w"]),
    (("instances", 0, "sequence"), [0], [-1]),
    (("instances", 0, "counter"), [0], [-1]),
    (("refusals", 0, "detail"), ["x" * 500], ["x" * 501]),
    (("refusals", 0, "reason"), [WORD], [WORD + "w"]),
    (("refusals", 0, "document"), [WORD], [WORD + "w", "A"]),
    (("refusals", 0, "epoch"), [0], [-1]),
    (("counters",), [{}, {str(n): n for n in range(64)}], [{str(n): n for n in range(65)}, {"a": True}, {"a": 1.0}, []]),
    (("problems",), [["x" * 200] * 8], [["x"] * 9, ["x" * 201], [1]]),
    (("algorithms",), [[WORD] * 16], [["a"] * 17, [WORD + "w"], ["A"], [1]]),
    (("journal",), [[0, b""], [1, bytes(32)], [1, bytes(32), 3, 4, 5, 6, 7, 8]],
     [[-1, b""], [True, b""], [1.0, b""], [1, bytes(31)], [1, bytes(33)], [1, ""], [1], [], [1, bytes(32), 3, 4, 5, 6, 7, 8, 9]]),
    (("encryption",), [b"", bytes(256)], [bytes(257), "text"]),
    (("group-keys",), [[], [bytes(8)] * 24, [b"1"]], [[bytes(8)] * 25, [b""], [bytes(9)], ["12345678"], [7]]),
    (("documents",), [{}, {"group": 0}, {"group": 1, "device": LARGEST}, {"later": "ignored"}],
     [[], {"group": -1}, {"device": True}, {"device": "1"}]),
]  # fmt: skip
SAID_OF_AN_INSTANCE = [
    (("v",), [2], [1, 3]),
    (("device",), ["n" * 64], ["+"]),
    (("instance",), ["n" * 64], ["a/b"]),
    (("time",), [0], [-1]),
    (("counter",), [0], [-1]),
    (("running", "name"), ["", "x" * 64], ["x" * 65]),
    (("running", "version"), ["", "x" * 64], ["x" * 65]),
    (("running", "manifest"), [b"", bytes(32)], [bytes(33)]),
    (("running", "config"), [b"", bytes(32)], [bytes(33)]),
    (("running", "sequence"), [0], [-1]),
    (("running", "slot"), [WORD], [WORD + "w"]),
    (("running", "mode"), [WORD], [WORD + "w"]),
    (("running", "lacking"), [["x" * 64] * 8], [["x"] * 9, ["x" * 65], [1]]),
    (("attempt", "state"), [WORD], [WORD + "w"]),
    (("attempt", "deployment"), [b"", bytes(16)], [bytes(17)]),
    (("attempt", "manifest"), [b"", bytes(32)], [bytes(33)]),
    (("attempt", "config"), [b"", bytes(32)], [bytes(33)]),
    (("attempt", "reason"), [WORD], [WORD + "w"]),
    (("attempt", "detail"), ["x" * 500], ["x" * 501]),
    (("attempt", "done"), [0], [-1]),
    (("attempt", "chunks"), [0], [-1]),
    (("attempt", "events"), [0], [-1]),
    (("counters",), [{"a": 1}], [{"a": True}]),
]


@pytest.mark.parametrize(
    ("read", "data", "where", "good", "bad"),
    [(Report.from_bytes, BOARD.to_bytes(), *each) for each in SAID_OF_A_BOARD]
    + [(InstanceReport.from_bytes, INSTANCE.to_bytes(), *each) for each in SAID_OF_AN_INSTANCE],
)
def test_each_member_is_read_up_to_its_limit_and_no_further(read, data, where, good, bad):
    for content in good:
        assert read(changed(data, where, content)).device
    for content in bad:
        expected = Reason.MEMBER_UNKNOWN if where == ("v",) else Reason.MALFORMED
        assert refusal(read, changed(data, where, content)).reason is expected, content


def test_what_a_board_says_reads_back():
    assert Report.from_bytes(BOARD.to_bytes()) == BOARD
    bare = replace(BOARD, encryption=b"", group_keys=())
    assert Report.from_bytes(bare.to_bytes()) == bare
    for documents in (None, {}, {"group": 3}, {"device": 4}):
        said = replace(BOARD, documents=documents)
        assert Report.from_bytes(said.to_bytes()).documents == documents
    assert InstanceReport.from_bytes(INSTANCE.to_bytes()) == INSTANCE


def test_what_a_board_or_an_instance_has_not_said_is_empty():
    assert Running() == Running("", "", b"", b"", 0, "none", "", ())
    assert Attempt() == Attempt("idle", b"", b"", b"", "", "", 0, 0, 0)
    assert Summary("i") == Summary("i", "", "", 0, "none", "idle", "", 0)
    assert JournalHead() == JournalHead(0, b"") == report.NO_ROWS
    assert Report("d", "g", "b", "a", 1, 2) == Report(
        "d", "g", "b", "a", 1, 2, (), (), {}, (), 0, (), 0, JournalHead(0, b""), b"", ()
    )
    assert InstanceReport("d", "i", 1) == InstanceReport("d", "i", 1, Running(), Attempt(), {}, 0)


def test_a_board_says_at_most_64_instances_and_four_refusals():
    value = cbor.decode(BOARD.to_bytes(), "test", 1 << 16)
    for member, count in (("instances", 64), ("refusals", 4)):
        assert Report.from_bytes(cbor.encode(value | {member: value[member] * count}))
        error = refusal(Report.from_bytes, cbor.encode(value | {member: value[member] * (count + 1)}))
        assert error.detail == f"report: field {member!r} has {count + 1} items, the limit is {count}"
    many = replace(BOARD, instances=BOARD.instances * 65, refusals=BOARD.refusals * 5)
    read = Report.from_bytes(many.to_bytes())
    assert (len(read.instances), len(read.refusals)) == (64, 4)


def test_what_is_beyond_a_limit_is_cut_by_the_writer():
    wide = replace(
        BOARD, algorithms=(WORD + "w",) * 17, group_keys=tuple(bytes([n]) * 8 for n in range(25)), counters={"": 1, "a": 2}
    )
    read = Report.from_bytes(wide.to_bytes())
    assert read.algorithms == (WORD,) * 16
    assert read.group_keys == wide.group_keys[:24]
    assert read.counters == {"a": 2}


@pytest.mark.parametrize(
    ("read", "limit"),
    [
        (Report.from_bytes, 64 * 1024),
        (InstanceReport.from_bytes, 64 * 1024),
        (decode_logs, 512 * 1024),
        (decode_messages, 512 * 1024),
    ],
)
def test_what_is_too_large_is_refused_before_it_is_read(read, limit):
    assert refusal(read, bytes(limit)).reason is Reason.MALFORMED
    assert refusal(read, bytes(limit + 1)).reason is Reason.TOO_LARGE


def batch(**change) -> bytes:
    return cbor.encode({"v": 2, "device": "d", "counter": 1, "records": []} | change)


LOG = [1.5, "info", "i", "m 1", "hello"]
MESSAGE = [1, 1.5, "i", "m 1", "a/b", b"x"]


@pytest.mark.parametrize("read", [decode_logs, decode_messages])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"v": 1}, Reason.MEMBER_UNKNOWN),
        ({"v": 3}, Reason.MEMBER_UNKNOWN),
        ({"device": "a/b"}, Reason.MALFORMED),
        ({"counter": -1}, Reason.MALFORMED),
        ({"records": [7]}, Reason.MALFORMED),
        ({"records": [[]]}, Reason.MALFORMED),
    ],
)
def test_a_batch_of_another_form_is_refused(read, change, reason):
    assert read(batch(counter=0)).records == []
    assert refusal(read, batch(**change)).reason is reason


@pytest.mark.parametrize(
    ("read", "record", "wrong"),
    [
        (decode_logs, LOG, [1, "info", 7, 7, 7]),
        (decode_messages, MESSAGE, [1.5, 1, 7, 7, 7, "x"]),
    ],
)
def test_a_record_is_read_with_what_comes_later_and_each_of_its_parts_is_checked(read, record, wrong):
    assert len(read(batch(records=[record, [*record, "later"]])).records) == 2
    assert len(read(batch(records=[record] * BATCH_LIMIT_RECORDS)).records) == 1000
    assert refusal(read, batch(records=[record] * (BATCH_LIMIT_RECORDS + 1))).reason is Reason.MALFORMED
    for place, content in enumerate(wrong):
        if content != record[place]:
            parts = [*record[:place], content, *record[place + 1 :]]
            assert refusal(read, batch(records=[parts])).reason is Reason.MALFORMED
    assert refusal(read, batch(records=[record[:-1]])).reason is Reason.MALFORMED


def test_levels_of_logs_are_five():
    for level in ("trace", "debug", "info", "warn", "error"):
        assert decode_logs(encode_logs("d", 1, [LogRecord(1.0, level, "", "", "x")])).records[0].level == level
    assert refusal(decode_logs, batch(records=[[1.0, "fatal", "", "", "x"]])).reason is Reason.MALFORMED
    assert refusal(decode_messages, batch(records=[[True, *MESSAGE[1:]]])).reason is Reason.MALFORMED


def test_a_batch_takes_little_more_room_than_its_records():
    """Whoever fills one counts with this."""
    large = LARGEST
    for data, records in (
        (encode_logs("d" * 64, large, [LogRecord(*LOG)] * 1000), cbor.encode([LOG] * 1000)),
        (encode_messages("d" * 64, large, [Message(*MESSAGE)] * 1000), cbor.encode([MESSAGE] * 1000)),
    ):
        assert 0 < len(data) - len(records) <= report.BATCH_BYTES

"""Lines of the audit log, without a workspace: what is read, what is refused, and what is said of a log that was tampered with."""

import json
from base64 import b64encode
from dataclasses import replace

import pytest

from ota.formats.audit import AUDIT_TYPE, LINE_LIMIT_BYTES, ROLES_OF_ACTIONS, START, Row, encode, hash_of, problems, read_line
from ota.formats.reasons import Reason, Refused
from tests.support.documents import ROLE_KEYS

RELEASE, DEPLOY = ROLE_KEYS["release"], ROLE_KEYS["deploy"]
ROW = Row(1, "2026-01-31T12:00:00Z", "me@here", "sign-manifest", {"digest": "00ä"}, START)


def keys(role: str):
    return [key.public for name, key in ROLE_KEYS.items() if name == role]


def chained(*rows: Row, key=RELEASE) -> list[bytes]:
    """Lines of these rows, numbered and chained."""
    lines, before = [], START
    for number, row in enumerate(rows, 1):
        lines.append(encode(replace(row, number=number, before=before), key))
        before = hash_of(lines[-1])
    return lines


def told(lines: list[bytes]) -> tuple[list[str], list[int]]:
    """What is wrong, and the numbers of the rows that are believed."""
    seen: list[Row] = []
    return list(problems(lines, keys, seen)), [row.number for row in seen]


def test_a_line_reads_back():
    line = encode(ROW, RELEASE)
    row, signature, payload = read_line(line)
    assert row == ROW
    assert line.startswith(payload + b"\t")
    assert line.endswith(b"\n")
    assert line.isascii()
    assert signature.verify(RELEASE.public, payload) == payload
    assert read_line(line.removesuffix(b"\n"))[0] == ROW
    assert list(json.loads(payload)) == ["number", "time", "by", "action", "about", "before"]


def test_a_log_that_nobody_touched_has_no_problem():
    assert told(chained(ROW, ROW, ROW)) == ([], [1, 2, 3])
    assert told([]) == ([], [])
    assert START == "00" * 32


def spoilt(**members) -> bytes:
    """A signed line with other members; None takes one away."""
    value = {"number": 1, "time": "t", "by": "b", "action": "sign-manifest", "about": {}, "before": START} | members
    payload = json.dumps({key: each for key, each in value.items() if each is not None}).encode()
    return payload + b"\t" + b64encode(RELEASE.sign1(payload, AUDIT_TYPE)) + b"\n"


NO_LINE = "a line that is not JSON, a tab and base64"
MEMBERS = "a row has other members than number, time, by, action, about and before"
SIGNATURE = encode(ROW, RELEASE).partition(b"\t")[2]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{\t" + SIGNATURE, NO_LINE), (b"\xff\t" + SIGNATURE, NO_LINE), (b"[" * 20_000 + b"\t" + SIGNATURE, NO_LINE),
        (encode(ROW, RELEASE).replace(b"\t", b"\t*"), NO_LINE), (b"[]\t" + SIGNATURE, MEMBERS), (b"{}\t" + SIGNATURE, MEMBERS),
        (encode(ROW, RELEASE).partition(b"\t")[0], MEMBERS), (spoilt(by=None), MEMBERS), (spoilt(more="x"), MEMBERS),
        (spoilt(number="1"), "a member of a row has another type"), (spoilt(number=True), "a member of a row has another type"),
        (spoilt(about=["x"]), "a member of a row has another type"), (spoilt(before=5), "a member of a row has another type"),
        (spoilt(about={"x": 1}), "what a row is about is not texts by name"),
    ],
)  # fmt: skip
def test_a_line_of_another_shape_is_refused(line, why):
    with pytest.raises(Refused) as refusal:
        read_line(line)
    assert (refusal.value.reason, refusal.value.detail) == (Reason.MALFORMED, f"audit log: {why}")
    assert told([line]) == ([f"line 1: malformed: audit log: {why}"], [])


def test_a_line_is_as_long_as_allowed():
    room = LINE_LIMIT_BYTES - len(encode(replace(ROW, by=""), RELEASE))
    longest = encode(replace(ROW, by="x" * room), RELEASE)
    assert len(longest) == LINE_LIMIT_BYTES == 32_768
    assert read_line(longest)[0].by == "x" * room
    with pytest.raises(Refused) as refusal:
        read_line(longest + b"\n")
    assert refusal.value.reason is Reason.TOO_LARGE


def test_a_line_that_was_removed_or_moved_is_told_at_the_next():
    first, second, third = chained(ROW, ROW, ROW)
    number = "it says that it is line {}: lines were removed, added or moved before it"
    chain = "the line before it is another than when it was written"
    assert told([first, third]) == ([f"line 2: {number.format(3)}", f"line 2: {chain}"], [1, 3])
    assert told([second]) == ([f"line 1: {number.format(2)}", f"line 1: {chain}"], [2])
    changed = encode(replace(ROW, by="somebody"), RELEASE)
    assert told([changed, second, third]) == ([f"line 2: {chain}"], [1, 2, 3])


def test_a_line_that_another_key_signed_is_not_believed():
    line = encode(ROW, DEPLOY)
    why = "sign-manifest is not signed with a release key of this workspace"
    assert told([line]) == ([f"line 1: signer-unknown: {why}"], [])
    payload = line.partition(b"\t")[0]
    for signature in (RELEASE.sign1(payload, "another type"), RELEASE.sign1(payload)):
        assert told([payload + b"\t" + b64encode(signature)]) == ([f"line 1: signer-unknown: {why}"], [])


def test_a_changed_row_is_not_believed():
    line = encode(ROW, RELEASE).replace(b"me@here", b"no@here")
    assert told([line]) == (["line 1: signature-invalid: the signature does not match"], [])


def test_an_act_that_is_not_known_is_not_believed():
    why = "audit log: an act 'sign-anything' that this version does not know"
    assert told(chained(replace(ROW, action="sign-anything"))) == ([f"line 1: malformed: {why}"], [])


def test_each_act_has_the_role_that_signs_it():
    acts = {"sign-root": "root", "sign-manifest": "release", "sign-deployment": "deploy"}
    assert acts.items() <= ROLES_OF_ACTIONS.items()
    deploy = {"make-group-key", "remove-group-key", "hand-out-group-keys"}
    assert {act for act, role in ROLES_OF_ACTIONS.items() if role == "deploy"} == {"sign-deployment", *deploy}
    assert {role for act, role in ROLES_OF_ACTIONS.items() if act not in {*acts, *deploy}} == {"ca"}
    for act, role in acts.items():
        assert told(chained(replace(ROW, action=act), key=ROLE_KEYS[role])) == ([], [1])

"""Tokens, requests and answers of enrolment: whom they are for, what proves them, and where they end."""

import hashlib
import hmac
from dataclasses import replace

import pytest

from ota.formats import cbor
from ota.formats.enrolment import LIMIT_BYTES, SERIAL, Answer, Request, Token, address, allows, is_pattern
from ota.formats.reasons import Reason, Refused

TOKEN, OTHER = Token(b"identify", b"s" * 32), Token(b"identify", b"t" * 32)
TEXT = f"wamr-ota-{b'identify'.hex()}-{'73' * 32}"
REQUEST = Request.make(TOKEN, "roof-1", b"csr")
ANSWER = Answer.make(TOKEN, REQUEST, b"pem")


def reason(work, *values) -> Reason:
    with pytest.raises(Refused) as caught:
        work(*values)
    return caught.value.reason


def test_a_token_is_text_that_reads_back_and_shows_no_secret():
    assert TOKEN.to_text() == TEXT
    assert Token.from_text(f" {TEXT}\n") == TOKEN
    assert Token.from_text(TEXT + " " * (199 - len(TEXT))) == TOKEN
    assert repr(TOKEN) == f"Token({b'identify'.hex()})"


@pytest.mark.parametrize(
    "text", ["", TEXT[:-1], TEXT + "0", TEXT.upper(), TEXT.replace("73", "7g", 1), "x" + TEXT, TEXT + " " * (200 - len(TEXT))]
)
def test_what_is_no_token_is_refused(text):
    assert reason(Token.from_text, text) is Reason.MALFORMED


def test_a_code_is_over_the_kind_and_each_part():
    wanted = hmac.new(TOKEN.secret, cbor.encode(["wamr-ota request 1", b"a", b"b"]), hashlib.sha256).digest()
    assert TOKEN.code("request", b"a", b"b") == wanted
    codes = {
        TOKEN.code("request", b"a", b"b"),
        TOKEN.code("answer", b"a", b"b"),
        TOKEN.code("request", b"ab"),
        OTHER.code("request", b"a", b"b"),
    }
    assert len(codes) == 4


@pytest.mark.parametrize(
    ("name", "pattern"),
    [(SERIAL, True), (f"roof-{SERIAL}", True), (f"{SERIAL}.x", True), ("roof", False), (f"{SERIAL}{SERIAL}", False),
     (f"a/{SERIAL}", False), (f".{SERIAL}", False), (f"{'x' * 63}{SERIAL}", True), (f"{'x' * 64}{SERIAL}", False)],
)  # fmt: skip
def test_a_pattern_is_a_name_with_one_serial_number_in_it(name, pattern):
    assert is_pattern(name) is pattern


@pytest.mark.parametrize(
    ("names", "device", "allowed"),
    [
        ("roof-1", "roof-1", True), ("roof-1", "roof-2", False), ("roof-1", "roof-11", False), (f"roof-{SERIAL}", "roof-1", True),
        (f"roof-{SERIAL}", "roof-", False), (f"roof-{SERIAL}", "wall-1", False), (f"{SERIAL}-x", "1-x", True),
        (f"{SERIAL}-x", "-x", False),
        (f"a{SERIAL}a", "a", False), (f"a{SERIAL}a", "aa", False), (f"a{SERIAL}a", "aba", True),
        (f"roof-{SERIAL}", "roof-/1", False),
        ("a/b", "a/b", False), (f"roof-{SERIAL}", "roof-" + "1" * 60, False), (f"roof-{SERIAL}x", "roof-1", False),
    ],
)  # fmt: skip
def test_a_token_is_good_for_its_name_or_for_names_that_fit_its_pattern(names, device, allowed):
    assert allows(names, device) is allowed


def test_the_address_of_a_request_is_known_to_who_has_the_request():
    assert address(b"csr") == "wamr-enrol-" + hashlib.sha256(b"wamr-ota address 1csr").hexdigest()[:32]
    assert address(b"csr") != address(b"other")


def test_requests_and_answers_read_back_and_are_proved_by_the_token():
    assert Request.from_bytes(REQUEST.to_bytes()) == REQUEST
    assert Answer.from_bytes(ANSWER.to_bytes()) == ANSWER
    REQUEST.check(TOKEN)
    ANSWER.check(TOKEN, REQUEST)
    refusal = Answer.make(TOKEN, REQUEST, reason="token-used")
    Answer.from_bytes(refusal.to_bytes()).check(TOKEN, REQUEST)


@pytest.mark.parametrize("change", [{"device": "roof-2"}, {"signing_request": b"other"}, {"code": bytes(32)}])
def test_a_request_that_was_changed_is_not_proved(change):
    assert reason(replace(REQUEST, **change).check, TOKEN) is Reason.REQUEST_INVALID
    assert reason(REQUEST.check, OTHER) is Reason.REQUEST_INVALID


@pytest.mark.parametrize("change", [{"certificate": b"other"}, {"reason": "token-used"}, {"code": bytes(32)}])
def test_an_answer_that_was_changed_is_not_proved(change):
    assert reason(replace(ANSWER, **change).check, TOKEN, REQUEST) is Reason.REQUEST_INVALID
    assert reason(ANSWER.check, OTHER, REQUEST) is Reason.REQUEST_INVALID
    assert reason(ANSWER.check, TOKEN, Request.make(TOKEN, "roof-2", b"csr")) is Reason.REQUEST_INVALID


@pytest.mark.parametrize("why", ["", "token-expired", "token-used", "request-invalid", "name-taken", "device-retired"])
def test_an_answer_has_one_of_few_reasons(why):
    assert Answer.from_bytes(Answer.make(TOKEN, REQUEST, reason=why).to_bytes()).reason == why


def changed(document: bytes, **members) -> bytes:
    value = cbor.decode(document, "test", 1 << 16) | members
    return cbor.encode({key: each for key, each in value.items() if each is not None})


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"v": 2}, Reason.MEMBER_UNKNOWN), ({"token": bytes(7)}, Reason.MALFORMED), ({"token": bytes(9)}, Reason.MALFORMED),
        ({"device": "a/b"}, Reason.MALFORMED), ({"csr": bytes(8193)}, Reason.MALFORMED), ({"code": bytes(31)}, Reason.MALFORMED),
        ({"code": bytes(33)}, Reason.MALFORMED), ({"v": None}, Reason.MALFORMED), ({"csr": None}, Reason.MALFORMED),
    ],
)  # fmt: skip
def test_a_request_of_another_shape_is_refused(members, code):
    assert reason(Request.from_bytes, changed(REQUEST.to_bytes(), **members)) is code


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"v": 2}, Reason.MEMBER_UNKNOWN), ({"certificate": bytes(8193)}, Reason.MALFORMED),
        ({"reason": "why not"}, Reason.MALFORMED),
        ({"code": bytes(31)}, Reason.MALFORMED), ({"code": bytes(33)}, Reason.MALFORMED), ({"reason": "x" * 65}, Reason.MALFORMED),
        ({"v": None}, Reason.MALFORMED),
    ],
)  # fmt: skip
def test_an_answer_of_another_shape_is_refused(members, code):
    assert reason(Answer.from_bytes, changed(ANSWER.to_bytes(), **members)) is code


def test_a_reason_that_is_too_long_is_not_repeated():
    with pytest.raises(Refused, match="has 65 characters, the limit is 64"):
        Answer.from_bytes(changed(ANSWER.to_bytes(), reason="x" * 65))


def test_what_later_versions_add_is_ignored_and_sizes_are_bounded():
    for read, document, member in (
        (Request.from_bytes, REQUEST.to_bytes(), "csr"),
        (Answer.from_bytes, ANSWER.to_bytes(), "certificate"),
    ):
        assert read(changed(document, more=1)) == read(document)
        assert read(changed(document, **{member: bytes(8192)})) != read(document)
        room = LIMIT_BYTES - len(changed(document, more=bytes(9000)))
        largest = changed(document, more=bytes(9000 + room))
        assert len(largest) == LIMIT_BYTES == 16_384
        assert read(largest) == read(document)
        assert reason(read, changed(document, more=bytes(9001 + room))) is Reason.TOO_LARGE

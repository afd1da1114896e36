"""Key and certificate of a board while they are renewed: power is cut at each operation on a file, and what is left works."""

import contextlib
import os
import ssl
from pathlib import Path

import pytest

from device_agent.broker.certificates import asks_for, check_candidate, check_certificate, signing_request, standing
from device_agent.broker.identity import IdentityError
from device_agent.broker.pair import Pair
from ota.formats.broker_url import BrokerUrl
from ota.operator.ca import CertificateAuthority
from ota.operator.workspace import Settings, Workspace
from tests.support.boards_with_certificates import Board, csr

NOW_S = 1_800_000_000


class PowerCut(BaseException):
    """No handler of ours runs after it."""


class Power:
    """Cuts the power at one operation on a file, counted from 1."""

    def __init__(self, monkeypatch, at):
        self.at, self.count = at, 0
        for owner, name in ((os, "open"), (os, "fsync"), (Path, "replace"), (Path, "unlink")):
            self._watch(monkeypatch, owner, name)

    def _watch(self, monkeypatch, owner, name):
        real = getattr(owner, name)

        def watched(*values, **named):
            self.count += 1
            if self.count == self.at:
                raise PowerCut
            return real(*values, **named)

        monkeypatch.setattr(owner, name, watched)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    settings = Settings("test.example", BrokerUrl.parse("mqtt://broker"), "lab")
    folder = tmp_path_factory.mktemp("certificates") / "operator"
    return CertificateAuthority(Workspace.create(folder, settings, NOW_S, "ed25519"), now_s=lambda: NOW_S)


@pytest.fixture
def pair(tmp_path, authority):
    made = Pair(tmp_path / "device.pem", tmp_path / "device.key", tmp_path / "broker-ca.pem")
    made.certificate.write_bytes(authority.sign(signing_request(made.key, "board-1"), "board-1"))
    made.authorities.write_bytes(b"old")
    return made


def works(pair):
    """Whether a connection could be made with what is in place."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(pair.certificate, pair.key)
    check_certificate(pair.certificate.read_bytes(), pair.key, "board-1")
    return True


def begin(pair, authority, new_key=True):
    pair.begin(lambda key: signing_request(key, "board-1"), new_key=new_key)


def answer(pair, authority):
    pair.keep_candidate(authority.sign(pair.request.read_bytes(), "board-1"), b"new")


def end(pair, authority):
    pair.promote()


def give_up(pair, authority):
    pair.give_up()


STEPS = {"begin": begin, "answer": answer, "promote": end}


def run(pair, authority, steps):
    for step in steps:
        STEPS[step](pair, authority) if isinstance(step, str) else step(pair, authority)


def after_the_cut(pair, authority):
    """What the agent does when it starts again, whatever the files say; the renewal is carried to its end."""
    pair.recover()
    assert works(pair)
    if not pair.has_candidate:
        if not pair.has_request:
            if pair.authorities.read_bytes() == b"new":
                return  # it had ended
            begin(pair, authority)
        assert works(pair)
        certificate = authority.sign(pair.request.read_bytes(), "board-1")
        check_candidate(certificate, b"", pair.next_key, "board-1", NOW_S)  # the request is for the key that is kept
        pair.keep_candidate(certificate, b"new")
    pair.promote()


@pytest.mark.parametrize("reached", ["begin", "answer", "promote"])
def test_power_that_is_cut_at_any_operation_of_a_renewal_leaves_a_pair_that_works(pair, authority, monkeypatch, reached):
    steps = list(STEPS)
    before, step = steps[: steps.index(reached)], steps[steps.index(reached)]
    saved = {each: each.read_bytes() for each in (pair.certificate, pair.key, pair.authorities)}
    for at in range(1, 100):
        for each in pair.certificate.parent.iterdir():
            each.unlink()
        for each, content in saved.items():
            each.write_bytes(content)
        run(pair, authority, before)
        with monkeypatch.context() as patch:
            power = Power(patch, at)
            with contextlib.suppress(PowerCut):
                run(pair, authority, [step])
        if power.count < at:
            break  # it ended before
        after_the_cut(pair, authority)
        assert works(pair)
        assert pair.authorities.read_bytes() == b"new"
        assert pair.key.read_bytes() != saved[pair.key]
        left = sorted(each.name for each in pair.certificate.parent.iterdir() if not each.name.startswith("."))
        assert left == ["broker-ca.pem", "device.key", "device.pem"], at
    assert at > 3


def test_power_that_is_cut_while_a_candidate_is_given_up_never_promotes_it(pair, authority, monkeypatch):
    saved = {each: each.read_bytes() for each in (pair.certificate, pair.key, pair.authorities)}
    for at in range(1, 100):
        run(pair, authority, ["begin", "answer"])
        with monkeypatch.context() as patch:
            power = Power(patch, at)
            with contextlib.suppress(PowerCut):
                pair.give_up()
        if power.count < at:
            break
        pair.recover()
        assert {each: each.read_bytes() for each in saved} == saved
        assert not pair.has_candidate or not pair.refused.exists()
        if pair.has_candidate:
            pair.give_up()
    assert pair.refused.exists()
    assert at > 3


def test_a_stale_certificate_without_its_key_is_not_promoted(pair, authority):
    pair.next_certificate.write_bytes(Board("board-1").enrol(authority).pem)
    before = pair.certificate.read_bytes()
    pair.recover()
    assert pair.certificate.read_bytes() == before
    assert works(pair)


def test_the_same_key_can_be_kept(pair, authority):
    before = pair.key.read_bytes()
    begin(pair, authority, new_key=False)
    answer(pair, authority)
    pair.promote()
    assert pair.key.read_bytes() == before
    assert works(pair)


@pytest.mark.parametrize("what", ["name", "key", "issuer", "chain", "ended", "authorities"])
def test_a_certificate_that_does_not_fit_is_no_candidate(pair, authority, tmp_path, what):
    begin(pair, authority)
    request, now_s, authorities = pair.request.read_bytes(), NOW_S, b""
    good = authority.sign(request, "board-1")
    leaf, issuer = (part + b"-----END CERTIFICATE-----\n" for part in good.split(b"-----END CERTIFICATE-----\n")[:2])
    check_candidate(good, issuer, pair.next_key, "board-1", NOW_S)
    if what == "name":
        good = Board("board-2").enrol(authority).pem
    elif what == "key":
        good = authority.sign(csr("board-1", Board("x").key), "board-1")
    elif what == "issuer":
        settings = Settings("test.example", BrokerUrl.parse("mqtt://broker"), "lab")
        other = CertificateAuthority(Workspace.create(tmp_path / "other", settings, NOW_S, "ed25519"), now_s=lambda: NOW_S)
        good = leaf + other.certificate_file.read_bytes()
    elif what == "chain":
        good = leaf
    elif what == "ended":
        now_s += 91 * 86_400
    else:
        authorities = b"nothing"
    with pytest.raises(IdentityError):
        check_candidate(good, authorities, pair.next_key, "board-1", now_s)


@pytest.mark.parametrize(
    ("days", "due", "expired"),
    [(-700, False, False), (-2, False, False), (0, False, False), (59, False, False), (60, True, False), (91, True, True)],
)
def test_a_certificate_is_due_after_two_thirds_and_never_by_a_clock_that_is_not_set(pair, days, due, expired):
    found = standing(pair.certificate, NOW_S + days * 86_400)
    assert (found.due, found.expired) == (due, expired)
    assert standing(pair.certificate, 0).due is False  # 1970


def test_a_request_of_another_name_or_key_is_not_sent_again(pair, tmp_path):
    pair.begin(lambda key: signing_request(key, "board-1"), new_key=True)
    assert asks_for(pair.request.read_bytes(), pair.next_key, "board-1")
    assert not asks_for(pair.request.read_bytes(), pair.next_key, "board-2")
    assert not asks_for(pair.request.read_bytes(), pair.key, "board-1")
    assert not asks_for(b"nothing", pair.key, "board-1")


def test_a_promotion_that_the_disk_stopped_is_ended_later(pair, authority, monkeypatch):
    begin(pair, authority)
    answer(pair, authority)
    with monkeypatch.context() as patch:
        patch.setattr("device_agent.broker.pair.sync_folder", refuse)
        with pytest.raises(OSError, match="No space left"):
            pair.promote()
    assert pair.settle()
    assert works(pair)
    assert pair.authorities.read_bytes() == b"new"
    assert not pair.settle()


def refuse(_folder):
    raise OSError(28, "No space left on device")


def test_authorities_of_a_candidate_before_do_not_come_with_the_next_one(pair, authority):
    pair.next_authorities.write_bytes(b"stale")
    begin(pair, authority)
    pair.keep_candidate(authority.sign(pair.request.read_bytes(), "board-1"), b"")
    pair.promote()
    assert pair.authorities.read_bytes() == b"old"

"""A real agent whose key is in a token: enrols, connects, reports, renews, and goes on without the token."""

import os
import signal
import time
from pathlib import Path

import pytest
from cryptography import x509

from device_agent.broker import token
from device_agent.broker.identity import device_key
from device_agent.broker.token import Holder
from ota.cli.main import main
from tests.support.enrolment import Site
from tests.support.lab import Mosquitto
from tests.support.softhsm import MODULE, Token

pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
pytestmark = [
    pytest.mark.skipif(Mosquitto.command() is None, reason="mosquitto is not installed"),
    pytest.mark.skipif(not MODULE, reason="SoftHSM is not installed"),
]
PATIENCE_S = 90.0


@pytest.fixture
def card(tmp_path, monkeypatch):
    made = Token(tmp_path / "hsm")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(token, "_HOLDER", Holder())
    yield made
    token.close()


@pytest.fixture
def site(card, tmp_path):
    (tmp_path / "site").mkdir()
    opened = Site(tmp_path / "site")
    yield opened
    opened.close()


def wait(until, what):
    end = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < end, what()
        time.sleep(0.1)


def enrol(site, *more):
    return main(["-C", str(site.folder / "operator"), "enrol", "--once", "--seconds", str(PATIENCE_S), *more])


def key_file(site):
    return site.folder / "b/device.key"


def children(pid, module):
    """The processes of ours below one that run a module."""
    below = [each for task in Path(f"/proc/{pid}/task").iterdir() for each in (task / "children").read_text().split()]
    return [int(each) for each in below if module in Path(f"/proc/{each}/cmdline").read_text().split("\0")]


def test_a_board_enrols_connects_and_reports_with_a_key_that_stays_in_the_token(site, card, capsys):
    site.settings(more=["--key", card.uri()])
    assert key_file(site).read_text() == card.uri() + "\n"
    site.start()
    assert enrol(site) == 0
    assert site.reported(), site.log()  # over TLS with its certificate, and signed with the certificate's key
    assert b"PRIVATE KEY" not in b"".join(each.read_bytes() for each in (site.folder / "b").iterdir() if each.is_file())
    assert key_file(site).read_text() == card.uri() + "\n"
    certificate = x509.load_pem_x509_certificate((site.folder / "b/device.pem").read_bytes())
    assert certificate.public_key() == device_key(key_file(site), make=False).public_key()


def test_a_board_renews_with_a_new_key_in_the_token_and_proves_it(site, card, capsys):
    site.certified(age_days=70, more=["--key", card.uri()])
    before = device_key(key_file(site), make=False).public_key()
    site.start()
    assert site.reported(), site.log()
    assert enrol(site) == 0
    assert "board-1: has its next certificate" in capsys.readouterr().out
    wait(lambda: "the next certificate is in place" in site.log(), site.log)
    assert token.uri_of(key_file(site).read_bytes()).label == "device-2"
    after = device_key(key_file(site), make=False).public_key()
    assert after != before
    assert x509.load_pem_x509_certificate((site.folder / "b/device.pem").read_bytes()).public_key() == after
    assert site.reported(), site.log()


def test_a_board_without_its_token_says_so_goes_on_and_comes_back_with_it(site, card):
    site.certified(age_days=1, more=["--key", card.uri()])
    token.close()
    card.pull_out()
    site.start()
    wait(lambda: "token-missing: " in site.log(), site.log)
    assert site.agent.poll() is None
    card.put_back()
    assert site.reported(), site.log()
    assert site.log().count("nothing is signed, so nothing is reported") == 1  # once, however often it is tried


def test_a_token_that_gets_stuck_stops_the_reports_and_not_the_agent(site, card):
    site.certified(age_days=1, more=["--key", card.uri()])
    site.start()
    assert site.reported(), site.log()
    (holder,) = children(site.agent.pid, "device_agent.broker.token_process")
    os.kill(holder, signal.SIGSTOP)
    wait(lambda: "token-failed: the token has not answered" in site.log(), site.log)
    count = site.log().count
    wait(lambda: children(site.agent.pid, "device_agent.broker.token_process") not in ([], [holder]), site.log)
    assert site.reported(), site.log()
    assert count("broker mqtts") == site.log().count("broker mqtts")  # the connection was never lost


def test_a_connection_whose_process_dies_is_made_again(site, card):
    site.certified(age_days=1, more=["--key", card.uri()])
    site.start()
    assert site.reported(), site.log()
    (tunnel,) = children(site.agent.pid, "device_agent.broker.tunnel_process")
    os.kill(tunnel, signal.SIGKILL)
    wait(lambda: children(site.agent.pid, "device_agent.broker.tunnel_process") not in ([], [tunnel]), site.log)
    assert site.reported(), site.log()


def test_a_broker_of_another_authority_is_refused_as_by_a_board_without_a_token(site, card):
    site.certified(age_days=1, more=["--key", card.uri()])
    toml = site.folder / "b/agent.toml"
    toml.write_text(toml.read_text().replace('ca_file = "broker-ca.pem"', 'ca_file = "other.pem"'))
    other = site.folder / "b/other.pem"
    other.write_bytes((site.folder / "operator/trust/ca.pem").read_bytes())
    site.start()
    wait(lambda: "CERTIFICATE_VERIFY_FAILED" in site.log() or "certificate verify failed" in site.log(), site.log)
    assert not children(site.agent.pid, "device_agent.broker.tunnel_process")

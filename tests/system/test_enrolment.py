"""A board that nobody sits at: it boots with a token, gets its certificate over MQTT, and talks to a broker that asks for one."""

import shutil
import time

import pytest

from ota.cli.main import main
from ota.formats.broker_url import BrokerUrl
from tests.support.enrolment import Site
from tests.support.lab import PATIENCE_S, Mosquitto

pytestmark = pytest.mark.skipif(Mosquitto.command() is None, reason="mosquitto is not installed")


@pytest.fixture
def site(tmp_path):
    opened = Site(tmp_path)
    yield opened
    opened.close()


def test_a_board_with_a_token_enrols_by_itself_and_shows_its_certificate_from_then_on(site, capsys):
    site.settings()
    site.start()
    assert main(["-C", str(site.folder / "operator"), "enrol", "--once", "--seconds", str(PATIENCE_S)]) == 0
    assert "board-1: has its certificate" in capsys.readouterr().out
    assert site.reported()
    assert not (site.folder / "b/enrolment.token").exists()
    assert main(["-C", str(site.folder / "operator"), "devices", "--json"]) == 0
    assert '"certificate": {"device": "board-1"' in capsys.readouterr().out
    site.agent.terminate()
    site.agent.wait(PATIENCE_S)
    site.start()
    assert site.reported()
    assert site.log().count("asking for a certificate") == 1


def test_a_board_with_an_expired_token_is_refused_and_runs_on_alone(site, capsys):
    site.settings(more=["--hours", "0.0001"])
    time.sleep(1.1)
    site.start_and_ask()
    assert main(["-C", str(site.folder / "operator"), "enrol", "--seconds", "8"]) == 1
    assert "board-1: refused: token-expired" in capsys.readouterr().out
    site.wait_log("the operator refused the enrolment: token-expired; the module goes on, the board asks again later")
    assert site.agent.poll() is None


def test_a_board_whose_token_was_refused_takes_the_next_one(site, capsys):
    site.settings(more=["--hours", "0.0001"])
    time.sleep(1.1)
    site.start_and_ask()
    assert main(["-C", str(site.folder / "operator"), "enrol", "--seconds", "8"]) == 1
    capsys.readouterr()
    shutil.move(site.folder / "b", site.folder / "old")
    site.settings()
    token = (site.folder / "b/enrolment.token").read_bytes()
    shutil.rmtree(site.folder / "b")
    shutil.move(site.folder / "old", site.folder / "b")
    (site.folder / "b/enrolment.token").write_bytes(token)
    assert main(["-C", str(site.folder / "operator"), "enrol", "--once", "--seconds", str(PATIENCE_S)]) == 0
    assert site.reported()
    assert site.log().count("no certificate:") == 1
    assert "Traceback" not in site.log()


def test_a_board_without_a_certificate_is_not_let_in(site):
    site.settings()
    (site.folder / "b/enrolment.token").unlink()
    site.start()
    assert not site.reported(4.0)
    assert BrokerUrl.parse(f"mqtts://127.0.0.1:{site.boards}").tls
    assert site.agent.poll() is None

"""A real agent renews its certificate at a real broker that asks for one."""

import time

import pytest
from cryptography import x509

from ota.cli.main import main
from ota.formats import topics
from ota.operator import reports
from ota.operator.broker import Broker
from ota.operator.ca import CertificateAuthority
from ota.operator.roster import Roster
from ota.operator.workspace import Workspace
from tests.support.enrolment import Site
from tests.support.lab import Mosquitto

pytestmark = pytest.mark.skipif(Mosquitto.command() is None, reason="mosquitto is not installed")
PATIENCE_S = 90.0


@pytest.fixture
def site(tmp_path):
    opened = Site(tmp_path)
    yield opened
    opened.close()


def wait(until, what):
    end = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def leaf(site):
    return x509.load_pem_x509_certificate((site.folder / "b/device.pem").read_bytes())


def enrol(site, *more):
    return main(["-C", str(site.folder / "operator"), "enrol", "--once", "--seconds", str(PATIENCE_S), *more])


def files(site):
    return sorted(each.name for each in (site.folder / "b").iterdir() if each.name.startswith("device"))


def test_a_board_renews_its_certificate_by_itself_and_proves_it_before_it_counts(site, capsys):
    site.certified(age_days=70)
    before, key = leaf(site), (site.folder / "b/device.key").read_bytes()
    site.start()
    assert site.reported()
    assert enrol(site) == 0
    assert "board-1: has its next certificate" in capsys.readouterr().out
    wait(lambda: "the next certificate is in place" in site.log(), site.log)
    assert leaf(site).serial_number != before.serial_number
    assert (site.folder / "b/device.key").read_bytes() != key
    assert files(site) == ["device.key", "device.pem"]
    assert site.reported()
    with Broker(site.workspace.settings) as broker:
        wait(lambda: broker.retained_one(topics.renewal_request("board-1")) is None, "the request is still there")
    # Before that it asks each period until it has an answer, which may take longer than one.
    assert "asking for the next certificate" not in site.log().rpartition("the next certificate is in place")[2]


def test_a_board_whose_certificate_has_expired_asks_where_those_without_one_do(site, capsys):
    site.certified(age_days=100)
    before = leaf(site)
    site.start()
    assert enrol(site) == 0
    assert "board-1: has its next certificate" in capsys.readouterr().out
    wait(lambda: "the next certificate is in place" in site.log(), site.log)
    assert leaf(site).serial_number != before.serial_number
    assert site.reported()
    assert site.agent.poll() is None


def test_a_certificate_that_the_broker_refuses_is_given_up_and_the_present_one_stays(site):
    """The broker was not told of the next authority."""
    site.certified(age_days=70)
    authority = CertificateAuthority(site.workspace)
    authority.rotate()
    authority.switch()
    before = leaf(site)
    site.start()
    assert enrol(site) == 0
    wait(lambda: "the broker refuses the next certificate and takes the present one" in site.log(), site.log)
    assert leaf(site) == before
    assert files(site) == ["device.key", "device.pem", "device.pem.refused"]

    def said():
        workspace = Workspace.open(site.folder / "operator")
        with Broker(workspace.settings) as broker:
            signers = Roster(workspace).signers
            found = [report for report, online in reports.follow_one(broker, signers, "board-1", 2.0) if online]
        return any(each.startswith("certificate-not-renewed") for report in found for each in report.problems)

    wait(said, "the board does not report it")


@pytest.mark.full
def test_a_board_of_a_retired_name_is_told_so_and_goes_on(site, capsys):
    site.certified(age_days=70)
    assert main(["-C", str(site.folder / "operator"), "retire", "board-1", "--yes"]) == 0
    site.start()
    with Broker(site.workspace.settings) as broker:
        wait(lambda: broker.retained_one(topics.renewal_request("board-1")) is not None, "the board does not ask")
    assert main(["-C", str(site.folder / "operator"), "enrol", "--seconds", "8"]) == 1
    assert "board-1: refused: device-retired" in capsys.readouterr().out
    wait(lambda: "certificate-not-renewed: the operator refused it: device-retired" in site.log(), site.log)
    assert site.agent.poll() is None


@pytest.mark.full
def test_a_broker_with_the_list_of_retired_boards_lets_them_in_no_more(site):
    site.certified(age_days=1)
    site.start()
    assert site.reported()
    site.agent.terminate()
    site.agent.wait(PATIENCE_S)
    assert main(["-C", str(site.folder / "operator"), "retire", "board-1", "--yes"]) == 0
    site.restart(f"crlfile {site.folder}/operator/trust/ca.crl")
    site.start()
    wait(lambda: "revoked" in site.log(), site.log)
    assert not site.reported(3.0)
    assert site.agent.poll() is None


def test_boards_of_a_batch_enrol_with_one_token_under_their_serial_numbers(site, capsys):
    site.settings(name="board-{serial}", more=["--batch", "2"])
    (site.folder / "b/serial").write_text("1\n")
    toml = site.folder / "b/agent.toml"
    toml.write_text(toml.read_text().replace('id = "board-{serial}"', 'id = "board-{serial}"\nserial_file = "serial"'))
    site.start()
    assert enrol(site) == 0
    assert "board-1: has its certificate" in capsys.readouterr().out
    assert site.reported()

"""A real agent's signed reports and its journal, as an operator reads them, and what a neighbour on the broker can't do."""

import json
import subprocess
import sys

import pytest

from device_agent.broker.statements import OWN_KEY
from ota.formats import topics
from ota.formats.reasons import Reason, Refused
from ota.operator.broker import Broker
from ota.operator.signers import Signers
from tests.support import fleet
from tests.support.lab import DEVICE
from tests.support.operator import ota
from tests.support.reports import identity, signed
from tests.support.signing import INSTANCE


@pytest.fixture
def workspace(lab, tmp_path):
    return fleet.made(tmp_path / "operator", lab.broker.port)


def retained(lab, topic: str) -> bytes:
    with Broker(lab.operator) as broker:
        found = broker.retained_one(topic)
    assert found is not None
    return found


def test_the_operator_believes_a_board_over_restarts_and_no_neighbour_that_speaks_for_it(lab, workspace, capsys):
    lab.start()
    lab.install(1)
    assert ota(workspace.folder, "status", DEVICE, "--json") == 0
    first = json.loads(capsys.readouterr().out)["boards"][0]
    assert (first["root"], first["instances"][0]["version"]) == (1, "1.0.0")
    old = retained(lab, topics.report(DEVICE)), retained(lab, topics.instance_report(DEVICE, INSTANCE))
    lab.kill()
    lab.start()
    lab.install(2)
    assert ota(workspace.folder, "status", DEVICE, "--json") == 0
    assert json.loads(capsys.readouterr().out)["boards"][0]["instances"][0]["version"] == "2.0.0"
    lab.kill()
    lab.put([(topics.instance_report(DEVICE, INSTANCE), old[1])])
    assert ota(workspace.folder, "status", DEVICE) == 1
    assert "report-replayed" in capsys.readouterr().out
    lab.put([(topics.report(DEVICE), old[0])])
    assert ota(workspace.folder, "status") == 1
    assert "report-replayed" in capsys.readouterr().out
    lab.put([(topics.report(DEVICE), signed(fleet.report(DEVICE), identity("neighbour")))])
    assert ota(workspace.folder, "status") == 1
    assert "key-changed" in capsys.readouterr().out


def test_a_board_with_a_new_card_is_believed_once_the_operator_says_so(lab, workspace, capsys):
    lab.start()
    assert ota(workspace.folder, "status") == 0
    lab.kill()
    (lab.folder / "store" / OWN_KEY).unlink()
    lab.start()
    assert ota(workspace.folder, "status") == 1
    assert "key-changed" in capsys.readouterr().out
    assert ota(workspace.folder, "devices", "--trust", DEVICE) == 0
    assert f"{DEVICE} is believed with key" in capsys.readouterr().out
    assert ota(workspace.folder, "status") == 0


def test_the_journal_of_a_board_is_vouched_for_by_its_reports(lab, workspace, capsys, tmp_path):
    lab.start()
    lab.install(1)
    assert ota(workspace.folder, "status") == 0
    command = [sys.executable, "-m", "device_agent", "--config", str(lab.folder / "agent.toml"), "audit", "export"]
    export = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    (tmp_path / "journal.jsonl").write_text(export)
    verify = ("audit", "verify", tmp_path / "journal.jsonl", "--device", DEVICE)
    assert ota(workspace.folder, *verify, "--json") == 0
    found = [each for each in capsys.readouterr().out.splitlines() if '"vouched"' in each][-1]
    assert json.loads(found)["whole"] is True
    lines = export.splitlines()
    (tmp_path / "journal.jsonl").write_text("\n".join(lines[:1] + lines[2:]))
    assert ota(workspace.folder, *verify) == 1
    assert f"the journal of {DEVICE} is not whole" in capsys.readouterr().out
    assert ota(workspace.folder, "audit", "verify", tmp_path / "journal.jsonl", "--device", "stranger") == 1


def test_log_lines_of_a_neighbour_are_not_shown_as_a_boards(lab, workspace):
    lab.start()
    signers = Signers(workspace)
    signers.report(DEVICE, retained(lab, topics.report(DEVICE)), 0)
    with pytest.raises(Refused) as caught:
        signers.logs(DEVICE, identity("neighbour").sign1(b"\xa0", "application/vnd.wamr-ota.log+cbor", introduce=False), 0)
    assert caught.value.reason is Reason.REPORT_FORGED

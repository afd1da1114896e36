"""`device-agent status`: beside a running agent, without one, and of updates that failed."""

import json

import pytest

from device_agent.command import main
from device_agent.instance.states import Phase
from device_agent.instance.updates import Update
from device_agent.node.status import LAST_S
from device_agent.storage.store import Store
from ota.formats.reasons import Reason
from tests.support.signing import Signer


@pytest.fixture
def board(tmp_path):
    """The storage of a board without modules, and the command that shows it."""
    (tmp_path / "root.cbor").write_bytes(Signer().root_document())
    file = tmp_path / "agent.toml"
    file.write_text('[device]\nid = "roof-1"\ngroup = "lab"\n[storage]\nfolder = "kept"\n[trust]\nroot = "root.cbor"\n')
    return Store(tmp_path / "kept"), ("--config", str(file), "status")


def test_it_shows_what_is_confirmed_beside_a_running_agent_and_without_one(lab, capsys):
    lab.start()
    lab.install(1)
    lab.install(2)
    command = ("--config", str(lab.folder / "agent.toml"), "status")
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (instance,) = found["instances"]
    assert found["running"]
    assert (instance["confirmed"], instance["previous"], instance["update"]) == ("echo 2.0.0", "echo 1.0.0", "confirmed")
    lab.still_answers(2)
    lab.kill()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "no agent runs\ninstance" in said
    assert "echo 2.0.0" in said


def test_an_update_that_failed_is_shown_with_its_reason_and_one_that_was_removed_is_not(board, capsys):
    store, command = board
    store.write_journal("pump", Update(Phase.FAILED, b"d" * 16, b"m" * 32, 0, Reason.TRAPPED, "at \x1b[2J"), LAST_S + 1)
    store.write_journal("gone", Update(Phase.CONFIRMED, b"d" * 16, b"", 0), 1_800_000_000)
    store.close()
    assert main(command) == 0
    head, columns, *rows = capsys.readouterr().out.splitlines()
    assert head == "roof-1, group lab, board generic: no agent runs"
    assert columns.split() == ["instance", "module", "previous", "update", "since"]
    assert [each.split() for each in rows] == [
        ["pump", "none", "none", "failed", "(trapped)", "9999-12-31", "23:59:59", "UTC"],
        ["at", "\\x1b[2J"],
    ]


def test_a_board_without_modules_says_so_and_one_without_storage_is_an_error(board, tmp_path, capsys):
    store, command = board
    store.close()
    assert main(command) == 0
    assert "no module is installed, and no update was offered" in capsys.readouterr().out
    (tmp_path / "kept" / "agent.sqlite").unlink()
    assert main(command) == 1
    assert "agent.sqlite is not there" in capsys.readouterr().err

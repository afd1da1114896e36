"""`--wait` and `ota status` with a real board: what is awaited has happened there, and is shown."""

import json
import time

import pytest

from ota.formats.window import DAYS
from ota.operator.workspace import Workspace
from tests.support.lab import DEVICE, Mosquitto, echo, open_lab
from tests.support.operator import ota
from tests.support.publishing import module


@pytest.fixture
def site(tmp_path, capsys):
    """A board, and an operator's workspace whose root of trust it has."""
    lab, folder = open_lab(tmp_path, Mosquitto), tmp_path / "operator"
    assert ota(folder, "init", "--no-passphrase", "--vendor", "test.example", "--broker", lab.broker.url) == 0
    (tmp_path / "root.cbor").write_bytes(Workspace.open(folder).root_documents()[1])
    lab.start()
    capsys.readouterr()
    yield lab, folder
    lab.close()


def shown(folder, capsys, *words) -> dict:
    """What a command says as JSON."""
    capsys.readouterr()
    code = ota(folder, *words, "--json")
    captured = capsys.readouterr()
    assert captured.out, captured.err
    return {"code": code, **json.loads(captured.out.splitlines()[-1])}


def closed_window() -> str:
    """Neither today nor on the days beside it."""
    return f"{DAYS[(time.localtime().tm_wday + 3) % 7]} 02:00 1h"


def test_an_update_with_a_closed_window_ends_the_wait_with_code_3_until_it_is_published_for_now(site, tmp_path, capsys):
    _, folder = site
    found = shown(folder, capsys, "publish", module(tmp_path, 1), "--window", closed_window(), "--wait", 60)
    assert (found["code"], found["staged"], found["confirmed"]) == (3, True, False)
    standing = found["boards"][DEVICE]["instances"]["echo"]
    assert (standing["standing"], standing["state"]) == ("waiting", "staged")
    assert closed_window() in standing["detail"]
    (board,) = shown(folder, capsys, "status", DEVICE)["boards"]
    assert board["instances"][0]["attempt"]["detail"] == standing["detail"]
    assert shown(folder, capsys, "publish", module(tmp_path, 1), "--now", "--wait", 60)["code"] == 0


def test_a_set_and_a_removal_are_awaited_and_shown(site, tmp_path, capsys):
    _, folder = site
    files = (module(tmp_path, 1, "one"), module(tmp_path, 1, "two"))
    found = shown(folder, capsys, "publish", *files, "--together", "--wait", 60)
    assert found["code"] == 0
    assert {name: each["state"] for name, each in found["boards"][DEVICE]["instances"].items()} == {
        "one": "confirmed",
        "two": "confirmed",
    }
    assert shown(folder, capsys, "remove", "two", "--apart", "--wait", 60)["code"] == 0
    (board,) = shown(folder, capsys, "status", DEVICE)["boards"]
    assert [(each["instance"], each["version"], each["state"]) for each in board["instances"]] == [("one", "1.0.0", "confirmed")]
    (board,) = shown(folder, capsys, "status", DEVICE, "two")["boards"]
    (removed,) = board["instances"]
    assert (removed["running"]["name"], removed["attempt"]["manifest"], removed["attempt"]["state"]) == ("", "", "confirmed")
    assert shown(folder, capsys, "publish", module(tmp_path, 2, "one"), "--device", DEVICE, "--wait", 60)["code"] == 0
    assert ota(folder, "status") == 0
    assert "one 2.0.0" in capsys.readouterr().out
    found = shown(folder, capsys, "publish", module(tmp_path, 3, "one"), "--wait", 5)
    assert (found["code"], found["boards"][DEVICE]["standing"]) == (1, "overridden")


def test_a_faulty_update_is_a_failure_with_its_reason(site, tmp_path, capsys):
    _, folder = site
    faulty = module(tmp_path, 1)
    faulty.write_bytes(echo(1, "unreachable"))
    found = shown(folder, capsys, "publish", faulty, "--wait", 60)
    assert (found["code"], found["counts"]["failed"]) == (1, 1)
    assert found["boards"][DEVICE]["instances"]["echo"]["reason"] == "trapped"

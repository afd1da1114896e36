"""An operator who may only read: what can't be known is said at once, with what to allow."""

import json
from dataclasses import replace

import pytest

from ota.formats import topics
from ota.operator import pages
from ota.operator.broker import Broker
from ota.operator.reports import View
from tests.support import fleet
from tests.support.lab import Mosquitto
from tests.support.operator import ota


def served(folder, acl: str) -> Mosquitto:
    """A broker where `admin` may write, and everybody else what `acl` says."""
    if Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    (folder / "acl").write_text(f"{acl}user admin\ntopic readwrite ota/#\n")
    broker = Mosquitto(folder)
    broker._config.write_text(broker._config.read_text() + f"acl_file {folder}/acl\n")
    broker.start()
    return broker


@pytest.fixture
def read_only(tmp_path):
    """The port of a broker where others may only read."""
    broker = served(tmp_path, "topic read ota/v1/#\n")
    yield broker.port
    broker.stop()


@pytest.fixture
def looking(tmp_path):
    """The same, where they may write markers."""
    broker = served(tmp_path, "topic read ota/v1/#\ntopic readwrite ota/v1/check/#\n")
    yield broker.port
    broker.stop()


def test_status_does_not_wait_for_the_end_of_each_bucket(read_only, tmp_path, capsys, monkeypatch):
    workspace = fleet.made(tmp_path / "operator", read_only)
    with Broker(replace(workspace.settings, username="admin")) as broker:
        fleet.leave(broker, fleet.names(50))
        View(broker, fleet.roster(workspace)).read()  # from now on a reading begins with 16 buckets
    asked = []
    real = pages.Reading._ask
    monkeypatch.setattr(pages.Reading, "_ask", lambda self, page: asked.append(page) or real(self, page))
    capsys.readouterr()
    assert ota(workspace.folder, "devices", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert len(found["boards"]) == 50
    assert "this user must be allowed to write and read there (docs/broker.md)" in found["reasons"][0]
    assert len([each for each in asked if not each.exact]) <= 2


def test_what_the_broker_lost_and_cannot_be_known_hides_no_board(read_only, modules, tmp_path, capsys):
    workspace = fleet.made(tmp_path / "operator", read_only)
    settings = workspace.folder / "ota.toml"
    reader = settings.read_text()
    with Broker(replace(workspace.settings, username="admin")) as broker:
        fleet.leave(broker, ["b1"])
        settings.write_text('username = "admin"\n' + reader)
        assert ota(workspace.folder, "publish", modules / "tally.wasm") == 0
        settings.write_text(reader)
        broker.publish_all([(topics.desired("lab"), b"")])
    capsys.readouterr()
    assert ota(workspace.folder, "status") == 1
    captured = capsys.readouterr()
    assert "b1" in captured.out
    assert "lost: what the broker lost is not known: " in captured.err


def test_an_operator_who_may_only_look_and_write_markers_sees_everything(looking, tmp_path, capsys):
    """As docs/broker.md says."""
    workspace = fleet.made(tmp_path / "operator", looking)
    with Broker(replace(workspace.settings, username="admin")) as broker:
        fleet.leave(broker, fleet.names(50))
    assert ota(workspace.folder, "status", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["boards"]) == 50
    assert ota(workspace.folder, "devices", "--forget", "board-1") == 1
    assert "the broker refused ota/v1/device/board-1/" in capsys.readouterr().err

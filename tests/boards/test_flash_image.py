"""Flashing a board that `ota image build` made: the flashed agent runs in the place of the image's, which stays behind it."""

import json

import pytest

from ota.cli.main import main
from tests.conftest import ROOT

pytestmark = [pytest.mark.timeout(900), pytest.mark.emulated, pytest.mark.full]


@pytest.mark.parametrize("architecture", ["armv7"])
def test_a_flashed_agent_takes_the_place_of_the_one_in_the_image(board, architecture, tmp_path, capsys):
    lab = board(architecture)
    lab.install(1)
    assert lab.report.agent.endswith("+image")
    assert main(["-C", str(tmp_path), "init", "--broker", lab.broker.url]) == 0
    flash = ["-C", str(tmp_path), "flash", f"qemu-{architecture}", "--port", lab.board.console, "--json"]
    flash += ["--wheels", str(ROOT / "build/wheels"), "--cache", str(ROOT / "build/boards")]
    capsys.readouterr()
    assert main(flash) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["before"] == ""
    assert not outcome["provisioned"]
    lab.observer.wait(lambda: lab.report.agent == outcome["agent"], lab.patience_s, "a report of the flashed agent")
    lab.running("1.0.0")
    lab.kill()
    lab.start()
    lab.running("1.0.0")
    assert lab.report.agent == outcome["agent"]

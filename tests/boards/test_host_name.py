"""What a board's image calls the board: its name in agent.toml, with the serial number where a card is for many boards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from boards.image import SYSTEM
from tests.support.cache import ROOT

CONFIG = """
[device]
id = "{name}"
group = "lab"
board = "generic"
serial_file = "serial"
[storage]
folder = "store"
[trust]
root = "root.cbor"
"""


def host_name(folder: Path, name: str) -> str:
    file = folder / "agent.toml"
    file.write_text(CONFIG.replace("{name}", name))
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "bin" / "python3").chmod(0o755)
    environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "WAMR_OTA_LIB": str(ROOT)}
    done = subprocess.run(["sh", SYSTEM / "name", file], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.removesuffix("\n")


@pytest.mark.parametrize(
    ("name", "serial", "wanted"),
    [("roof-1", None, "roof-1"), ("pump-{serial}", "000 17", "pump-000-17"), ("pump-{serial}", None, "pump")],
)
def test_a_board_of_a_batch_is_called_by_its_serial_number_and_never_by_a_placeholder(tmp_path, name, serial, wanted):
    if serial is not None:
        (tmp_path / "serial").write_text(serial)
    assert host_name(tmp_path, name) == wanted


def test_a_board_without_settings_has_no_name(tmp_path):
    done = subprocess.run(["sh", SYSTEM / "name", tmp_path / "none"], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"

"""`ota flash` with a serial port that is not there: one error, at once."""

import pytest

from boards.errors import BoardError
from boards.flash import Flasher
from boards.line import LineLost
from boards.tarball import Tarball
from ota.cli.main import main


@pytest.mark.parametrize(
    ("port", "why"),
    [
        ("/dev/ttyNONE", "No such file or directory (is the adapter plugged in?)"),
        ("socket://127.0.0.1:1", "Connection refused"),
    ],
)
def test_a_port_that_is_not_there_is_one_error_and_not_tried_again(tmp_path, capsys, port, why):
    folder = str(tmp_path / "operator")
    assert main(["-C", folder, "init", "--broker", "mqtt://192.0.2.1"]) == 0
    (tmp_path / "wamr_ota-0.1.0-py3-none-linux_armv7l.whl").touch()
    capsys.readouterr()
    assert main(["-C", folder, "flash", "qemu-armv7", "--port", port, "--device", "roof-1", "--wheels", str(tmp_path)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"ota: the serial port cannot be opened: {port}: ")
    assert why in said[0]


def test_a_port_that_was_there_once_is_waited_for(tmp_path, monkeypatch):
    """Only one that never was is an error: a cable may be pulled at any time."""
    opened, notes = [], []

    class Gone:
        def write(self, data):
            raise LineLost("the line is gone")

        def close(self):
            pass

    def open_line():
        opened.append(True)
        if len(opened) > 2:
            raise LineLost("/dev/ttyUSB0: No such file or directory")
        return Gone()

    monkeypatch.setattr("boards.flash.time.sleep", lambda seconds: None)
    flasher = Flasher(None, tmp_path, tmp_path, open_line, None, None, patience_s=0.2, note=notes.append)
    with pytest.raises(BoardError, match="ttyUSB0"):
        flasher.look()
    assert len(opened) > 3
    assert notes[0] == "the line is gone; trying again"


def test_a_board_whose_kernel_lacks_a_measure_of_confinement_is_told_of(tmp_path, monkeypatch):
    notes = []
    flasher = Flasher(None, tmp_path, tmp_path, None, None, None, note=notes.append)
    monkeypatch.setattr(flasher, "_again", lambda step: step())
    answer = {"good": True, "why": "", "measures": ["seccomp", "no-new-privileges"]}
    monkeypatch.setattr(flasher, "_verb", lambda *words: answer)
    flasher._check(Tarball("new", b""))
    assert "cannot confine modules by landlock: none will run there unless" in notes[0]
    answer |= {"good": False, "why": "Traceback\n  File\nOSError: no such instruction"}
    with pytest.raises(BoardError, match="cannot run on this board:\n  Traceback\n    File\n  OSError: no such instruction"):
        flasher._check(Tarball("new", b""))

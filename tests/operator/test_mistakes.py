"""What people do wrong, and what the operator's commands say then: one line, nothing half done, no secret given away."""

import json
import os
import pty
import subprocess
import sys
import time

import pytest

from boards.errors import BoardError
from boards.image import check_parts
from ota.author.templates import LANGUAGES, create
from ota.cli import output
from ota.keyring import KeyFileError
from ota.operator.ca import CertificateAuthority
from ota.operator.workspace import Workspace
from tests.support.operator import ota
from tests.support.wat import contract_module

OTA = [sys.executable, "-m", "ota.cli.main"]


def test_an_init_that_fails_leaves_nothing_and_can_be_done_again(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "operator"
    with monkeypatch.context() as broken:
        broken.setattr(
            "ota.operator.workspace._settings_text", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        assert ota(folder, "init") == 1
    assert capsys.readouterr().err == "ota: No space left on device\n"
    assert not (folder / "keys").exists()
    assert ota(folder, "init") == 0


def test_keys_without_settings_are_not_overwritten(workspace, capsys):
    (workspace / "ota.toml").unlink()
    before = (workspace / "keys" / "root.pem").read_bytes()
    assert ota(workspace, "init") == 1
    assert "has keys and no ota.toml" in capsys.readouterr().err
    assert (workspace / "keys" / "root.pem").read_bytes() == before


def test_an_empty_passphrase_locks_nothing_and_is_refused(tmp_path, capsys):
    (tmp_path / "empty").write_text("\n")
    assert ota(tmp_path / "operator", "init", "--passphrase-file", tmp_path / "empty") == 1
    assert capsys.readouterr().err == "ota: an empty passphrase locks nothing\n"
    assert not (tmp_path / "operator" / "keys").exists()


def test_who_sits_at_a_terminal_is_asked_for_the_passphrase(tmp_path, modules):
    (tmp_path / "secret").write_text("correct horse")
    assert ota(tmp_path / "operator", "init", "--passphrase-file", tmp_path / "secret") == 0
    master, slave = pty.openpty()
    command = [*OTA, "-C", str(tmp_path / "operator"), "build", str(modules / "tally.wasm"), "-o", str(tmp_path / "dist")]
    asked = subprocess.Popen(command, stdin=slave, stderr=subprocess.PIPE, bufsize=0, start_new_session=True)
    assert asked.stderr is not None
    seen = b""
    while b"release.pem: " not in seen:
        seen += (more := asked.stderr.read(1))
        assert more, seen
    time.sleep(0.1)  # what was typed before the question is dropped
    os.write(master, b"correct horse\n")
    assert asked.wait(30) == 0
    asked.stderr.close()
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize("version", ["../../evil", "", "a b", "x" * 100, "/etc/evil"])
def test_a_version_is_no_path(workspace, modules, tmp_path, capsys, version):
    out = tmp_path / "a" / "b" / "c"
    assert ota(workspace, "build", modules / "tally.wasm", "-o", out, "--version", version) == 1
    assert "is no version" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_what_is_built_is_not_built_otherwise(workspace, modules, tmp_path, capsys):
    assert ota(workspace, "build", modules / "tally.wasm", "-o", tmp_path) == 0
    (built,) = [each for each in tmp_path.iterdir() if each.name.startswith("tally-")]
    for option in (("--version", "9"), ("--board", "raspberry-pi-4"), ("--aot", "x86_64")):
        assert ota(workspace, "publish", built, "--dry-run", *option) == 1
        assert f"is built and signed already: {option[0]} is for a .wasm" in capsys.readouterr().err


def test_a_dry_run_is_json_where_that_is_asked_for(workspace, modules, capsys):
    assert ota(workspace, "publish", modules / "tally.wasm", "--dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["sent"], found["group"], found["chunks"]) == (False, "lab", 1)


def test_a_module_without_description_is_noted(workspace, tmp_path, capsys):
    (tmp_path / "lone.wasm").write_bytes(contract_module())
    assert ota(workspace, "publish", tmp_path / "lone.wasm", "--dry-run") == 0
    assert "no event will reach it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [("publish", "x.wasm", "--wait", "-1"), ("logs", "--seconds", "0"), ("publish", "x", "--fraction", "0")]
)
def test_a_number_that_makes_no_sense_is_wrong_usage(words):
    assert subprocess.run([*OTA, *words], capture_output=True, check=False).returncode == 2


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_with_dashes_and_dots_stay_out_of_the_code(tmp_path, language):
    folder = create("9-a.b", language, tmp_path)
    assert "9-a.b" in (folder / "README.md").read_text()
    for path in folder.iterdir():
        if path.suffix in (".mjs", ".ts", ".rs", ".c", ".zig", ".wat"):
            assert all(line.lstrip().startswith(("/*", "//", ";;")) for line in path.read_text().splitlines() if "9-a.b" in line)
            assert "NAME" not in path.read_text().replace("NAMES", "")


def test_output_that_nobody_takes_is_no_traceback():
    for target in ("| true", "> /dev/full"):
        script = f"set -o pipefail; {' '.join(OTA)} boards {target}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
    assert (done.returncode, done.stderr) == (1, "ota: No space left on device\n")


def test_a_file_in_the_place_of_a_folder_is_one_line(workspace, modules, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert ota(workspace, "build", modules / "tally.wasm", "-o", tmp_path / "file") == 1
    captured = capsys.readouterr().err
    assert captured.startswith("ota: ")
    assert captured.count("\n") == 1


def test_what_boards_say_does_not_move_the_cursor(capsys):
    output.note("board: \x1b[2Jfailed")
    output.result(output.table(("device",), (("a\nforged\x1b[31m",),)))
    captured = capsys.readouterr()
    assert captured.err == "board: \\x1b[2Jfailed\n"
    assert captured.out == "device\na\\nforged\\x1b[31m\n"


def test_the_operators_keys_do_not_go_onto_a_card(workspace, tmp_path):
    with pytest.raises(BoardError, match="`ota settings` makes"):
        check_parts(workspace, None)
    (workspace / "agent.toml").write_text("")
    with pytest.raises(BoardError, match="is a private key of the operator's"):
        check_parts(workspace, None)
    with pytest.raises(BoardError, match="`ota build` makes"):
        check_parts(None, tmp_path)


def test_what_fits_on_a_card_is_not_refused(workspace, tmp_path):
    board = tmp_path / "board"
    assert (
        ota(workspace, "settings", "b1", "--board", "generic-armv7", "--broker", "mqtt://192.0.2.1", "--no-token", "-o", board) == 0
    )
    check_parts(board, None)


@pytest.mark.parametrize("vendor", ["", "not a domain", "example", "-a.com", 'a".com', "a..com", "a.--", "\N{KELVIN SIGN}.com"])
def test_a_vendor_is_a_domain_name(tmp_path, capsys, vendor):
    assert ota(tmp_path / "operator", "init", f"--vendor={vendor}") == 1
    assert "is not a domain name" in capsys.readouterr().err
    assert not (tmp_path / "operator" / "keys").exists()


def test_the_authority_of_a_locked_workspace_is_never_unlocked(tmp_path):
    (tmp_path / "secret").write_text("correct horse")
    folder = tmp_path / "operator"
    assert ota(folder, "init", "--passphrase-file", tmp_path / "secret") == 0
    with pytest.raises(KeyFileError, match="is locked"):
        CertificateAuthority(Workspace.open(folder))
    assert not (folder / "keys" / "ca.pem").exists()
    CertificateAuthority(Workspace.open(folder, b"correct horse"))
    assert b"ENCRYPTED" in (folder / "keys" / "ca.pem").read_bytes()

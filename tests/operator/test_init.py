"""`ota init`: nothing half done, nothing overwritten; locked keys and their passphrase."""

import errno
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ota.errors import KeyFileError
from ota.operator.ca import CertificateAuthority
from ota.operator.workspace import STAGING, Workspace
from tests.support.operator import ota

OTA = [sys.executable, "-m", "ota.cli.main"]


def test_an_init_that_fails_leaves_nothing_and_can_be_done_again(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "operator"
    with monkeypatch.context() as broken:
        broken.setattr(
            "ota.operator.workspace._settings_text", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        assert ota(folder, "init") == 1
    assert capsys.readouterr().err == "ota: No space left on device\n"
    assert not folder.exists()
    assert ota(folder, "init") == 0


@pytest.mark.parametrize("at", range(5))
def test_a_full_disk_during_init_names_the_file_and_leaves_nothing(tmp_path, capsys, monkeypatch, at):
    done: list[int] = []

    def full(_: int) -> None:
        done.append(1)
        if len(done) > 2 * at:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        assert ota(tmp_path / "a" / "operator", "init") == 1
    message = capsys.readouterr().err
    assert message.startswith(f"ota: {tmp_path}/a/operator/")
    assert message.endswith(": No space left on device\n")
    assert not (tmp_path / "a").exists()
    assert ota(tmp_path / "a" / "operator", "init") == 0


@pytest.mark.parametrize("moved", range(3))
def test_an_init_that_was_cut_off_is_begun_anew(tmp_path, monkeypatch, moved):
    """Power is lost before each of the parts is moved into place: nothing cleans up."""
    folder, replace, calls = tmp_path / "operator", Path.replace, []

    class Cut(BaseException):
        pass

    def cut(self: Path, target: Path) -> Path:
        if self.parent.name == STAGING or self.parent.parent.name == STAGING:
            if not self.name.startswith("."):
                calls.append(self)
            if len(calls) > moved:
                raise Cut
        return replace(self, target)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", cut)
        broken.setattr("ota.operator.workspace._discard", lambda _: None)
        with pytest.raises(Cut):
            ota(folder, "init")
    assert (folder / STAGING / "ota.toml").exists()
    assert ota(folder, "init") == 0
    assert not (folder / STAGING).exists()
    Workspace.open(folder).root()


def test_a_root_of_trust_without_keys_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "trust").mkdir()
    (tmp_path / "trust" / "root.1.cbor").write_bytes(b"somebody's")
    assert ota(tmp_path, "init") == 1
    assert "has trust/root.1.cbor and no ota.toml" in capsys.readouterr().err
    assert (tmp_path / "trust" / "root.1.cbor").read_bytes() == b"somebody's"


def test_init_says_whether_the_keys_are_locked(tmp_path, capsys):
    (tmp_path / "secret").write_text("correct horse")
    assert ota(tmp_path / "a", "init", "--no-passphrase") == 0
    assert "NOT locked: whoever can read them can sign" in capsys.readouterr().out
    assert ota(tmp_path / "b", "init", "--passphrase-file", tmp_path / "secret") == 0
    assert "locked with the passphrase" in capsys.readouterr().out


def test_init_at_a_terminal_asks_for_a_passphrase(tmp_path):
    master, slave = pty.openpty()
    asked = subprocess.Popen(
        [*OTA, "-C", str(tmp_path / "o"), "init"], stdin=slave, stderr=subprocess.PIPE, bufsize=0, start_new_session=True
    )
    assert asked.stderr is not None
    seen = b""
    for question in (b"do not lock them): ", b"once more: "):
        while not seen.endswith(question):
            seen += (more := asked.stderr.read(1))
            assert more, seen
        time.sleep(0.1)  # what was typed before the question is dropped
        os.write(master, b"correct horse\n")
    assert asked.wait(60) == 0
    asked.stderr.close()
    os.close(master)
    os.close(slave)
    assert b"ENCRYPTED" in (tmp_path / "o" / "keys" / "root.pem").read_bytes()


def test_keys_without_settings_are_not_overwritten(workspace, capsys):
    (workspace / "ota.toml").unlink()
    before = (workspace / "keys" / "root.pem").read_bytes()
    assert ota(workspace, "init") == 1
    assert "has keys and no ota.toml" in capsys.readouterr().err
    assert (workspace / "keys" / "root.pem").read_bytes() == before


def test_an_empty_passphrase_locks_nothing_and_is_refused(tmp_path, capsys):
    (tmp_path / "empty").write_text("\n")
    assert ota(tmp_path / "operator", "init", "--passphrase-file", tmp_path / "empty") == 1
    assert capsys.readouterr().err == f"ota: {tmp_path / 'empty'} is empty: a passphrase is expected in it\n"
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
    assert asked.wait(60) == 0
    asked.stderr.close()
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize("vendor", ["", "not a domain", "example", "-a.com", 'a".com', "a..com", "a.--", "\N{KELVIN SIGN}.com"])
def test_a_vendor_is_a_domain_name(tmp_path, capsys, vendor):
    with pytest.raises(SystemExit) as ended:
        ota(tmp_path / "operator", "init", f"--vendor={vendor}")
    assert ended.value.code == 2
    assert "is not a domain name" in capsys.readouterr().err
    assert not (tmp_path / "operator" / "keys").exists()


def test_the_authority_of_a_locked_workspace_is_never_unlocked(tmp_path):
    (tmp_path / "secret").write_text("correct horse")
    folder = tmp_path / "operator"
    assert ota(folder, "init", "--passphrase-file", tmp_path / "secret") == 0
    assert b"ENCRYPTED" in (folder / "keys" / "ca.pem").read_bytes()
    (folder / "keys" / "ca.pem").unlink()
    (folder / "trust" / "ca.pem").unlink()
    with pytest.raises(KeyFileError, match="is locked"):
        CertificateAuthority(Workspace.open(folder))
    assert not (folder / "keys" / "ca.pem").exists()
    CertificateAuthority(Workspace.open(folder, b"correct horse"))
    assert b"ENCRYPTED" in (folder / "keys" / "ca.pem").read_bytes()

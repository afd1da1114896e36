"""Ctrl-C at a bad moment, and two commands at the same moment: nothing half done, no traceback."""

import os

import pytest

from ota.cli import certificates, flash
from ota.durable import write_durably
from tests.support.operator import ota


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_file_that_is_being_written_leaves_nothing_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_durably(tmp_path / "key.pem", b"secret", 0o600)
    assert list(tmp_path.iterdir()) == []


def test_settings_that_are_not_whole_do_not_stand_in_the_way_of_the_next_attempt(workspace, tmp_path, monkeypatch):
    words = ("settings", "b1", "--board", "generic-armv7", "--broker", "mqtt://192.0.2.1", "-o", tmp_path / "b1")
    with monkeypatch.context() as broken:
        broken.setattr(flash, "write_durably", interrupt)
        assert ota(workspace, *words) == 130
    assert not (tmp_path / "b1").exists()
    assert ota(workspace, *words) == 0


@pytest.mark.parametrize("fails", ["make_token", "write_durably"])
def test_a_token_that_was_not_written_leaves_no_file(workspace, tmp_path, monkeypatch, fails):
    with monkeypatch.context() as broken:
        broken.setattr(certificates, fails, interrupt)
        assert ota(workspace, "token", "b1", "-o", tmp_path / "token") == 130
    assert not (tmp_path / "token").exists()
    assert ota(workspace, "token", "b1", "-o", tmp_path / "token") == 0


def test_two_tokens_at_the_same_moment_do_not_get_one_file(workspace, tmp_path, monkeypatch, capsys):
    """The first one would be good for its time, and nobody would have it."""
    make, codes = certificates.make_token, []

    def meanwhile(*arguments):
        monkeypatch.setattr(certificates, "make_token", make)
        codes.append(ota(workspace, "token", "b2", "-o", tmp_path / "token"))
        return make(*arguments)

    monkeypatch.setattr(certificates, "make_token", meanwhile)
    assert ota(workspace, "token", "b1", "-o", tmp_path / "token") == 0
    assert codes == [1]
    captured = capsys.readouterr()
    assert "token is there already" in captured.err
    assert "a token of b2" not in captured.out

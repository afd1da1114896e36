"""ca, token, retire and settings for a batch, as their users meet them."""

import json
import stat
import time
import tomllib

import pytest
from cryptography import x509

from ota.formats import topics
from ota.formats.enrolment import Token
from ota.operator import issued
from ota.operator.broker import Broker
from ota.operator.ca import CertificateAuthority, enrolled
from ota.operator.enrolment import new_token
from ota.operator.ledger import Ledger
from ota.operator.roster import Roster
from ota.operator.workspace import Workspace
from tests.support.boards_with_certificates import Board
from tests.support.operator import ota


def said(capsys):
    return json.loads(capsys.readouterr().out)


def test_the_authority_is_shown_rotated_and_switched(quick, capsys):
    folder = quick.folder
    Board("board-1").enrol(CertificateAuthority(quick.workspace))
    assert ota(folder, "ca", "rotate") == 0
    captured = capsys.readouterr()
    assert "devices of test.example 2 is believed until" in captured.out
    assert "copy this file to every broker that boards come to, then `ota ca switch`" in captured.err
    assert ota(folder, "ca", "rotate") == 1
    assert "has not signed yet" in capsys.readouterr().err
    assert ota(folder, "ca", "show", "--json") == 0
    assert [(each["use"], each["boards"]) for each in said(capsys)] == [("signs", 1), ("next", 0)]
    assert ota(folder, "ca", "switch") == 1  # nobody can be asked
    assert ota(folder, "ca", "switch", "--yes") == 0
    assert "devices of test.example 2 signs from now on" in capsys.readouterr().out
    assert ota(folder, "ca", "show") == 0
    assert "believed" in capsys.readouterr().out
    assert ota(folder, "audit", "verify") == 0


def test_the_authority_locked_with_a_passphrase_has_a_locked_successor(quick, tmp_path, capsys):
    secret, folder = tmp_path / "secret", tmp_path / "locked"
    secret.write_text("correct horse")
    assert ota(folder, "init", "--passphrase-file", secret) == 0
    assert ota(folder, "ca", "rotate") == 1
    assert "is locked" in capsys.readouterr().err
    assert ota(folder, "ca", "rotate", "--passphrase-file", secret) == 0
    assert b"ENCRYPTED" in (folder / "keys/ca-2.pem").read_bytes()


def test_retire_ends_certificate_tokens_retained_topics_and_the_place_in_the_list(quick, capsys):
    authority = CertificateAuthority(quick.workspace)
    board = Board("board-1").enrol(authority)
    new_token(quick.workspace, "board-1", 2_000_000_000, 3600)
    assert ota(quick.folder, "publish", quick.module(1), "--device", "board-1") == 0
    left = (topics.report("board-1"), topics.online("board-1"), topics.renewal_answer("board-1"))
    for topic in left:
        quick.put(topic, b"x")
    assert ota(quick.folder, "retire", "board-1", "--dry-run") == 0
    assert ota(quick.folder, "retire", "board-1") == 1  # nobody can be asked
    assert "board-1" in enrolled(quick.folder)
    capsys.readouterr()
    assert ota(quick.folder, "retire", "board-1", "--yes") == 0
    captured = capsys.readouterr()
    assert "board-1 is retired: 1 certificates, 1 tokens, 4 topics ended" in captured.out
    assert "copy" in captured.err
    assert [quick.retained(topic) for topic in (*left, topics.device_desired("board-1"))] == [None] * 4
    assert "board-1" not in Roster(quick.workspace).names
    assert quick.workspace.read("tokens.json") == {}
    assert [str(each.scope) for each in Ledger(quick.workspace).records()] == []
    crl = x509.load_pem_x509_crl((quick.folder / "trust/ca.crl").read_bytes())
    assert [each.serial_number for each in crl] == [board.chain[0].serial_number]
    # Again: nothing is left to be ended; and the name can be used again.
    assert ota(quick.folder, "retire", "board-1", "--yes", "--json") == 0
    assert said(capsys) == {"device": "board-1", "certificates": 0, "tokens": 0, "topics": 0, "missing": []}
    assert (
        ota(quick.folder, "settings", "board-1", "--board", "generic-aarch64", "-o", quick.root / "b", "--broker", "mqtt://b") == 1
    )
    assert "was retired" in capsys.readouterr().err
    refusal = topics.renewal_answer("board-1")
    with Broker(quick.workspace.settings) as broker:
        broker.publish_all([(refusal, b"device-retired")])
    assert ota(quick.folder, "retire", "board-1", "--undo") == 0
    assert quick.retained(refusal) is None
    assert ota(quick.folder, "retire", "board-1", "--undo") == 1
    assert issued.retired(quick.workspace) == {}
    assert ota(quick.folder, "audit", "verify") == 0


def test_retire_works_without_the_broker(workspace, capsys):
    new_token(Workspace.open(workspace), "board-1", 2_000_000_000, 3600)
    for _ in range(2):  # it is known as retired then
        assert ota(workspace, "retire", "board-1", "--yes", "--offline") == 0
        assert "copy" not in capsys.readouterr().err  # a token is on no list for brokers


def test_a_name_that_nobody_knows_is_refused_before_anything_is_signed(quick, capsys):
    new_token(quick.workspace, "board-1", 2_000_000_000, 3600)
    log = (quick.folder / "audit.log").read_bytes()
    for words in (
        ("retire", "board-1", "nobody", "--yes"),
        ("retire", "board-1", "nobody", "--dry-run"),
        ("devices", "--trust", "nobody"),
        ("devices", "--forget", "nobody"),
    ):
        assert ota(quick.folder, *words) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert "no board has the name nobody; `ota devices` lists the boards" in said.err
    assert (quick.folder / "audit.log").read_bytes() == log
    assert issued.retired(quick.workspace) == {}
    assert quick.workspace.read("tokens.json")
    assert ota(quick.folder, "publish", quick.module(1), "--device", "nobody") == 0
    assert ota(quick.folder, "retire", "nobody", "--yes") == 0  # something is deployed to it


def test_a_token_for_a_batch_goes_into_a_file_that_nobody_else_reads(workspace, tmp_path, capsys):
    file = tmp_path / "t"
    assert ota(workspace, "token", "pump-{serial}", "--count", "500", "--hours", "72", "-o", file) == 0
    assert "for 500 boards in the next 72 hours" in capsys.readouterr().out
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    Token.from_text(file.read_text())
    assert ota(workspace, "token", "pump-1", "-o", file) == 1
    assert "is there already" in capsys.readouterr().err
    assert ota(workspace, "token", "pump-1", "--count", "2", "-o", tmp_path / "u") == 1
    assert not (tmp_path / "u").exists()


@pytest.mark.parametrize("batch", [1, 20])
def test_settings_for_a_batch_of_boards_are_one_folder(workspace, tmp_path, batch, capsys):
    out = tmp_path / "b"
    words = ("settings", "pump-{serial}", "--batch", batch, "--board", "generic-aarch64", "-o", out, "--broker", "mqtts://b")
    assert ota(workspace, *words, "--enrol-at", "mqtts://b:8884") == 0
    assert tomllib.loads((out / "agent.toml").read_text())["device"]["id"] == "pump-{serial}"
    (about,) = json.loads((workspace / "tokens.json").read_text()).values()
    assert (about["names"], about["count"]) == ("pump-{serial}", batch)
    assert not (workspace / "roster.json").exists()


def test_a_batch_is_not_flashed(workspace, capsys):
    assert ota(workspace, "flash", "generic-aarch64", "--port", "/dev/null", "--device", "pump-{serial}") == 1
    assert "is for a batch of boards" in capsys.readouterr().err


def test_devices_names_boards_whose_card_was_copied(quick, capsys):
    authority = CertificateAuthority(quick.workspace)
    board = Board("board-1").enrol(authority)
    copy, now_s = Board("board-1", board.key, board.pem), int(time.time())
    assert [each.renew(quick.workspace, authority, now_s).reason for each in (board, copy)] == ["", "key-cloned"]
    assert ota(quick.folder, "devices") == 0
    assert "board-1: another key asked for its certificate" in capsys.readouterr().err
    ota(quick.folder, "devices", "--json")
    (found,) = said(capsys)["boards"]
    assert len(found["clones"]) == 1

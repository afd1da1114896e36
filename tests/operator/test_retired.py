"""Boards that are retired, lists of their certificates, and tokens for a production line."""

import shutil
import subprocess
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ota.errors import OtaError
from ota.formats.broker_url import BrokerUrl
from ota.formats.enrolment import Request, Token, address, allows, is_pattern
from ota.formats.reasons import Reason
from ota.operator import issued
from ota.operator.ca import CertificateAuthority, RequestRefused, enrolled
from ota.operator.enrolment import answer, drop_tokens, new_token
from ota.operator.retire import CRL_FILE, write_crl
from ota.operator.workspace import Settings, Workspace
from tests.support.boards_with_certificates import Board, csr
from tests.support.renewing import NOW_S, Clock, refusal


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def workspace(tmp_path):
    settings = Settings("test.example", BrokerUrl.parse("mqtt://broker"), "lab")
    return Workspace.create(tmp_path / "operator", settings, NOW_S, "ed25519")


@pytest.fixture
def authority(workspace, clock):
    return CertificateAuthority(workspace, now_s=clock)


@pytest.fixture
def board(authority):
    return Board("board-1").enrol(authority)


# -- boards that are retired


def test_a_retired_board_is_in_the_list_of_its_authority_and_is_refused(workspace, authority, board, clock, tmp_path):
    other = Board("board-2").enrol(authority)
    authority.rotate()
    assert [each.serial for each in issued.retire(workspace, "board-1", clock.now_s)] == [board.chain[0].serial_number]
    lists = [part + b"-----END X509 CRL-----\n" for part in authority.crl().pem.split(b"-----END X509 CRL-----\n")[:-1]]
    read = [x509.load_pem_x509_crl(each) for each in lists]
    assert [each.is_signature_valid(by.public_key()) for each, by in zip(read, authority.certificates, strict=True)] == [True, True]
    assert read[0].get_revoked_certificate_by_serial_number(board.chain[0].serial_number) is not None
    assert read[0].get_revoked_certificate_by_serial_number(other.chain[0].serial_number) is None
    assert read[0].next_update_utc >= authority.certificates[0].not_valid_after_utc
    assert board.renew(workspace, authority, clock.now_s).reason == "device-retired"
    assert other.renew(workspace, authority, clock.now_s).reason == ""
    with pytest.raises(RequestRefused, match="was retired"):
        Board("board-1").enrol(authority)
    with pytest.raises(OtaError, match="was retired: `ota retire board-1 --undo`"):
        new_token(workspace, "board-1", clock.now_s, 60)
    if shutil.which("openssl"):
        (tmp_path / "crl.pem").write_bytes(authority.crl().pem)
        for name, each, code in (("good", other, 0), ("gone", board, 2)):
            (tmp_path / f"{name}.pem").write_bytes(each.chain[0].public_bytes(Encoding.PEM))
            command = ["openssl", "verify", "-crl_check", "-CRLfile", tmp_path / "crl.pem", "-attime", str(NOW_S + 60)]
            done = subprocess.run([*command, "-CAfile", authority.certificate_file, tmp_path / f"{name}.pem"], capture_output=True)
            assert done.returncode == code, done.stderr


def test_lists_of_authorities_whose_key_is_elsewhere_are_kept_and_named(workspace, authority, board, clock):
    write_crl(workspace, authority)
    authority.rotate()
    authority.switch()
    (workspace.folder / "keys/ca.pem").rename(workspace.folder / "keys/elsewhere")
    again = CertificateAuthority(workspace, now_s=clock)
    other = Board("board-2").enrol(again)
    issued.retire(workspace, "board-2", clock.now_s)
    (missing,) = write_crl(workspace, again)
    assert "the key of CN=devices of test" in missing
    assert missing.endswith("its last list is kept")
    file = workspace.folder / "trust" / CRL_FILE
    read = [
        x509.load_pem_x509_crl(part + b"-----END X509 CRL-----\n")
        for part in file.read_bytes().split(b"-----END X509 CRL-----\n")[:-1]
    ]
    assert [each.is_signature_valid(by.public_key()) for each, by in zip(read, again.certificates, strict=True)] == [True, True]
    assert read[0].get_revoked_certificate_by_serial_number(other.chain[0].serial_number) is not None
    file.unlink()
    assert again.crl().missing[0].endswith("it has no list, and a broker that wants one refuses its boards")
    (workspace.folder / "keys/elsewhere").rename(workspace.folder / "keys/ca.pem")
    assert CertificateAuthority(workspace, now_s=clock).crl().missing == ()


def test_a_name_that_is_taken_back_is_good_for_another_board_and_not_for_the_old_one(workspace, authority, board, clock):
    issued.retire(workspace, "board-1", clock.now_s)
    assert issued.take_back(workspace, "board-1")
    assert not issued.take_back(workspace, "board-1")
    Board("board-1").enrol(authority)
    assert board.renew(workspace, authority, clock.now_s).reason == "device-retired"
    assert [each.serial for each in issued.revoked(workspace)] == [board.chain[0].serial_number]


def test_a_board_that_renews_without_end_keeps_no_certificate_from_being_revoked(workspace, authority, board, clock, monkeypatch):
    monkeypatch.setattr(issued, "KEPT", 4)
    serials = {board.chain[0].serial_number}
    while not (reason := board.renew(workspace, authority, clock.now_s).reason):
        serials.add(board.chain[0].serial_number)
    assert (reason, len(serials)) == ("request-invalid", 4)
    for _ in range(2):  # the operator has it enrolled again
        serials.add(board.enrol(authority).chain[0].serial_number)
    assert {each.serial for each in issued.retire(workspace, "board-1", clock.now_s)} == serials


def test_certificates_that_have_ended_are_forgotten_in_time(workspace, authority, board, clock, monkeypatch):
    monkeypatch.setattr(issued, "KEPT", 4)
    for _ in range(10):
        clock.days(60)
        assert board.renew(workspace, authority, clock.now_s).reason == ""
    assert len(issued.history(workspace, "board-1")) == 4


@pytest.mark.parametrize("grace_days", [365, 1000])
def test_a_certificate_that_ended_before_its_board_was_retired_gets_no_name_that_was_taken_back(
    workspace, authority, board, clock, grace_days
):
    workspace.settings = replace(workspace.settings, renewal_grace_days=grace_days)
    clock.days(90 + grace_days - 2)
    issued.retire(workspace, "board-1", clock.now_s)
    clock.days(1)
    issued.retire(workspace, "board-2", clock.now_s)  # forgets what is over
    assert issued.take_back(workspace, "board-1")
    assert board.renew(workspace, authority, clock.now_s).reason == "device-retired"


def test_a_token_for_a_retired_name_is_refused(workspace, authority, clock):
    single, batch = new_token(workspace, "pump-1", NOW_S, 60), new_token(workspace, "pump-{serial}", NOW_S, 60, 5)
    issued.retire(workspace, "pump-1", NOW_S)
    request = Request.make(batch, "pump-1", csr("pump-1", Board("x").key))
    assert answer(workspace, authority, request.to_bytes(), NOW_S)[1].reason == "device-retired"
    assert drop_tokens(workspace, "pump-1") == 1
    request = Request.make(single, "pump-1", csr("pump-1", Board("x").key))
    assert refusal(answer, workspace, authority, request.to_bytes(), NOW_S) is Reason.REQUEST_INVALID


# -- tokens for a production line


def enrols(workspace, authority, token, name, now_s=NOW_S):
    data = Request.make(token, name, csr(name, Board("x").key)).to_bytes()
    return answer(workspace, authority, data, now_s)[1].reason


def test_a_batch_token_enrols_so_many_boards_with_names_by_serial_number(workspace, authority):
    token = new_token(workspace, "pump-{serial}", NOW_S, 3600, 3)
    assert [enrols(workspace, authority, token, f"pump-{serial}") for serial in ("a1", "a2", "a3")] == [""] * 3
    assert enrols(workspace, authority, token, "pump-a4") == "token-used"
    assert enrols(workspace, authority, token, "pump-a1") == "token-used"
    assert sorted(enrolled(workspace.folder)) == ["pump-a1", "pump-a2", "pump-a3"]


@pytest.mark.parametrize(
    ("name", "reason"), [("fan-a1", "request-invalid"), ("pump-", "request-invalid"), ("pump-old", "name-taken")]
)
def test_a_batch_token_takes_no_other_name_and_none_that_a_board_has(workspace, authority, name, reason):
    Board("pump-old").enrol(authority)
    token = new_token(workspace, "pump-{serial}", NOW_S, 3600, 3)
    assert enrols(workspace, authority, token, name) == reason
    assert enrols(workspace, authority, token, "pump-new", NOW_S + 3601) == "token-expired"
    assert sorted(enrolled(workspace.folder)) == ["pump-old"]


@pytest.mark.parametrize(
    ("names", "count"), [("pump-1", 2), ("pump-{serial}", 0), ("{serial}-{serial}", 2), ("a b", 1), ("pump-{x}", 2)]
)
def test_a_batch_token_that_makes_no_sense_is_refused(workspace, names, count):
    with pytest.raises(OtaError):
        new_token(workspace, names, NOW_S, 60, count)


def test_names_by_pattern():
    assert [is_pattern(each) for each in ("pump-{serial}", "{serial}", "pump", "{serial}{serial}", ".{serial}", "a/{serial}")] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert allows("a-{serial}-b", "a-1-b")
    assert not allows("a-{serial}-b", "a--b")
    assert not allows("a-{serial}", "a-" + "1" * 64)


def test_nobody_who_has_not_read_a_request_can_name_its_topic(workspace, authority):
    token = Token(bytes(8), bytes(32))
    first, second = (Request.make(token, "board-1", csr("board-1", Board("x").key)) for _ in range(2))
    assert address(first.signing_request) != address(second.signing_request)
    assert token.identifier.hex() not in address(first.signing_request)


def test_requests_that_prove_nothing_cost_the_workspace_no_write(workspace, authority):
    token = new_token(workspace, "board-1", NOW_S, 60)
    before = (workspace.folder / "tokens.json").stat()
    forged = Request.make(Token(token.identifier, bytes(32)), "board-1", csr("board-1", Board("x").key))
    assert refusal(answer, workspace, authority, forged.to_bytes(), NOW_S) is Reason.REQUEST_INVALID
    assert (workspace.folder / "tokens.json").stat().st_mtime_ns == before.st_mtime_ns

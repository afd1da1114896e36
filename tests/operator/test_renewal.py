"""Renewal, the authority's successor, retirement and copied cards, as the operator decides them. The clock is the test's."""

import datetime
import shutil

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from device_agent.broker.identity import Identity
from ota.errors import OtaError
from ota.formats.broker_url import BrokerUrl
from ota.formats.cose import VerifyKey
from ota.formats.enrolment import Request
from ota.formats.reasons import Reason, Refused
from ota.formats.renewal import REQUEST_TYPE, RenewalAnswer, RenewalRequest, SignedRequest
from ota.keyring import SigningKey, sign_document
from ota.operator import issued
from ota.operator.ca import CertificateAuthority, RequestRefused, enrolled
from ota.operator.enrolment import answer, new_token
from ota.operator.renewal import answer_renewal
from ota.operator.signers import Signers
from ota.operator.workspace import Settings, Workspace
from tests.support.boards_with_certificates import Board, csr
from tests.support.fleet import report
from tests.support.renewing import NOW_S, Clock, refusal
from tests.support.reports import signed


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


def asked(workspace, authority, board, clock, **how):
    """The answer to a request of a board, read by it."""
    request, data = board.asks(**how)
    made, outcome = answer_renewal(workspace, authority, data, clock.now_s)
    return board.believes(made, request), outcome


def test_a_board_gets_its_next_certificate_for_its_next_key(workspace, authority, board, clock):
    first = board.chain[0]
    assert first.not_valid_after_utc - first.not_valid_before_utc == datetime.timedelta(days=91)  # a day of it is past
    clock.days(60)
    key = ec.generate_private_key(ec.SECP256R1())
    read, outcome = asked(workspace, authority, board, clock, key=key)
    leaf, issuer = x509.load_pem_x509_certificates(read.certificate)
    leaf.verify_directly_issued_by(issuer)
    assert leaf.public_key() == key.public_key()
    assert (outcome.device, outcome.reason, outcome.renewed, outcome.repeated) == ("board-1", "", True, False)
    assert enrolled(workspace.folder)["board-1"].serial == leaf.serial_number
    assert [each.parent for each in issued.history(workspace, "board-1")] == ["", f"{board.chain[0].serial_number:040x}"]


def test_the_same_request_gets_the_same_certificate(workspace, authority, board, clock):
    request, data = board.asks()
    first, _ = answer_renewal(workspace, authority, data, clock.now_s)
    again, outcome = answer_renewal(workspace, authority, data, clock.now_s + 5)
    assert board.believes(again, request) == board.believes(first, request)
    assert outcome.repeated
    assert len(issued.history(workspace, "board-1")) == 2


def test_the_brokers_authorities_come_with_the_certificate(workspace, authority, board, clock):
    (workspace.folder / "broker-ca.pem").write_bytes(b"those of the broker")
    (workspace.folder / "ota.toml").write_text(
        'vendor = "test.example"\nbroker = "mqtts://b"\ngroup = "lab"\nca_file = "broker-ca.pem"\n'
    )
    read, _ = asked(Workspace.open(workspace.folder), authority, board, clock)
    assert read.authorities == b"those of the broker"


def test_a_request_signed_by_another_key_than_the_certificates_gets_no_answer(workspace, authority, board, clock):
    thief = Board("board-1", pem=board.pem)
    _, data = thief.asks()
    assert refusal(answer_renewal, workspace, authority, data, clock.now_s) is Reason.SIGNATURE_INVALID


def test_a_board_cannot_renew_the_certificate_of_another(workspace, authority, board, clock):
    _, data = board.asks(name="board-2")
    assert refusal(answer_renewal, workspace, authority, data, clock.now_s) is Reason.CERTIFICATE_UNKNOWN
    request = RenewalRequest("board-1", csr("board-2", board.key))
    data = board.identity.sign1(request.to_payload(), REQUEST_TYPE)
    made, outcome = answer_renewal(workspace, authority, data, clock.now_s)
    assert board.believes(made, request).reason == outcome.reason == "request-invalid"
    assert list(enrolled(workspace.folder)) == ["board-1"]


def test_a_certificate_of_another_authority_gets_no_answer(workspace, authority, clock, tmp_path):
    settings = Settings("test.example", BrokerUrl.parse("mqtt://broker"), "lab")
    other = CertificateAuthority(Workspace.create(tmp_path / "other", settings, NOW_S, "ed25519"), now_s=clock)
    _, data = Board("board-1").enrol(other).asks()
    assert refusal(answer_renewal, workspace, authority, data, clock.now_s) is Reason.CERTIFICATE_UNKNOWN


def test_a_brokers_key_does_not_get_the_certificate_of_a_board_with_the_name_of_its_host(workspace, authority, board, clock):
    pem, key = authority.server("board-1")
    broker = Board("board-1", load_pem_private_key(key, None), pem)
    _, data = broker.asks()
    assert refusal(answer_renewal, workspace, authority, data, clock.now_s) is Reason.CERTIFICATE_UNKNOWN
    said = signed(report("board-1", counter=1), broker.identity)
    assert refusal(Signers(workspace).report, "board-1", said, clock.now_s) is Reason.REPORT_FORGED


def test_another_kind_of_signed_message_is_no_request(board):
    request, _ = board.asks()
    data = board.identity.sign1(request.to_payload(), "application/vnd.wamr-ota.report+cbor")
    assert refusal(SignedRequest.from_bytes, data) is Reason.MALFORMED
    assert refusal(SignedRequest.from_bytes, bytes(20_000)) is Reason.TOO_LARGE


def test_an_expired_certificate_is_renewed_within_the_grace_time_and_not_after(workspace, authority, board, clock):
    clock.days(90 + 364)
    read, outcome = asked(workspace, authority, board, clock)
    assert (outcome.reason, bool(read.certificate)) == ("", True)
    late = Board("board-2").enrol(authority)
    clock.days(90 + 366)
    read, outcome = asked(workspace, authority, late, clock)
    assert (read.reason, read.certificate) == ("certificate-expired", b"")
    assert "renewal_grace_days" in outcome.detail


def test_a_copied_card_is_found_when_both_renew_and_named(workspace, authority, board, clock):
    copy = Board("board-1", board.key, board.pem)
    assert board.renew(workspace, authority, clock.now_s).reason == ""
    outcome = copy.renew(workspace, authority, clock.now_s)
    assert outcome.reason == "key-cloned"
    assert VerifyKey(board.key.public_key()).key_id.hex()[:16] in outcome.detail
    assert list(issued.clones(workspace)) == ["board-1"]
    # The board that was first goes on.
    clock.days(60)
    assert board.renew(workspace, authority, clock.now_s).reason == ""


def test_a_card_that_was_copied_before_it_was_enrolled_is_found(workspace, authority, clock):
    token = new_token(workspace, "board-1", NOW_S, 3600)
    requests = [Request.make(token, "board-1", csr("board-1", Board("x").key)).to_bytes() for _ in range(2)]
    outcomes = [answer(workspace, authority, data, NOW_S)[2] for data in requests]
    assert [each.reason for each in outcomes] == ["", "token-used"]
    assert "was its card copied?" in outcomes[1].detail
    assert len(issued.clones(workspace)["board-1"].keys) == 1


def test_a_board_whose_name_was_enrolled_again_is_named_when_it_renews(workspace, authority, board, clock):
    clock.days(1)
    Board("board-1").enrol(authority)
    assert board.renew(workspace, authority, clock.now_s).reason == "key-cloned"


def test_a_certificate_that_the_broker_refused_may_be_replaced_by_another(workspace, authority, board, clock):
    read, _ = asked(workspace, authority, board, clock)
    serial = x509.load_pem_x509_certificate(read.certificate).serial_number.to_bytes(20)
    again, outcome = asked(workspace, authority, board, clock, refused=serial)
    assert outcome.reason == ""
    assert again.certificate != read.certificate
    # Not so for one that knows nothing of the first: two boards.
    assert asked(workspace, authority, board, clock)[1].reason == "key-cloned"
    assert issued.history(workspace, "board-1")[-1].certificate.encode() in again.certificate


@pytest.mark.parametrize("generations", [1, 2])
def test_a_thief_of_an_old_key_does_not_get_the_name_by_calling_its_successor_refused(
    workspace, authority, board, clock, generations
):
    thief = Board("board-1", board.key, board.pem)
    for _ in range(generations):
        clock.days(60)
        assert board.renew(workspace, authority, clock.now_s).reason == ""
    serial = bytes.fromhex(issued.history(workspace, "board-1")[1].serial)
    signers = Signers(workspace)
    if generations == 1:  # else the certificate was renewed, which says as much
        signers.report("board-1", signed(report("board-1", counter=1), board.identity), clock.now_s)
        signers.save()
    outcome = asked(workspace, authority, thief, clock, refused=serial)[1]
    assert (outcome.reason, "which was used since" in outcome.detail) == ("key-cloned", True)
    clock.days(60)
    assert board.renew(workspace, authority, clock.now_s).reason == ""


def test_an_old_request_that_is_replayed_does_not_take_the_name_from_its_board(workspace, authority, board, clock):
    clock.days(60)
    key = ec.generate_private_key(ec.SECP256R1())
    request, old = board.asks(key)
    board.pem, board.key = board.believes(answer_renewal(workspace, authority, old, clock.now_s)[0], request).certificate, key
    clock.days(60)
    assert board.renew(workspace, authority, clock.now_s).reason == ""
    clock.days(50)  # what it brought has ended
    assert answer_renewal(workspace, authority, old, clock.now_s)[1].reason == "request-invalid"
    assert not issued.clones(workspace)
    assert board.renew(workspace, authority, clock.now_s).reason == ""


def test_a_request_that_stayed_on_the_broker_does_not_lock_out_a_board_that_slept(workspace, authority, board, clock):
    clock.days(60)
    key = ec.generate_private_key(ec.SECP256R1())
    request, old = board.asks(key)
    board.pem, board.key = board.believes(answer_renewal(workspace, authority, old, clock.now_s)[0], request).certificate, key
    clock.days(100)  # power was cut before the board took its request away
    answer_renewal(workspace, authority, old, clock.now_s)
    assert board.renew(workspace, authority, clock.now_s).reason == ""
    clock.days(60)
    assert board.renew(workspace, authority, clock.now_s).reason == ""
    assert not issued.clones(workspace)


def test_renewal_goes_on_in_a_workspace_that_lost_its_records(workspace, authority, board, clock):
    shutil.rmtree(workspace.folder / "devices")
    assert board.renew(workspace, authority, clock.now_s).reason == ""
    assert len(issued.history(workspace, "board-1")) == 2


# -- answers that a board does not believe


def test_an_answer_is_believed_of_the_authority_alone_for_this_board_and_request(authority, board):
    request, _ = board.asks()
    good = RenewalAnswer("board-1", request.mark, board.pem)
    signer = authority.authority(authority.certificates[0]).key
    kind = "application/vnd.wamr-ota.renewal-answer+cbor"

    def sent(made, key=signer, kind=kind):
        return sign_document(made.to_payload(), kind, [key])

    assert board.believes(sent(good), request) == good
    assert refusal(board.believes, sent(good, SigningKey.generate("es256")), request) is Reason.SIGNER_UNKNOWN
    assert refusal(board.believes, sent(good, kind="application/x"), request) is Reason.SIGNATURE_INVALID
    for wrong in (RenewalAnswer("board-2", request.mark, board.pem), RenewalAnswer("board-1", bytes(32), board.pem)):
        assert refusal(board.believes, sent(wrong), request) is Reason.REQUEST_INVALID
    for wrong in (
        RenewalAnswer("board-1", request.mark),
        RenewalAnswer("board-1", request.mark, board.pem, b"", "key-cloned"),
        RenewalAnswer("board-1", request.mark, b"", b"", "because"),
    ):
        assert refusal(board.believes, sent(wrong), request) is Reason.MALFORMED
    changed = bytearray(sent(good))
    changed[40] ^= 1
    with pytest.raises(Refused):
        board.believes(bytes(changed), request)


# -- the authority's successor


def rotated(workspace, authority, boards, clock):
    """Every step of a rotation, the boards renewing in their time; names of boards that were lost."""
    authority.rotate()
    before = [each.renew(workspace, authority, clock.now_s).reason for each in boards]
    authority.switch()
    clock.days(60)
    after = [each.renew(workspace, authority, clock.now_s).reason for each in boards]
    newest = authority.certificates[0]
    by_newest = [each.chain[1] == newest for each in boards]
    return [
        each.name
        for each, first, then, reached in zip(boards, before, after, by_newest, strict=True)
        if first or then or not reached
    ]


def test_the_authority_rotates_with_overlap_and_no_board_is_lost(workspace, authority, clock):
    boards = [Board(f"board-{number}").enrol(authority) for number in range(5)]
    asleep = Board("asleep").enrol(authority)
    assert rotated(workspace, authority, boards, clock) == []
    assert len(x509.load_pem_x509_certificates(authority.certificate_file.read_bytes())) == 2
    # One that slept meanwhile is answered by the authority that it knows, and gets a certificate of the next one.
    clock.days(100)
    assert asleep.renew(workspace, authority, clock.now_s).reason == ""
    assert asleep.chain[1] == authority.certificates[0]


@pytest.mark.full
def test_500_boards_go_through_a_rotation_of_the_authority(workspace, authority, clock):
    boards = [Board(f"board-{number}").enrol(authority) for number in range(500)]
    assert rotated(workspace, authority, boards, clock) == []
    assert len(enrolled(workspace.folder)) == 500


def test_the_next_authority_signs_only_after_the_switch(workspace, authority, board, clock):
    with pytest.raises(OtaError, match="`ota ca rotate` makes one"):
        authority.switch()
    made = authority.rotate()
    assert made.subject != authority.certificates[0].subject
    with pytest.raises(OtaError, match="has not signed yet: `ota ca switch`"):
        authority.rotate()
    assert CertificateAuthority(workspace, now_s=clock).certificates == authority.certificates
    assert Board("board-2").enrol(authority).chain[1] == board.chain[1]
    authority.switch()
    assert Board("board-3").enrol(CertificateAuthority(workspace, now_s=clock)).chain[1] == made


def test_a_certificate_never_outlasts_its_authority_and_an_authority_that_ended_is_dropped(workspace, authority, clock):
    clock.days(3650 - 10)
    first = authority.certificates[0]
    assert Board("board-1").enrol(authority).chain[0].not_valid_after_utc == first.not_valid_after_utc
    clock.days(20)
    with pytest.raises(RequestRefused, match="the authority ended on"):
        Board("board-2").enrol(authority)
    authority.rotate()
    authority.switch()
    assert Board("board-2").enrol(authority).chain[1] == authority.certificates[0]
    clock.days(3000)
    authority.rotate()
    assert first not in authority.certificates


def test_a_rotation_whose_key_is_missing_is_said_and_the_other_authority_goes_on(workspace, authority, board, clock):
    authority.rotate()
    authority.switch()
    (workspace.folder / "keys/ca.pem").unlink()
    again = CertificateAuthority(workspace, now_s=clock)
    Board("board-2").enrol(again)
    with pytest.raises(Refused, match="board-1 can't be answered: the key of CN=devices of test") as refusal:
        board.renew(workspace, again, clock.now_s)
    assert refusal.value.reason is Reason.CERTIFICATE_UNKNOWN


# -- bytes from outside


@given(st.binary(max_size=400))
def test_no_bytes_crash_the_readers_of_renewal(data):
    key = SigningKey.generate("es256").public
    for read in (
        SignedRequest.from_bytes,
        RenewalRequest.from_payload,
        lambda each: RenewalAnswer.verified(each, key, "a", bytes(32)),
    ):
        with pytest.raises(Refused):
            read(data)


@given(certificate=st.binary(max_size=200), csr=st.binary(max_size=200), refused=st.binary(max_size=20))
def test_a_signed_request_holds_what_was_put_in_and_its_certificate_may_be_anything(certificate, csr, refused):
    request = RenewalRequest("board-1", csr, refused)
    key = Board("board-1").key
    read = SignedRequest.from_bytes(Identity(key, certificate or b"x").sign1(request.to_payload(), REQUEST_TYPE))
    assert read.verify(VerifyKey(key.public_key())) == request
    with pytest.raises(Refused):
        read.verify(VerifyKey(Board("x").key.public_key()))


@pytest.mark.parametrize("certificate", [b"x", b"0" * 100, bytes(8192)])
def test_a_request_whose_certificate_is_none_gets_no_answer(workspace, authority, clock, certificate):
    data = Identity(Board("x").key, certificate).sign1(RenewalRequest("board-1", b"csr").to_payload(), REQUEST_TYPE)
    assert refusal(answer_renewal, workspace, authority, data, clock.now_s) is Reason.MALFORMED

"""What is believed of what boards say, attack by attack."""

import contextlib
import dataclasses
import datetime
import ssl
import time
from dataclasses import replace

import pytest
from cbor2 import CBORTag
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from device_agent.broker.certificates import signing_request
from device_agent.broker.identity import Identity
from ota.formats import cbor
from ota.formats.cose import ALGORITHM, KEY_ID, TYPE, sig_structure
from ota.formats.reasons import Reason, Refused
from ota.formats.report import REPORT_LIMIT_BYTES, JournalHead, LogRecord, Message
from ota.formats.signed_report import CERTIFICATE_LIMIT_BYTES, OVERHEAD_BYTES, REPORT
from ota.keyring import SigningKey
from ota.operator.ca import CertificateAuthority
from ota.operator.issued import retire, take_back
from ota.operator.issuers import Issuers
from ota.operator.roster import Roster
from ota.operator.signers import HEADS, Signers
from tests.support import fleet
from tests.support.reports import identity, signed, signed_logs, signed_messages

NOW_S = int(time.time())
DAY_S = 86_400


@pytest.fixture
def workspace(tmp_path):
    made = fleet.made(tmp_path / "operator", 1)
    CertificateAuthority(made)
    return made


@pytest.fixture
def signers(workspace):
    return Signers(workspace)


def reason(function, *values) -> Reason:
    with pytest.raises(Refused) as caught:
        function(*values)
    return caught.value.reason


def certified(workspace, tmp_path, name: str, later_s: int = 0) -> Identity:
    """A board with a certificate of the workspace."""
    tmp_path.mkdir(exist_ok=True)
    key, file = tmp_path / f"{name}.key", tmp_path / f"{name}.pem"
    authority = CertificateAuthority(workspace, now_s=lambda: time.time() + later_s)
    file.write_bytes(authority.sign(signing_request(key, name), name))
    return Identity.load(key, file)


def test_the_certificate_of_a_broker_whose_host_is_called_as_a_board_speaks_for_no_board(workspace, signers):
    pem, key = CertificateAuthority(workspace).server("roof-1")
    broker = Identity(load_pem_private_key(key, None), x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER))
    with pytest.raises(Refused, match="signed with the certificate of a broker") as refused:
        signers.report("roof-1", signed(fleet.report("roof-1"), broker), NOW_S)
    assert refused.value.reason is Reason.REPORT_FORGED


def of_another_authority(name: str, *, begins_s: int = NOW_S - DAY_S, ends_s: int = NOW_S + DAY_S) -> tuple[Identity, bytes]:
    """A board with a certificate of some authority, and that authority's certificate (DER)."""
    own, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def made(subject: str, public) -> x509.Certificate:
        names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (subject, "elsewhere")]
        begins, ends = (datetime.datetime.fromtimestamp(each, datetime.UTC) for each in (begins_s, ends_s))
        builder = x509.CertificateBuilder().subject_name(names[0]).issuer_name(names[1]).public_key(public)
        builder = builder.serial_number(7).not_valid_before(begins).not_valid_after(ends)
        return builder.add_extension(x509.BasicConstraints(ca=subject == "elsewhere", path_length=None), True).sign(own, SHA256())

    leaf = made(name, key.public_key()).public_bytes(Encoding.DER)
    return Identity(key, leaf), made("elsewhere", own.public_key()).public_bytes(Encoding.DER)


def at(counter: int, name: str = "a", **changes):
    return fleet.report(name, counter=counter, **changes)


def test_a_report_of_one_board_written_by_another_is_forged(signers, workspace, tmp_path):
    a, b = (certified(workspace, tmp_path, name) for name in "ab")
    signers.report("a", signed(at(1), a), NOW_S)
    assert reason(signers.report, "a", signed(at(2), b), NOW_S) is Reason.REPORT_FORGED  # with its own certificate
    assert reason(signers.report, "a", signed(at(2), Identity(b.key, a.certificate)), NOW_S) is Reason.REPORT_FORGED  # with a's
    assert reason(signers.report, "a", signed(at(2), Identity(b.key)), NOW_S) is Reason.REPORT_FORGED  # with none
    assert signers.counter("a") == 1


def test_a_board_that_puts_anothers_name_into_its_report_is_forged(signers):
    data = identity("b").sign1(at(1, "a").to_bytes(), REPORT)
    assert reason(signers.report, "b", data, NOW_S) is Reason.REPORT_FORGED


def test_a_report_without_a_certificate_is_forged_where_one_was_issued(workspace, tmp_path):
    certified(workspace, tmp_path, "a")
    assert reason(Roster(workspace).signers.report, "a", signed(at(1)), NOW_S) is Reason.REPORT_FORGED


def test_a_board_that_is_enrolled_goes_over_to_its_certificate_and_not_back(signers, workspace, tmp_path):
    signers.report("a", signed(at(1)), NOW_S)
    signers.report("a", signed(at(2), certified(workspace, tmp_path, "a")), NOW_S)
    assert reason(signers.report, "a", signed(at(3)), NOW_S) is Reason.REPORT_FORGED


def test_who_had_a_name_before_its_board_was_enrolled_is_not_believed_since(workspace, tmp_path):
    stranger = identity("stranger")
    before = Roster(workspace).signers
    first = signed(at(2**62, time_s=NOW_S + DAY_S), stranger)
    before.report("a", first, NOW_S)
    before.save()
    board = certified(workspace, tmp_path, "a")
    signers = Roster(workspace).signers
    for data in (first, signed(at(2**62 + 1), stranger)):
        assert reason(signers.report, "a", data, NOW_S) is Reason.REPORT_FORGED
    # Nor does it matter how far the stranger has counted.
    assert signers.report("a", signed(at(1), board), NOW_S).counter == 1
    signers.save()
    again = Roster(workspace).signers
    assert again.counter("a") == 1
    assert again.report("a", signed(at(2), board), NOW_S).counter == 2


def test_a_thief_of_a_key_cannot_count_further_than_the_next_key_of_the_board(signers, workspace, tmp_path):
    old, new = certified(workspace, tmp_path, "a"), certified(workspace, tmp_path / "new", "a", later_s=60)
    head = JournalHead(7, bytes(32))
    signers.report("a", signed(at(2**62, journal=head), old), NOW_S)
    signers.save()
    late = Signers(workspace)
    signers.report("a", signed(at(11, time_s=100), new), NOW_S)
    last = signed(at(12, time_s=101), new)
    signers.report("a", last, NOW_S)
    signers.save()
    assert signers.heads("a")[0] == head
    # Nor does a process that knows the old key only, or has seen less of the new one.
    for data in (signed(at(2**62 + 1), old), signed(at(11, time_s=100), new)):
        late.report("a", data, NOW_S)
        late.save()
        assert Signers(workspace).counter("a") == 12
    assert reason(Signers(workspace).report, "a", signed(at(11, time_s=100), new), NOW_S) is Reason.REPORT_REPLAYED
    assert reason(Signers(workspace).report, "a", signed(at(2**62 + 2), old), NOW_S) is Reason.CERTIFICATE_RETIRED


def test_a_replayed_report_is_refused_and_the_same_one_again_is_not(signers):
    first, second = signed(at(1, time_s=100)), signed(at(2, time_s=101))
    signers.report("a", first, NOW_S)
    signers.report("a", second, NOW_S)
    assert signers.report("a", second, NOW_S).counter == 2  # it is retained
    assert reason(signers.report, "a", first, NOW_S) is Reason.REPORT_REPLAYED


def test_a_report_that_is_replayed_to_another_process_is_refused(signers, workspace):
    signers.report("a", signed(at(2, time_s=101)), NOW_S)
    signers.save()
    assert reason(Signers(workspace).report, "a", signed(at(1, time_s=100)), NOW_S) is Reason.REPORT_REPLAYED


def test_a_process_that_saw_less_does_not_lower_the_counter(signers, workspace):
    late = Signers(workspace)
    signers.report("a", signed(at(9)), NOW_S)
    signers.save()
    late.report("a", signed(at(3)), NOW_S)
    late.save()
    assert Signers(workspace).counter("a") == 9


def test_two_cloned_boards_in_turns_are_named(signers):
    signers.report("a", signed(at(10, time_s=100)), NOW_S)
    assert reason(signers.report, "a", signed(at(5, time_s=101)), NOW_S) is Reason.DEVICE_CLONED  # its counter is behind
    assert reason(signers.report, "a", signed(at(10, time_s=100, uptime_s=61)), NOW_S) is Reason.DEVICE_CLONED  # the same one


def test_one_key_under_two_names_is_named(signers):
    signers.report("a", signed(at(1)), NOW_S)
    signers.report("b", signed(at(1, "b"), identity("a")), NOW_S)
    assert (signers.clones("a"), signers.clones("b")) == (["b"], ["a"])
    signers.forget("b")
    assert signers.clones("a") == []


def test_a_key_change_without_a_word_is_refused_until_the_operator_trusts_the_board_anew(signers):
    signers.report("a", signed(at(5)), NOW_S)
    other = signed(at(6), identity("new card"))
    assert reason(signers.report, "a", other, NOW_S) is Reason.KEY_CHANGED
    signers.forget("a")
    assert signers.report("a", other, NOW_S).counter == 6
    signers.save()
    assert reason(signers.report, "a", signed(at(7)), NOW_S) is Reason.KEY_CHANGED


def test_a_renewed_certificate_is_taken_and_the_one_before_it_is_retired(signers, workspace, tmp_path):
    old = certified(workspace, tmp_path, "a")
    signers.report("a", signed(at(1), old), NOW_S)
    (tmp_path / "a.key").unlink()
    new = certified(workspace, tmp_path, "a", DAY_S)
    signers.report("a", signed(at(2), new), NOW_S)
    assert reason(signers.report, "a", signed(at(3), old), NOW_S) is Reason.CERTIFICATE_RETIRED


def test_a_certificate_of_another_authority_is_worth_no_more_than_its_key(signers, workspace, tmp_path):
    signers.report("a", signed(at(1), certified(workspace, tmp_path, "a")), NOW_S)
    foreign, _ = of_another_authority("a")
    assert reason(signers.report, "a", signed(at(2), foreign), NOW_S) is Reason.REPORT_FORGED
    signers.report("b", signed(at(1, "b"), of_another_authority("b")[0]), NOW_S)  # on first use, as a bare key
    assert reason(signers.report, "b", signed(at(2, "b"), of_another_authority("b")[0]), NOW_S) is Reason.KEY_CHANGED


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # a serial number below zero
def test_a_certificate_that_cannot_be_read_is_refused_whatever_is_wrong_with_it(signers):
    board, _ = of_another_authority("a")
    for place in range(len(board.certificate)):
        changed = bytearray(board.certificate)
        changed[place] ^= 4
        with contextlib.suppress(Refused):
            Issuers.key_of(bytes(changed))
    version = board.certificate.index(b"\xa0\x03\x02\x01\x02") + 4
    unknown = board.certificate[:version] + b"\x07" + board.certificate[version + 1 :]
    assert reason(signers.report, "a", signed(at(1), Identity(board.key, unknown)), NOW_S) is Reason.MALFORMED


def test_an_expired_certificate_signs_nothing_new_and_what_was_read_in_time_stays(workspace, signers):
    board, authority = of_another_authority("a", ends_s=NOW_S + 5)
    (workspace.folder / "trust" / "ca.pem").write_text(ssl.DER_cert_to_PEM_cert(authority))
    signers = Signers(workspace)
    last = signed(at(1), board)
    signers.report("a", last, NOW_S)
    assert signers.report("a", last, NOW_S + 10).counter == 1
    assert reason(signers.report, "a", signed(at(2), board), NOW_S + 10) is Reason.CERTIFICATE_EXPIRED
    assert reason(Signers(workspace).report, "a", last, NOW_S + 10) is Reason.CERTIFICATE_EXPIRED


def test_an_expired_certificate_signs_nothing_new_of_any_kind_and_not_when_it_is_left_out(workspace):
    board, authority = of_another_authority("a", ends_s=NOW_S + 5)
    (workspace.folder / "trust" / "ca.pem").write_text(ssl.DER_cert_to_PEM_cert(authority))
    signers, late_s = Signers(workspace), NOW_S + 10
    signers.report("a", signed(at(9), board), NOW_S)
    alone = board.sign1(at(10).to_bytes(), REPORT, introduce=False)
    assert reason(signers.report, "a", alone, late_s) is Reason.CERTIFICATE_EXPIRED
    before, after = (signed(fleet.instance_report("a", counter=counter), board) for counter in (8, 10))
    assert signers.instance_report("a", before, 8, late_s).counter == 8
    assert reason(signers.instance_report, "a", after, 8, late_s) is Reason.CERTIFICATE_EXPIRED
    logs = signed_logs("a", [LogRecord(1.0, "info", "", "", "x")], signer=board)
    assert reason(signers.logs, "a", logs, late_s) is Reason.CERTIFICATE_EXPIRED


def test_a_retired_certificate_signs_nothing():
    board, authority = of_another_authority("a")
    ours = x509.load_der_x509_certificate(authority)
    assert Issuers([ours]).check(board.certificate, "a") is not None
    assert reason(Issuers([ours], retired={7}).check, board.certificate, "a") is Reason.CERTIFICATE_RETIRED


def test_a_retired_board_is_not_believed_and_its_certificate_speaks_for_no_other(workspace, tmp_path):
    board = certified(workspace, tmp_path, "a")
    Signers(workspace).report("a", signed(at(1), board), NOW_S)
    retire(workspace, "a", NOW_S)
    assert reason(Signers(workspace).report, "a", signed(at(2), board), NOW_S) is Reason.DEVICE_RETIRED
    take_back(workspace, "a")
    assert reason(Signers(workspace).report, "a", signed(at(2), board), NOW_S) is Reason.CERTIFICATE_RETIRED


def test_a_certificate_is_checked_again_when_the_authorities_change():
    board, authority = of_another_authority("a")
    ours = [x509.load_der_x509_certificate(authority)]
    marks = {each.mark(board.certificate) for each in (Issuers(), Issuers(ours), Issuers(ours, {7}))}
    assert len(marks) == 3


def test_a_report_for_one_kind_is_not_passed_as_another(signers):
    signers.report("a", signed(at(1)), NOW_S)
    of_instance = signed(fleet.instance_report("a", counter=2))
    assert reason(signers.report, "a", of_instance, NOW_S) is Reason.REPORT_FORGED
    assert reason(signers.instance_report, "a", signed(at(2)), 0, NOW_S) is Reason.REPORT_FORGED
    logs = signed_logs("a", [LogRecord(1.0, "info", "", "", "x")])
    assert reason(signers.messages, "a", logs, NOW_S) is Reason.REPORT_FORGED
    assert reason(signers.logs, "a", of_instance, NOW_S) is Reason.REPORT_FORGED


def composed(protected: dict, unprotected: dict, key: Identity, payload: bytes) -> bytes:
    encoded = cbor.encode(protected)
    return cbor.encode(CBORTag(18, [encoded, unprotected, payload, key.sign(sig_structure(encoded, payload))]))


def test_an_algorithm_outside_the_protected_headers_is_forged(signers):
    key = identity("a")
    signers.report("a", signed(at(1)), NOW_S)
    data = composed({KEY_ID: key.public.key_id, TYPE: REPORT}, {ALGORITHM: -7}, key, at(2).to_bytes())
    assert reason(signers.report, "a", data, NOW_S) is Reason.REPORT_FORGED


@pytest.mark.parametrize("number", [-8, -48, 5])
def test_an_algorithm_of_another_family_is_forged(signers, number):
    key = identity("a")
    signers.report("a", signed(at(1)), NOW_S)
    data = composed({ALGORITHM: number, KEY_ID: key.public.key_id, TYPE: REPORT}, {}, key, at(2).to_bytes())
    assert reason(signers.report, "a", data, NOW_S) is Reason.REPORT_FORGED


def test_a_key_that_claims_another_identifier_is_forged(signers):
    key, payload = identity("a"), at(1).to_bytes()
    data = composed(
        {ALGORITHM: -7, KEY_ID: identity("b").public.key_id, TYPE: REPORT}, {14: {8: {1: key.public.to_cose_key()}}}, key, payload
    )
    assert reason(signers.report, "a", data, NOW_S) is Reason.REPORT_FORGED


def test_a_release_key_does_not_speak_for_a_board(signers):
    signers.report("a", signed(at(1)), NOW_S)
    payload = cbor.decode(SigningKey.generate("es256").sign1(at(2).to_bytes(), REPORT), "x", 9999, (18,)).value
    data = cbor.encode(CBORTag(18, [payload[0], {}, at(2).to_bytes(), payload[3]]))
    assert reason(signers.report, "a", data, NOW_S) is Reason.REPORT_FORGED


def test_a_report_too_large_is_refused_before_it_is_read(signers, monkeypatch):
    monkeypatch.setattr("ota.formats.cose.Sign1.from_bytes", None)  # nothing is read
    size = REPORT_LIMIT_BYTES + OVERHEAD_BYTES + CERTIFICATE_LIMIT_BYTES + 1
    assert reason(signers.report, "a", bytes(size), NOW_S) is Reason.TOO_LARGE


def test_a_changed_byte_anywhere_is_refused(signers):
    good = signed(at(1))
    signers.report("a", good, NOW_S)
    for place in range(0, len(good), 3):
        changed = bytearray(good)
        changed[place] ^= 1
        with pytest.raises(Refused):
            signers.report("a", bytes(changed), NOW_S)
    assert signers.counter("a") == 1


def test_an_old_report_of_an_instance_is_refused(signers):
    signers.report("a", signed(at(9)), NOW_S)
    assert signers.instance_report("a", signed(fleet.instance_report("a", counter=8)), 8, NOW_S).counter == 8
    assert reason(signers.instance_report, "a", signed(fleet.instance_report("a", counter=7)), 8, NOW_S) is Reason.REPORT_REPLAYED


def test_a_statement_of_a_board_whose_key_is_not_known_is_not_believed(signers):
    assert reason(signers.instance_report, "a", signed(fleet.instance_report("a", counter=1)), 0, NOW_S) is Reason.SIGNER_UNKNOWN


def test_a_forged_telemetry_batch_is_refused(signers):
    signers.report("a", signed(at(1)), NOW_S)
    message = Message(1, 1.0, "i", "m 1", "t", b"x")
    assert signers.messages("a", signed_messages("a", [message]), NOW_S).records == [message]
    assert reason(signers.messages, "a", signed_messages("a", [message], signer=identity("b")), NOW_S) is Reason.REPORT_FORGED
    assert reason(signers.messages, "a", signed_messages("b", [message], signer=identity("a")), NOW_S) is Reason.REPORT_FORGED


def test_heads_of_the_journal_are_kept_bounded_the_newest_and_the_oldest_among_them(signers):
    for number in range(1, 100):
        head = JournalHead(number, bytes([number]) * 32)
        signers.report("a", signed(replace(at(number), journal=head)), NOW_S)
    rows = [each.row for each in signers.heads("a")]
    assert (len(rows), rows[0], rows[-1]) == (HEADS, 1, 99)
    assert rows == sorted(rows)


def headed(counter: int, row: int, digit: int) -> bytes:
    return signed(replace(at(counter, time_s=counter), journal=JournalHead(row, bytes([digit]) * 32)))


@pytest.mark.parametrize(("row", "digit"), [(7, 2), (6, 1)])
def test_a_head_of_a_journal_is_never_replaced_and_a_journal_never_shrinks(signers, workspace, row, digit):
    signers.report("a", headed(1, 7, 1), NOW_S)
    assert signers.changed("a") is None
    assert signers.report("a", headed(2, row, digit), NOW_S).counter == 2  # the board is believed, and its journal is not
    signers.report("a", headed(3, 9, 3), NOW_S)
    signers.save()
    again = Signers(workspace)
    assert again.heads("a") == (JournalHead(7, bytes([1]) * 32), JournalHead(9, bytes([3]) * 32))
    assert (again.changed("a").row, list(again.all_changed())) == (row, ["a"])
    again.forget("a")
    again.report("a", headed(4, row, digit), NOW_S)
    again.save()
    assert Signers(workspace).all_changed() == {}


def test_a_head_that_another_process_has_seen_is_not_replaced(signers, workspace):
    late = Signers(workspace)
    signers.report("a", headed(1, 5, 5), NOW_S)
    signers.report("a", headed(2, 7, 1), NOW_S)
    signers.save()
    late.report("a", headed(3, 7, 2), NOW_S)
    late.save()
    again = Signers(workspace)
    assert again.heads("a") == (JournalHead(5, bytes([5]) * 32), JournalHead(7, bytes([1]) * 32))
    assert again.changed("a").row == 7


def test_a_flood_of_heads_displaces_none_that_was_read_before(signers):
    before = []
    for number in range(1, HEADS - 2):
        before.append(JournalHead(number, bytes([number]) * 32))
        signers.report("a", signed(replace(at(number), journal=before[-1])), NOW_S + 60 * number)
    for number in range(HEADS, HEADS + 100):  # ever farther from each other
        signers.report("a", headed(number, 2 ** (number // 2), 99), NOW_S + 60 * HEADS)
    heads = signers.heads("a")
    assert len(heads) == HEADS
    assert list(heads[: len(before)]) == before


def test_what_is_remembered_is_read_back(signers, workspace):
    signers.report("a", signed(replace(at(4), journal=JournalHead(3, bytes(32)))), NOW_S)
    signers.save()
    again = Signers(workspace)
    assert (again.counter("a"), again.heads("a"), again.label("a")) == (4, (JournalHead(3, bytes(32)),), signers.label("a"))
    assert dataclasses.asdict(again._known["a"]) == dataclasses.asdict(signers._known["a"])


def test_a_board_that_is_trusted_anew_may_have_a_lower_counter(signers, workspace):
    signers.report("a", signed(at(9, time_s=100)), NOW_S)
    signers.save()
    again = Signers(workspace)
    again.forget("a")
    again.report("a", signed(at(3, time_s=101)), NOW_S)
    again.save()
    assert Signers(workspace).counter("a") == 3


def test_what_another_process_verifies_is_what_this_one_finds(workspace, monkeypatch):
    """Among many: a forged report, one of another name, one that is cut, a replayed one, and a board with another key."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    names = fleet.names(300)
    before = Signers(workspace)
    old = {name: signed(fleet.report(name)) for name in names}
    for name in names[:100]:
        before.report(name, signed(fleet.report(name)), NOW_S)
    before.save()
    found = {name: signed(fleet.report(name)) for name in names}
    found[names[1]] = found[names[1]][:-1] + bytes([found[names[1]][-1] ^ 1])
    found[names[2]] = found[names[3]]
    found[names[4]] = found[names[4]][:-9]
    found[names[5]] = old[names[5]]
    found[names[6]] = signed(fleet.report(names[6]), identity("another"))

    def said(signers, name):
        try:
            return signers.report(name, found[name], NOW_S)
        except Refused as error:
            return str(error)

    together, alone = Signers(workspace), Signers(workspace)
    together.use(together.begin(found.items(), NOW_S))
    results = {name: said(together, name) for name in names}
    assert results == {name: said(alone, name) for name in names}
    assert [name for name in names if isinstance(results[name], str)] == [names[each] for each in (1, 2, 4, 5, 6)]
    assert together._known == alone._known


def test_a_report_that_was_verified_before_a_later_one_came_is_a_replay(signers):
    first, second = signed(fleet.report("board-1")), signed(fleet.report("board-1"))
    signers.use(signers.begin([("board-1", first)], NOW_S))
    signers.report("board-1", second, NOW_S)
    assert reason(signers.report, "board-1", first, NOW_S) is Reason.REPORT_REPLAYED


def test_only_the_bytes_that_were_verified_are_taken_for_verified(signers):
    signers.use(signers.begin([("board-1", signed(fleet.report("board-1")))], NOW_S))
    assert reason(signers.report, "board-1", signed(fleet.report("board-2")), NOW_S) is Reason.REPORT_FORGED

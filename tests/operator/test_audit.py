"""The audit log: each act has a line, and a line that is removed, changed or moved is found."""

import errno
import json
import re
import shutil
import time
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import pytest
from cbor2 import CBORTag
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ota.cli.main import parser
from ota.formats import cbor
from ota.formats.audit import LINE_LIMIT_BYTES, ROLES_OF_ACTIONS, START, Row, encode, hash_of, read_line
from ota.formats.cose import ALGORITHM, SIGN1_TAG, sig_structure
from ota.formats.encryption import GroupKey
from ota.formats.report import JournalHead
from ota.keyring import SigningKey
from ota.operator import audit_check
from ota.operator.audit import Audit, AuditError
from ota.operator.ca import CertificateAuthority
from ota.operator.enrolment import KEPT_S, new_token
from ota.operator.group_keys import GroupKeys
from ota.operator.retire import retire
from ota.operator.roster import Roster
from ota.operator.signers import Signers
from ota.operator.workspace import Workspace
from tests.support import fleet
from tests.support.operator import ota
from tests.support.reports import signed
from tests.support.verbs import verbs

NOW_S = int(time.time())


@pytest.fixture
def acted(quick):
    """A workspace in which an update was signed and deployed, twice, and a certificate signed."""
    for number in (1, 2):
        assert ota(quick.folder, "publish", quick.module(number), "--group", "lab") == 0
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "roof-1")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(ec.generate_private_key(ec.SECP256R1()), SHA256())
    CertificateAuthority(quick.workspace).sign(request.public_bytes(Encoding.PEM), "roof-1")
    return quick.workspace


def problems(workspace):
    return list(audit_check.problems(workspace))


def lines(workspace):
    return Audit(workspace).path.read_bytes().splitlines(keepends=True)


def put(workspace, changed):
    Audit(workspace).path.write_bytes(b"".join(changed))


def test_each_act_has_a_line_that_tells_who_did_what_to_what(acted):
    rows = list(Audit(acted).rows())
    assert [row.action for row in rows] == [
        "sign-manifest",
        "sign-deployment",
        "sign-manifest",
        "sign-deployment",
        "sign-certificate",
    ]
    assert [row.number for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0].before == START
    assert rows[0].about["what"].startswith("manifest of echo 1")
    assert re.fullmatch(r"deployment of group lab, epoch \d+", rows[1].about["what"])
    assert rows[4].about["device"] == "roof-1"
    assert all("@" in row.by for row in rows)
    assert problems(acted) == []


@pytest.mark.parametrize("number", range(5))
def test_a_line_that_was_removed_is_found_wherever_it_was(acted, number):
    put(acted, [line for at, line in enumerate(lines(acted)) if at != number])
    assert problems(acted)


def test_lines_that_were_cut_off_the_end_are_found_by_what_they_told_of(acted):
    put(acted, lines(acted)[:2])
    found = "\n".join(problems(acted))
    assert "deployment of group lab" in found
    assert "manifest of echo" in found
    assert "the certificate of roof-1" in found


def test_the_line_of_a_retired_board_can_t_be_cut_off(acted):
    CertificateAuthority(acted).retire("roof-1")
    assert problems(acted) == []
    put(acted, lines(acted)[:-1])
    assert problems(acted) == ["the end of device roof-1 has no line: the line was removed, or it was retired elsewhere"]


def test_the_line_of_a_later_authority_can_t_be_cut_off(acted):
    authority = CertificateAuthority(acted)
    made = authority.rotate()
    name = f"{made.subject.rfc4514_string()} ({made.fingerprint(SHA256()).hex()[:16]})"
    assert problems(acted) == []
    put(acted, lines(acted)[:-1])
    assert problems(acted) == [f"the authority {name} has no line: the line was removed, or it was made elsewhere"]


def test_an_authority_that_was_put_there_is_found_whatever_its_name(acted):
    CertificateAuthority(acted).rotate()
    (first, *_) = sorted((acted.folder / "trust").glob("ca*.pem"))
    key = ec.generate_private_key(ec.SECP256R1())
    known = [x509.load_pem_x509_certificate(path.read_bytes()) for path in (acted.folder / "trust").glob("ca*.pem")]
    assert problems(acted) == []
    for each in known:
        planted = (
            x509.CertificateBuilder()
            .subject_name(each.subject)
            .issuer_name(each.subject)
            .public_key(key.public_key())
            .serial_number(7)
            .not_valid_before(each.not_valid_before_utc)
            .not_valid_after(each.not_valid_after_utc)
            .sign(key, SHA256())
        )
        path = first.with_name("ca-planted.pem")
        path.write_bytes(planted.public_bytes(Encoding.PEM))
        digest = planted.fingerprint(SHA256()).hex()[:16]
        assert any(f"({digest}) has no line" in found for found in problems(acted)), each.subject
        path.unlink()


def test_a_line_whose_algorithm_is_unprotected_is_not_believed(acted):
    row, signature, payload = read_line(lines(acted)[0])
    key = next(each for each in acted.role_keys("release") if each.public.key_id == signature.key_id)
    headers = {name: value for name, value in signature.headers.items() if name != ALGORITHM}
    protected = cbor.encode(headers)
    unprotected = {ALGORITHM: signature.headers[ALGORITHM]}
    made = [protected, unprotected, None, key._raw(sig_structure(protected, payload))]
    line = payload + b"\t" + b64encode(cbor.encode(CBORTag(SIGN1_TAG, made))) + b"\n"
    put(acted, [line, *lines(acted)[1:]])
    assert any("line 1: " in found and "the algorithm is not protected" in found for found in problems(acted)), row


def test_a_key_that_only_the_draft_of_the_next_root_names_may_sign_that_root_and_nothing_else(acted, capsys):
    assert ota(acted.folder, "keys", "add", "root") == 0
    assert ota(acted.folder, "root", "sign") == 0
    assert problems(acted) == []
    (new,) = (acted.folder / "keys").glob("root-*.pem")
    key = SigningKey.load(new)
    assert ota(acted.folder, "sign", acted.folder / "trust" / "draft.cbor", "--key", new) == 0
    assert list(Audit(acted).rows())[-1].action == "sign-root"
    assert problems(acted) == []
    Audit(acted).record("sign-deployment", key, 0, {})
    assert [each for each in problems(acted) if "sign-deployment is not signed with a deploy key" in each]


def test_a_log_that_was_removed_whole_is_found(acted):
    Audit(acted).path.unlink()
    assert len(problems(acted)) >= 4


def test_lines_that_changed_places_are_found(acted):
    first, second, *rest = lines(acted)
    put(acted, [second, first, *rest])
    assert any(each.startswith("line 1:") for each in problems(acted))


def test_a_changed_line_is_found(acted):
    put(acted, [line.replace(b"echo", b"ohce") for line in lines(acted)])
    assert any("signature" in each for each in problems(acted))


def test_a_line_that_was_changed_and_signed_again_with_its_own_key_is_found(acted):
    """Whoever has the key can sign another line, and not the hash of it in the lines after it."""
    at, found = next((at, each) for at, each in enumerate(lines(acted)) if b"sign-deployment" in each)
    changed = replace(read_line(found)[0], by="somebody@else")
    put(acted, [*lines(acted)[:at], encode(changed, acted.role_keys("deploy")[0]), *lines(acted)[at + 1 :]])
    assert problems(acted) == [f"line {at + 2}: the line before it is another than when it was written"]


def test_a_line_signed_with_another_key_than_the_act_needs_is_found(acted):
    last = lines(acted)[-1]

    row = Row(6, "2026-01-01T00:00:00Z", "eve@desk", "sign-deployment", {"digest": "00"}, hash_of(last))
    forged = [encode(row, key) for key in (SigningKey.generate(), acted.role_keys("release")[0])]
    for line in forged:
        put(acted, [*lines(acted)[:5], line])
        assert any("sign-deployment is not signed with a deploy key" in each for each in problems(acted))


def test_a_thief_of_one_key_can_t_put_another_line_in_the_place_of_one_that_was_cut_off(acted):
    *kept, last = lines(acted)
    about = json.loads(last.partition(b"\t")[0])["about"]
    row = Row(len(kept) + 1, "2026-01-01T00:00:00Z", "eve@desk", "sign-deployment", about, hash_of(kept[-1]))
    put(acted, [*kept, encode(row, acted.role_keys("deploy")[0])])
    (found,) = problems(acted)
    assert found.startswith("the certificate of roof-1")


def test_a_line_too_long_is_refused_before_it_is_read(acted):
    with Audit(acted).path.open("ab") as file:
        file.write(b"x" * (LINE_LIMIT_BYTES + 1) + b"\n")
    assert any("too-large" in each for each in problems(acted))


def test_a_line_that_lost_power_cut_off_is_no_line_and_the_next_one_takes_its_place(acted):
    with Audit(acted).path.open("ab") as file:
        file.write(b'{"number": 6, "ti')
    assert problems(acted) == []
    Audit(acted).record("sign-deployment", acted.role_keys("deploy")[0], 1_800_000_000, {"digest": "ab"})
    assert [row.number for row in Audit(acted).rows()] == [1, 2, 3, 4, 5, 6]
    assert problems(acted) == []


def test_where_the_log_can_t_be_written_nothing_is_published(quick, capsys):
    Audit(quick.workspace).path.mkdir()
    assert ota(quick.folder, "publish", quick.module(1), "--group", "lab") == 1
    assert "nothing is done that the log does not tell" in capsys.readouterr().err
    shutil.rmtree(Audit(quick.workspace).path)
    with pytest.raises(AuditError):
        list(_unreadable(quick.workspace).lines())


def _unreadable(workspace):
    audit = Audit(workspace)
    audit.path.mkdir()
    return audit


def test_the_command_shows_the_acts_and_says_whether_the_log_is_whole(acted, capsys):
    assert ota(acted.folder, "audit", "log") == 0
    assert capsys.readouterr().out.count("sign-manifest") == 2
    assert ota(acted.folder, "audit", "verify") == 0
    assert "5 acts, whole" in capsys.readouterr().out
    put(acted, lines(acted)[1:])
    assert ota(acted.folder, "audit", "verify", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == 4
    assert "line 1" in told["problems"][0]


# -- what there is, and what the lines tell


def edit(workspace, name, change):
    path = workspace.folder / name
    change(content := json.loads(path.read_text()))
    path.write_text(json.dumps(content))


@pytest.fixture
def granted(acted):
    """With a token and a key of a group."""
    new_token(acted, "roof-2", NOW_S, 3600)
    GroupKeys(acted).make("lab")
    assert problems(acted) == []
    return acted


@pytest.mark.parametrize("action", ["make-token", "make-group-key"])
def test_tokens_and_keys_of_groups_without_a_line_are_found(granted, action):
    log = lines(granted)
    number = next(at for at, line in enumerate(log) if read_line(line)[0].action == action)
    put(granted, log[:number])
    what = "enrolment token" if action == "make-token" else "of group lab"
    assert any(what in each and "has no line" in each for each in problems(granted))


@pytest.mark.parametrize(
    "change",
    [{"names": "pump-{serial}"}, {"count": 7}, {"group": "lab"}, {"expires_s": NOW_S + 86_400}],
    ids=lambda each: next(iter(each)),
)
def test_a_token_that_is_not_what_its_line_tells_is_found(granted, change):
    edit(granted, "tokens.json", lambda content: next(iter(content.values())).update(change))
    assert [each.rpartition(" is for")[2] for each in problems(granted)] == [
        " other boards, for more of them or for longer than its line tells"
    ]


def test_a_token_that_was_removed_is_found_unless_its_board_was_retired_or_it_expired_long_ago(granted):
    edit(granted, "tokens.json", dict.clear)
    assert ["is gone, and no line tells why" in each for each in problems(granted)] == [True]
    CertificateAuthority(granted).retire("roof-2")
    assert problems(granted) == []


@pytest.mark.parametrize(
    ("words", "fails", "told"),
    [
        (("token", "roof-2", "-o", "token"), "ota.operator.enrolment.Workspace.record", "a new token for roof-2 ends this"),
        (("retire", "roof-1", "--yes", "--offline"), "ota.operator.issued.retire", "`ota retire roof-1` ends it"),
    ],
)
def test_a_command_that_was_interrupted_behind_its_line_is_done_again(quick, monkeypatch, tmp_path, words, fails, told):
    monkeypatch.chdir(tmp_path)
    assert ota(quick.folder, "token", "roof-1", "-o", "first") == 0

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(fails, interrupt)
        assert ota(quick.folder, *words) == 130
    assert any(told in each for each in problems(quick.workspace))
    assert ota(quick.folder, *words) == 0
    assert problems(quick.workspace) == []


def test_an_old_token_goes_with_the_next_one_and_a_token_goes_with_its_board(granted):
    new_token(granted, "roof-3", NOW_S + 4000 + KEPT_S, 3600)
    assert len(granted.read("tokens.json")) == 1
    assert problems(granted) == []
    before = granted.read("tokens.json")
    retire(granted, CertificateAuthority(granted), Roster(granted), "roof-3")
    assert problems(granted) == []
    edit(granted, "tokens.json", lambda content: content.update(before))
    assert ["that board was retired since" in each for each in problems(granted)] == [True]


def test_keys_of_groups_that_were_removed_or_put_there_are_found_until_the_log_has_it(granted):
    (path,) = GroupKeys(granted).of("lab")
    key = path.stem.removeprefix("group-")
    path.unlink()
    assert problems(granted) == [f"key {key} of group lab is gone without a line: `ota group-keys remove lab {key}` notes that"]
    GroupKeys(granted).remove("lab", key)
    assert problems(granted) == []
    other = GroupKey(bytes(16))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(other.to_bytes())  # under the name of the one that the log knows
    path.chmod(0o600)
    assert [f"key {other.key_id.hex()} of group lab has no line" in each for each in problems(granted)] == [True]


def test_a_damaged_line_keeps_nobody_from_removing_a_key_that_is_there(granted):
    (path,) = GroupKeys(granted).of("lab")
    put(granted, [b"{}\n", *lines(granted)[1:]])
    assert GroupKeys(granted).remove("lab", path.stem.removeprefix("group-")) == path
    assert not path.exists()


@pytest.mark.parametrize("member", ["devices", "serials"])
def test_a_retired_board_that_is_let_in_again_behind_the_log_is_found(granted, member):
    CertificateAuthority(granted).retire("roof-1")
    assert problems(granted) == []
    edit(granted, "retired.json", lambda content: content[member].clear())
    (found,) = problems(granted)
    assert ("was retired, is so no longer" if member == "devices" else "which was retired, is not on the list") in found


def test_a_board_that_changed_its_journal_is_found_with_and_without_the_file(granted, tmp_path, capsys):
    signers = Signers(granted)
    for counter, digest in ((1, b"1" * 32), (2, b"2" * 32)):
        signers.report("b", signed(replace(fleet.report("b", counter=counter), journal=JournalHead(7, digest))), NOW_S)
    signers.save()
    assert ota(granted.folder, "audit", "verify") == 1
    said = "a head (3232323232323232) that is not of the journal whose heads it had signed before"
    assert f"the journal of board b, row 7: the board signed {said}" in capsys.readouterr().err
    (tmp_path / "journal").write_text("")
    assert ota(granted.folder, "audit", "verify", tmp_path / "journal", "--device", "b") == 1
    assert f"row 7: the board signed {said}" in capsys.readouterr().err


# -- what has a line

SIGNS = {"sign-manifest", "sign-deployment"}
ACTS = {  # what each command that changes trust, secrets or what boards do writes into the log
    ("init",): set(),  # the first root and authority, which are the beginning
    ("publish",): SIGNS,
    ("build",): {"sign-manifest"},
    **{(verb,): {"sign-deployment"} for verb in ("remove", "config", "withdraw", "widen", "rollout", "pause", "resume")},
    ("abort",): SIGNS,
    ("republish",): SIGNS,  # with --renew; else the same documents
    ("sign",): {"sign-root", *SIGNS},
    ("root", "sign"): {"sign-root"},
    ("root", "publish"): SIGNS,  # of what is signed again; the root has a line of each signature
    ("group-keys", "new"): {"make-group-key"},
    ("group-keys", "remove"): {"remove-group-key"},
    ("group-keys", "deliver"): {"sign-deployment"},
    ("broker-config",): {"make-password", "sign-certificate"},
    ("flash",): {"sign-certificate", "hand-out-group-keys"},
    ("settings",): {"make-token", "hand-out-group-keys"},
    ("enrol",): {"sign-certificate"},
    ("ca", "rotate"): {"rotate-authority"},
    ("ca", "switch"): {"rotate-authority"},
    ("token",): {"make-token"},
    ("retire",): {"retire-device", "take-back-device"},
    ("devices",): {"forget-device", "trust-device"},
}
QUIET = {  # commands that read, write drafts and files which nobody obeys, or take away what nothing needs
    *(("keys", verb) for verb in ("list", "new", "add", "rotate", "revoke", "threshold")),
    *(("root", verb) for verb in ("show", "edit", "rehearse")),
    *(("broker", "check"), ("group-keys", "list"), ("ca", "show"), ("ca", "crl"), ("audit", "log"), ("audit", "verify")),
    *(("boards",), ("boards", "show"), ("image", "build"), ("image", "write")),
    *((verb,) for verb in ("push", "clean", "pack", "archive", "reports", "new", "inspect", "verify", "run", "demo", "sbom")),
    *((verb,) for verb in ("rebuild", "status", "logs", "completion")),
}


def test_every_command_is_known_to_write_into_the_log_or_to_have_no_need_to():
    assert {path for path, _ in verbs(parser())} == ACTS.keys() | QUIET
    assert ACTS.keys().isdisjoint(QUIET)
    assert set().union(*ACTS.values()) == set(ROLES_OF_ACTIONS)


def test_acts_that_sign_no_document_have_a_line_before_they_have_an_effect(quick, tmp_path, capsys, monkeypatch):
    key = next(iter(GroupKeys(quick.workspace).of("lab").values()), None)
    assert key is None
    quick.board("roof-1")

    def told(*words: str | Path) -> list[tuple[str, dict[str, str]]]:
        before = len(list(Audit(quick.workspace).rows()))
        assert ota(quick.folder, *words) == 0
        return [(row.action, dict(row.about)) for row in Audit(quick.workspace).rows()][before:]

    ((action, about),) = told("token", "roof-2", "--hours", "2", "-o", tmp_path / "token")
    assert (action, about["names"], about["count"], about["group"], about["hours"]) == ("make-token", "roof-2", "1", "lab", "2")
    assert [action for action, _ in told("group-keys", "new", "lab")] == ["make-group-key"]
    (key,) = GroupKeys(quick.workspace).of("lab").values()
    found = told("settings", "roof-3", "--board", "qemu-aarch64", "--broker", "mqtt://b.example", "-o", tmp_path / "roof-3")
    assert [action for action, _ in found] == ["make-token", "hand-out-group-keys"]
    assert found[1][1] == {"group": "lab", "device": "roof-3", "keys": key.key_id.hex()}
    assert told("group-keys", "remove", "lab", key.key_id.hex()) == [
        ("remove-group-key", {"group": "lab", "key": key.key_id.hex()})
    ]
    ((action, about),) = told("devices", "--trust", "roof-1")
    assert (action, about["device"]) == ("trust-device", "roof-1")
    assert told("devices", "--forget", "roof-1") == [("forget-device", {"device": "roof-1"})]
    assert [action for action, _ in told("retire", "roof-2", "--yes")] == ["retire-device"]
    assert [action for action, _ in told("retire", "roof-2", "--undo")] == ["take-back-device"]
    found = told("broker-config", "mosquitto", "-o", tmp_path / "broker", "--host", "b.example")
    assert [action for action, _ in found] == ["make-password", "make-password", "sign-certificate"]
    assert problems(quick.workspace) == []

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    kept = {path: path.read_bytes() for path in quick.folder.rglob("*.json")}
    monkeypatch.setattr("ota.operator.audit.os.fsync", full)
    for words in (("token", "x", "-o", tmp_path / "x"), ("group-keys", "new", "lab"), ("devices", "--forget", "roof-3")):
        assert ota(quick.folder, *words) == 1
        assert "nothing is done that the log does not tell" in capsys.readouterr().err
    assert kept == {path: path.read_bytes() for path in quick.folder.rglob("*.json")}
    assert not (tmp_path / "x").exists()
    assert GroupKeys(quick.workspace).groups() == []


def test_a_locked_workspace_wants_its_passphrase_for_a_token_and_for_keys_of_groups(tmp_path, capsys):
    (passphrase := tmp_path / "passphrase").write_text("open sesame")
    folder = tmp_path / "w"
    assert ota(folder, "init", "--passphrase-file", passphrase) == 0
    for number, words in enumerate((("token", "a", "-o", tmp_path / "token"), ("group-keys", "new", "lab"))):
        assert ota(folder, *words) == 1
        assert "passphrase" in capsys.readouterr().err
        assert ota(folder, *words, "--passphrase-file", passphrase) == 0
        assert len(list(Audit(Workspace.open(folder)).rows())) == number + 1

"""The board's key and the operator's certificate: each request that must not be signed is refused."""

import re
import stat
import tomllib
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from device_agent.broker.certificates import check_certificate, signing_request
from device_agent.broker.identity import IdentityError
from device_agent.node.config import load
from ota.cli.main import main
from ota.errors import KeyFileError, OtaError
from ota.formats.broker_url import BrokerUrl
from ota.formats.enrolment import Answer, Request, Token
from ota.formats.reasons import Reason, Refused
from ota.keyring import SigningKey
from ota.operator.ca import CertificateAuthority, RequestRefused, enrolled
from ota.operator.enrolment import answer, new_token
from ota.operator.provision import BoardSettings, ProvisionError, read_policy
from ota.operator.workspace import Settings, Workspace
from ota.toml_file import TomlError

NOW_S = 1_800_000_000


@pytest.fixture
def workspace(tmp_path):
    return Workspace.create(
        tmp_path / "operator", Settings("test.example", BrokerUrl.parse("mqtt://broker"), "lab"), NOW_S, "ed25519"
    )


@pytest.fixture
def authority(workspace):
    return CertificateAuthority(workspace)


def request_for(name="board-1", key=None, **other):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name), *other.get("more", ())])
    key = key or ec.generate_private_key(ec.SECP256R1())
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256()).public_bytes(Encoding.PEM)


def test_a_board_gets_a_certificate_that_only_identifies_it(tmp_path, workspace, authority):
    key = tmp_path / "device.key"
    pem = authority.sign(signing_request(key, "board-1"), "board-1")
    check_certificate(pem, key, "board-1")
    certificate = x509.load_pem_x509_certificate(pem)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate_file.read_bytes()))
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert list(enrolled(workspace.folder)) == ["board-1"]
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert b"PRIVATE" not in pem
    assert pem.endswith(authority.certificate_file.read_bytes())


def test_the_board_keeps_its_key(tmp_path):
    key = tmp_path / "device.key"
    signing_request(key, "board-1")
    before = key.read_bytes()
    signing_request(key, "board-1")
    assert key.read_bytes() == before


def test_the_authority_is_the_same_when_it_is_opened_again(workspace, authority):
    again = CertificateAuthority(workspace)
    assert again.certificate_file.read_bytes() == authority.certificate_file.read_bytes()
    assert stat.S_IMODE((workspace.folder / "keys/ca.pem").stat().st_mode) == 0o600


def test_an_authority_without_its_key_or_with_another_is_not_made_anew(workspace, authority):
    key = workspace.folder / "keys/ca.pem"
    key.rename(key.with_name("offline.pem"))
    with pytest.raises(OtaError, match="is it in"):
        CertificateAuthority(workspace)
    SigningKey.generate("es256").save(key)
    with pytest.raises(KeyFileError, match="the key of"):
        CertificateAuthority(workspace)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "can't be read"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "can't be read"),
        (b"x" * 9000, "the limit is 8192"),
        (request_for("board-2"), "is for ['board-2'], not for 'board-1'"),
        (request_for(more=[x509.NameAttribute(NameOID.ORGANIZATION_NAME, "root")]), "is for ['board-1', 'root']"),
    ],
)
def test_a_request_that_is_not_for_this_name_is_refused(workspace, authority, data, message):
    with pytest.raises(RequestRefused, match=re.escape(message)):
        authority.sign(data, "board-1")
    assert enrolled(workspace.folder) == {}


@pytest.mark.parametrize(
    "generate", [lambda: ec.generate_private_key(ec.SECP384R1()), lambda: rsa.generate_private_key(65537, 2048)]
)
def test_a_request_for_another_kind_of_key_is_refused(workspace, authority, generate):
    with pytest.raises(RequestRefused, match="not on P-256"):
        authority.sign(request_for(key=generate()), "board-1")
    assert enrolled(workspace.folder) == {}


def test_a_request_by_somebody_without_the_key_is_refused(authority):
    der = bytearray(x509.load_pem_x509_csr(request_for()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(RequestRefused, match="is not signed with its own key"):
        authority.sign(forged, "board-1")


@given(st.binary(max_size=400))
def test_no_bytes_but_a_certificate_pass_for_one(tmp_path_factory, data):
    key = tmp_path_factory.mktemp("key") / "device.key"
    with pytest.raises(IdentityError):
        check_certificate(data, key, "board-1")


def test_a_certificate_of_another_board_or_key_is_refused(tmp_path, authority):
    key, other = tmp_path / "device.key", tmp_path / "other.key"
    pem = authority.sign(signing_request(key, "board-1"), "board-1")
    with pytest.raises(IdentityError, match="is not for board-2"):
        check_certificate(pem, key, "board-2")
    with pytest.raises(IdentityError, match="another key than this board's"):
        check_certificate(pem, other, "board-1")


def asked(token: Token, device="board-1", data=None) -> tuple[Request, bytes]:
    request = Request.make(token, device, data or request_for(device))
    return request, request.to_bytes()


def test_a_token_enrols_one_board_once(workspace, authority):
    token = new_token(workspace, "board-1", NOW_S, 3600)
    assert stat.S_IMODE((workspace.folder / "tokens.json").stat().st_mode) == 0o600
    request, data = asked(token)
    _, first, outcome = answer(workspace, authority, data, NOW_S + 10)
    first.check(token, request)
    assert (outcome.device, outcome.reason) == ("board-1", "")
    # The same request once more, its answer was lost: the same certificate, a little late too, and not for ever.
    _, again, outcome = answer(workspace, authority, data, NOW_S + 10_000)
    assert (again.certificate, outcome.repeated) == (first.certificate, True)
    assert answer(workspace, authority, data, NOW_S + 200_000)[1].reason == "token-expired"
    # Another key with the same token: somebody copied it.
    _, second, outcome = answer(workspace, authority, asked(token)[1], NOW_S + 20)
    assert (second.reason, second.certificate, outcome.reason) == ("token-used", b"", "token-used")


def test_an_expired_token_is_refused(workspace, authority):
    token = new_token(workspace, "board-1", NOW_S, 3600)
    assert answer(workspace, authority, asked(token)[1], NOW_S + 3601)[1].reason == "token-expired"


def test_a_token_for_another_name_is_refused(workspace, authority):
    token = new_token(workspace, "board-1", NOW_S, 3600)
    assert answer(workspace, authority, asked(token, "board-2")[1], NOW_S)[1].reason == "request-invalid"
    assert enrolled(workspace.folder) == {}


def test_a_signing_request_for_another_name_than_the_tokens_is_refused(workspace, authority):
    token = new_token(workspace, "board-1", NOW_S, 3600)
    _, data = asked(token, data=request_for("board-2"))
    assert answer(workspace, authority, data, NOW_S)[1].reason == "request-invalid"


def test_a_token_that_was_guessed_gets_no_answer(workspace, authority):
    token = new_token(workspace, "board-1", NOW_S, 3600)
    for guess, message in (
        (Token(token.identifier, bytes(32)), "not made with this token"),
        (Token(bytes(8), bytes(32)), "not one of"),
    ):
        with pytest.raises(Refused, match=message) as refusal:
            answer(workspace, authority, asked(guess)[1], NOW_S)
        assert refusal.value.reason is Reason.REQUEST_INVALID


def test_an_answer_by_somebody_without_the_token_is_refused(workspace):
    token = new_token(workspace, "board-1", NOW_S, 3600)
    request, _ = asked(token)
    for forged in (Answer.make(Token(token.identifier, bytes(32)), request, b"x"), Answer.make(token, asked(token)[0], b"x")):
        with pytest.raises(Refused, match="not made with this board's token"):
            Answer.from_bytes(forged.to_bytes()).check(token, request)


def test_a_token_is_written_and_read_and_never_shown(workspace):
    token = new_token(workspace, "board-1", NOW_S, 3600)
    assert Token.from_text(token.to_text() + "\n") == token
    assert token.secret.hex() not in repr(token)
    for text in ("", "wamr-ota-00-00", token.to_text() + "0", "x" * 1000):
        with pytest.raises(Refused, match="enrolment token"):
            Token.from_text(text)
    with pytest.raises(OtaError, match="not a name"):
        new_token(workspace, "../x", NOW_S, 1)


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_readers_of_enrolment(data):
    for kind in (Request, Answer):
        with pytest.raises(Refused):
            kind.from_bytes(data)


def test_a_key_is_never_written_through_what_lies_in_its_way(tmp_path, monkeypatch):
    """A link planted under the name of the temporary file, and of the key itself."""
    stolen = tmp_path / "stolen"
    monkeypatch.setattr("secrets.token_hex", lambda size: "known")
    for name in ("key.pem", ".key.pem.known"):
        (tmp_path / name).symlink_to(stolen)
        with pytest.raises(KeyFileError):
            SigningKey.generate().save(tmp_path / "key.pem")
        (tmp_path / name).unlink()
    assert not stolen.exists()
    SigningKey.generate().save(tmp_path / "key.pem")
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["key.pem"]


def test_a_key_is_saved_where_the_file_system_has_no_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    key = SigningKey.generate()
    key.save(tmp_path / "key.pem")
    assert SigningKey.load(tmp_path / "key.pem").public.key_id == key.public.key_id
    with pytest.raises(KeyFileError):
        SigningKey.generate().save(tmp_path / "key.pem")
    assert [each.name for each in tmp_path.iterdir()] == ["key.pem"]


def test_settings_say_what_a_board_needs_and_no_more(workspace, tmp_path):
    made = BoardSettings("board-1", "lab", "qemu-armv7", BrokerUrl.parse("mqtts://broker.example"), ("cortex-a15",))
    files = made.files(workspace, certificate=b"pem")
    assert sorted(files) == ["agent.toml", "device.pem", "root.cbor"]
    text = files["agent.toml"].decode()
    assert 'id = "board-1"' in text
    assert 'cpus = ["cortex-a15"]' in text
    assert 'certificate_file = "device.pem"' in text
    assert "[enrolment]" not in text
    assert sorted(made.files(workspace, token="t")) == ["agent.toml", "enrolment.token", "root.cbor"]
    timed = replace(made, ntp=("time.example", "192.0.2.1:1123"))
    assert timed.files(workspace)["ntp-servers"] == b"time.example\n192.0.2.1:1123\n"
    with pytest.raises(ProvisionError, match="is no time server"):
        replace(made, ntp=("$(reboot)",)).check()


def test_a_policy_outside_of_tables_stays_a_policy(workspace, tmp_path):
    (tmp_path / "policy.toml").write_text("policy.grants.logging = {}\ninstances.a.config.site = 'roof'\n")
    made = BoardSettings("board-1", "lab", "x", BrokerUrl.parse("mqtt://broker"), policy=read_policy(tmp_path / "policy.toml"))
    value = tomllib.loads(made.files(workspace)["agent.toml"].decode())
    assert (value["policy"], value["instances"]) == ({"grants": {"logging": {}}}, {"a": {"config": {"site": "roof"}}})
    assert sorted(value["trust"]) == ["root"]


def test_a_policy_says_where_sticks_are_mounted_and_what_the_owner_allows(workspace, tmp_path):
    """A board that is flashed without a broker gets its updates from sticks alone."""
    policy = '[bundles]\nwatch = ["/media/*"]\n[updates]\nfunctional = "postpone 7d"\n'
    (tmp_path / "policy.toml").write_text(policy)
    made = BoardSettings("board-1", "lab", "x", None, policy=read_policy(tmp_path / "policy.toml"))
    (tmp_path / "agent.toml").write_bytes(made.files(workspace)["agent.toml"])
    config = load(tmp_path / "agent.toml")
    assert config.bundles.watch == ("/media/*",)
    assert config.owner.functional.postpone_s == 7 * 86_400


def test_a_broker_that_boards_cannot_reach_is_refused(workspace):
    with pytest.raises(ProvisionError, match="boards can't reach the broker at localhost"):
        BoardSettings("b", "lab", "x", BrokerUrl.parse("mqtt://localhost")).check()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[policy.grants.network]\n", "network"),
        ("[broker]\nurl = 'x'\n", r"\[broker\] is not a part of a policy"),
        ("[", "policy.toml"),
    ],
)
def test_a_policy_with_nonsense_is_refused(tmp_path, text, message):
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises((ProvisionError, TomlError), match=message):
        read_policy(tmp_path / "policy.toml")


@pytest.mark.parametrize(
    ("policy", "required"),
    [
        ("", True),
        ("[policy.grants.logging]\n", True),
        ('[policy]\nconfinement = "best-effort"\n', False),
        ('policy.worker_users="7-9"', True),
    ],
)
def test_settings_require_confinement_unless_their_policy_says_otherwise(workspace, tmp_path, policy, required):
    (tmp_path / "policy.toml").write_text(policy)
    made = BoardSettings("board-1", "lab", "x", BrokerUrl.parse("mqtt://broker"), policy=read_policy(tmp_path / "policy.toml"))
    text = made.files(workspace)["agent.toml"].decode()
    (tmp_path / "agent.toml").write_text(text)
    assert load(tmp_path / "agent.toml").confinement_required is required
    assert ('confinement = "required"' in text) is (policy in ("", "[policy.grants.logging]\n"))


def test_a_new_workspace_has_the_authority_that_a_broker_is_told_of(tmp_path, capsys):
    folder = tmp_path / "operator"
    assert main(["-C", str(folder), "init", "--broker", "mqtts://broker.example.com"]) == 0
    assert f"{folder}/trust/ca.pem" in capsys.readouterr().out
    certificate = x509.load_pem_x509_certificate((folder / "trust/ca.pem").read_bytes())
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert stat.S_IMODE((folder / "keys/ca.pem").stat().st_mode) == 0o600
    before = (folder / "trust/ca.pem").read_bytes()
    CertificateAuthority(Workspace.open(folder))
    assert (folder / "trust/ca.pem").read_bytes() == before

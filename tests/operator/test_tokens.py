"""Keys that never leave a token or an ssh-agent: SoftHSM and OpenSSH's agent, as an operator has them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from ota import ssh_agents, token_keys, tokens
from ota.cli.main import main
from ota.errors import KeyFileError
from ota.formats.cose import Sign1
from ota.formats.trust import ROLES, ROOT_TYPE, first_root
from ota.keyring import SigningKey, sign_document
from ota.operator.ca import CertificateAuthority
from ota.operator.workspace import Workspace
from ota.references import Secrets, open_key
from tests.support.signing import Signer

PIN = "4321"
pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
MODULE = next((str(each) for each in Path("/usr/lib").glob("**/softhsm/libsofthsm2.so")), "")
with_softhsm = pytest.mark.skipif(not MODULE, reason="SoftHSM is not installed")


@pytest.fixture(scope="module")
def token(tmp_path_factory):
    """The beginning of a URI of a token, which lives as long as this process: the module reads its configuration once."""
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    config = folder / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(config)
    tool = [shutil.which("softhsm2-util") or "softhsm2-util", "--init-token", "--free", "--so-pin", "1234", "--pin", PIN]
    for label in ("ops", "other"):
        subprocess.run([*tool, "--label", label], check=True, capture_output=True)
    tokens.log_out()
    yield f"pkcs11:token=ops?module-path={MODULE}"
    tokens.log_out()
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before


def secrets(pin=PIN):
    return Secrets(pin.encode())


def named(token, label):
    return tokens.TokenUri.parse(token).of(label).text


@with_softhsm
@pytest.mark.parametrize("algorithm", tokens.ALGORITHMS)
def test_a_key_that_a_token_made_signs_documents_that_boards_take(token, algorithm):
    uri = named(token, f"root-{algorithm}")
    key = tokens.make_key(uri, secrets(), algorithm)
    signer = Signer()
    signer.keys["root"] = open_key(uri, Path(), secrets())
    assert signer.keys["root"].public.key_id == key.public.key_id
    assert first_root(signer.root_document()) == signer.root()


@with_softhsm
@pytest.mark.parametrize("algorithm", tokens.ALGORITHMS)
def test_a_key_stays_in_its_token(token, tmp_path, algorithm):
    key = tokens.make_key(named(token, f"stays-{algorithm}"), secrets(), algorithm)
    with pytest.raises(KeyFileError, match="stays in its token"):
        key.save(tmp_path / "key.pem")
    assert list(tmp_path.iterdir()) == []


@with_softhsm
def test_a_second_key_of_a_label_is_not_made(token):
    tokens.make_key(named(token, "once"), secrets(), "es256")
    with pytest.raises(tokens.TokenError, match="a key of this label already"):
        tokens.make_key(named(token, "once"), secrets(), "es256")


@with_softhsm
def test_a_workspace_whose_keys_are_in_a_token_publishes_and_enrols_after_it_is_opened_anew(token, tmp_path):
    pin = tmp_path / "pin"
    pin.write_text(PIN)
    pin.chmod(0o600)
    uri = token.replace("pkcs11:token=ops", "pkcs11:token=ops;object=fleet") + f"&pin-source=file:{pin}"
    folder = tmp_path / "operator"
    assert main(["-C", str(folder), "init", "--pkcs11", uri, "--algorithm", "es256"]) == 0
    assert list((folder / "keys").iterdir()) == []
    tokens.log_out()
    workspace = Workspace.open(folder)
    for role in ROLES:
        assert workspace.role_keys(role)[0].public.algorithm.name == "es256"
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "roof-1")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(ec.generate_private_key(ec.SECP256R1()), SHA256())
    authority = CertificateAuthority(workspace)
    certificate = x509.load_pem_x509_certificate(authority.sign(request.public_bytes(Encoding.PEM), "roof-1"))
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate_file.read_bytes()))


@with_softhsm
def test_an_authority_in_a_token_signs_certificates(token):
    key = tokens.make_key(named(token, "ca"), secrets(), "es256")
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "roof-1")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key.private, SHA256())
    assert request.is_signature_valid


@with_softhsm
def test_what_is_not_there_is_named(token):
    for reference, message in [
        (named(token, "nobody"), "0 such private keys"),
        (named(token, "nobody").replace("token=ops", "token=lost"), "0 tokens fit"),
        (named(token, "nobody").replace("token=ops;", ""), r"tokens fit, not one \(.*ops"),
        (f"pkcs11:token=ops?module-path={__file__}", "can't be loaded as a PKCS#11 module"),
    ]:
        with pytest.raises(tokens.TokenError, match=message):
            open_key(reference, Path(), secrets())


@with_softhsm
def test_a_wrong_pin_is_said_and_the_next_one_is_taken(token):
    other = named(token, "x").replace("token=ops", "token=other")
    with pytest.raises(tokens.TokenError, match="PinIncorrect"):
        open_key(other, Path(), secrets("9999"))
    with pytest.raises(tokens.TokenError, match="0 such private keys"):
        open_key(other, Path(), secrets())


@with_softhsm
def test_a_wrong_pin_is_tried_once_however_many_keys_are_wanted(token, monkeypatch):
    """A token locks itself after a few."""
    import pkcs11

    tried = []

    def refuse(**options):
        tried.append(options["user_pin"])
        raise pkcs11.PinIncorrect

    there = SimpleNamespace(label="ops", open=refuse)
    monkeypatch.setattr(token_keys, "_module", lambda _: SimpleNamespace(get_tokens=lambda **_: [there]))
    tokens.log_out()
    for name in ("root", "release", "deploy"):
        with pytest.raises(tokens.TokenError, match=r"PinIncorrect|has refused this PIN"):
            open_key(named(token, name), Path(), secrets("9999"))
    assert tried == ["9999"]
    with pytest.raises(tokens.TokenError, match="PinIncorrect"):
        open_key(named(token, "root"), Path(), secrets("8888"))
    assert tried == ["9999", "8888"]
    tokens.log_out()


@with_softhsm
def test_a_passphrase_that_was_typed_for_a_key_file_is_not_tried_as_a_pin(token, tmp_path):
    """Else each command would try it, and the third one lock the token."""
    SigningKey.generate().save(tmp_path / "key.pem", b"of the file")
    tokens.make_key(named(token, "beside-a-file"), secrets(), "es256")
    tokens.log_out()
    asked, answers = [], {"the PIN of token ops": PIN.encode(), str(tmp_path / "key.pem"): b"of the file"}
    typing = Secrets()
    typing.ask = lambda what: (asked.append(what), answers[what])[1]
    open_key("key.pem", tmp_path, typing)
    open_key(named(token, "beside-a-file"), tmp_path, typing)
    assert asked == [str(tmp_path / "key.pem"), "the PIN of token ops"]
    open_key("key.pem", tmp_path, typing)  # asked once more, which locks nothing


@with_softhsm
def test_the_pin_comes_from_a_file_that_its_owner_alone_reads(token, tmp_path):
    pin = tmp_path / "pin"
    pin.write_text(PIN + "\n")
    uri = f"{named(token, 'piny')}&pin-source=file:{pin}"
    tokens.log_out()
    pin.chmod(0o644)
    with pytest.raises(tokens.TokenError, match="can be read by others"):
        open_key(uri, Path(), Secrets())
    with pytest.raises(tokens.TokenError, match="the PIN of token ops is needed"):
        open_key(named(token, "piny"), Path(), Secrets())
    pin.chmod(0o600)
    assert tokens.make_key(uri, Secrets(), "es256").public.algorithm.name == "es256"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("pkcs11:token=a?module-path=/x&pin-value=1234", "seen by everybody"),
        ("pkcs11:token=a;pin-value=1234?module-path=/x", "seen by everybody"),
        ("pkcs11:token=a;token=b?module-path=/x", "'token' is not one of"),
        ("pkcs11:colour=red?module-path=/x", "'colour' is not one of"),
        ("pkcs11:token=a;type=cert?module-path=/x", "not a private key"),
        ("pkcs11:token=a?module-path=/x&pin-source=|cat", "pin-source is not"),
        ("pkcs11:token=a?module-path=/x&pin-source=https://h/p", "pin-source is not"),
        ("pkcs11:token=a", "names no module"),
        ("pkcs11:" + "a" * 2000, "not a PKCS#11 URI"),
    ],
)
def test_a_uri_that_can_t_be_right_is_refused(uri, message, monkeypatch):
    monkeypatch.delenv("PKCS11_MODULE", raising=False)
    with pytest.raises(tokens.TokenError, match=message) as caught:
        tokens.TokenUri.parse(uri)
    assert "1234" not in str(caught.value)


def test_the_parts_of_a_uri_are_unquoted(monkeypatch):
    monkeypatch.setenv("PKCS11_MODULE", "/usr/lib/m.so")
    found = tokens.TokenUri.parse("pkcs11:token=my%20token;id=%00%ff;serial=12")
    assert (found.token, found.identifier, found.serial, found.module) == ("my token", b"\0\xff", "12", "/usr/lib/m.so")


# -- ssh-agent


@pytest.fixture
def agent(tmp_path, monkeypatch):
    """An agent of our own, with a key of each kind; the private halves are no files any more."""
    pytest.importorskip("paramiko", reason="paramiko is not installed")
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(tmp_path / "agent")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    try:
        yield tmp_path
    finally:
        process.kill()
        process.communicate()


def add(folder, kind, comment):
    path = folder / f"key-{comment}"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", comment, "-f", path], check=True)
    subprocess.run(["ssh-add", "-q", path], check=True, capture_output=True)
    path.unlink()
    listed = subprocess.run(["ssh-keygen", "-lf", f"{path}.pub"], check=True, capture_output=True, text=True)
    return listed.stdout.split()[1]


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_a_key_of_an_ssh_agent_signs_what_boards_take_by_fingerprint_and_by_comment(agent, kind):
    fingerprint = add(agent, kind, "release@desk")
    by_print, by_comment = (open_key(f"ssh-agent:{each}", Path(), Secrets()) for each in (fingerprint, "release@desk"))
    assert by_print.public.key_id == by_comment.public.key_id
    message = Sign1.from_bytes(by_print.sign1(b"payload"))
    assert message.verify(by_comment.public, b"payload") == b"payload"
    document = sign_document(Signer().root().to_payload(), ROOT_TYPE, [by_print])
    assert len(document) > 0
    with pytest.raises(KeyFileError, match="stays in the ssh-agent"):
        by_print.save(agent / "out.pem")


def test_an_agent_without_the_key_or_with_one_of_another_kind_says_which_it_has(agent):
    with pytest.raises(ssh_agents.AgentKeyError, match="no ssh-agent, or it has no keys"):
        open_key("ssh-agent:a", Path(), Secrets())
    fingerprint = add(agent, "rsa", "old")
    with pytest.raises(ssh_agents.AgentKeyError, match="key of type ssh-rsa"):
        open_key("ssh-agent:old", Path(), Secrets())
    with pytest.raises(ssh_agents.AgentKeyError, match=re.escape(fingerprint) + ".*old"):
        open_key("ssh-agent:new", Path(), Secrets())


def test_without_an_agent_it_is_said_what_is_missing(monkeypatch):
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    pytest.importorskip("paramiko", reason="paramiko is not installed")
    with pytest.raises(ssh_agents.AgentKeyError, match="SSH_AUTH_SOCK"):
        open_key("ssh-agent:a", Path(), Secrets())


def test_a_file_is_a_reference_too(tmp_path):
    key = SigningKey.generate()
    key.save(tmp_path / "k.pem")
    assert open_key("k.pem", tmp_path, Secrets()).public.key_id == key.public.key_id


# -- a TPM

TPM_SCRIPT = """
set -e
tpm2-abrmd --session --allow-root --tcti "swtpm:path=$1/tpm" 2>/dev/null &
manager=$!
trap 'kill $manager; wait $manager' EXIT
for _ in $(seq 100); do tpm2_getcap properties-fixed >/dev/null 2>&1 && break; sleep 0.1; done
tpm2_ptool init --path "$1" >/dev/null
tpm2_ptool addtoken --pid 1 --label ops --sopin 1234 --userpin 4321 --path "$1" >/dev/null
tpm2_ptool addkey --algorithm=ecc256 --label ops --key-label release --userpin 4321 --path "$1" >/dev/null
"$2" -c '
import sys
from pathlib import Path
from ota.formats.cose import Sign1
from ota.references import Secrets, open_key
key = open_key(sys.argv[1], Path(), Secrets(b"4321"))
print(Sign1.from_bytes(key.sign1(b"payload")).verify(key.public, b"payload").decode(), key.public.algorithm.name)
' "pkcs11:token=ops;object=release?module-path=$3"
"""


@pytest.mark.full
def test_a_key_in_a_tpm_signs(tmp_path):
    module = next((str(each) for each in Path("/usr/lib").glob("**/pkcs11/libtpm2_pkcs11.so")), "")
    if not module or not shutil.which("swtpm"):
        pytest.skip("swtpm, tpm2-abrmd or tpm2-pkcs11 are not installed")
    where = {"TPM2_PKCS11_STORE": str(tmp_path), "TPM2_PKCS11_TCTI": "tabrmd:bus_type=session"}
    environment = os.environ | where | {"TPM2TOOLS_TCTI": where["TPM2_PKCS11_TCTI"], "TSS2_LOG": "all+NONE"}
    sockets = ["--server", f"type=unixio,path={tmp_path}/tpm", "--ctrl", f"type=unixio,path={tmp_path}/tpm.ctrl"]
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={tmp_path}", "--flags", "not-need-init,startup-clear", *sockets]
    emulator = subprocess.Popen(command)
    try:
        command = ["dbus-run-session", "--", "bash", "-c", TPM_SCRIPT, "tpm", str(tmp_path), sys.executable, module]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
        assert found.stdout.strip() == "payload es256", found.stderr
    finally:
        emulator.kill()
        emulator.wait()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("pkcs11:token=board;object=device?module-path=/m.so", "pin-source"),
        ("pkcs11:token=board?module-path=/m.so&pin-source=file:/pin", "object"),
        ("pkcs11:token=board;object=device?pin-source=file:/pin", "module-path"),
        ("pkcs11:token=board;object=device?module-path=/m.so&pin-value=1", "seen by everybody"),
        ("device.pem", "not a PKCS#11 URI"),
    ],
)
def test_settings_name_no_key_that_the_board_could_not_open_by_itself(tmp_path, monkeypatch, capsys, uri, message):
    monkeypatch.setenv("PKCS11_MODULE", "/here/only.so")
    folder = str(tmp_path / "operator")
    assert main(["-C", folder, "init", "--broker", "mqtts://broker.example:8883"]) == 0
    with pytest.raises(SystemExit) as ended:
        main(["-C", folder, "settings", "roof-1", "--board", "generic-aarch64", "-o", str(tmp_path / "b"), "--key", uri])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "b").exists()

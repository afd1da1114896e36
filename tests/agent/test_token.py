"""A board's key in a PKCS#11 token: found, made, renewed, refused, and kept apart from the agent."""

import asyncio
import datetime
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from device_agent.broker import token, tunnel
from device_agent.broker.certificates import signing_request
from device_agent.broker.identity import Identity, IdentityError, device_key
from device_agent.broker.pair import Pair
from device_agent.broker.settings import BrokerConfig
from device_agent.broker.statements import OWN_KEY, Statements
from device_agent.broker.token import Holder, TokenProblem, uri_of
from ota.formats import signed_report
from ota.formats.broker_url import BrokerUrl
from ota.formats.cose import Sign1
from tests.support.boards_with_certificates import csr
from tests.support.softhsm import MODULE, Token

pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
pytestmark = pytest.mark.skipif(not MODULE, reason="SoftHSM is not installed")


@pytest.fixture
def card(tmp_path, monkeypatch):
    """A token, and an agent's process for it that ends with the test."""
    made = Token(tmp_path / "hsm")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(token, "_HOLDER", Holder())
    yield made
    token.close()


@pytest.fixture
def file(card, tmp_path):
    """A key file that names a key of the token, which has none yet."""
    path = tmp_path / "device.key"
    path.write_text(card.uri() + "\n")
    return path


def labels(card):
    """Of the private keys on the token."""
    code = (
        "import sys; from ota import token_keys as t; u = t.TokenUri.parse(sys.argv[1]);"
        "import pkcs11; s = t._session(u, lambda _: None);"
        "print(*sorted(k.label for k in s.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY})))"
    )
    done = subprocess.run([sys.executable, "-c", code, card.uri()], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_key_is_made_in_the_token_and_signs_there(card, file):
    identity = Identity.load(file)
    signed = Sign1.from_bytes(identity.sign1(b"hello", "text/plain"))
    assert signed.verify(identity.public) == b"hello"
    assert file.read_text() == card.uri() + "\n"
    assert labels(card) == ["device"]


def test_a_key_that_is_there_is_found_again(card, file):
    first = device_key(file).public_key()
    token.close()
    assert device_key(file, make=False).public_key() == first


def test_a_request_for_a_certificate_is_signed_in_the_token(card, file):
    request = x509.load_pem_x509_csr(signing_request(file, "board-1"))
    assert request.is_signature_valid
    assert request.public_key() == device_key(file, make=False).public_key()


def test_the_key_cannot_be_read_out(card, file):
    key = device_key(file)
    for read in (lambda: key.private_bytes("", "", ""), key.private_numbers):
        with pytest.raises(IdentityError, match="stays in its token"):
            read()


def test_a_missing_key_is_not_made_in_the_place_of_one_that_has_a_certificate(card, file):
    with pytest.raises(TokenProblem, match="0 such private keys") as refused:
        device_key(file, make=False)
    assert refused.value.reason == "token-key-missing"
    assert labels(card) == []


def test_keys_of_two_labels_take_turns_and_only_the_next_one_is_replaced(card, file, tmp_path):
    pair = Pair(tmp_path / "device.pem", file, None)
    first = device_key(file).public_key()
    seen = []
    for expected in ("device-2", "device-2"):
        pair.begin(lambda key: signing_request(key, "board-1"), new_key=True)
        assert uri_of(pair.next_key.read_bytes()).label == expected
        seen.append(device_key(pair.next_key, make=False).public_key())
        assert device_key(file, make=False).public_key() == first  # the one in use is left alone
    assert seen[0] != seen[1]
    pair.next_key.replace(file)
    pair.begin(lambda key: signing_request(key, "board-1"), new_key=True)
    assert uri_of(pair.next_key.read_bytes()).label == "device"
    assert device_key(pair.next_key, make=False).public_key() != first
    assert labels(card) == ["device", "device-2"]


@pytest.mark.parametrize(("ours", "theirs"), [("device", "device-2"), ("device-2", "device")])
def test_a_key_of_somebody_else_is_never_replaced(card, tmp_path, ours, theirs):
    """A token may have keys of others, under the label that the next key would get."""
    for label in (ours, theirs):
        (tmp_path / label).write_text(card.uri(label))
        device_key(tmp_path / label)
    other = device_key(tmp_path / theirs).public_key()
    pair = Pair(tmp_path / "device.pem", tmp_path / ours, None)
    with pytest.raises(TokenProblem, match="not this board's; it is not replaced"):
        pair.begin(lambda key: signing_request(key, "board-1"), new_key=True)
    assert not pair.next_key.exists()
    assert labels(card) == sorted((ours, theirs))
    assert device_key(tmp_path / theirs, make=False).public_key() == other


def test_a_power_cut_between_the_making_of_a_key_and_its_name_costs_nothing(card, file, tmp_path, monkeypatch):
    pair = Pair(tmp_path / "device.pem", file, None)
    first = device_key(file).public_key()

    def cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("device_agent.broker.identity.write_durably", cut)
        pair.begin(lambda key: signing_request(key, "board-1"), new_key=True)
    assert not pair.next_key.exists()
    pair.begin(lambda key: signing_request(key, "board-1"), new_key=True)
    assert device_key(file, make=False).public_key() == first
    assert labels(card) == ["device", "device-2"]


def test_a_promotion_that_power_cut_off_is_not_ended_by_guess_while_the_token_is_away(card, file, tmp_path):
    """Else another renewal would begin, and key and certificate would not fit each other."""
    pair = Pair(tmp_path / "device.pem", file, None)
    key = device_key(file)
    ca = ec.generate_private_key(ec.SECP256R1())
    request = x509.load_pem_x509_csr(csr("board-1", key))
    pair.next_certificate.write_bytes(_certificate(request, ca))
    token.close()
    card.pull_out()
    with pytest.raises(OSError, match="0 tokens fit"):
        pair.settle()
    pair.recover()  # at the start of the agent: it goes on
    assert pair.next_certificate.exists()
    card.put_back()
    assert pair.settle()
    assert pair.certificate.exists()


def _certificate(request, ca):
    from datetime import UTC, datetime, timedelta

    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(request.subject).issuer_name(request.subject)
    builder = builder.public_key(request.public_key()).serial_number(7)
    made = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(ca, SHA256())
    from cryptography.hazmat.primitives.serialization import Encoding

    return made.public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("change", "reason", "text"),
    [
        (("token=board", "token=lost"), "token-missing", "0 tokens fit"),
        ((MODULE, "/nowhere/module.so"), "token-missing", "can't be loaded as a PKCS#11 module"),
        (("/pin", "/nopin"), "token-pin-refused", "No such file"),
        (("pin-source=file:", "pin-value="), "token-failed", "seen by everybody"),
        (("&pin-source", "#"), "token-failed", "can't be loaded"),
    ],
)
def test_what_is_wrong_has_a_reason_that_stays(card, file, change, reason, text):
    if change[0] == "&pin-source":
        file.write_text(f"pkcs11:token=board;object=device?module-path={MODULE}")
        reason, text = "token-pin-refused", "names no file with the PIN"
    else:
        file.write_text(card.uri().replace(*change))
    with pytest.raises(TokenProblem, match=text) as refused:
        device_key(file)
    assert refused.value.reason == reason


def test_a_pin_that_others_can_read_is_not_used(card, file):
    card.pin.chmod(0o644)
    with pytest.raises(TokenProblem, match="can be read by others") as refused:
        device_key(file)
    assert refused.value.reason == "token-pin-refused"


def test_a_wrong_pin_is_tried_once_until_its_file_changes(card, file, monkeypatch):
    """A token locks itself after a few, and the board looks at its certificate each hour."""
    card.pin.write_text("9999")
    starts, start = [], Holder._start
    monkeypatch.setattr(Holder, "_start", lambda self: (starts.append(1), start(self)))
    with pytest.raises(TokenProblem, match="PinIncorrect"):
        device_key(file)
    for _ in range(3):
        with pytest.raises(TokenProblem, match="not tried once more") as refused:
            device_key(file)
        assert refused.value.reason == "token-pin-refused"
    assert len(starts) == 1
    card.pin.write_text("4321\n")
    assert device_key(file).public_key()


@pytest.fixture
def tries(monkeypatch):
    """How often connections were begun, each of which logs in by itself."""
    begun, start = [], tunnel._start
    monkeypatch.setattr(tunnel, "_start", lambda *each: (begun.append(1), start(*each))[1])
    return begun


@pytest.fixture
def connect(card, file, tmp_path):
    """Opens a connection with the key of the token, to a port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ca = certificate_of(tmp_path, file)
        url = BrokerUrl.parse(f"mqtts://127.0.0.1:{server.getsockname()[1]}")
        config = BrokerConfig(url, ca_file=ca, certificate_file=ca, key_file=file)
        yield lambda: tunnel.open_tunnel(config, 10)


def certificate_of(folder, key):
    """A certificate for a key, by itself: it opens nothing."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "board-1")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, device_key(key).public_key(), 5, now, now + datetime.timedelta(days=1))
    path = folder / "device.pem"
    path.write_bytes(builder.sign(device_key(key), SHA256()).public_bytes(Encoding.PEM))
    return path


def test_a_pin_that_is_changed_in_its_file_is_tried_once_and_by_no_connection(card, file, connect, tries):
    """The process that is logged in would not notice, and each new connection would try it, until the token locks."""
    device_key(file)
    card.pin.write_text("99999")
    for text in ("PinIncorrect", "not tried once more", "not tried once more"):
        with pytest.raises(TokenProblem, match=text):
            connect()
    assert tries == []
    card.pin.write_text("4321\n")
    assert device_key(file).public_key()


def test_a_pin_that_is_changed_on_the_token_is_tried_by_one_connection_at_most(card, file, connect, tries):
    device_key(file)
    card.change_pin("77777")
    with pytest.raises(OSError, match="does not read the key from the token"):
        connect()
    for text in ("PinIncorrect", "not tried once more", "not tried once more"):
        with pytest.raises(TokenProblem, match=text):
            connect()
    assert len(tries) == 1


def test_threads_that_ask_at_the_same_time_try_a_wrong_pin_once(card, file, monkeypatch):
    card.pin.write_text("9999")
    starts, start = [], Holder._start
    monkeypatch.setattr(Holder, "_start", lambda self: (starts.append(1), start(self)))
    refused = []

    def ask():
        with pytest.raises(TokenProblem) as caught:
            device_key(file)
        refused.append(caught.value.reason)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (len(starts), refused) == (1, ["token-pin-refused"] * 4)


def test_a_pin_that_is_put_right_while_the_wrong_one_is_refused_is_tried(card, file, monkeypatch):
    card.pin.write_text("9999")
    problem = Holder._problem

    def meanwhile(self, *each):
        card.pin.write_text("4321\n")
        return problem(self, *each)

    monkeypatch.setattr(Holder, "_problem", meanwhile)
    with pytest.raises(TokenProblem, match="PinIncorrect"):
        device_key(file)
    assert device_key(file).public_key()


def test_a_pin_that_is_no_text_is_not_tried(card, file):
    card.pin.write_bytes(b"43\xff21")
    with pytest.raises(TokenProblem, match="not UTF-8") as refused:
        device_key(file)
    assert refused.value.reason == "token-pin-refused"


def test_no_pin_is_tried_that_could_lock_the_token(card, file):
    """The flag is the token's own: it outlives restarts of the board. SoftHSM has no such limit: a module stands in for it."""
    code = (
        "import sys; from types import SimpleNamespace as N; import pkcs11; from ota import token_keys as t;"
        "one = N(label='board', flags=pkcs11.TokenFlag.USER_PIN_FINAL_TRY, open=lambda **_: sys.exit('it was tried'));"
        "t._module = lambda _: N(get_tokens=lambda **_: [one]);"
        "t.find(t.TokenUri.parse(sys.argv[1]), lambda _: None)"
    )
    done = subprocess.run([sys.executable, "-c", code, card.uri()], capture_output=True, text=True, check=False)
    assert "one more wrong PIN would lock the token" in done.stderr


def test_a_token_that_does_not_answer_is_given_up_and_its_process_ended(card, file, monkeypatch):
    key = device_key(file)
    monkeypatch.setattr(token, "SIGN_S", 0.2)
    stuck = token._HOLDER._process
    os.kill(stuck.pid, signal.SIGSTOP)
    with pytest.raises(TokenProblem, match="has not answered") as refused:
        key.sign(b"x", ec.ECDSA(SHA256()))
    assert refused.value.reason == "token-failed"
    assert stuck.returncode == -signal.SIGKILL
    with pytest.raises(TokenProblem, match="not open"):  # signing starts nothing
        key.sign(b"x", ec.ECDSA(SHA256()))
    assert device_key(file, make=False).public_key() == key.public_key()


def test_a_module_that_crashes_takes_its_process_with_it_and_no_more(card, file):
    key = device_key(file)
    os.kill(token._HOLDER._process.pid, signal.SIGSEGV)
    with pytest.raises(TokenProblem, match="has ended"):
        key.sign(b"x", ec.ECDSA(SHA256()))
    assert device_key(file, make=False).public_key() == key.public_key()


def test_nothing_is_signed_with_another_key_while_the_token_is_away(card, tmp_path):
    storage = tmp_path / "store"
    storage.mkdir()
    (storage / OWN_KEY).write_text(card.uri("own"))
    card.pull_out()
    statements = Statements(None, storage)
    statements.begin(1)
    assert statements.problems[0].startswith("token-missing: ")
    with pytest.raises(IdentityError):
        asyncio.run(statements.sign(signed_report.REPORT, lambda _: b"report"))
    if statements._asking is not None:
        statements._asking.join()
    card.put_back()
    statements.renew()
    assert statements.problems == ()
    assert Sign1.from_bytes(asyncio.run(statements.sign(signed_report.REPORT, lambda _: b"report"))).payload == b"report"


def test_a_process_that_somebody_waits_for_is_ended_with_the_agent(card, file):
    key, stuck = device_key(file), token._HOLDER._process
    os.kill(stuck.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as other:
        opening = other.submit(device_key, file, make=False)  # which may take half a minute
        while not token._HOLDER._lock.locked():
            time.sleep(0.01)
        token.close()
        assert isinstance(opening.exception(), TokenProblem)
    assert stuck.returncode == -signal.SIGKILL
    assert device_key(file, make=False).public_key() == key.public_key()


def test_without_the_library_the_refusal_names_it(card, file, tmp_path, monkeypatch):
    (tmp_path / "no/pkcs11").mkdir(parents=True)
    (tmp_path / "no/pkcs11/__init__.py").write_text("raise ImportError\n")
    monkeypatch.syspath_prepend(str(tmp_path / "no"))
    with pytest.raises(TokenProblem, match=r"wamr-ota\[pkcs11\]") as refused:
        device_key(file)
    assert refused.value.reason == "token-missing"


def test_the_process_ends_with_its_agent(card, file):
    code = (
        "import sys; from pathlib import Path; from device_agent.broker import identity, token;"
        "identity.device_key(Path(sys.argv[1])); print(token._HOLDER._process.pid, flush=True);"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    for _ in range(600):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]:
            return
        signal.sigtimedwait([], 0.1)
    pytest.fail("it is still there")

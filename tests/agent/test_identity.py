"""The board's key and certificate, as what signs."""

import base64
import contextlib
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from device_agent.broker import certificates
from device_agent.broker.certificates import signing_request
from device_agent.broker.identity import Identity, IdentityError, device_key
from ota.formats.broker_url import BrokerUrl
from ota.formats.cose import KEY_ID, TYPE, X5CHAIN, Sign1, read_bare_key
from ota.formats.reasons import Reason, Refused
from ota.operator.ca import CertificateAuthority
from ota.operator.workspace import Settings, Workspace

NOW_S = 1_800_000_000


def test_what_a_board_signs_names_its_key_and_its_certificate(tmp_path):
    settings = Settings("test.example", BrokerUrl.parse("mqtt://broker"), "lab")
    authority = CertificateAuthority(Workspace.create(tmp_path / "operator", settings, NOW_S, "ed25519"))
    key, file = tmp_path / "device.key", tmp_path / "device.pem"
    pem = authority.sign(signing_request(key, "board-1"), "board-1")
    file.write_bytes(pem)  # a chain: the first certificate is the board's
    identity = Identity.load(key, file)
    assert identity.certificate == x509.load_pem_x509_certificates(pem)[0].public_bytes(Encoding.DER)
    message = Sign1.from_bytes(identity.sign1(b"said", "application/x"))
    assert message.verify(identity.public) == b"said"
    assert (message.headers[KEY_ID], message.headers[TYPE]) == (identity.public.key_id, "application/x")
    assert message.unprotected == {X5CHAIN: identity.certificate}


def test_a_board_without_a_certificate_signs_with_a_key_of_its_own_and_keeps_it(tmp_path):
    first, again = (Identity.load(tmp_path / "identity.pem") for _ in range(2))
    assert first.public.key_id == again.public.key_id
    message = Sign1.from_bytes(again.sign1(b"said", "application/x"))
    assert message.verify(first.public) == b"said"
    assert read_bare_key(message.unprotected) == first.public
    assert Sign1.from_bytes(again.sign1(b"said", "application/x", introduce=False)).unprotected == {}
    with pytest.raises(Refused) as refusal:
        message.verify(Identity(ec.generate_private_key(ec.SECP256R1())).public)
    assert refusal.value.reason is Reason.SIGNATURE_INVALID


def test_the_private_key_is_not_shown(tmp_path):
    assert "key" not in repr(Identity.load(tmp_path / "identity.pem"))


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----"])
def test_what_is_no_certificate_is_named(tmp_path, text):
    (tmp_path / "device.pem").write_text(text)
    with pytest.raises(IdentityError, match=r"device\.pem is not a certificate in PEM format"):
        Identity.load(tmp_path / "device.key", tmp_path / "device.pem")


def test_a_key_on_another_curve_is_refused(tmp_path):
    key = ec.generate_private_key(ec.SECP384R1())
    (tmp_path / "device.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(IdentityError, match="holds no P-256 key"):
        Identity.load(tmp_path / "device.key")


def with_one_byte_changed(pem: bytes) -> Iterator[bytes]:
    """The first block of a PEM text with each byte of its content changed in turn, and the rest of the text behind it."""
    first, *lines = pem.splitlines(keepends=True)
    last = next(number for number, line in enumerate(lines) if line.startswith(b"-----END"))
    content = base64.b64decode(b"".join(lines[:last]))
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 4
        yield first + base64.encodebytes(changed) + b"".join(lines[last:])


def test_a_key_that_a_disk_has_damaged_is_named_wherever_it_is(tmp_path):
    file = tmp_path / "identity.pem"
    Identity.load(file)
    refused = 0
    for changed in with_one_byte_changed(file.read_bytes()):
        file.write_bytes(changed)
        try:
            Identity.load(file)
        except IdentityError as error:
            assert "identity.pem" in str(error)
            refused += 1
    assert refused > 100


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # a serial number below zero
def test_certificates_and_requests_that_are_damaged_anywhere_are_refused_or_passed_over(tmp_path):
    settings = Settings("test.example", BrokerUrl.parse("mqtt://broker"), "lab")
    authority = CertificateAuthority(Workspace.create(tmp_path / "operator", settings, NOW_S, "ed25519"))
    key, file = tmp_path / "device.key", tmp_path / "device.pem"
    request = signing_request(key, "board-1")
    for changed in with_one_byte_changed(authority.sign(request, "board-1")):
        file.write_bytes(changed)
        with contextlib.suppress(IdentityError):
            certificates.standing(file, NOW_S)
        with contextlib.suppress(IdentityError):
            certificates.check_certificate(changed, key, "board-1")
        certificates.serial_of(changed)
        certificates.is_for(changed, device_key(key))
    for changed in with_one_byte_changed(request):
        certificates.asks_for(changed, key, "board-1")

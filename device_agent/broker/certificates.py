"""Requests for certificates of the board's key, how the present one stands, and what another must be to be taken.

It loads X.509, which takes 2 MB.
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from device_agent.broker.identity import IdentityError, device_key
from ota.certificates import UNREADABLE
from ota.formats.cose import VerifyKey
from ota.formats.fields import is_name

__all__ = ["Standing", "asks_for", "check_candidate", "check_certificate", "is_for", "serial_of", "signing_request", "standing"]

RENEWED_AFTER = 2 / 3  # of its lifetime
SERIAL_BYTES = 20  # RFC 5280, section 4.1.2.2


def signing_request(key_file: Path, device: str) -> bytes:
    """A PKCS #10 request (RFC 2986), PEM, for a device's name; makes the key (P-256, mode 0600) where there is none yet.

    Raises IdentityError.
    """
    if not is_name(device):
        raise IdentityError(f"{device!r} is not a name for a device")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(device_key(key_file), SHA256()).public_bytes(Encoding.PEM)


def asks_for(request: bytes, key_file: Path, device: str) -> bool:
    """Whether a signing request is for this device's name and the key in a file, which is there."""
    try:
        found = x509.load_pem_x509_csr(request)
        key = found.public_key()
        names = [each.value for each in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except UNREADABLE:
        return False
    return names == [device] and key == device_key(key_file, make=False).public_key()


def check_certificate(pem: bytes, key_file: Path, device: str) -> x509.Certificate:
    """The first certificate in a PEM text. Raises IdentityError unless it is for this device's name and key."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        public = certificate.public_key()
    except UNREADABLE as error:
        raise IdentityError(f"the certificate can't be read: {error}") from error
    if [each.value for each in names] != [device]:
        raise IdentityError(f"the certificate is not for {device}")
    if not _is_public_half(public, device_key(key_file, make=False)):
        raise IdentityError("the certificate is for another key than this board's")
    return certificate


def is_for(pem: bytes, key: ec.EllipticCurvePrivateKey) -> bool:
    """Whether the first certificate in a PEM text is for a key."""
    try:
        return _is_public_half(x509.load_pem_x509_certificate(pem).public_key(), key)
    except UNREADABLE:
        return False


def _is_public_half(public: CertificatePublicKeyTypes, key: ec.EllipticCurvePrivateKey) -> bool:
    raw = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public.public_bytes(*raw) == key.public_key().public_bytes(*raw)


@dataclass(frozen=True)
class Standing:
    """How a certificate stands at a time."""

    due: bool  # to be renewed
    expired: bool
    until: str  # the day of its end
    authority: VerifyKey | None  # who issued it; None where the file does not say


def standing(file: Path, now_s: float) -> Standing:
    """How the certificate of a file stands; with a clock before its beginning, which is not set, nothing is due.

    Raises IdentityError.
    """
    try:
        chain = x509.load_pem_x509_certificates(file.read_bytes())
        if len(chain) > 1:
            chain[0].verify_directly_issued_by(chain[1])
    except OSError as error:
        raise IdentityError(f"{file}: {error.strerror}") from error
    except UNREADABLE as error:
        raise IdentityError(f"{file} is not a certificate and the one of its issuer: {error}") from error
    first_s, last_s = chain[0].not_valid_before_utc.timestamp(), chain[0].not_valid_after_utc.timestamp()
    return Standing(
        due=now_s >= first_s + (last_s - first_s) * RENEWED_AFTER,
        expired=now_s > last_s,
        until=f"{chain[0].not_valid_after_utc:%Y-%m-%d}",
        authority=VerifyKey(chain[1].public_key()) if len(chain) > 1 else None,
    )


def serial_of(pem: bytes) -> bytes:
    """The serial of the first certificate in a PEM text; b"" for what is none."""
    try:
        return x509.load_pem_x509_certificate(pem).serial_number.to_bytes(SERIAL_BYTES)
    except (*UNREADABLE, OverflowError):
        return b""


def check_candidate(certificate: bytes, authorities: bytes, key_file: Path, device: str, now_s: float) -> None:
    """Raises IdentityError unless a PEM text is a certificate for this device's next key, followed by the one of who issued it.

    `authorities` must be certificates too, or empty.
    """
    leaf = check_certificate(certificate, key_file, device)
    try:
        _, issuer = x509.load_pem_x509_certificates(certificate)
        leaf.verify_directly_issued_by(issuer)
    except UNREADABLE as error:
        raise IdentityError(f"the certificate does not come with the one of its issuer: {error}") from error
    if leaf.not_valid_after_utc.timestamp() <= now_s:
        raise IdentityError(f"the certificate ended on {leaf.not_valid_after_utc:%Y-%m-%d}, by this board's clock")
    try:
        if authorities:
            x509.load_pem_x509_certificates(authorities)
    except UNREADABLE as error:
        raise IdentityError(f"the broker's authorities can't be read: {error}") from error

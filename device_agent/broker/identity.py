"""The board's own key, which never leaves it, and the request for a certificate over it.

The key opens TLS connections to the broker and nothing else: it signs no updates.
"""

import contextlib
import os
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from ota.errors import OtaError
from ota.formats.fields import is_name

__all__ = ["IdentityError", "check_certificate", "signing_request", "write_durably"]


class IdentityError(OtaError):
    """The board's key or certificate can't be used."""


def signing_request(key_file: Path, device: str) -> bytes:
    """A PKCS #10 request (RFC 2986), PEM, for a device's name; makes the key (P-256, mode 0600) where there is none yet.

    Raises IdentityError.
    """
    if not is_name(device):
        raise IdentityError(f"{device!r} is not a name for a device")
    key = _key(key_file)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    return x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, SHA256()).public_bytes(Encoding.PEM)


def _key(file: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(file.read_bytes(), None)
    except FileNotFoundError:
        key = ec.generate_private_key(ec.SECP256R1())
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return key
    except OSError as error:
        raise IdentityError(f"{file}: {error.strerror}") from error
    except (ValueError, TypeError):
        raise IdentityError(f"{file} is not an unlocked private key in PEM format") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError(f"{file} holds no P-256 key")
    return key


def check_certificate(pem: bytes, key_file: Path, device: str) -> None:
    """Raises IdentityError unless a certificate is for this device's name and key."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        public = certificate.public_key()
    except (ValueError, InvalidSignature) as error:
        raise IdentityError(f"the certificate can't be read: {error}") from error
    if [each.value for each in names] != [device]:
        raise IdentityError(f"the certificate is not for {device}")
    raw = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if public.public_bytes(*raw) != _key(key_file).public_key().public_bytes(*raw):
        raise IdentityError("the certificate is for another key than this board's")


def write_durably(file: Path, content: bytes) -> None:
    """Replaces a file, mode 0600, so that after a power cut it is the old or the new one, whole. Raises IdentityError."""
    temporary = file.with_name(f".{file.name}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise IdentityError(f"{file}: {error.strerror}") from error

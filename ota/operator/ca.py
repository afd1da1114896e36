"""The operator's certificate authority for boards: it says which key belongs to which device's name.

keys/ca.pem        its private key, locked as the others are
trust/ca.pem       its certificate, for the broker, which lets in whom it signed
devices/NAME.pem   every certificate that it signed, the last for each name

It says nothing about modules: those are signed by the roles of the root of trust.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ota.durable import write_durably
from ota.errors import OtaError
from ota.formats.fields import is_name
from ota.keyring import KeyFileError, SigningKey
from ota.operator.workspace import Workspace

__all__ = ["CertificateAuthority", "Enrolled", "RequestRefused", "enrolled"]

CA_YEARS, DEVICE_YEARS = 30, 10
YEAR = datetime.timedelta(days=365)
REQUEST_LIMIT_BYTES = 8192


class RequestRefused(OtaError):
    """A signing request is not one that may be signed."""


@dataclass(frozen=True)
class Enrolled:
    """A device that has a certificate. Times in seconds since 1970."""

    device: str
    expires_s: int
    serial: int


class CertificateAuthority:
    """Signs certificates of devices. Key and certificate are made by `ota init`, or when the first one is wanted."""

    def __init__(self, workspace: Workspace) -> None:
        """Raises KeyFileError when its key can't be used."""
        self._folder = workspace.folder
        self.certificate_file = self._folder / "trust" / "ca.pem"
        key_file = self._folder / "keys" / "ca.pem"
        if not key_file.exists() and not self.certificate_file.exists():
            if (key_file.parent / "release.pem").exists():
                workspace.key("release")  # what locks that one is asked for, and locks this one
            SigningKey.generate("es256").save(key_file, workspace.passphrase)
        self._key = workspace.key("ca").private
        if not self.certificate_file.exists():
            write_durably(self.certificate_file, self._own(workspace.settings.vendor).public_bytes(Encoding.PEM))
        try:
            self._certificate = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())
        except ValueError:
            raise KeyFileError(f"{self.certificate_file} is not a certificate in PEM format: restore it from a backup") from None
        if self._certificate.public_key() != self._key.public_key():
            raise KeyFileError(f"{key_file} is not the key of {self.certificate_file}")

    def _own(self, vendor: str) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"devices of {vendor}"[:64])])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # signs certificates and CRLs
        return self._sign(
            _builder(name, name, self._key.public_key(), CA_YEARS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        )

    def sign(self, signing_request: bytes, device: str) -> bytes:
        """A certificate (PEM) for a device out of a PKCS #10 request (PEM); kept in devices/. Raises RequestRefused.

        Only name and key are taken from the request: what it wishes beyond that is left out.
        """
        request = _checked(signing_request, device)
        certificate = self._sign(
            _builder(request.subject, self._certificate.subject, request.public_key(), DEVICE_YEARS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        pem = certificate.public_bytes(Encoding.PEM)
        (self._folder / "devices").mkdir(exist_ok=True)
        write_durably(self._folder / "devices" / f"{device}.pem", pem)
        return pem

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self._key, None if isinstance(self._key, ed25519.Ed25519PrivateKey) else SHA256())


def _builder(subject: x509.Name, issuer: x509.Name, key: object, years: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)  # type: ignore[arg-type]
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # a board's clock may be a little behind
        .not_valid_after(now + years * YEAR)
    )


def _checked(signing_request: bytes, device: str) -> x509.CertificateSigningRequest:
    if len(signing_request) > REQUEST_LIMIT_BYTES:
        raise RequestRefused(f"a signing request of {len(signing_request)} bytes, the limit is {REQUEST_LIMIT_BYTES}")
    try:
        request = x509.load_pem_x509_csr(signing_request)
        names = [each.value for each in request.subject]
        key = request.public_key()
        good = request.is_signature_valid
    except Exception as error:
        raise RequestRefused(f"the signing request can't be read: {error}") from error
    if not is_name(device) or names != [device]:
        raise RequestRefused(f"the signing request is for {names!r}, not for {device!r}")
    if not (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)):
        raise RequestRefused("the signing request is for a key that is not on P-256")
    if not good:
        raise RequestRefused("the signing request is not signed with its own key")
    return request


def enrolled(folder: Path) -> dict[str, Enrolled]:
    """The devices that have a certificate, by name. Raises KeyFileError for a file that is no certificate."""
    found = {}
    for path in sorted((folder / "devices").glob("*.pem")):
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
        except ValueError:
            raise KeyFileError(f"{path} is not a certificate in PEM format: restore it from a backup, or move it away") from None
        expires_s = int(certificate.not_valid_after_utc.timestamp())
        found[path.stem] = Enrolled(path.stem, expires_s, certificate.serial_number)
    return found

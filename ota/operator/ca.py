"""The operator's certificate authority for boards: it says which key belongs to which device's name.

keys/ca.pem        its private key, locked as the others are; those of its successors are keys/ca-2.pem and so on
trust/ca.pem       certificates of the authorities, first the one that signs; for the broker, which lets in whom they signed
devices/NAME.pem   the last certificate of each name; devices/NAME.json has all of them (ota.operator.issued)

A successor is made long before the present authority ends (`rotate`), so that brokers and boards know it when it begins to sign
(`switch`). The file trust/ca.pem is all that says which one signs. It says nothing about modules: those are signed by the roles of
the root of trust.
"""

import datetime
import ipaddress
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ota.certificates import UNREADABLE
from ota.durable import write_durably
from ota.errors import KeyFileError, OtaError
from ota.formats.cbor import sha256
from ota.formats.cose import VerifyKey
from ota.formats.fields import is_name
from ota.formats.renewal import mark_of
from ota.keyring import SigningKey
from ota.operator import issued
from ota.operator.access import RESERVED
from ota.operator.audit import Audit
from ota.operator.issued import Issued
from ota.operator.keys import KeyMissingError
from ota.operator.workspace import Workspace
from ota.tokens import in_token, make_key

__all__ = ["Authority", "CertificateAuthority", "Enrolled", "RequestRefused", "enrolled", "key_asked_for", "record_of", "serial_of"]

CA_YEARS = 10
SERVER_DAYS = 825  # of a broker's certificate: `ota broker-config` makes the next one
DAY, YEAR = datetime.timedelta(days=1), datetime.timedelta(days=365)
REQUEST_LIMIT_BYTES = 8192
MAX_AUTHORITIES = 16
SERIAL_DIGITS = 40  # RFC 5280, section 4.1.2.2: 20 bytes


class RequestRefused(OtaError):
    """A signing request is not one that may be signed."""


@dataclass(frozen=True)
class Enrolled:
    """A device that has a certificate. Times in seconds since 1970."""

    device: str
    expires_s: int
    serial: int


CRL_FILE = "ca.crl"
_END_OF_LIST = b"-----END X509 CRL-----\n"


@dataclass(frozen=True)
class Lists:
    """What brokers are told of certificates that were taken back."""

    pem: bytes  # the lists of the authorities, one after the other
    missing: tuple[str, ...] = ()  # those that could not be made, and why, for people


@dataclass(frozen=True)
class Authority:
    """One of the authorities, with its private key."""

    certificate: x509.Certificate
    key: SigningKey

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        """A certificate by this authority."""
        return builder.sign(self.key.private, self._hash)

    def crl(self, gone: list[issued.Revoked], now: datetime.datetime) -> bytes:
        """The certificates of boards that are not to be let in (RFC 5280, section 5), PEM.

        It is good for as long as the authority: a broker refuses every board by a list that has expired.
        """
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject).last_update(now)
        builder = builder.next_update(max(self.certificate.not_valid_after_utc, now + YEAR))
        for each in gone:
            when = datetime.datetime.fromtimestamp(each.revoked_s, datetime.UTC)
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(each.serial).revocation_date(when).build()
            )
        builder = builder.add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.private.public_key()), critical=False
        )
        return builder.sign(self.key.private, self._hash).public_bytes(Encoding.PEM)

    @property
    def _hash(self) -> SHA256 | None:
        return None if isinstance(self.key.private, ed25519.Ed25519PrivateKey) else SHA256()


class CertificateAuthority:
    """Signs certificates of devices. Key and certificate are made by `ota init`, or when the first one is wanted."""

    def __init__(self, workspace: Workspace, token: str = "", *, now_s: Callable[[], float] = time.time) -> None:
        """`token`: the URI of a PKCS#11 token in which new keys are made. Raises KeyFileError when its key can't be used."""
        self._workspace, self._now_s = workspace, now_s
        self._folder = workspace.folder
        self.certificate_file = self._folder / "trust" / "ca.pem"
        self._keys: dict[bytes, SigningKey] = {}
        key_file = self._folder / "keys" / "ca.pem"
        if not self.certificate_file.exists():  # with the key alone, power was cut between the two
            key = self._workspace.key("ca") if key_file.exists() else self._new_key("ca", token)
            self._keep([self._own(key, "")])
        self.certificates = self._read()
        self._present = self.authority(self.certificates[0])

    # -- which authorities there are

    def authority(self, certificate: x509.Certificate) -> Authority:
        """An authority with its key. Raises KeyFileError when the key is not here."""
        wanted = VerifyKey(certificate.public_key()).key_id
        for path in sorted((self._folder / "keys").glob("ca*.pem")):
            if wanted in self._keys:
                break
            key = self._workspace.key(path.stem)
            self._keys[key.public.key_id] = key
        if wanted not in self._keys:
            try:
                found = self._workspace.keys.find(wanted)
            except KeyMissingError as error:
                name = certificate.subject.rfc4514_string()
                raise KeyFileError(f"the key of {name} in {self.certificate_file}: {error}") from error
            assert isinstance(found, SigningKey)
            self._keys[wanted] = found
        return Authority(certificate, self._keys[wanted])

    def issuer_of(self, certificate: x509.Certificate) -> Authority | None:
        """The authority that issued a certificate; None when it is none of these. Raises KeyFileError."""
        for each in self.certificates:
            try:
                certificate.verify_directly_issued_by(each)
            except UNREADABLE:
                continue
            return self.authority(each)
        return None

    def rotate(self, token: str = "") -> x509.Certificate:
        """Makes the next authority, which is believed from now on and signs after `switch`. Raises OtaError when there is one.

        `token`: the URI of a PKCS#11 token in which its key is made.
        """
        if self.successors():
            raise OtaError(
                f"{self.certificate_file} has an authority that has not signed yet:"
                " `ota ca switch` lets it sign, once every broker has this file"
            )
        number = max(map(issued.authority_number, self.certificates)) + 1
        while (self._folder / "keys" / f"ca-{number}.pem").exists():
            number += 1
        made = self._own(self._new_key(f"ca-{number}", token), f" {number}")
        digest = sha256(made.public_bytes(Encoding.DER)).hex()
        self.log("rotate-authority", {"next": made.subject.rfc4514_string(), "digest": digest})
        over = [each for each in self.certificates[1:] if each.not_valid_after_utc + self._grace <= self._now()]
        if over:  # what they signed can still be looked at
            _append(self.certificate_file.with_name("ca-ended.pem"), over)
        self._keep([*(each for each in self.certificates if each not in over), made])
        self.certificates = self._read()
        return made

    def switch(self) -> x509.Certificate:
        """Lets the newest authority sign from now on. Raises OtaError when it does already, KeyFileError."""
        later = self.successors()
        if not later:
            raise OtaError(f"{self.certificate_file} has no next authority: `ota ca rotate` makes one")
        newest = max(later, key=issued.authority_number)
        self.log("rotate-authority", {"signs": newest.subject.rfc4514_string()})
        self._present = self.authority(newest)
        self._keep([newest, *(each for each in self.certificates if each != newest)])
        self.certificates = self._read()
        return newest

    def crl(self) -> Lists:
        """The lists of all authorities; the last one that was made by each whose key is not at hand."""
        gone = issued.revoked(self._workspace)
        lists, missing = [], []
        for each in self.certificates:
            try:
                lists.append(self.authority(each).crl(gone, self._now()))
            except KeyFileError as error:
                before = self._list_before(each)
                lists += [before] if before else []
                has = "its last list is kept" if before else "it has no list, and a broker that wants one refuses its boards"
                missing.append(f"{error}: {has}")
        return Lists(b"".join(lists), tuple(missing))

    def _list_before(self, certificate: x509.Certificate) -> bytes:
        """The list of an authority in trust/ca.crl, empty for none."""
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)
        try:
            found = (self._folder / "trust" / CRL_FILE).read_bytes()
            for part in found.split(_END_OF_LIST)[:-1]:
                read = x509.load_pem_x509_crl(part + _END_OF_LIST)
                if read.issuer == certificate.subject and read.is_signature_valid(key):
                    return read.public_bytes(Encoding.PEM)
        except (OSError, *UNREADABLE):
            return b""
        return b""

    def retire(self, device: str) -> list[issued.Revoked]:
        """Ends a device's certificates and its name; those that were revoked by it. Raises AuditError."""
        self.log("retire-device", {"device": device})
        return issued.retire(self._workspace, device, int(self._now_s()))

    def log(self, action: str, about: Mapping[str, str]) -> None:
        """Adds a row to the audit log, signed by the authority that signs certificates now. Raises AuditError."""
        Audit(self._workspace).record(action, self._present.key, int(self._now_s()), about)

    def successors(self) -> list[x509.Certificate]:
        """Those that are believed and have not signed yet."""
        return [
            each for each in self.certificates[1:] if issued.authority_number(each) > issued.authority_number(self.certificates[0])
        ]

    # -- what boards get

    def sign(self, signing_request: bytes, device: str, *, parent: str = "") -> bytes:
        """A certificate for a device out of a PKCS #10 request (PEM), followed by its issuer's; kept in devices/.

        `parent` is the serial of the certificate whose key signed the request, if one did. Raises RequestRefused, also for a
        device that was retired. Only name and key are taken from the request: what it wishes beyond that is left out.
        """
        request = _checked(signing_request, device)
        if device in issued.retired(self._workspace):
            raise RequestRefused(f"{device} was retired: `ota retire {device} --undo` makes the name good for another board")
        present, now = self._present.certificate, self._now()
        days = datetime.timedelta(days=self._workspace.settings.board_certificate_days)
        until = min(now + days, present.not_valid_after_utc)
        if until <= now:
            raise RequestRefused(f"the authority ended on {until:%Y-%m-%d}: `ota ca rotate` makes the next one")
        key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._present.key.private.public_key())
        certificate = self._present.sign(
            _builder(request.subject, present.subject, request.public_key(), now, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(key_id, critical=False)
        )
        about = {"device": device, "serial": serial_of(certificate), "until": until.isoformat()}
        about["digest"] = sha256(certificate.public_bytes(Encoding.DER)).hex()
        self.log("sign-certificate", about)
        issued.add(self._workspace, device, record_of(certificate, mark_of(signing_request).hex(), parent))
        pem = certificate.public_bytes(Encoding.PEM)
        write_durably(self._folder / "devices" / f"{device}.pem", pem)
        return pem + self._present.pem

    def server(self, host: str) -> tuple[bytes, bytes]:
        """A broker's certificate, followed by its issuer's, and its new private key, both PEM. `host`: a name or an address."""
        key, present, now = ec.generate_private_key(ec.SECP256R1()), self._present.certificate, self._now()
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        until = min(now + SERVER_DAYS * DAY, present.not_valid_after_utc)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
        certificate = self._present.sign(
            _builder(subject, present.subject, key.public_key(), now, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([name]), critical=False)
        )
        about = {"host": host, "serial": serial_of(certificate), "until": until.isoformat()}
        self.log("sign-certificate", about)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return certificate.public_bytes(Encoding.PEM) + self._present.pem, private

    def with_issuer(self, certificate: str) -> bytes:
        """A certificate of a device (PEM), followed by its issuer's. Raises KeyFileError."""
        issuer = self.issuer_of(x509.load_pem_x509_certificate(certificate.encode()))
        return certificate.encode() + (issuer.pem if issuer is not None else b"")

    # -- how they are made and kept

    def _now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(int(self._now_s()), datetime.UTC)

    @property
    def _grace(self) -> datetime.timedelta:
        return datetime.timedelta(days=self._workspace.settings.renewal_grace_days)

    def _new_key(self, name: str, token: str) -> SigningKey:
        if token:
            reference = in_token(token, name)
            key = make_key(reference, self._workspace.secrets, "es256")
            self._workspace.keys.note(key.public.key_id, reference)
            return key
        if (self._folder / "keys" / "release.pem").exists():
            self._workspace.key("release")  # what locks that one is asked for, and locks this one
        key = SigningKey.generate("es256")
        key.save(self._folder / "keys" / f"{name}.pem", self._workspace.secrets.given)
        return key

    def _keep(self, certificates: list[x509.Certificate]) -> None:
        write_durably(self.certificate_file, b"".join(each.public_bytes(Encoding.PEM) for each in certificates))

    def _read(self) -> list[x509.Certificate]:
        try:
            found = x509.load_pem_x509_certificates(self.certificate_file.read_bytes())
        except UNREADABLE:
            raise KeyFileError(f"{self.certificate_file} is not a certificate in PEM format: restore it from a backup") from None
        if len(found) > MAX_AUTHORITIES:
            raise KeyFileError(f"{self.certificate_file} has {len(found)} certificates, at most {MAX_AUTHORITIES} are expected")
        return found

    def _own(self, key: SigningKey, ending: str) -> x509.Certificate:
        name = f"devices of {self._workspace.settings.vendor}"[: 64 - len(ending)] + ending
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # signs certificates and CRLs
        public, now = key.private.public_key(), self._now()
        builder = (
            _builder(subject, subject, public, now, now + CA_YEARS * YEAR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )
        return builder.sign(key.private, None if isinstance(key.private, ed25519.Ed25519PrivateKey) else SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: object, now: datetime.datetime, until: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)  # type: ignore[arg-type]
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)  # a board's clock may be a little behind
        .not_valid_after(until)
    )


def _append(file: Path, certificates: list[x509.Certificate]) -> None:
    before = file.read_bytes() if file.exists() else b""
    write_durably(file, before + b"".join(each.public_bytes(Encoding.PEM) for each in certificates))


def serial_of(certificate: x509.Certificate) -> str:
    """Its serial as records have it."""
    return f"{certificate.serial_number:0{SERIAL_DIGITS}x}"


def record_of(certificate: x509.Certificate, mark: str = "", parent: str = "") -> Issued:
    """What is recorded of a certificate."""
    return Issued(
        serial=serial_of(certificate),
        key=VerifyKey(certificate.public_key()).key_id.hex(),
        from_s=int(certificate.not_valid_before_utc.timestamp()),
        until_s=int(certificate.not_valid_after_utc.timestamp()),
        certificate=certificate.public_bytes(Encoding.PEM).decode(),
        mark=mark,
        parent=parent,
    )


def key_asked_for(signing_request: bytes) -> str:
    """The identifier of the key in a signing request, in digits; "" for one that can't be read."""
    try:
        return VerifyKey(x509.load_pem_x509_csr(signing_request).public_key()).key_id.hex()
    except Exception:  # noqa: BLE001  the library raises what it likes for bytes from outside
        return ""


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
    if device in RESERVED:
        raise RequestRefused(f"{device!r} is the name of a user at the broker, which no board may have")
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
        except UNREADABLE:
            raise KeyFileError(f"{path} is not a certificate in PEM format: restore it from a backup, or move it away") from None
        expires_s = int(certificate.not_valid_after_utc.timestamp())
        found[path.stem] = Enrolled(path.stem, expires_s, certificate.serial_number)
    return found

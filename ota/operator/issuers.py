"""What certificates of this workspace's authorities say: whose key is whose. It signs nothing; `ota.operator.ca` does."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ota.certificates import UNREADABLE
from ota.errors import KeyFileError
from ota.formats.algorithms import algorithm_of
from ota.formats.cose import VerifyKey
from ota.formats.reasons import Reason, Refused
from ota.operator.issued import revoked
from ota.operator.workspace import Workspace

__all__ = ["Certified", "Issuers", "is_of_a_board"]


@dataclass(frozen=True)
class Certified:
    """A key that a certificate of ours gives to a device. Times in seconds since 1970."""

    key: VerifyKey
    begins_s: int
    expires_s: int


class Issuers:
    """The certificates of authorities, each good for itself, and the serial numbers that were retired."""

    def __init__(self, certificates: Sequence[x509.Certificate] = (), retired: Collection[int] = ()) -> None:
        self._certificates, self._retired = tuple(certificates), frozenset(retired)
        parts = [each.tbs_certificate_bytes for each in self._certificates] + [b"%d" % each for each in sorted(self._retired)]
        self._mark = hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in parts)).digest()

    @classmethod
    def of(cls, workspace: Workspace) -> "Issuers":
        """Those of a workspace, which may have none. Raises KeyFileError."""
        path = workspace.folder / "trust" / "ca.pem"
        try:
            return cls(x509.load_pem_x509_certificates(path.read_bytes()), {each.serial for each in revoked(workspace)})
        except FileNotFoundError:
            return cls()
        except (OSError, *UNREADABLE) as error:
            raise KeyFileError(f"{path} can't be read ({error}): restore it from a backup") from None

    def mark(self, certificate: bytes) -> str:
        """What stands for a certificate (DER) that these authorities have checked."""
        return hashlib.sha256(self._mark + certificate).hexdigest()[:32]

    def check(self, certificate: bytes, device: str) -> Certified | None:
        """What a certificate (DER) says of a device; None for one that none of these authorities has signed.

        Raises Refused REPORT_FORGED for one of another device, CERTIFICATE_RETIRED. Its end is for the caller to compare.
        """
        found = _loaded(certificate)
        if not any(_is_issued_by(found, each) for each in self._certificates):
            return None
        if not is_of_a_board(found):
            raise Refused(Reason.REPORT_FORGED, "it is signed with the certificate of a broker")
        names = [each.value for each in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if names != [device]:
            raise Refused(Reason.REPORT_FORGED, f"it is signed with the certificate of {', '.join(map(repr, names))}")
        if found.serial_number in self._retired:
            raise Refused(Reason.CERTIFICATE_RETIRED, f"it is signed with certificate {found.serial_number:x}, which was retired")
        begins, ends = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
        return Certified(_key(found), int(begins), int(ends))

    @staticmethod
    def key_of(certificate: bytes) -> VerifyKey:
        """The key in a certificate (DER), whoever signed that. Raises Refused MALFORMED, REPORT_FORGED."""
        return _key(_loaded(certificate))


def is_of_a_board(certificate: x509.Certificate) -> bool:
    """Whether a certificate of ours may open connections; that of a broker says who is host, which may be a board's name too."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.CLIENT_AUTH in found


def _loaded(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(certificate)
    except UNREADABLE as error:
        raise Refused(Reason.MALFORMED, f"the certificate can't be read: {error}") from error


def _is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except UNREADABLE:
        return False
    return True


def _key(certificate: x509.Certificate) -> VerifyKey:
    try:
        key = certificate.public_key()
        algorithm_of(key)
    except UNREADABLE as error:
        raise Refused(Reason.REPORT_FORGED, f"the certificate's key can't be used: {error}") from error
    return VerifyKey(key)

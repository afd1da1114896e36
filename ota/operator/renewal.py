"""Answers to boards that ask for their next certificate. The answer is signed by the authority that issued the present one."""

from cryptography import x509
from cryptography.x509.oid import NameOID

from ota.certificates import UNREADABLE
from ota.errors import KeyFileError
from ota.formats.cose import VerifyKey
from ota.formats.reasons import Reason, Refused
from ota.formats.renewal import ANSWER_TYPE, AUTHORITIES_LIMIT_BYTES, RenewalAnswer, RenewalRequest, SignedRequest
from ota.keyring import sign_document
from ota.operator import issued
from ota.operator.ca import Authority, CertificateAuthority, RequestRefused, key_asked_for, record_of, serial_of
from ota.operator.issued import Issued
from ota.operator.issuers import is_of_a_board
from ota.operator.outcome import Outcome
from ota.operator.signers import signing_key
from ota.operator.workspace import Workspace

__all__ = ["answer_renewal"]

DAY_S = 86_400


def answer_renewal(workspace: Workspace, authority: CertificateAuthority, data: bytes, now_s: int) -> tuple[bytes, Outcome]:
    """The signed answer to a request.

    Raises Refused for what gets no answer: bytes that are no request, a certificate of another authority or name, a signature that
    is not by its key.
    """
    asked = SignedRequest.from_bytes(data)
    certificate, issuer = _issuer(authority, asked)
    request = asked.verify(VerifyKey(certificate.public_key()))
    known = {each.serial for each in issued.history(workspace, request.device)}
    made = _decide(workspace, authority, request, certificate, now_s)
    reason = made.reason.value if isinstance(made, Refused) else ""
    answer = RenewalAnswer(
        request.device,
        request.mark,
        b"" if isinstance(made, Refused) else authority.with_issuer(made.certificate),
        b"" if reason else _authorities(workspace),
        reason,
    )
    detail = made.detail if isinstance(made, Refused) else ""
    repeated = isinstance(made, Issued) and made.serial in known
    return sign_document(answer.to_payload(), ANSWER_TYPE, [issuer.key]), Outcome(
        request.device, reason, detail, repeated, renewed=True
    )


def _issuer(authority: CertificateAuthority, asked: SignedRequest) -> tuple[x509.Certificate, Authority]:
    try:
        certificate = x509.load_der_x509_certificate(asked.certificate)
        names = [each.value for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        issuer = authority.issuer_of(certificate)
    except UNREADABLE as error:
        raise Refused(Reason.MALFORMED, f"renewal request: the certificate can't be read: {error}") from error
    except KeyFileError as error:  # the others go on
        raise Refused(Reason.CERTIFICATE_UNKNOWN, f"{asked.claimed.device} can't be answered: {error}") from error
    if issuer is None or names != [asked.claimed.device] or not is_of_a_board(certificate):
        raise Refused(
            Reason.CERTIFICATE_UNKNOWN,
            f"the certificate that asks for {asked.claimed.device} is not one of this workspace's authority for this name",
        )
    return certificate, issuer


def _decide(
    workspace: Workspace, authority: CertificateAuthority, request: RenewalRequest, certificate: x509.Certificate, now_s: int
) -> Issued | Refused:
    """The certificate that the board gets: that it was given before for this request, or a new one."""
    device, present = request.device, record_of(certificate)
    revoked = {each.serial for each in issued.revoked(workspace)}
    if device in issued.retired(workspace) or certificate.serial_number in revoked:
        return Refused(Reason.DEVICE_RETIRED, f"{device} was retired")
    grace_days = workspace.settings.renewal_grace_days
    if now_s > present.until_s + grace_days * DAY_S:
        return Refused(Reason.CERTIFICATE_EXPIRED, f"its certificate ended more than {grace_days} days ago (renewal_grace_days)")
    rows = issued.history(workspace, device)
    if present.serial not in {each.serial for each in rows}:  # a workspace that was put back from an older copy
        issued.add(workspace, device, present, known_before=True)
        rows = issued.history(workspace, device)
    children = _children(rows, present.serial)
    for child in children:
        if child.mark == request.mark.hex() and child.until_s > now_s:
            return child
    if children and children[-1].mark == request.mark.hex() and _children(rows, children[-1].serial):
        return Refused(Reason.REQUEST_INVALID, "an old request once more: the certificate that it brought was renewed since")
    if clone := _clone(workspace, rows, children, present.serial, request):
        key = key_asked_for(request.signing_request)
        issued.note_clone(workspace, device, key, now_s)
        return Refused(Reason.KEY_CLONED, f"{clone}; the key that asks now is {key[:16]}")
    if sum(each.until_s > now_s for each in rows) >= issued.KEPT:
        return Refused(Reason.REQUEST_INVALID, f"{device} has {issued.KEPT} certificates that have not ended")
    try:
        pem = authority.sign(request.signing_request, device, parent=present.serial)
    except RequestRefused as error:
        return Refused(Reason.REQUEST_INVALID, str(error))
    made = x509.load_pem_x509_certificate(pem)
    return next(each for each in issued.history(workspace, device) if each.serial == serial_of(made))


def _children(rows: list[Issued], serial: str) -> list[Issued]:
    """The certificates that were asked for with a certificate, or with another one for the same request."""
    same = issued.again(rows, serial)
    return [each for each in rows if each.parent in same]


def _clone(workspace: Workspace, rows: list[Issued], children: list[Issued], serial: str, request: RenewalRequest) -> str:
    """Who has the name instead of the key that asks; "" when that is the one.

    That the broker refused the last certificate is believed unless it was used: who has an old key only would else get the name.
    """
    if serial not in issued.lineage(rows):
        return f"{request.device} was given to the key {rows[-1].key[:16]} by another certificate"
    if not children or children[-1].mark == request.mark.hex():
        return ""
    last = children[-1]
    renewed = f"{request.device} was renewed with the same certificate for the key {last.key[:16]}"
    if last.serial != request.refused.hex():
        return renewed
    asker = next((each.key for each in rows if each.serial == serial), "")
    if _children(rows, last.serial) or (last.key != asker and signing_key(workspace, request.device) == last.key):
        return f"{renewed}, which was used since"
    return ""


def _authorities(workspace: Workspace) -> bytes:
    """Those that boards are to believe the broker by, where the workspace has a list of its own."""
    file = workspace.settings.ca_file
    content = file.read_bytes() if file is not None else b""
    return content if len(content) <= AUTHORITIES_LIMIT_BYTES else b""

"""Enrolment tokens, and answers to the requests that boards make with them."""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ota.errors import OtaError
from ota.formats import topics
from ota.formats.cbor import sha256
from ota.formats.enrolment import Answer, Request, Token
from ota.formats.fields import is_name
from ota.formats.reasons import Reason, Refused
from ota.operator.broker import Broker
from ota.operator.ca import CertificateAuthority, RequestRefused, enrolled
from ota.operator.workspace import Workspace

__all__ = ["Outcome", "answer", "finished", "new_token", "serve", "standing"]

FILE, MODE = "tokens.json", 0o600
REPEAT_S = 86_400


@dataclass(frozen=True)
class Outcome:
    """What became of one request; `reason` is empty when the device has its certificate now."""

    device: str
    reason: str
    detail: str = ""
    repeated: bool = False  # the certificate that it was given before


def new_token(workspace: Workspace, device: str, now_s: int, valid_s: int) -> Token:
    """A token for one enrolment of one device, good for `valid_s` seconds. Raises OtaError for what is no name."""
    if not is_name(device):
        raise OtaError(f"{device!r} is not a name for a device")
    token = Token(secrets.token_bytes(8), secrets.token_bytes(32))
    with workspace.record(FILE, MODE) as tokens:
        for old in [each for each, about in tokens.items() if about["expires_s"] + 90 * 86_400 < now_s]:
            del tokens[old]
        tokens[token.identifier.hex()] = {"secret": token.secret.hex(), "device": device, "expires_s": now_s + valid_s, "used": ""}
    return token


def standing(workspace: Workspace, device: str, now_s: int) -> list[str]:
    """What a new token for a device would stand beside: its certificate, and tokens of it that are still good."""
    found = []
    if (known := enrolled(workspace.folder).get(device)) is not None:
        until = time.strftime("%Y-%m-%d", time.gmtime(known.expires_s))
        found.append(f"{device} has a certificate until {until}; with a new token another key gets one for the same name")
    with workspace.record(FILE, MODE) as tokens:
        good = [
            about for about in tokens.values() if about["device"] == device and not about["used"] and about["expires_s"] > now_s
        ]
    if good:
        found.append(f"{device} has {len(good)} unused token{'s' * (len(good) != 1)} already, good until then as well")
    return found


def finished(workspace: Workspace, now_s: int) -> list[str]:
    """Identifiers of tokens whose enrolment is over: nobody waits for an answer any more."""
    return [name for name, about in workspace.read(FILE).items() if int(about["expires_s"]) + REPEAT_S < now_s]


def answer(workspace: Workspace, authority: CertificateAuthority, data: bytes, now_s: int) -> tuple[str, Answer, Outcome]:
    """The answer to a request, and the identifier of its token. The token is marked as used before the certificate is made.

    Raises Refused for what gets no answer: bytes that are no request, a token that is not known, a code that does not prove it.
    """
    request = Request.from_bytes(data)
    name = request.token.hex()
    with workspace.record(FILE, MODE) as tokens:
        about = tokens.get(name)
        if about is None:
            raise Refused(Reason.REQUEST_INVALID, f"token {name} is not one of this workspace")
        token = Token(request.token, bytes.fromhex(about["secret"]))
        request.check(token)
        mark = sha256(request.signing_request).hex()
        reason = _refusal(about, request, mark, now_s)
        if not reason:
            about["used"] = mark
    if reason:
        return name, Answer.make(token, request, reason=reason.value), Outcome(request.device, reason.value)
    if kept := str(about.get("certificate", "")):
        return name, Answer.make(token, request, kept.encode()), Outcome(request.device, "", repeated=True)
    try:
        certificate = authority.sign(request.signing_request, request.device)
    except RequestRefused as error:
        why = Reason.REQUEST_INVALID.value
        return name, Answer.make(token, request, reason=why), Outcome(request.device, why, str(error))
    with workspace.record(FILE, MODE) as tokens:
        tokens[name]["certificate"] = certificate.decode()
    return name, Answer.make(token, request, certificate), Outcome(request.device, "")


def _refusal(about: dict[str, object], request: Request, mark: str, now_s: int) -> Reason | None:
    if about["device"] != request.device:
        return Reason.REQUEST_INVALID
    late_s = now_s - int(str(about["expires_s"]))
    if about["used"] and about["used"] != mark:
        return Reason.TOKEN_USED
    # The same request once more, its answer was lost: it gets the same certificate, for a day longer.
    return Reason.TOKEN_EXPIRED if late_s > (REPEAT_S if about["used"] else 0) else None


def serve(workspace: Workspace, broker: Broker, timeout_s: float, clock: Callable[[], float]) -> Iterator[Outcome]:
    """Answers what boards ask on a broker, until `timeout_s` is over."""
    authority = CertificateAuthority(workspace)
    broker.subscribe(topics.enrolment_request("+"))
    for message in broker.messages(timeout_s):
        topic, payload = message.topic, message.payload
        if not payload:
            continue  # a board that has its answer takes its request away
        try:
            name, made, outcome = answer(workspace, authority, payload, int(clock()))
        except Refused as error:
            yield Outcome("?", error.reason.value, error.detail)
            continue
        if topic == topics.enrolment_request(name):
            broker.publish_all([(topics.enrolment_answer(name), made.to_bytes())])
            yield outcome

"""Enrolment tokens, and answers to the requests for certificates that boards make with them, or with the certificate before."""

import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

from ota.errors import OtaError
from ota.formats import topics
from ota.formats.cbor import sha256
from ota.formats.enrolment import SERIAL, Answer, Request, Token, address, allows, is_pattern
from ota.formats.fields import is_name
from ota.formats.reasons import Reason, Refused
from ota.formats.renewal import SignedRequest
from ota.operator import acts, issued
from ota.operator.broker import Broker
from ota.operator.ca import CertificateAuthority, RequestRefused, enrolled, key_asked_for
from ota.operator.outcome import Outcome
from ota.operator.renewal import answer_renewal
from ota.operator.roster import Roster
from ota.operator.workspace import Workspace

__all__ = ["Outcome", "answer", "drop_tokens", "finished", "new_token", "serve", "standing", "token_names"]

FILE, MODE = "tokens.json", 0o600
REPEAT_S = 86_400
KEPT_S = 90 * 86_400  # after a token expired
MAX_COUNT = 100_000


def new_token(workspace: Workspace, names: str, now_s: int, valid_s: int, count: int = 1, group: str = "") -> Token:
    """A token for one enrolment of one device, good for `valid_s` seconds; or for `count` devices, whose names fit a pattern.

    `group`: that they belong to by the operator's word, "" for none. Raises OtaError for what is no name, and for a device that was
    retired; KeyFileError where the authority's key, which signs the line in the audit log, can't be used.
    """
    if not is_name(names) and not is_pattern(names):
        raise OtaError(f"{names!r} is not a name for a device, nor one with {SERIAL} in it")
    if not 1 <= count <= MAX_COUNT or (count > 1 and not is_pattern(names)):
        raise OtaError(f"a token for {count} boards: at most {MAX_COUNT}, with names by a pattern such as pump-{SERIAL}")
    if names in issued.retired(workspace):
        raise OtaError(f"{names} was retired: `ota retire {names} --undo` makes the name good for another board")
    token = Token(secrets.token_bytes(8), secrets.token_bytes(32))
    about = {"token": token.identifier.hex(), "names": names, "count": str(count), "group": group}
    acts.record(workspace, "make-token", about | {"hours": f"{valid_s / 3600:g}", "until_s": str(now_s + valid_s)}, now_s)
    with workspace.record(FILE, MODE) as tokens:
        for old in [each for each, about in tokens.items() if about["expires_s"] + KEPT_S < now_s]:
            del tokens[old]
        tokens[token.identifier.hex()] = {
            "secret": token.secret.hex(),
            "names": names,
            "count": count,
            "expires_s": now_s + valid_s,
            "group": group,
            "made": {},
        }
    return token


def standing(workspace: Workspace, device: str, now_s: int) -> list[str]:
    """What a new token for a device would stand beside: its certificate, and tokens of it that are still good."""
    found = []
    if (known := enrolled(workspace.folder).get(device)) is not None:
        until = time.strftime("%Y-%m-%d", time.gmtime(known.expires_s))
        found.append(f"{device} has a certificate until {until}; with a new token another key gets one for the same name")
    tokens = workspace.read(FILE).values()
    good = [each for each in tokens if each["names"] == device and len(each["made"]) < each["count"] and each["expires_s"] > now_s]
    if good:
        found.append(f"{device} has {len(good)} unused token{'s' * (len(good) != 1)} already, good until then as well")
    return found


def drop_tokens(workspace: Workspace, device: str) -> int:
    """Takes back the tokens of a device; how many there were. Those for many boards stay, and refuse a name that is retired."""
    with workspace.record(FILE, MODE) as tokens:
        dropped = [each for each, about in tokens.items() if about["names"] == device]
        for each in dropped:
            del tokens[each]
    return len(dropped)


def token_names(workspace: Workspace) -> set[str]:
    """The devices, or patterns of names, that there are tokens for."""
    return {about["names"] for about in workspace.read(FILE).values()}


def finished(workspace: Workspace, now_s: int) -> list[str]:
    """Addresses of enrolments that are over: nobody waits for an answer any more."""
    over = [about for about in workspace.read(FILE).values() if int(about["expires_s"]) + REPEAT_S < now_s]
    return [made["address"] for about in over for made in about["made"].values()]


def answer(workspace: Workspace, authority: CertificateAuthority, data: bytes, now_s: int) -> tuple[str, Answer, Outcome]:
    """The answer to a request with a token, and its address. The token is marked as used before the certificate is made.

    Raises Refused for what gets no answer: bytes that are no request, a token that is not known, a code that does not prove it.
    """
    request = Request.from_bytes(data)
    name, device, where = request.token.hex(), request.device, address(request.signing_request)
    about = workspace.read(FILE).get(name)  # what proves nothing costs no more than reading
    if about is None:
        raise Refused(Reason.REQUEST_INVALID, f"token {name} is not one of this workspace")
    token = Token(request.token, bytes.fromhex(about["secret"]))
    request.check(token)
    mark = sha256(request.signing_request).hex()
    taken = device in issued.retired(workspace), SERIAL in about["names"] and device in enrolled(workspace.folder)
    with workspace.record(FILE, MODE) as tokens:
        about = tokens.get(name, about)
        reason = _refusal(about, device, mark, now_s, *taken)
        if reason is None:
            about["made"].setdefault(device, {"mark": mark, "address": where})
    if reason is not None:
        detail = _other_key(workspace, about, request, now_s, reason)
        return where, Answer.make(token, request, reason=reason.value), Outcome(device, reason.value, detail)
    if kept := str(about["made"][device].get("certificate", "")):
        return where, Answer.make(token, request, kept.encode()), Outcome(device, "", repeated=True)
    try:
        certificate = authority.sign(request.signing_request, device)
    except RequestRefused as error:
        why = Reason.REQUEST_INVALID.value
        return where, Answer.make(token, request, reason=why), Outcome(device, why, str(error))
    if group := about.get("group"):
        roster = Roster(workspace)
        roster.assign(device, group)
        roster.save()
    with workspace.record(FILE, MODE) as tokens:
        if name in tokens:
            tokens[name]["made"][device]["certificate"] = certificate.decode()
    return where, Answer.make(token, request, certificate), Outcome(device, "")


def _refusal(about: dict[str, Any], device: str, mark: str, now_s: int, retired: bool, has_another: bool) -> Reason | None:
    if not allows(about["names"], device):
        return Reason.REQUEST_INVALID
    if retired:
        return Reason.DEVICE_RETIRED
    made = about["made"].get(device)
    late_s = now_s - int(about["expires_s"])
    if made is not None and made["mark"] == mark:
        # The same request once more, its answer was lost: it gets the same certificate, for a day longer.
        return Reason.TOKEN_EXPIRED if late_s > REPEAT_S else None
    if made is not None or len(about["made"]) >= int(about["count"]):
        return Reason.TOKEN_USED
    if has_another:
        return Reason.NAME_TAKEN
    return Reason.TOKEN_EXPIRED if late_s > 0 else None


def _other_key(workspace: Workspace, about: dict[str, Any], request: Request, now_s: int, reason: Reason) -> str:
    """Notes that a token was copied with its card: another key enrolled with it under the same name."""
    if reason not in (Reason.TOKEN_USED, Reason.NAME_TAKEN):
        return ""
    rows = issued.history(workspace, request.device)
    if not rows:
        return f"all {about['count']} enrolments of the token are used" if int(about["count"]) > 1 else ""
    issued.note_clone(workspace, request.device, key_asked_for(request.signing_request), now_s)
    return f"{request.device} was enrolled with the key {rows[-1].key[:16]}, another one asks now: was its card copied?"


def serve(workspace: Workspace, broker: Broker, timeout_s: float, clock: Callable[[], float]) -> Iterator[Outcome]:
    """Answers what boards ask on a broker, until `timeout_s` is over: those who ask once this has returned are heard."""
    authority = CertificateAuthority(workspace, now_s=clock)
    broker.subscribe(topics.enrolment_request("+"), topics.renewal_request("+"))
    return _served(workspace, broker, authority, timeout_s, clock)


def _served(
    workspace: Workspace, broker: Broker, authority: CertificateAuthority, timeout_s: float, clock: Callable[[], float]
) -> Iterator[Outcome]:
    for message in broker.messages(timeout_s):
        reply = message.topic.removesuffix("/request") + "/answer"
        if not message.payload:  # a board that has its answer takes its request away
            broker.publish_all([(reply, b"")])
            continue
        try:
            where, made, outcome = _any_answer(workspace, authority, message.topic, message.payload, int(clock()))
        except Refused as error:
            yield Outcome("?", error.reason.value, error.detail)
            continue
        if message.topic in where:
            broker.publish_all([(reply, made)])
            yield outcome


def _any_answer(
    workspace: Workspace, authority: CertificateAuthority, topic: str, data: bytes, now_s: int
) -> tuple[tuple[str, ...], bytes, Outcome]:
    """The answer to either kind of request, and the topics that it is given for: a board whose certificate expired asks where those
    without one do.
    """
    try:
        claimed = SignedRequest.from_bytes(data).claimed
    except Refused:
        if topic.startswith(topics.renewal_request("+").partition("+")[0]):
            raise
        where, made, outcome = answer(workspace, authority, data, now_s)
        return (topics.enrolment_request(where),), made.to_bytes(), outcome
    signed, outcome = answer_renewal(workspace, authority, data, now_s)
    asked = topics.renewal_request(claimed.device), topics.enrolment_request(address(claimed.signing_request))
    return asked, signed, outcome

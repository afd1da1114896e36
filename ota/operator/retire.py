"""Retiring a board: its certificates, its tokens, what is retained of it, and its place in the list end."""

from collections.abc import Iterable
from dataclasses import dataclass

from ota.durable import write_durably
from ota.errors import OtaError
from ota.formats import topics
from ota.operator import issued, presence
from ota.operator.broker import Broker
from ota.operator.ca import CRL_FILE, CertificateAuthority
from ota.operator.enrolment import drop_tokens, token_names
from ota.operator.ledger import Ledger
from ota.operator.reports import leftovers
from ota.operator.roster import Roster
from ota.operator.scope import Scope
from ota.operator.workspace import Workspace

__all__ = ["CRL_FILE", "Retired", "clear", "forget_answers", "left_by", "retire", "unknown", "write_crl"]

ROUNDS = 8  # a broker may not show all reports of instances at once
DOCUMENT_BYTES = 4096  # about


@dataclass(frozen=True)
class Retired:
    """What was ended."""

    device: str
    certificates: int  # that could still be used or renewed
    tokens: int
    missing: tuple[str, ...] = ()  # lists that could not be made anew: brokers may let it in


def unknown(workspace: Workspace, roster: Roster, names: Iterable[str]) -> list[str]:
    """Those of these names that nothing in the workspace is about, and no board that it has read has."""
    known = {*roster.names, *roster.certificates, *issued.retired(workspace), *token_names(workspace)}
    known |= {each.scope.device for each in Ledger(workspace).records()}
    return [each for each in names if each not in known and not issued.history(workspace, each)]


def retire(workspace: Workspace, authority: CertificateAuthority, roster: Roster, device: str) -> Retired:
    """Ends all that this workspace holds of a board, and writes the list of its authority. Once more changes nothing."""
    gone = authority.retire(device)
    tokens = drop_tokens(workspace, device)
    roster.forget(device)
    roster.certificates.pop(device, None)
    roster.save()
    Ledger(workspace).forget(Scope(device=device))
    missing = write_crl(workspace, authority)
    return Retired(device, len(gone), tokens, missing)


def write_crl(workspace: Workspace, authority: CertificateAuthority) -> tuple[str, ...]:
    """Writes trust/ca.crl, the list for brokers of certificates that are not to be let in; what of it could not be made anew."""
    lists = authority.crl()
    write_durably(workspace.folder / "trust" / CRL_FILE, lists.pem)
    return lists.missing


def forget_answers(broker: Broker, device: str) -> None:
    """Removes what was asked and answered about the renewal of a board that was retired. Raises BrokerError."""
    found = presence.read(broker, (topics.renewal_request(device), topics.renewal_answer(device)), DOCUMENT_BYTES)
    broker.publish_all([(topic, b"") for topic, payload in found.items() if payload is not None])


def left_by(broker: Broker, device: str, *, deployment: bool) -> list[str]:
    """The topics under which the broker keeps something of a board, and with `deployment` what is there for it alone.

    Raises BrokerError.
    """
    found = leftovers(broker, device)
    if deployment:
        others = (
            topics.device_desired(device),
            topics.group_keys(device),
            topics.renewal_request(device),
            topics.renewal_answer(device),
        )
        found += [topic for topic, payload in presence.read(broker, others, DOCUMENT_BYTES).items() if payload is not None]
    return found


def clear(broker: Broker, device: str, *, deployment: bool) -> int:
    """Removes what `left_by` finds; how many topics.

    Raises BrokerError, and OtaError when the broker goes on showing some.
    """
    found = left_by(broker, device, deployment=deployment)
    count = len(found)
    for _ in range(ROUNDS):
        broker.publish_all([(topic, b"") for topic in found])
        if not (found := leftovers(broker, device)):
            return count
        count += len(found)
    raise OtaError(f"the broker still has {len(found)} topics of {device}, such as {found[0]}: does it still write there?")

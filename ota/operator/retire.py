"""Retiring a board: its certificates, its tokens, what is retained of it, and its place in the list end."""

from dataclasses import dataclass

from ota.durable import write_durably
from ota.errors import OtaError
from ota.formats import topics
from ota.operator import presence
from ota.operator.broker import Broker
from ota.operator.ca import CRL_FILE, CertificateAuthority
from ota.operator.enrolment import drop_tokens
from ota.operator.ledger import Ledger
from ota.operator.reports import leftovers
from ota.operator.roster import Roster
from ota.operator.scope import Scope
from ota.operator.workspace import Workspace

__all__ = ["CRL_FILE", "Retired", "clear", "forget_answers", "retire", "write_crl"]

ROUNDS = 8  # a broker may not show all reports of instances at once
DOCUMENT_BYTES = 4096  # about


@dataclass(frozen=True)
class Retired:
    """What was ended."""

    device: str
    certificates: int  # that could still be used or renewed
    tokens: int
    known: bool  # whether anything of this name was known
    missing: tuple[str, ...] = ()  # lists that could not be made anew: brokers may let it in


def retire(workspace: Workspace, authority: CertificateAuthority, roster: Roster, device: str) -> Retired:
    """Ends all that this workspace holds of a board, and writes the list of its authority. Once more changes nothing."""
    gone = authority.retire(device)
    tokens = drop_tokens(workspace, device)
    known = bool(tokens) or device in roster.names
    roster.forget(device)
    roster.certificates.pop(device, None)
    roster.save()
    Ledger(workspace).forget(Scope(device=device))
    missing = write_crl(workspace, authority)
    return Retired(device, len(gone), tokens, known or bool(gone), missing)


def write_crl(workspace: Workspace, authority: CertificateAuthority) -> tuple[str, ...]:
    """Writes trust/ca.crl, the list for brokers of certificates that are not to be let in; what of it could not be made anew."""
    lists = authority.crl()
    write_durably(workspace.folder / "trust" / CRL_FILE, lists.pem)
    return lists.missing


def forget_answers(broker: Broker, device: str) -> None:
    """Removes what was asked and answered about the renewal of a board that was retired. Raises BrokerError."""
    found = presence.read(broker, (topics.renewal_request(device), topics.renewal_answer(device)), DOCUMENT_BYTES)
    broker.publish_all([(topic, b"") for topic, payload in found.items() if payload is not None])


def clear(broker: Broker, device: str, *, deployment: bool) -> int:
    """Removes what a board left on the broker, and with `deployment` what is there for it alone; how many topics.

    Raises BrokerError, and OtaError when the broker goes on showing some.
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
    count = len(found)
    for _ in range(ROUNDS):
        broker.publish_all([(topic, b"") for topic in found])
        if not (found := leftovers(broker, device)):
            return count
        count += len(found)
    raise OtaError(f"the broker still has {len(found)} topics of {device}, such as {found[0]}: does it still write there?")

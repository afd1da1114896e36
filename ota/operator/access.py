"""Who may read and write which topics at the broker: one list, which every broker's configuration is made from.

A board's name is in its certificate, and in its topics. It writes below its own name only, so that no board can speak for another,
and reads what is signed and what is meant for it. `docs/broker.md` says what that protects.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ota.formats import topics

__all__ = ["BOARD", "DEVICE", "ENROLMENT", "OPERATOR", "RESERVED", "Rule", "allows", "rules"]

BOARD, OPERATOR, ENROLMENT = "board", "operator", "enrolment"
RESERVED = frozenset((OPERATOR, ENROLMENT))
"""Names of users at the broker, which no board gets a certificate for."""
DEVICE = "{device}"  # in a rule: the board's own name


@dataclass(frozen=True)
class Rule:
    """What a kind of client may do with the topics of a filter."""

    who: str
    filter: str
    read: bool = False
    write: bool = False
    about: str = ""  # what it begins, for people; "" where it goes on

    def of(self, device: str) -> str:
        """The filter with a name in the place of the board's."""
        return self.filter.replace(DEVICE, device)


def rules(groups: Sequence[str]) -> tuple[Rule, ...]:
    """All rules, for boards of these groups. What no rule allows is denied."""
    return (
        *_boards(groups),
        Rule(OPERATOR, f"{topics.PREFIX}/#", read=True, write=True, about="The fleet, and what modules say and hear."),
        Rule(OPERATOR, "devices/#", read=True, write=True),
        Rule(OPERATOR, "groups/#", read=True, write=True),
        Rule(OPERATOR, "$SYS/#", read=True),
        Rule(ENROLMENT, topics.enrolment_request("+"), write=True, about="What boards without a certificate ask, and are told."),
        Rule(ENROLMENT, topics.enrolment_answer("+"), read=True),
    )


def _boards(groups: Sequence[str]) -> Iterator[Rule]:
    own = f"{topics.PREFIX}/device/{DEVICE}"
    yield Rule(BOARD, f"{own}/report", write=True, about="Its own: reports, log, messages, presence.")
    yield Rule(BOARD, f"{own}/instance/+/report", write=True)
    yield Rule(BOARD, f"{own}/log", write=True)
    yield Rule(BOARD, f"{own}/telemetry", write=True)
    yield Rule(BOARD, f"{own}/marker", read=True, write=True)
    yield Rule(BOARD, f"{topics.PREFIX}/online/+/+/+/{DEVICE}", write=True)
    yield Rule(BOARD, f"{own}/renewal/request", write=True, about="The next certificate.")
    yield Rule(BOARD, f"{own}/renewal/answer", read=True)
    yield Rule(BOARD, f"{own}/desired", read=True, about="A deployment and keys for this board alone.")
    yield Rule(BOARD, f"{own}/keys", read=True)
    signed = "Signed documents, and what they name by digest. One line for each group of boards here."
    yield Rule(BOARD, f"{topics.PREFIX}/root/+", read=True, about=signed)
    for group in groups:
        yield Rule(BOARD, topics.desired(group), read=True)
    yield Rule(BOARD, f"{topics.PREFIX}/manifest/+", read=True)
    yield Rule(BOARD, f"{topics.PREFIX}/blob/+/+", read=True)
    heard = "What its modules say and hear, as far as their manifests and the board's policy grant it; what the whole group hears."
    yield Rule(BOARD, f"devices/{DEVICE}/#", read=True, write=True, about=heard)
    for group in groups:
        yield Rule(BOARD, f"groups/{group}/#", read=True)


def allows(found: Sequence[Rule], who: str, device: str, topic: str, *, write: bool) -> bool:
    """Whether a client may write a topic, or read what matches a filter."""
    return any(topics.covers(each.of(device), topic) for each in found if each.who == who and (each.write if write else each.read))

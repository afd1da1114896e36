"""Reads the state of the broker before anything is written to it.

A publication must not overwrite what somebody else put there, nor be overtaken by numbers that a copy of this workspace used. So it
looks first: at the root documents, at the group's deployment, and at what this workspace put there before.
"""

import contextlib
import itertools
from dataclasses import dataclass, field, replace

from ota.errors import OtaError
from ota.formats import topics
from ota.formats.deployment import Deployment
from ota.formats.deployment import verify as verify_deployment
from ota.formats.manifest import verify_signed
from ota.formats.reasons import Refused
from ota.formats.trust import Root, first_root, next_root
from ota.operator import presence
from ota.operator.broker import Broker
from ota.operator.ledger import Ledger
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace

__all__ = ["ForeignError", "Survey", "is_current", "look", "verify_ours"]

MAX_NEW_ROOTS = 1000
ROOT_BYTES = 4096  # about


class ForeignError(OtaError):
    """The broker has documents that this workspace's keys did not sign."""


@dataclass(frozen=True)
class Survey:
    """What was found. `notes` are for the operator: each is a sentence."""

    document: bytes | None = None  # what is retained for the group, whoever signed it
    present: Deployment | None = None  # the same, when our keys signed it
    sequence: int = 0  # the highest of what the group has or had, as far as that is known: its boards refuse a lower one
    signed_s: int = 0  # the newest time in what our keys signed; seconds since 1970
    foreign_roots: tuple[str, ...] = ()  # topics behind our chain with root documents of somebody else, who is to be replaced
    notes: tuple[str, ...] = field(default=())


def look(workspace: Workspace, broker: Broker, group: str, *, take_over: bool = False) -> Survey:
    """Looks at the broker for a publication to this group. Adopts newer roots and numbers that our keys signed.

    Raises ForeignError for documents that they did not sign, unless these are to be taken over; BrokerError when the broker can't
    be read: what is not known is not overwritten.
    """
    found = _Look(workspace, broker, take_over=take_over)
    found.roots()
    survey = found.deployment(group)
    sequence = found.numbers(survey, group)
    found.emptied()
    if found.foreign and not take_over:
        raise ForeignError(
            f"{workspace.settings.broker} belongs to another workspace: {found.foreign[0][1]}. Publish from there,"
            " or take the broker over with --take-over: boards of the other workspace will refuse what you publish"
        )
    signed_s = max(workspace.last_signed_s(), survey.present.issued_s if survey.present else 0)
    behind = found.roots_behind() if found.foreign else ()
    return replace(survey, sequence=sequence, signed_s=signed_s, foreign_roots=behind, notes=tuple(found.notes))


class _Look:
    def __init__(self, workspace: Workspace, broker: Broker, *, take_over: bool) -> None:
        self._workspace, self._broker, self._take_over = workspace, broker, take_over
        self.foreign: list[tuple[str, str]] = []  # topic, and why it is foreign
        self.notes: list[str] = []
        self._there = False  # something of ours is on the broker

    def roots(self) -> None:
        """Ours must be where they belong, or nothing; those that follow ours are adopted when ours signed them."""
        ours = self._workspace.root_documents()
        wanted = {topics.root(number): document for number, document in ours.items()}
        for topic, payload in presence.read(self._broker, wanted, ROOT_BYTES).items():
            if payload is not None and payload != wanted[topic]:
                self.foreign.append((topic, f"{topic} is not the root document of this workspace"))
            self._there |= payload == wanted[topic]
        number = len(ours)
        while not self.foreign and number < len(ours) + MAX_NEW_ROOTS:
            number += 1
            document = self._broker.retained_one(topics.root(number))
            if document is None:
                break
            try:
                self._workspace.add_root(number, document)
            except Refused as error:
                self.foreign.append((topics.root(number), f"root document {number} on the broker is not signed by ours: {error}"))
            else:
                self.notes.append(f"root document {number} was on the broker and not in this workspace: added to trust/")

    def roots_behind(self) -> tuple[str, ...]:
        """Topics of root documents that follow ours by number."""
        first = len(self._workspace.root_documents()) + 1
        behind = map(topics.root, range(first, first + MAX_NEW_ROOTS))
        return tuple(itertools.takewhile(lambda topic: self._broker.retained_one(topic) is not None, behind))

    def deployment(self, group: str) -> Survey:
        """What is retained for the group. A document of a key that has been rotated since is still ours."""
        topic = topics.desired(group)
        document = self._broker.retained_one(topic)
        if document is None:
            return Survey()
        try:
            return Survey(document, verify_ours(self._workspace, document, group))
        except Refused as error:
            self.foreign.append((topic, f"the deployment of group {group} there is not signed by this workspace's keys ({error})"))
        return Survey(document)

    def numbers(self, found: Survey, group: str) -> int:
        """Epoch and sequence never go below what our keys signed already: this workspace may be a copy, or restored.

        Returns the highest sequence of the group's updates.
        """
        kept, record = Updates(self._workspace), Ledger(self._workspace).group(group)
        had = [each.sequence for digest in (record.manifests if record else ()) if (each := kept.find(digest)) is not None]
        return max(self._adopted(found, group), *had, 0)

    def _adopted(self, found: Survey, group: str) -> int:
        present, document = found.present, found.document
        if present is None or document is None:
            return 0
        self._there = True
        if not is_current(self._workspace, document, group):
            return 0  # of a key that has been replaced: its numbers bind nobody any more
        before = self._workspace.read()
        envelope = self._broker.retained_one(topics.manifest(present.manifest_digest))
        sequence = 0
        if envelope is not None:
            with contextlib.suppress(Refused):  # damaged on the broker: it says nothing then
                sequence = verify_signed(envelope, self._workspace.root()).manifest.sequence
        if self._workspace.adopt(sequence=sequence, epochs={group: present.epoch}):
            known = int(before.get("epochs", {}).get(group, 0))
            self.notes.append(
                f"the broker has deployment epoch {present.epoch} of group {group}, signed with these keys; this workspace knew"
                f" {known}. It goes on from there: is this an old copy, or did another operator publish?"
            )
        return sequence

    def emptied(self) -> None:
        """Something was published here before, and all of it is gone, or this is another broker than before."""
        if self._there or self.foreign:
            return
        brokers = Ledger(self._workspace).brokers()
        here = brokers.pop(str(self._workspace.settings.broker), set())
        elsewhere = set().union(*brokers.values()) if brokers else set()
        if here:
            self.notes.append(
                f"{self._workspace.settings.broker} has lost what was published there ({len(here)} group{'s' * (len(here) != 1)}):"
                " `ota republish` puts everything back. Does the broker keep retained messages on disk?"
            )
        elif elsewhere:
            self.notes.append(
                f"nothing was published at {self._workspace.settings.broker} before, but at {', '.join(sorted(brokers))}:"
                " `ota republish` brings all groups to the new broker"
            )


def verify_ours(workspace: Workspace, document: bytes, group: str) -> Deployment:
    """A deployment that keys of the newest root signed, or of an earlier one: they were rotated since. Raises Refused."""
    newest, *earlier = reversed(_chain(workspace))
    try:
        return verify_deployment(document, newest, group)
    except Refused:
        for root in earlier:
            with contextlib.suppress(Refused):
                return verify_deployment(document, root, group)
        raise


def is_current(workspace: Workspace, document: bytes, group: str) -> bool:
    """Whether boards take it: keys of the newest root signed it."""
    try:
        verify_deployment(document, workspace.root(), group)
    except Refused:
        return False
    return True


def _chain(workspace: Workspace) -> list[Root]:
    """The chain of roots, oldest first, verified. Raises Refused."""
    documents = list(workspace.root_documents().values())
    chain = [first_root(documents[0])]
    for document in documents[1:]:
        chain.append(next_root(chain[-1], document))
    return chain

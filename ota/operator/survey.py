"""Reads the state of the broker before anything is written to it.

A publication must not overwrite what somebody else put there, nor be overtaken by numbers that a copy of this workspace used. So it
looks first: at the root documents, at the group's deployment, and at what this workspace put there before.
"""

import contextlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ota.formats import topics
from ota.formats.deployment import Deployment
from ota.formats.manifest import AnyManifest, verify_any
from ota.formats.reasons import Refused
from ota.formats.trust import Root, first_root, next_root
from ota.operator import presence
from ota.operator.broker import Broker
from ota.operator.ledger import Ledger
from ota.operator.ownership import ForeignError
from ota.operator.scope import Scope
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace

__all__ = ["ForeignError", "Survey", "chain", "is_current", "known", "look", "rank", "scopes", "verify_ours"]

MAX_NEW_ROOTS = 1000
ROOT_BYTES = MANIFEST_BYTES = 4096  # about


@dataclass(frozen=True)
class Survey:
    """What was found. `notes` are for the operator: each is a sentence."""

    document: bytes | None = None  # what is retained for the group or device, whoever signed it
    present: Deployment | None = None  # the same, when our keys signed it
    manifests: Mapping[bytes, AnyManifest] = field(default_factory=dict)  # of its entries, by digest, as far as they are known
    sequences: Mapping[str, int] = field(default_factory=dict)  # by module: below it, boards of the group or device refuse
    signed_s: int = 0  # the newest time in what our keys signed; seconds since 1970
    foreign_roots: tuple[str, ...] = ()  # topics behind our chain with root documents of somebody else, who is to be replaced
    notes: tuple[str, ...] = field(default=())


def look(workspace: Workspace, broker: Broker, scope: Scope, *, take_over: bool = False) -> Survey:
    """Looks at the broker for a publication to a group or device. Adopts newer roots and numbers that our keys signed.

    Raises ForeignError for documents that they did not sign, unless these are to be taken over; BrokerError when the broker can't
    be read: what is not known is not overwritten.
    """
    found = _Look(workspace, broker, scope)
    found.roots()
    survey = found.deployment()
    manifests = found.manifests(survey)
    found.numbers(survey, manifests)
    found.emptied()
    if found.foreign and not take_over:
        raise ForeignError(
            f"{workspace.settings.broker} belongs to another workspace: {found.foreign[0][1]}. Publish from there,"
            " or take the broker over with --take-over: boards of the other workspace will refuse what you publish"
        )
    return replace(
        survey,
        manifests=manifests,
        sequences=_sequences(workspace, scope, survey, manifests),
        signed_s=max(workspace.last_signed_s(), survey.present.issued_s if survey.present else 0),
        foreign_roots=found.roots_behind() if found.foreign else (),
        notes=tuple(found.notes),
    )


class _Look:
    def __init__(self, workspace: Workspace, broker: Broker, scope: Scope) -> None:
        self._workspace, self._broker, self._scope = workspace, broker, scope
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

    def deployment(self) -> Survey:
        """What is retained for the group or device. A document of a key that has been rotated since is still ours."""
        topic = self._scope.topic
        document = self._broker.retained_one(topic)
        if document is None:
            return Survey()
        try:
            return Survey(document, verify_ours(self._workspace, document, self._scope))
        except Refused as error:
            self.foreign.append((topic, f"the deployment of {self._scope} there is not signed by this workspace's keys ({error})"))
        return Survey(document)

    def manifests(self, found: Survey) -> dict[bytes, AnyManifest]:
        """The manifests that entries name: from this workspace, or from the broker when our keys signed them."""
        digests = {each.manifest_digest for each in found.present.entries.values() if not each.absent} if found.present else set()
        kept = Updates(self._workspace)
        known = {digest: manifest for digest in digests if (manifest := kept.manifest(digest)) is not None}
        wanted = {topics.manifest(digest): digest for digest in digests - known.keys()}
        for topic, envelope in presence.read(self._broker, wanted, MANIFEST_BYTES).items():
            with contextlib.suppress(Refused):  # damaged on the broker: it says nothing then
                verified = verify_any(envelope or b"", self._workspace.root())
                if verified.envelope_digest == wanted[topic]:
                    known[wanted[topic]] = verified.manifest
        return known

    def numbers(self, found: Survey, manifests: Mapping[bytes, AnyManifest]) -> None:
        """Epoch and sequence never go below what our keys signed already: this workspace may be a copy, or restored."""
        present, document = found.present, found.document
        if present is None or document is None:
            return
        self._there = True
        if not is_current(self._workspace, document, self._scope):
            return  # of a key that has been replaced: its numbers bind nobody any more
        known = int(self._workspace.read().get("epochs", {}).get(self._scope.key, 0))
        sequence = max((each.sequence for each in manifests.values()), default=0)
        if self._workspace.adopt(sequence=sequence, epochs={self._scope.key: present.epoch}):
            self.notes.append(
                f"the broker has deployment epoch {present.epoch} of {self._scope}, signed with these keys; this workspace knew"
                f" {known}. It goes on from there: is this an old copy, or did another operator publish?"
            )

    def emptied(self) -> None:
        """Something was published here before, and all of it is gone, or this is another broker than before."""
        if self._there or self.foreign:
            return
        ledger = Ledger(self._workspace)
        kept = {each.scope.key for each in ledger.records() if each.kept}  # what never arrived is not lost
        brokers = {url: published & kept for url, published in ledger.brokers().items() if published & kept}
        here = brokers.pop(str(self._workspace.settings.broker), set())
        elsewhere = set().union(*brokers.values()) if brokers else set()
        if here:
            self.notes.append(
                f"{self._workspace.settings.broker} has lost what was published there ({scopes(map(Scope.from_key, here))}):"
                " `ota republish` puts everything back. Does the broker keep retained messages on disk?"
            )
        elif elsewhere:
            self.notes.append(
                f"nothing was published at {self._workspace.settings.broker} before, but at {', '.join(sorted(brokers))}:"
                " `ota republish` brings everything to the new broker"
            )


def scopes(found: Iterable[Scope]) -> str:
    """How many groups and devices, for a person."""
    devices = [bool(each.device) for each in found]
    parts = [(devices.count(False), "group"), (devices.count(True), "device")]
    return " and ".join(f"{count} {word}{'s' * (count != 1)}" for count, word in parts if count) or "nothing"


def verify_ours(workspace: Workspace, document: bytes, scope: Scope) -> Deployment:
    """A deployment that keys of the newest root signed, or of an earlier one: they were rotated since. Raises Refused."""
    newest, *earlier = reversed(chain(workspace))
    try:
        return scope.verify(document, newest)
    except Refused:
        for root in earlier:
            with contextlib.suppress(Refused):
                return scope.verify(document, root)
        raise


def is_current(workspace: Workspace, document: bytes, scope: Scope) -> bool:
    """Whether boards take it: keys of the newest root signed it."""
    try:
        scope.verify(document, workspace.root())
    except Refused:
        return False
    return True


def _sequences(workspace: Workspace, scope: Scope, found: Survey, manifests: Mapping[bytes, AnyManifest]) -> dict[str, int]:
    """By module, the lowest sequence that boards take: as high as what they are to run, above what they ran before."""
    highest: dict[str, int] = {}
    for manifest in manifests.values():
        highest[manifest.name] = max(manifest.sequence, highest.get(manifest.name, 0))
    kept, record = Updates(workspace), Ledger(workspace).record(scope)
    releases = list(record.releases.values()) if record else []
    lost = {each[0].manifest for each in releases} if found.document is None else set()
    for digest in {release.manifest for each in releases for release in each} - manifests.keys():
        if (known := kept.find(digest)) is not None:
            above = 0 if digest in lost else 1  # what the broker lost is still what they are to run
            highest[known.module] = max(known.sequence + above, highest.get(known.module, 0))
    return highest


def rank(workspace: Workspace, deployment: Deployment, document: bytes) -> tuple[bool, int]:
    """Boards take the higher one: a key of the newest root before one that was replaced, then the epoch."""
    return is_current(workspace, document, Scope.of(deployment)), deployment.epoch


def known(workspace: Workspace, scope: Scope) -> Survey:
    """What this workspace knows without a look at a broker, for a publication that goes to none."""
    return Survey(sequences=_sequences(workspace, scope, Survey(), {}), signed_s=workspace.last_signed_s())


def chain(workspace: Workspace) -> list[Root]:
    """The chain of roots, oldest first, verified. Raises Refused."""
    documents = list(workspace.root_documents().values())
    chain = [first_root(documents[0])]
    for document in documents[1:]:
        chain.append(next_root(chain[-1], document))
    return chain

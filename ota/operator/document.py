"""Publishes a changed deployment document, and joins it with what other operators publish at the same moment.

MQTT has no compare-and-set. Each operator listens to the document's topic before it publishes, so that it sees every document that
crosses its own. It joins them (ota.operator.edit) and publishes the result above all of them, until what the broker keeps is the
join of everything that was seen. Who published first may have ended by then: it is the later one that sees both.
"""

import contextlib
import logging
import random
import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import replace

from ota.durable import write_durably
from ota.errors import OtaError
from ota.formats.deployment import DEPLOYMENT_TYPE, Deployment, Entry
from ota.formats.reasons import Refused
from ota.keyring import Signer, sign_document
from ota.operator import presence
from ota.operator.audit import Audit
from ota.operator.broker import Broker, BrokerError, NoConnectionError
from ota.operator.edit import Edit, join
from ota.operator.ledger import Ledger
from ota.operator.scope import Scope
from ota.operator.signing import PENDING, PendingError
from ota.operator.workspace import Workspace

__all__ = ["ConflictError", "publish_edit"]

TRIES = 12  # each takes in what others published during the one before
PAUSE_S = 0.2  # between tries, up to; times their number
ECHO_TIMEOUT_S = 30.0  # until our own document comes back
RECONNECTS = 5
logger = logging.getLogger(__name__)


class ConflictError(OtaError):
    """Somebody else published to the same instance at the same time."""


def publish_edit(
    workspace: Workspace,
    broker: Broker,
    base: Deployment,
    edit: Edit,
    seen: bytes | None,
    now_s: int,
    aborted: Collection[bytes] = (),
) -> Deployment:
    """Signs the document with the edit and the next epoch, publishes it and reads it back; returns it as it is on the broker.

    `base` is the document that the edit was decided on, `seen` what the broker had then. Changes of other instances that came
    since are kept. `aborted`: deployment ids to record as aborted. Raises ConflictError when somebody changed the same instances,
    or when the document is not ours or gone; PendingError where others have to sign it, too;
    NotKeptError, BrokerError, Refused for what boards would refuse.
    """
    return _Publication(workspace, broker, base, edit, aborted).run(seen, now_s)


def check_enough(
    workspace: Workspace, wanted: Deployment, keys: Sequence[Signer], now_s: int, aborted: Collection[bytes] = ()
) -> None:
    """Raises PendingError where others have to sign, too: the document is written to a file then, and not published.

    `aborted`: deployment ids that are recorded as aborted when it is.
    """
    scope, lack = Scope.of(wanted), workspace.root().roles["deploy"].lacks({each.public.key_id for each in keys})
    if not lack:
        return
    wanted = replace(wanted, epoch=workspace.next_epoch(scope.key, now_s))
    path = workspace.folder / PENDING / f"{scope.key}-{wanted.epoch}.cbor"
    path.parent.mkdir(exist_ok=True)
    document = sign_document(wanted.to_payload(), DEPLOYMENT_TYPE, keys)
    if aborted:
        Ledger(workspace).intended(wanted, aborted)
    write_durably(path, document)
    workspace.signed(now_s)
    for key in keys:
        Audit(workspace).signed(document, key, now_s)
    raise PendingError(path, f"the deployment of {scope}, epoch {wanted.epoch},", lack)


class _Publication:
    def __init__(self, workspace: Workspace, broker: Broker, base: Deployment, edit: Edit, aborted: Collection[bytes]) -> None:
        self._workspace, self._broker, self._edit, self._aborted = workspace, broker, edit, aborted
        self._scope, self._base = Scope.of(base), base
        self._documents: list[Deployment] = []  # ours and those of others that were published since
        self._losses = 0  # of connections

    def run(self, seen: bytes | None, now_s: int) -> Deployment:
        self._rebase(seen)
        self._keys = self._workspace.role_keys("deploy")
        wanted = self._edit.applied(self._base)
        check_enough(self._workspace, wanted, self._keys, now_s, self._aborted)
        for number in range(1, TRIES + 1):
            published = replace(wanted, epoch=self._workspace.next_epoch(self._scope.key, now_s))
            self._publish(published, now_s)
            kept, document = self._kept()
            wanted = join(self._base, self._documents)
            self._workspace.adopt(epochs={self._scope.key: max(each.epoch for each in self._documents)})
            if kept.entries == wanted.entries and all(each == kept or each.epoch < kept.epoch for each in self._documents):
                return self._ended(kept, document)
            time.sleep(random.uniform(0, PAUSE_S * number))  # noqa: S311  # so that the same two don't meet again
        raise ConflictError(f"other operators keep publishing to {self._scope}: look with `ota status`, and publish again")

    def _rebase(self, seen: bytes | None) -> None:
        """What came between the look at the broker and now is the base, if it leaves the same instances alone."""
        document = self._listen()
        if document == seen:
            return
        present = self._verified(document)
        self._workspace.adopt(epochs={self._scope.key: present.epoch})
        if names := [each for each in self._edit.instances if present.entries.get(each) != self._base.entries.get(each)]:
            assert document is not None
            Ledger(self._workspace).deployed(self._scope, document, present)
            raise self._conflict(names, present)
        self._base = present

    def _publish(self, deployment: Deployment, now_s: int) -> None:
        """Publishes a document, and takes in what others published until it came back."""
        document = sign_document(deployment.to_payload(), DEPLOYMENT_TYPE, self._keys)
        self._scope.verify(document, self._workspace.root())  # as boards will
        self._workspace.signed(now_s)
        for key in self._keys:
            Audit(self._workspace).signed(document, key, now_s)
        Ledger(self._workspace).deployed(self._scope, document, deployment, self._aborted, kept=False)
        self._documents.append(deployment)
        try:
            self._cross(document)
        except NoConnectionError as error:
            self._losses += 1
            if error.final or self._losses > RECONNECTS:
                raise
            logger.info("%s while a deployment was published; looking again", error)
            self._take_document(self._listen())

    def _cross(self, document: bytes) -> None:
        """Sends a document and takes in all that come before it. Its mark tells it from another operator's of the same bytes."""
        mark = secrets.token_hex(8)
        self._broker.publish_heard(self._scope.topic, document, mark, self._connection)
        for message in self._broker.messages(ECHO_TIMEOUT_S, self._connection):
            if message.topic != self._scope.topic or message.retained:
                continue
            if message.has(mark):
                return
            self._take_document(message.payload)

    def _listen(self) -> bytes | None:
        """What is retained; what is published from now on comes on the connection."""
        (now,) = self._broker.retained([self._scope.topic], keep=True)
        self._connection = self._broker.connections
        if now.unknown:
            raise BrokerError(f"what is retained under {self._scope.topic} can't be known: {now.unknown}")
        return now.payload

    def _kept(self) -> tuple[Deployment, bytes]:
        """What the broker keeps; on a connection of its own, since some brokers hand nothing out twice on one."""
        with Broker(self._workspace.settings) as another:
            document = another.retained_one(self._scope.topic)
        if document is None:
            raise presence.NotKeptError(
                f"the broker acknowledged {self._scope.topic} and does not keep it: `ota broker check` shows what it keeps"
            )
        kept = self._verified(document)
        self._take(kept)
        return kept, document

    def _take_document(self, document: bytes | None) -> None:
        with contextlib.suppress(Refused):  # what our keys did not sign is no document
            if document:
                self._take(self._scope.verify(document, self._workspace.root()))

    def _take(self, deployment: Deployment) -> None:
        if deployment not in self._documents:
            self._documents.append(deployment)

    def _ended(self, kept: Deployment, document: bytes) -> Deployment:
        """Whether the instances are as we want them. Raises ConflictError for those that are not."""
        Ledger(self._workspace).deployed(self._scope, document, kept, self._aborted)
        lost = [name for name in self._edit.instances if kept.entries.get(name) != self._edit.sets.get(name)]
        if lost:
            raise self._conflict(lost, kept)
        for name, entry in self._edit.sets.items():
            for other in {each.entries[name].manifest_digest for each in self._documents if name in each.entries}:
                known = self._base.entries.get(name)
                if other not in (entry.manifest_digest, known.manifest_digest if known else None):
                    logger.warning(
                        "another operator published %s to instance %s at the same moment: ours took its place", _named(other), name
                    )
        return kept

    def _verified(self, document: bytes | None) -> Deployment:
        """A document of ours. Raises ConflictError."""
        if document is None:
            raise self._told("took the document away")
        try:
            return self._scope.verify(document, self._workspace.root())
        except Refused:
            raise self._told("published a document with other keys") from None

    def _conflict(self, names: Collection[str], present: Deployment) -> ConflictError:
        what = "; ".join(f"{_entry(present.entries.get(name))} to instance {name}" for name in sorted(names))
        rest = self._edit.instances - set(names)
        also = f" ({', '.join(sorted(rest))}: done)" if rest and present in self._documents else ""
        return self._told(f"published {what} (epoch {present.epoch})", also)

    def _told(self, what: str, also: str = "") -> ConflictError:
        return ConflictError(
            f"somebody else {what} in {self._scope} at the same time{also}: look with `ota status`, and publish again if need be"
        )


def _entry(entry: Entry | None) -> str:
    return "nothing" if entry is None else _named(entry.manifest_digest)


def _named(digest: bytes) -> str:
    return f"manifest {digest.hex()[:16]}" if digest else "its removal"

"""The keys of the board's group that came over the air (ota.formats.key_delivery): verified, opened, kept, and used at once.

What is kept is the document, encrypted as it came; it is opened anew at each start. What was accepted once stays in use when the
root changes, or when the document is taken away from the broker: these keys open secrets and install nothing, and a module that a
disk has damaged is decrypted again.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from device_agent.desired.acceptance import NO_ROOM, keep_newer
from device_agent.desired.desired import Setting
from device_agent.desired.reading_keys import KeyFiles
from device_agent.desired.trust import Trust
from device_agent.desired.walk import Documents
from device_agent.instance.services import Services
from ota.formats import key_delivery, topics
from ota.formats.encryption import GroupKey
from ota.formats.key_delivery import KeyDelivery, VerifiedDelivery
from ota.formats.reasons import Refused
from ota.formats.report import Refusal
from ota.formats.signed import SignedDocument
from ota.formats.trust import Root

__all__ = ["DOCUMENT", "DeliveredKeys"]

DOCUMENT = "group-keys"  # and its floor
logger = logging.getLogger(__name__)


class Told(Protocol):
    """Who is told of new keys: what could not be decrypted may be tried again."""

    def keys_came(self) -> None:
        """There are others now."""


@dataclass(frozen=True)
class _Found:
    verified: VerifiedDelivery
    keys: Mapping[bytes, GroupKey]


class DeliveredKeys:
    """`restore`, then `start`; its other methods are called by the loop."""

    def __init__(
        self,
        setting: Setting,
        services: Services,
        held: Trust,
        link: Documents | None,
        keys: KeyFiles,
        told: Told,
        changed: Callable[[], None],
    ) -> None:
        """`held` has the root in force; `keys` uses what comes; `changed` reports."""
        self._setting, self._services, self._trust, self._link = setting, services, held, link
        self._keys, self._told, self._changed = keys, told, changed
        self._topic = topics.group_keys(setting.device)
        self._received: bytes | None = None  # last
        self._due = False
        self._busy = False
        self._judged_by: Root | None = None  # the root that refused what was received last
        self.refusal: Refusal | None = None

    async def restore(self) -> None:
        """Opens what was kept."""
        document: bytes | None = await self._services.on_writer(self._services.store.document, DOCUMENT)
        if document is None:
            return
        try:
            payload = SignedDocument.from_bytes(document, "group's keys", key_delivery.DELIVERY_LIMIT_BYTES).payload
            found = KeyDelivery.from_payload(payload)
            if found.group == self._setting.group:
                self._keys.deliver(found.open(self._keys.own))
        except Refused as error:
            logger.warning("the keys of the group that were kept are not used: %s", error)

    def start(self) -> None:
        """Asks for the document from now on."""
        if self._link is not None:
            self._link.subscribe(self._topic)

    def received(self, topic: str, payload: bytes) -> bool:
        """Takes a message that is this document; False for another."""
        if topic != self._topic:
            return False
        if payload:
            self._received = payload
            self._look_soon()
        return True

    def consider(self) -> None:
        """Something has changed: what an earlier root did not allow is looked at again."""
        if self.refusal is not None and self._judged_by is not self._trust.root:
            self._look_soon()

    def _look_soon(self) -> None:
        self._due = True
        if not self._busy:
            self._busy = True
            self._services.spawn_supervised(self._look())

    async def _look(self) -> None:
        """One document at a time, the last one that came; others that came before it are never looked at."""
        try:
            await self._look_at_all()
        finally:  # whatever ended it, the next one is looked at
            self._busy = False

    async def _look_at_all(self) -> None:
        while self._due and self._received is not None:
            self._due, document, root = False, self._received, self._trust.root
            self._judged_by = root
            try:
                found = await self._services.on_writer(self._verify_and_keep, document, root)
            except Refused as error:
                self._refuse(document, error)
                if error.reason in NO_ROOM:
                    asyncio.get_running_loop().call_later(self._setting.retry_s, self._look_soon)
                continue
            if root is not self._trust.root:  # it changed while the disk was waited for
                self._due = True
                continue
            if self.refusal is None and self._keys.delivered == found.keys:
                continue  # the same again: the connection is new
            self.refusal = None
            logger.info("the board has the keys of group %s: %d", self._setting.group, len(found.keys))
            self._keys.deliver(found.keys)
            self._changed()
            self._told.keys_came()

    def _verify_and_keep(self, document: bytes, root: Root) -> _Found:
        """On the writer. What can't be opened raises no floor: another one of the same epoch may be the right one."""
        verified = key_delivery.verified(document, root, self._setting.device, self._setting.group)
        keys = verified.delivery.open(self._keys.own)
        keep_newer(self._services.store, DOCUMENT, "group's keys", verified, document, root.roles["deploy"].keys)
        return _Found(verified, keys)

    def _refuse(self, document: bytes, error: Refused) -> None:
        claimed = key_delivery.claimed(document)
        refusal = Refusal("keys", claimed.epoch if claimed else 0, error.reason.value, error.detail)
        if self.refusal != refusal:
            logger.error("the keys of the group are refused: %s", error)
            self.refusal = refusal
            self._changed()

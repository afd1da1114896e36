"""The desired state: the chain of roots, the group's deployment, and whether this board is to join it now."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from device_agent.broker.link import Link
from device_agent.desired.roots import Start
from device_agent.instance import states
from device_agent.instance.runner import Runner
from device_agent.instance.updates import HELD_BACK, Update
from device_agent.node.config import Config
from device_agent.storage import floors
from device_agent.storage.store import Store
from ota.formats import deployment as deployments
from ota.formats import topics, trust
from ota.formats.reasons import Reason, Refused

logger = logging.getLogger(__name__)


class Orders:
    """Takes root and deployment documents, and posts to the runner what this board is to begin."""

    def __init__(
        self,
        config: Config,
        store: Store,
        start: Start,
        link: Link | None,
        runner: Runner,
        on_writer: Callable[..., Awaitable[Any]],
        spawn_supervised: Callable[[Any], object],
        report: Callable[[], None],
        counters: Counter[str],
    ) -> None:
        """`start` has the newest root that is trusted; `spawn_supervised` runs a coroutine; `report` tells the operator."""
        self._config, self._store, self.root = config, store, start.root
        self._problems = dict(start.problems)
        self._link, self._runner, self._on_writer = link, runner, on_writer
        self._spawn_supervised, self._report, self._counters = spawn_supervised, report, counters
        self._mark = floors.DEPLOYMENT + config.group
        self._desired: bytes | None = None  # the group's document that was received last, accepted or not
        self.refusal: Refused | None = None  # of a document that is no update yet
        self.refused = b""  # the deployment that the refused document is, or says it is
        self._retry: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def received(self, topic: str, payload: bytes) -> bool:
        """Takes a message that is one of these documents; False for another."""
        if topic == topics.desired(self._config.group):
            self._desired = payload
            self.consider()
        elif topic == topics.root(self.root.number + 1):
            self._spawn_supervised(self._next_root(payload))
        else:
            return False
        return True

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with root documents on this board, each as "code: text"."""
        return tuple(self._problems.values())

    async def _next_root(self, document: bytes) -> None:
        number = self.root.number + 1
        try:
            root = trust.next_root(self.root, document)
            await self._on_writer(self._store.add_root, number, document)
        except Refused as error:
            logger.error("root document %d is refused: %s", number, error)
            self._refuse(error)
            return
        if root.number != self.root.number + 1:
            return  # it came twice
        self.root = root
        self._problems.pop(number, None)
        for key in root.unusable:
            logger.warning("root %d has a key that this agent can't use: %s", number, key)
        if self._link is not None:
            self._link.unsubscribe(topics.root(number))
            self._link.subscribe(topics.root(number + 1))
        self.consider()
        with contextlib.suppress(Refused):  # a full disk: at the next start
            await self._on_writer(self._store.settle_floors, root.roles["release"].key_ids, root.roles["deploy"].key_ids)

    def consider(self) -> None:
        """Looks at the group's deployment, and offers it to the runner if this board is to join it now."""
        document = self._desired
        if document is None:
            return
        try:
            wanted = deployments.verified(document, self.root, self._config.group)
        except Refused as error:
            self._refuse(error, deployments.claimed_id(document))
            return
        self._spawn_supervised(self._offer(wanted, document, self.root))

    def _accept(self, wanted: deployments.VerifiedDeployment, document: bytes, root: trust.Root) -> None:
        """On the writer: refuses an older deployment and a second one of the same epoch, keeps this one and notes who signed it."""
        mark, epoch = floors.DEPLOYMENT + wanted.deployment.group, wanted.deployment.epoch
        floor = self._store.floor(mark, root.roles["deploy"].keys)
        if epoch < floor.value:
            raise Refused(Reason.DEPLOYMENT_REPLAYED, f"deployment epoch {epoch} is below {floor.value}, which was seen")
        if epoch == floor.value and not floor.digests <= {wanted.digest}:
            raise Refused(Reason.DEPLOYMENT_CONFLICT, f"another deployment with epoch {epoch} was accepted before")
        if self._store.document(mark) != document:
            self._store.keep_document(mark, document)
        if epoch > floor.value or not wanted.signers <= floor.keys:
            self._store.lift_floor(mark, wanted.signers, epoch, wanted.digest)

    async def restore(self) -> Refused | None:
        """Takes up the last document that was accepted. Why the update in the journal is not to be resumed, None if it is."""
        document: bytes | None = await self._on_writer(self._store.document, self._mark)
        if document is None:
            return None
        try:
            wanted = deployments.verify(document, self.root, self._config.group)
        except Refused as error:
            logger.warning("the deployment that was kept is not taken up: %s", error)
            return None
        self._desired = document
        update = self._runner.update
        return None if update.ended else self._why_stop(wanted, update, self._why_not(wanted))

    async def _offer(self, verified: deployments.VerifiedDeployment, document: bytes, root: trust.Root) -> None:
        """Another document may arrive while this waits for the disk: the report then is about the new one."""
        wanted = verified.deployment
        try:
            await self._on_writer(self._accept, verified, document, root)
            if root is not self.root:
                return  # checked again under the new root
            if document is not self._desired:
                return
            self._decide(wanted, document)
        except Refused as error:
            if document is not self._desired:
                return
            self._refuse(error, wanted.deployment_id)
            if error.reason in deployments.CLOCK_REASONS or error.reason is Reason.DISK_FULL:
                self.consider_later()

    def _decide(self, wanted: deployments.Deployment, document: bytes) -> None:
        """Offers the deployment, or stops what it stops. Raises Refused for one that this board wants and that may not start."""
        update = self._runner.update
        included = wanted.includes(self._config.device)
        why_not = self._why_not(wanted)
        if update.phase in states.BEGUN and (stop := self._why_stop(wanted, update, why_not)):
            self._runner.post(states.Stopped(update.id, stop.reason, stop.detail))
        if included and update.is_news(wanted.deployment_id, wanted.manifest_digest):
            if why_not is None:
                self._runner.post(states.Offered(wanted.deployment_id, wanted.manifest_digest))
            elif (update.deployment, update.reason) != (wanted.deployment_id, why_not.reason):  # else its report says so
                raise why_not
        self._clear_refusal(document)

    def _why_not(self, wanted: deployments.Deployment) -> Refused | None:
        """Why an update may not start now."""
        try:
            deployments.may_start(wanted, self.root, int(time.time()))
        except Refused as error:
            return error
        return None

    def _why_stop(self, wanted: deployments.Deployment, update: Update, why_not: Refused | None) -> Refused | None:
        """Why an update that has begun, or is found in the journal, is not to go on under this deployment."""
        included = wanted.includes(self._config.device)
        if (update.deployment, update.manifest) != (wanted.deployment_id, wanted.manifest_digest):
            if included and why_not is None:
                return None  # the offer takes its place
            return Refused(Reason.DEPLOYMENT_STOPPED, "another deployment has replaced it")
        if not included:
            return Refused(Reason.DEPLOYMENT_STOPPED, "this board is not part of the deployment any more")
        return why_not if why_not is not None and why_not.reason in HELD_BACK else None

    def consider_later(self) -> None:
        """Looks again after the time for a retry."""
        if self._retry is not None:
            self._retry.cancel()
        self._retry = self._loop.call_later(self._config.retry_s, self.consider)

    def _refuse(self, error: Refused, deployment: bytes = b"") -> None:
        """A refusal before there is an update: reported, not stored."""
        known = (self.refusal.reason, self.refusal.detail, self.refused) if self.refusal is not None else None
        if known != (error.reason, error.detail, deployment):
            self.refused = deployment
            logger.error("refused: %s", error)
            self._counters["refusals"] += 1
            self.refusal = error
            self._report()

    def _clear_refusal(self, document: bytes) -> None:
        if self.refusal is not None and document is self._desired:
            self.refusal = None
            self._report()

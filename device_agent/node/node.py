"""Composition: builds the agent's parts, starts and stops them. One event loop owns all state, one thread waits for the disk.

Nothing here needs the network: the link comes and goes.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from device_agent.broker.identity import IdentityError
from device_agent.broker.link import Link, Sent
from device_agent.broker.logs import LogQueue
from device_agent.broker.packets import Arrived
from device_agent.broker.pair import Pair
from device_agent.broker.session import KeptSession
from device_agent.broker.statements import Statements
from device_agent.channel import frames
from device_agent.channel.users import WorkerUsers
from device_agent.channel.workers import Confinement, ModuleSpec, Worker, WorkerFailed, zygote
from device_agent.desired import clock, roots
from device_agent.desired.bundles import Bundles
from device_agent.desired.delivered_keys import DeliveredKeys
from device_agent.desired.desired import Desired, Setting
from device_agent.desired.fetch import Transfers
from device_agent.desired.installation import Board
from device_agent.desired.reading_keys import KeyFiles
from device_agent.desired.repair import Repair
from device_agent.desired.trust import Trust
from device_agent.desired.watch import Watch
from device_agent.instance.conductor import Conductor
from device_agent.instance.consent import Consent
from device_agent.instance.instance import Instance
from device_agent.instance.kept import Kept
from device_agent.instance.services import Services
from device_agent.node.board_clock import BoardClock
from device_agent.node.config import Config
from device_agent.node.instances import Instances
from device_agent.node.kinds import kinds
from device_agent.node.launcher import Launcher
from device_agent.node.reporter import BoardState, Reporter
from device_agent.node.tasks import Tasks
from device_agent.node.traffic import Traffic
from device_agent.node.version import agent_version
from device_agent.sources.source import keep_running
from device_agent.storage.store import Store
from ota.formats import manifest as manifests
from ota.formats import signed_report, topics
from ota.formats.algorithms import usable_names
from ota.formats.capabilities import ABI
from ota.formats.manifest import VerifiedManifest
from ota.formats.reasons import Refused
from ota.formats.report import BATCH_LIMIT_BYTES, LogRecord, Report, encode_logs
from ota.formats.trust import Root

if TYPE_CHECKING:
    from device_agent.broker.renewal import Renewal

KEEP_TIME_S = 3600.0
MODULES_FIRST_S = 2.0  # that modules have to start before the rest of the agent takes the processor
logger = logging.getLogger(__name__)


class Node:
    """One board's agent. `run` is its life; `stop` ends it."""

    def __init__(self, config: Config, launcher: Launcher | None = None) -> None:
        """Opens storage and trust. `launcher`: that started this agent, if one did. Raises StoreError."""
        self._config, self._launcher = config, launcher
        self._linking: asyncio.Task[None] | None = None
        self.hands_over = False  # whether the launcher is to start what is to run now
        self._store = Store(config.storage, config.free_bytes)
        self._trust = Trust(roots.load(config.trust_root, self._store), self._store, config.board)
        self._tasks = Tasks()
        self._started = time.monotonic()
        self._was_online = False  # since this agent started
        self._clock_set = asyncio.Event()  # cleared by who waits for it
        self._counters: Counter[str] = Counter()
        self._confinement = Confinement(config.confinement_required, WorkerUsers(config.worker_users))
        self._pair = Pair.of(config.broker)
        if self._pair is not None:
            self._pair.recover()
        self._link = self._make_link()
        self._renewal: Renewal | None = None
        self._statements = Statements(config.broker, config.storage)
        self._logs = LogQueue(self._send_log, self._log_room, self._log_batch)
        self._traffic = Traffic.of(config, self._store, self._tasks.on_writer, self._link, self._counters, self._statements)
        self._bundles = Bundles()
        self._keys = KeyFiles(config.group_keys, config.storage)
        self._transfers = Transfers(
            self._link, self._bundles, self._store, self._tasks.on_writer, config.fetch_timeout_s, self._keys
        )
        self._services = self._make_services()
        updatable = kinds(_Board(self), launcher, config.agent_trial_s)
        self._instances = Instances(config, self._services, _Hooks(self), self._traffic.router, updatable)
        setting = Setting(config.device, config.group, config.retry_s)
        self._desired = Desired(
            setting,
            self._services,
            self._trust,
            self._link,
            self._instances,
            self._changed,
            lambda name: self._counters.update((name,)),
        )
        self._delivered = DeliveredKeys(setting, self._services, self._trust, self._link, self._keys, self._desired, self._changed)
        self._clock = BoardClock(lambda: self._desired.issued_s, config.clock_trusted, kept_s=self._store.kept_time_s())
        spawn = self._tasks.spawn_supervised
        consent = Consent(config.owner, partial(self._tasks.on_writer, self._store.ready_since), spawn, self._changed)
        self._conductor = Conductor(self._instances.runners, self._instances.takes, self._desired, self._clock.now, consent, spawn)
        about = Report(
            config.device,
            config.group,
            config.board,
            agent_version(),
            0,
            0,
            algorithms=usable_names(),
            encryption=self._keys.public,
        )
        sync = partial(self._tasks.on_writer, self._store.sync)
        self._reporter = Reporter(about, self._publish, self._is_online, self._statements, self._state, sync, time.time)
        board = Board(setting, self._trust, self._desired, self._bundles, self._reporter.snapshots)
        self._watch = Watch(config.bundles, config.storage, board, self._reporter.all, self._tasks.spawn_supervised)
        self._repair = Repair(self._transfers.fetcher(), self._store, self._tasks.on_writer, config.retry_s, self._mended)
        self._store.collect_unused = partial(self._collect, crowded=True)

    @property
    def failed(self) -> bool:
        """Whether an error of ours ended it."""
        return self._tasks.failed

    async def run(self) -> None:
        """Runs until `stop`, then saves the modules' states and ends the workers."""
        beginning = asyncio.ensure_future(self._begin())
        stopping = asyncio.ensure_future(self._tasks.stopping.wait())
        await asyncio.wait((beginning, stopping), return_when=asyncio.FIRST_COMPLETED)
        if beginning.done():
            beginning.result()
        beginning.cancel()
        await stopping
        zygote.interrupt()  # it may take minutes to load
        await asyncio.gather(beginning, return_exceptions=True)
        await self._shut_down()

    def stop(self) -> None:
        """Ends `run`."""
        self._tasks.stopping.set()

    def log(self, record: LogRecord) -> None:
        """Keeps a log record for the operator, sent when online."""
        self._logs.add(record)

    # -- start and stop

    async def _begin(self) -> None:
        config, spawn = self._config, self._tasks.spawn_supervised
        try:
            await asyncio.get_running_loop().run_in_executor(None, zygote.start)
        except OSError as error:
            logger.error("%s: trying again with each module", error)
        await self._instances.restore()
        await self._traffic.restore(self._tasks.on_writer)
        await self._delivered.restore()
        await self._desired.restore()
        for work in self._traffic.work():
            spawn(work)
        self._instances.start(self._desired.why_lapsed)
        for name, source in config.sources.items():
            spawn(keep_running(name, source, self._traffic.router.offer, self._counters))
        await self._instances.until_started(MODULES_FIRST_S)
        await self._go_on_with_session()
        start = await self._tasks.on_writer(self._store.next_start, int(time.time()))
        await asyncio.to_thread(self._statements.begin, start)  # a token may take long
        self._desired.start()
        self._delivered.start()
        spawn(clock.watch(self._clock_was_set))
        if self._link is not None:
            self._linking = spawn(self._connect())
        spawn(self._repair.run())
        spawn(self._watch.run())
        spawn(self._logs.deliver())
        spawn(self._reporter.run())
        spawn(self._tasks.every(config.report_s, self._report_again))
        spawn(self._tasks.every(KEEP_TIME_S, self._keep_time))
        if self._launcher is not None:
            self._launcher.started()

    async def _connect(self) -> None:
        """The connection to the broker; before the first one, a certificate if the board is to get one."""
        assert self._link is not None
        if self._config.wants_enrolment:
            from device_agent.broker import enrolment  # certificates take megabytes that no other board needs

            await enrolment.enrol_at_last(self._config, self._clock_set)
            await asyncio.to_thread(self._statements.renew)
        if self._pair is not None and self._config.broker is not None:
            from device_agent.broker.renewal import Asker, Renewal

            config = self._config
            asker = Asker(config.device, self._config.broker, config.enrolment_url, config.renewal)
            self._renewal = Renewal(asker, self._pair, self._link, self._statements.renew, self._clock.reached_s)
            self._tasks.spawn_supervised(self._renewal.run())
        await self._link.run()

    async def _shut_down(self) -> None:
        await asyncio.gather(self._say_goodbye(), self._suspend())  # a far broker takes a while to answer
        await self._leave()
        await self._tasks.close()
        self._bundles.close()
        self._statements.close()
        zygote.interrupt()
        self._store.close()

    async def _say_goodbye(self) -> None:
        if self._link is not None:
            await self._link.say_goodbye(topics.online(self._config.device), topics.OFFLINE)

    async def _suspend(self) -> None:
        await self._instances.suspend()
        await self._traffic.outcomes.flush()
        await self._keep_time()

    async def _go_on_with_session(self) -> None:
        """With what the agent before has left at the broker."""
        if self._link is not None:
            with contextlib.suppress(Refused):  # a full disk: with a clean one
                if session := KeptSession.read(await self._tasks.on_writer(self._store.take_session)):
                    self._link.go_on(session)

    async def _leave(self) -> None:
        """For the next agent: what waits for modules, once nothing more can come, and what the broker keeps."""
        if self._linking is not None:
            self._linking.cancel()
            await asyncio.gather(self._linking, return_exceptions=True)
        if waiting := self._instances.waiting(time.time()):
            await self._traffic.outcomes.keep(waiting)
        if self._link is not None and (session := self._link.session) is not None:
            with contextlib.suppress(Refused):  # a full disk: the next one begins a clean session
                await self._tasks.on_writer(self._store.keep_session, session.to_bytes())

    # -- what parts are made of

    def _make_link(self) -> Link | None:
        config = self._config
        if config.broker is None:
            return None
        link = Link(
            config.broker,
            config.device,
            self._received,
            self._online,
            self._offline,
            on_input=self._received_for_modules,
            marker=topics.marker(config.device),
            counters=self._counters,
        )
        link.set_will(topics.online(config.device), topics.OFFLINE)
        return link

    def _make_services(self) -> Services:
        return Services(
            store=self._store,
            on_writer=self._tasks.on_writer,
            spawn_supervised=self._tasks.spawn_supervised,
            new_worker=self._new_worker,
            new_fetcher=self._transfers.fetcher,
            verify=self._verify,
            check_signers=self._trust.check_signers,
            image_classes=self._image_classes,
            kept=Kept(self._store, self._tasks.on_writer, self._traffic.outcomes.flush),
            times=self._config.times,
            now_s=time.time,
            owner=self._config.owner,
            floor_s=lambda: self._clock.floor_s,
        )

    def _verify(self, envelope: bytes) -> VerifiedManifest:
        """A module's manifest that this board may install and can decrypt. On the writer thread. Raises Refused."""
        verified = self._trust.verify(envelope)
        if not self._store.blob_path(verified.manifest.digest).exists():
            self._keys.content_key(verified.manifest)  # before the download
        return verified

    def _new_worker(self, spec: ModuleSpec, died: Callable[[Worker, WorkerFailed], None]) -> Worker:
        return Worker(spec, self._module_log, died, self._confinement)

    def _module_log(self, spec: ModuleSpec, level: str, message: str) -> None:
        self.log(LogRecord(time.time(), level, spec.instance, spec.label, message))

    def _image_classes(self, vendor: bytes) -> tuple[bytes, ...]:
        """The classes of ahead-of-time images that this board can run, the best first, in a vendor's name space."""
        return tuple(
            manifests.image_class_id(vendor, board, zygote.aot_target, cpu, ABI)
            for cpu in (*self._config.cpus, "")
            for board in (self._config.board, manifests.ANY_BOARD)
            if zygote.aot_target
        )

    # -- what happens

    def _received(self, topic: str, payload: bytes) -> None:
        if self._renewal is not None and self._renewal.received(topic, payload):
            return
        if not self._transfers.received(topic, payload) and not self._delivered.received(topic, payload):
            self._desired.received(topic, payload)

    def _received_for_modules(self, arrived: Arrived) -> None:
        self._traffic.router.received(arrived)

    def _online(self) -> None:
        logger.info("online")
        self._was_online = True
        self._conductor.poke()
        self._publish(topics.online(self._config.device), topics.ONLINE)
        self._reporter.report()
        self._logs.poke()
        self._repair.poke()
        self._traffic.online()
        if self._renewal is not None:
            self._renewal.online()

    def _offline(self) -> None:
        logger.info("offline: the board continues without the broker")

    def _clock_was_set(self) -> None:
        self._clock_set.set()
        self._clock.set()
        if self._renewal is not None:
            self._renewal.poke()
        self._tasks.spawn_supervised(self._keep_time())
        self._desired.consider()
        self._conductor.poke()

    async def _keep_time(self) -> None:
        """So that a board without a battery does not begin in 1970 again."""
        if (time_s := self._clock.to_keep()) is not None:
            with contextlib.suppress(Refused):  # a full disk: with the next one
                await self._tasks.on_writer(self._store.keep_time, time_s)

    def _changed(self) -> None:
        self._conductor.poke()
        self._reporter.poke()
        self._delivered.consider()

    async def _mended(self, instance: str, slot: str) -> None:
        module = self._instances.module(instance)
        if module is not None:
            await module.mended(slot)

    async def _report_again(self) -> None:
        self._reporter.report()

    def _collect(self, *, crowded: bool = False) -> None:
        """Deletes what nobody needs, as `Instances.collect` has it. On the writer thread."""
        releases = self._instances.collect(crowded=crowded)
        self._tasks.loop.call_soon_threadsafe(self._services.kept.retain, releases)

    # -- what is said

    def _is_online(self) -> bool:
        return self._link is not None and self._link.online

    def _publish(self, topic: str, payload: bytes) -> bool:
        """A retained message, for which there is no other time than now; whether there is a connection."""
        if self._link is None or not self._link.online:
            return False
        self._link.publish(topic, payload, retain=True)
        return True

    async def _send_log(self, batch: bytes) -> Sent:
        return Sent.OFFLINE if self._link is None else await self._link.publish(topics.log(self._config.device), batch)

    async def _log_batch(self, records: list[LogRecord]) -> bytes:
        return await self._statements.sign(signed_report.LOG, partial(encode_logs, self._config.device, records=records))

    def _log_room(self) -> int:
        return BATCH_LIMIT_BYTES if self._link is None else self._link.room(topics.log(self._config.device))

    def _state(self) -> BoardState:
        link = self._link.problems if self._link is not None else ()
        agents = self._launcher.problems if self._launcher is not None else ()
        renewal = self._renewal.problems if self._renewal is not None else ()
        return BoardState(
            uptime_s=int(time.monotonic() - self._started),
            instances=tuple(each.snapshot() for each in self._instances.all()),
            refused=self._desired.refused,
            refusals=(*self._desired.refusals.values(), *([refused] if (refused := self._delivered.refusal) else [])),
            counters=self._counters,
            problems=(
                *self._store.problems.texts,
                *self._trust.problems.values(),
                *self._instances.problems.values(),
                *self._statements.problems,
                *link,
                *renewal,
                *agents,
            ),
            root=self._trust.root.number,
            journal=self._store.journal_head,
            group_keys=self._keys.group_key_ids,
            documents=self._desired.epochs,
        )


class _Board:
    """What the agent's own update needs (device_agent.node.agent_target.Board)."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.classes = (node._config.board, manifests.ANY_BOARD)

    @property
    def root(self) -> Root:
        return self._node._trust.root

    @property
    def running(self) -> frozenset[str]:
        return frozenset(each.name for each in self._node._instances.all() if isinstance(each, Instance) and each.alive)

    def steady(self, config: Config) -> frozenset[str]:
        return self._node._instances.steady(config)

    @property
    def online(self) -> bool:
        return self._node._is_online()

    @property
    def expects_link(self) -> bool:
        node, up_s = self._node, time.monotonic() - self._node._started
        return node._was_online or (node._link is not None and up_s < node._config.agent_trial_s)

    async def report_acknowledged(self) -> bool:
        link = self._node._link
        if link is None:
            return False
        topic = topics.report(self._node._config.device)
        try:
            report = await self._node._reporter.board()
        except IdentityError:
            return False
        return await link.publish(topic, report, retain=True) is Sent.ACKNOWLEDGED

    def hand_over(self) -> None:
        self._node.hands_over = True
        self._node.stop()


class _Hooks:
    """What instances tell (device_agent.instance.services.Hooks), handed to the part that it concerns."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def admit(self, name: str, verified: manifests.VerifiedManifest) -> None:
        self._node._instances.admit(name, verified, self._node._desired.entry(name))

    async def until_free(self, name: str, devices: frozenset[str]) -> None:
        await self._node._instances.until_free(name, devices)

    def follow(self, name: str) -> None:
        self._node._traffic.router.follow(name)

    def deliver(self, name: str, spec: ModuleSpec, done: frames.Done, hops: int, bus_number: int) -> asyncio.Future[None] | None:
        return self._node._traffic.router.deliver(name, spec, done, hops, bus_number)

    def consumed(self, name: str, bus_number: int) -> None:
        self._node._traffic.router.consumed(bus_number)

    def moved(self, name: str) -> None:
        self._node._changed()

    def began(self, name: str) -> None:
        self._node._instances.ended(name)
        self._node._desired.consider_instance(name)

    def ended(self, name: str) -> None:
        if self._node._instances.ended(name):
            self._node._desired.room_was_made()
        self._node._desired.consider_instance(name)
        self._node._conductor.poke()

    def confirmed(self, name: str) -> None:
        self._node._instances.look_at_room()
        self._node._tasks.spawn_supervised(self._tidy(name))
        self._node._desired.room_was_made()

    def damaged(self, name: str, slot: str) -> None:
        self._node._repair.want(name, slot)

    async def _tidy(self, name: str) -> None:
        module = self._node._instances.module(name)
        if module is not None:
            await module.checkpoint()
        await self._node._tasks.on_writer(self._node._collect)

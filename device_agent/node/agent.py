"""The agent: one event loop that owns all state, one writer thread that waits for the disk.

It runs the best module there is, feeds it, keeps what it says until it is delivered, and lets the runner change it. Nothing here
needs the network: the link comes and goes.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from device_agent.broker.link import Kind, Link, Sent
from device_agent.broker.logs import LogQueue
from device_agent.broker.outbox import Outbox
from device_agent.channel import frames
from device_agent.channel.users import WorkerUsers
from device_agent.channel.workers import Confinement, ModuleSpec, Worker, WorkerFailed, zygote
from device_agent.desired import clock, roots
from device_agent.desired.fetch import Fetcher
from device_agent.desired.orders import Orders
from device_agent.desired.repair import Repair
from device_agent.instance import states
from device_agent.instance.instance import Instance, Policy
from device_agent.instance.kept import Kept
from device_agent.instance.runner import Runner
from device_agent.instance.states import Phase
from device_agent.instance.updates import RETRYABLE
from device_agent.node import sources
from device_agent.node.config import Config
from device_agent.node.version import agent_version
from device_agent.storage import floors
from device_agent.storage.store import Store
from ota.formats import manifest as manifests
from ota.formats import topics
from ota.formats.capabilities import ABI, check_granted
from ota.formats.reasons import Refused
from ota.formats.report import BATCH_LIMIT_BYTES, Attempt, LogRecord, Report
from pywamr import aot_target

T = TypeVar("T")
RESTART_MIN_S, RESTART_MAX_S = 0.05, 30.0
LOCAL_TOPICS = ("sys/", topics.PREFIX + "/", "$")
logger = logging.getLogger(__name__)


class Agent:
    """One board's agent. `run` is its life; `stop` ends it."""

    def __init__(self, config: Config) -> None:
        """Opens storage and trust. Raises StoreError."""
        self._config = config
        self._store = Store(config.storage, config.free_bytes)
        start = roots.load(config.trust_root, self._store)
        self._writer = ThreadPoolExecutor(1, "writer")
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self._stopping = asyncio.Event()
        self._clock_set = asyncio.Event()  # cleared by who waits for it
        self._tasks: set[asyncio.Task[Any]] = set()
        self._counters: Counter[str] = Counter()
        self.failed = False  # whether an error of ours ended it
        self._confinement = Confinement(config.confinement_required, WorkerUsers(config.worker_users))
        self._topics: frozenset[str] = frozenset()  # of the broker, for the module that is fed
        self._link = self._make_link(config)
        telemetry, log = topics.telemetry(config.device), topics.log(config.device)
        self._outbox = Outbox(
            self._store,
            self._on_writer,
            lambda batch: self._send(telemetry, batch),
            lambda: self._room(telemetry),
            self._counters,
            config.outbox_messages,
            config.outbox_bytes,
        )
        self._logs = LogQueue(lambda batch: self._send(log, batch), lambda: self._room(log))
        self._kept = Kept(self._store, self._on_writer, self._outbox.flush)
        self._instance = Instance(
            self,
            Policy(
                factory=config.factory,
                grants=config.grants,
                module_config=dict(config.module_config),
                image_classes=self._image_classes,
                trial_s=config.trial_s,
                forget_s=config.forget_s,
                event_queue=config.event_queue,
                event_queue_bytes=config.event_queue_bytes,
            ),
            self._store,
            self._kept,
            self._on_writer,
            self._spawn_supervised,
            self._counters,
        )
        fetcher = Fetcher(self._link, self._store, self._on_writer, config.fetch_timeout_s)
        self._store.collect_unused = self._collect
        spare = Fetcher(self._link, self._store, self._on_writer, config.fetch_timeout_s)
        self._repair = Repair(spare, self._store, self._on_writer, config.retry_s, self._instance.mended)
        update = self._store.last_update()
        self._runner = Runner(
            self._store,
            fetcher,
            self._instance,
            self,
            self._on_writer,
            self._spawn_supervised,
            config.trial_s,
            config.trial_max_s,
            update,
        )
        self._orders = Orders(
            config,
            self._store,
            start,
            self._link,
            self._runner,
            self._on_writer,
            self._spawn_supervised,
            self.report,
            self._counters,
        )

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the board itself, each as "code: text"."""
        link = self._link.problems if self._link is not None else ()
        of_slots = self._instance.problems.values()
        return (*self._store.problems.texts, *of_slots, *self._orders.problems, *link)

    async def run(self) -> None:
        """Runs until `stop`, then saves the module's state and ends the workers."""
        beginning = asyncio.ensure_future(self._begin())
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((beginning, stopping), return_when=asyncio.FIRST_COMPLETED)
        if beginning.done():
            beginning.result()
        beginning.cancel()
        await stopping
        zygote.interrupt()  # it may take minutes to load
        await asyncio.gather(beginning, return_exceptions=True)
        await self._shut_down()

    async def _begin(self) -> None:
        try:
            await self._loop.run_in_executor(None, zygote.start)
        except OSError as error:
            logger.error("%s: trying again with each module", error)
        for work in (self._instance.supervisor.pump(), self._outbox.write(), self._outbox.deliver(), self._runner.run()):
            self._spawn_supervised(work)
        await self._instance.run_best()
        await self._resume()
        self._spawn_supervised(clock.watch(self._clock_was_set))
        if self._link is not None:
            self._link.subscribe(topics.desired(self._config.group))
            self._link.subscribe(topics.root(self._orders.root.number + 1))
            self._spawn_supervised(self._connect())
            self._spawn_supervised(self._repair.run())
        if self._config.proc_period_s:
            self._spawn_supervised(sources.sample(self._config.proc_period_s, self._instance.supervisor.offer))
        self._spawn_supervised(self._logs.deliver())
        self._spawn_supervised(self._every(self._config.health_s, self._checkpoint))
        self._spawn_supervised(self._every(self._config.report_s, self._report_again))

    async def _resume(self) -> None:
        """Goes on with the update that the journal ends with, unless the operator does not want it any more."""
        lapsed = await self._orders.restore()
        update = self._runner.update
        if update.ended:
            self._orders.consider()
        elif lapsed is None:
            self._runner.post(states.Resumed(update.id))
        else:
            self._runner.post(states.Lapsed(update.id, lapsed.reason, lapsed.detail))

    def _clock_was_set(self) -> None:
        self._clock_set.set()
        self._orders.consider()

    async def _connect(self) -> None:
        """The connection to the broker; before the first one, a certificate if the board is to get one."""
        assert self._link is not None
        if self._config.wants_enrolment:
            from device_agent.broker import enrolment  # certificates take megabytes that no other board needs

            await enrolment.enrol_at_last(self._config, self._clock_set)
        await self._link.run()

    def stop(self) -> None:
        """Ends `run`."""
        self._stopping.set()

    def log(self, record: LogRecord) -> None:
        """Keeps a log record for the operator, sent when online."""
        self._logs.add(record)

    # -- what the runner needs (device_agent.instance.runner.Board)

    def verify(self, envelope: bytes) -> manifests.VerifiedManifest:
        """The manifest, if this board may install it. On the writer thread. Raises Refused."""
        root = self._orders.root  # the one in force now
        vendor, keys = manifests.vendor_id(root.vendor), root.roles["release"].keys
        boards = (self._config.board, manifests.ANY_BOARD)
        classes = {manifests.class_id(vendor, each, "wasm", ABI) for each in boards}
        committed = (self._store.floor(floors.SEQUENCE, keys).value, self._store.floor(floors.EPOCH, keys).value)
        acceptance = manifests.Acceptance(vendor, classes, *committed, boards)
        verified = manifests.verify(envelope, root, acceptance)
        check_granted(verified.manifest.module.capabilities, self._config.grants)
        return verified

    def _image_classes(self, vendor: bytes) -> tuple[bytes, ...]:
        """The classes of ahead-of-time images that this board can run, the best first, in a vendor's name space."""
        return tuple(
            manifests.image_class_id(vendor, board, aot_target(), cpu, ABI)
            for cpu in (*self._config.cpus, "")
            for board in (self._config.board, manifests.ANY_BOARD)
        )

    def check_signers(self, verified: manifests.VerifiedManifest) -> None:
        """Raises Refused when those who signed a manifest have lost their role since it was verified."""
        manifests.check_signers(verified, self._orders.root)

    def report(self) -> None:
        """Publishes the report, retained."""
        if self._link is not None and self._link.online:
            self._link.publish(topics.report(self._config.device), self._report().to_bytes(), retain=True)

    def confirmed(self) -> None:
        """The module on trial is the confirmed one, on disk."""
        self._spawn_supervised(self._after_confirmation())

    def update_began(self) -> None:
        """Looks at what the operator wants once more: the deployment may have been stopped while its offer waited."""
        self._orders.consider()

    def update_ended(self) -> None:
        """Looks at what the operator wants once more, later after a transient error."""
        update = self._runner.update
        self._spawn_supervised(self._instance.run_best())
        if update.phase is Phase.FAILED and update.reason in RETRYABLE:
            self._orders.consider_later()
        else:
            self._loop.call_soon(self._orders.consider)

    # -- what the instance needs (device_agent.instance.instance.Agent)

    def new_worker(self, spec: ModuleSpec, died: Callable[[Worker, WorkerFailed], None]) -> Worker:
        """A process for a module, confined as the board's policy says. Raises WorkerFailed."""
        return Worker(spec, self._module_log, died, self._confinement)

    def trial_failed(self, worker: Worker, failure: WorkerFailed) -> bool:
        """Takes the failure of the module on trial; False when it is another's."""
        return self._runner.worker_failed(worker, failure)

    def on_trial(self) -> bool:
        """Whether a new module is on trial: nothing else is started then."""
        return self._runner.update.phase is Phase.TRIAL

    def blob_is_damaged(self, name: str) -> None:
        """The blob or the manifest of a slot is to be fetched again."""
        self._repair.want(name)

    def _module_log(self, spec: ModuleSpec, level: str, message: str) -> None:
        self.log(LogRecord(time.time(), level, spec.label, message))

    async def send(self, spec: ModuleSpec, done: frames.Done) -> None:
        """Takes what a handled event asks for."""
        await self._outbox.add(spec, done)

    async def _after_confirmation(self) -> None:
        await self._instance.checkpoint()
        await self._on_writer(self._collect)

    def _collect(self) -> None:
        """Deletes what neither slot nor the update under way needs. On the writer thread."""
        manifests = self._instance.collect(self._runner.update)
        self._loop.call_soon_threadsafe(self._kept.retain, manifests)

    async def _checkpoint(self) -> None:
        if not self.on_trial():
            await self._instance.checkpoint()

    # -- what the operator wants

    def _received(self, topic: str, payload: bytes) -> None:
        if self._runner.fetcher.received(topic, payload) or self._repair.fetcher.received(topic, payload):
            return
        if not self._orders.received(topic, payload) and not topic.startswith(LOCAL_TOPICS):
            self._instance.supervisor.offer(topic, payload)

    # -- the link

    def _online(self) -> None:
        assert self._link is not None
        logger.info("online")
        self._link.publish(topics.online(self._config.device), topics.ONLINE, retain=True)
        self.report()
        self._logs.poke()
        self._outbox.poke()

    def _offline(self) -> None:
        logger.info("offline: going on alone")

    def follow_topics(self, worker: Worker) -> None:
        """Subscribes to what the module that is fed wants, and to no more; local topics never come from the broker."""
        filters = worker.spec.description.capabilities.filters("subscribe")
        wanted = frozenset(each for each in filters if not each.startswith(LOCAL_TOPICS))
        if self._link is not None:
            for each in self._topics - wanted:
                self._link.unsubscribe(each)
            for each in wanted:
                self._link.subscribe(each, Kind.INPUT)
        self._topics = wanted

    def _make_link(self, config: Config) -> Link | None:
        if config.broker is None:
            return None
        marker = topics.marker(config.device)
        link = Link(
            config.broker, config.device, self._received, self._online, self._offline, marker=marker, counters=self._counters
        )
        link.set_will(topics.online(config.device), topics.OFFLINE)
        return link

    async def _send(self, topic: str, batch: bytes) -> Sent:
        return Sent.OFFLINE if self._link is None else await self._link.publish(topic, batch)

    def _room(self, topic: str) -> int:
        return BATCH_LIMIT_BYTES if self._link is None else self._link.room(topic)

    def _report(self) -> Report:
        update, refusal, instance = self._runner.update, self._orders.refusal, self._instance
        worker, on_trial = instance.supervisor.current, self._runner.trial_worker
        done_chunks, chunks = self._runner.fetcher.progress(update.manifest)
        attempt = Attempt(
            state=update.phase.value,
            deployment=update.deployment,
            manifest=update.manifest,
            reason=update.reason.value if update.reason else "",
            detail=update.detail,
            done_chunks=done_chunks,
            chunks=chunks,
            events=update.events if on_trial is None else instance.supervisor.handled,
        )
        if refusal is not None and update.ended:
            attempt = Attempt("rejected", self._orders.refused, reason=refusal.reason.value, detail=refusal.detail)
        counters = dict(self._counters) | {
            "gap_us": instance.supervisor.last_gap_us,
            "events_waiting": instance.supervisor.waiting,
            **{f"module_{name}": value for name, value in instance.supervisor.module_counters.items()},
        }
        return Report(
            device=self._config.device,
            group=self._config.group,
            board=self._config.board,
            agent=agent_version(),
            time_s=max(0, int(time.time())),
            uptime_s=int(time.monotonic() - self._started),
            running=replace(
                instance.running if on_trial is None else instance.trial_running,
                mode=worker.mode if worker else "",
                lacking=worker.lacking if worker else (),
            ),
            attempt=attempt,
            counters=counters,
            problems=self.problems,
        )

    async def _report_again(self) -> None:
        self.report()

    # -- plumbing

    async def _on_writer(self, function: Callable[..., T], *values: Any) -> T:
        return await self._loop.run_in_executor(self._writer, function, *values)

    def _spawn_supervised(self, work: Any) -> "asyncio.Task[Any]":
        """Runs a coroutine as a task whose failure is an error of ours: it is logged, and ends the agent to be restarted."""
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        if isinstance(error, Refused):
            logger.error("%s", error)
            return
        logger.critical("a task of the agent failed", exc_info=error)
        self.failed = True
        self._stopping.set()

    async def _every(self, period_s: float, work: Callable[[], Any]) -> None:
        while True:
            await asyncio.sleep(period_s)
            await work()

    async def _shut_down(self) -> None:
        await self._runner.suspend()
        await self._instance.supervisor.pause()  # what is handled after the last checkpoint would be handled again
        await self._instance.checkpoint()
        self._instance.supervisor.stop()
        await self._outbox.flush()
        if self._link is not None:
            await self._link.say_goodbye(topics.online(self._config.device), topics.OFFLINE)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        zygote.interrupt()
        self._writer.shutdown()
        self._store.close()

"""The agent: one event loop that owns all state, one writer thread that waits for the disk.

It runs the best module there is, feeds it, keeps what it says until it is delivered, and lets the runner change it. Nothing here
needs the network: the link comes and goes.
"""

import asyncio
import contextlib
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
from device_agent.channel.workers import Confinement, FatalImages, ModuleSpec, Worker, WorkerFailed, zygote
from device_agent.desired import roots
from device_agent.desired.fetch import Fetcher
from device_agent.desired.orders import Orders
from device_agent.instance import slots, states
from device_agent.instance.crash_loop import CrashLoop
from device_agent.instance.kept import Kept, version_of
from device_agent.instance.runner import Runner
from device_agent.instance.states import Phase
from device_agent.instance.supervisor import Supervisor
from device_agent.instance.updates import RETRYABLE
from device_agent.node import sources
from device_agent.node.config import Config
from device_agent.node.version import agent_version
from device_agent.storage import floors
from device_agent.storage.store import Store, Version
from ota.formats import manifest as manifests
from ota.formats import topics
from ota.formats.capabilities import ABI, check_granted
from ota.formats.reasons import Reason, Refused
from ota.formats.report import BATCH_LIMIT_BYTES, Attempt, LogRecord, Report, Running
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
        self._tasks: set[asyncio.Task[Any]] = set()
        self._counters: Counter[str] = Counter()
        self._running = Running()
        self._trial_running = Running()
        self.failed = False  # whether an error of ours ended it
        self._restart_s = RESTART_MIN_S
        self._starting = asyncio.Lock()
        self._proof: asyncio.TimerHandle | None = None
        self._supervisor = Supervisor(
            self._outcome, self._worker_failed, self._follow_topics, config.event_queue, self._counters, config.event_queue_bytes
        )
        self._crash_loop = CrashLoop()
        self._fatal_images = FatalImages()
        self._store.collect_unused = self._collect
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
        fetcher = Fetcher(self._link, self._store, self._on_writer, config.fetch_timeout_s)
        update = self._store.last_update()
        self._runner = Runner(
            self._store, fetcher, self._supervisor, self, self._on_writer, self._spawn_supervised, config.trial_s, update
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
        return (*self._store.problems.texts, *self._orders.problems, *link)

    async def run(self) -> None:
        """Runs until `stop`, then saves the module's state and ends the workers."""
        await self._loop.run_in_executor(None, zygote.start)
        for work in (self._supervisor.pump(), self._outbox.write(), self._outbox.deliver(), self._runner.run()):
            self._spawn_supervised(work)
        await self.run_best()
        if not self._runner.update.ended:
            self._runner.post(states.Resumed(self._runner.update.id))
        if self._link is not None:
            self._link.subscribe(topics.desired(self._config.group))
            self._link.subscribe(topics.root(self._orders.root.number + 1))
            self._spawn_supervised(self._connect())
        if self._config.proc_period_s:
            self._spawn_supervised(sources.sample(self._config.proc_period_s, self._supervisor.offer))
        self._spawn_supervised(self._logs.deliver())
        self._spawn_supervised(self._every(self._config.health_s, self._checkpoint))
        self._spawn_supervised(self._every(self._config.report_s, self._report_again))
        await self._stopping.wait()
        await self._shut_down()

    async def _connect(self) -> None:
        """The connection to the broker; before the first one, a certificate if the board is to get one."""
        assert self._link is not None
        if self._config.wants_enrolment:
            from device_agent.broker import enrolment  # certificates take megabytes that no other board needs

            try:
                await enrolment.enrol(self._config)
            except enrolment.IdentityError as error:
                logger.error("no certificate: %s; the module goes on, the broker is left alone", error)
                return
        await self._link.run()

    def stop(self) -> None:
        """Ends `run`."""
        self._stopping.set()

    def log(self, record: LogRecord) -> None:
        """Keeps a log record for the operator, sent when online."""
        self._logs.add(record)

    # -- what the runner needs (device_agent.instance.runner.Board)

    def verify(self, envelope: bytes) -> manifests.VerifiedManifest:
        """The manifest, if this board may install it. Raises Refused."""
        root = self._orders.root  # the one in force now
        vendor, keys = manifests.vendor_id(root.vendor), root.roles["release"].keys
        boards = (self._config.board, manifests.ANY_BOARD)
        classes = {manifests.class_id(vendor, each, "wasm", ABI) for each in boards}
        committed = (self._store.floor(floors.SEQUENCE, keys).value, self._store.floor(floors.EPOCH, keys).value)
        acceptance = manifests.Acceptance(vendor, classes, *committed, boards)
        verified = manifests.verify(envelope, root, acceptance)
        check_granted(verified.manifest.module.capabilities, self._config.grants)
        return verified

    def image_for(self, manifest: manifests.Manifest) -> manifests.AotImage | None:
        """The ahead-of-time image that this board can run, None where there is none."""
        return manifest.image_for(self._image_classes(manifest.vendor))

    def _image_classes(self, vendor: bytes) -> tuple[bytes, ...]:
        """The classes of ahead-of-time images that this board can run, the best first, in a vendor's name space."""
        return tuple(
            manifests.image_class_id(vendor, board, aot_target(), cpu, ABI)
            for cpu in (*self._config.cpus, "")
            for board in (self._config.board, manifests.ANY_BOARD)
        )

    def spawn(self, verified: manifests.VerifiedManifest) -> Worker:
        """A new worker for a module whose blob is on disk. Raises WorkerFailed when its signers have lost their role meanwhile."""
        try:
            manifests.check_signers(verified, self._orders.root)
        except Refused as error:
            raise WorkerFailed(error.reason, error.detail) from error
        manifest = verified.manifest
        self._trial_running = Running(
            manifest.module.name, manifest.module.version, verified.envelope_digest, manifest.sequence, "trial"
        )
        blob = self._store.blob_path(manifest.digest)
        spec = slots.with_image(
            ModuleSpec(manifest.module, blob, manifest.digest, dict(self._config.module_config), manifest=verified.envelope_digest),
            manifest,
            self._store,
            self._image_classes(manifest.vendor),
        )
        return self._worker(spec)

    def distrust_image(self, worker: Worker) -> bool:
        """Whether a worker died in an ahead-of-time image, which is not used again then until the agent starts anew."""
        return self._fatal_images.note(worker)

    def _worker(self, spec: ModuleSpec) -> Worker:
        return Worker(self._fatal_images.without(spec), self._module_log, self._supervisor.worker_died, self._confinement)

    async def run_best(self) -> None:
        """Starts the best module there is, if none runs; when none starts, tries them all again later."""
        async with self._starting:
            current = self._supervisor.current
            if current is not None and current.alive:
                return
            await self._run_best()

    async def _run_best(self) -> None:
        for name in slots.ORDER:
            if await self._run_slot(name):
                return
        self._running = Running()
        known = await self._on_writer(self._store.slots)
        if not known and self._config.factory is None:
            logger.info("no module is installed yet")
            return
        logger.error("no module starts: trying again in %.1f s", self._restart_s)
        for name in known:
            with contextlib.suppress(Refused):
                await self._on_writer(self._store.set_failures, name, 0)
        self._run_best_later()

    def report(self) -> None:
        """Publishes the report, retained."""
        if self._link is not None and self._link.online:
            self._link.publish(topics.report(self._config.device), self._report().to_bytes(), retain=True)

    def confirmed(self) -> None:
        """The module on trial is the confirmed one, on disk."""
        self._running = replace(self._trial_running, slot="confirmed")
        self._spawn_supervised(self._after_confirmation())

    def run_confirmed(self) -> None:
        """The operator wants the confirmed module: forget its failures, and run it if another runs."""
        self._spawn_supervised(self._on_writer(self._store.set_failures, "confirmed", 0))

    def update_ended(self) -> None:
        """Looks at what the operator wants once more, later if the way was the trouble."""
        update = self._runner.update
        if self._supervisor.current is None or not self._supervisor.current.alive:
            self._spawn_supervised(self.run_best())
        if update.phase is Phase.FAILED and update.reason in RETRYABLE:
            self._orders.consider_later()
        else:
            self._loop.call_soon(self._orders.consider)

    # -- modules

    async def _run_slot(self, name: str) -> bool:
        """Starts the module of a slot, up to three times since it last proved itself; False when it does not start."""
        while True:
            failures = 0
            slot = (await self._on_writer(self._store.slots)).get(name)
            if slot is not None:
                failures = slot.failures
            if failures >= slots.START_TRIES:
                logger.error("the %s module failed %d times: stepping down", name, failures)
                return False
            try:
                found = await self._on_writer(
                    slots.candidate,
                    name,
                    self._store,
                    self._config.factory,
                    self._config.grants,
                    dict(self._config.module_config),
                    self._image_classes,
                )
                if found is None:
                    return False
                if slot is not None:
                    with contextlib.suppress(Refused):  # a full disk must not keep the module from running
                        await self._on_writer(self._store.set_failures, name, failures + 1)
                await self._start(found)
            except (Refused, slots.FactoryError) as error:
                logger.error("the %s module can't be used: %s", name, error)
                return False
            except WorkerFailed as failure:
                logger.error("the %s module did not start: %s", name, failure)
                if failure.reason is Reason.CONFINEMENT_LACKING:  # the board's fault
                    with contextlib.suppress(Refused):
                        await self._on_writer(self._store.set_failures, name, failures)
                    return False
                if slot is None:
                    return False
                continue
            self._prove_later(name)
            return True

    async def _start(self, found: slots.Candidate) -> None:
        worker = self._worker(found.spec)
        try:
            await worker.start()
            if not await self._supervisor.run(worker, *await self._kept.load(found.spec)):
                return
        except WorkerFailed:
            self.distrust_image(worker)
            worker.kill()
            raise
        self._running = found.running
        logger.info("running %s from the %s slot", found.spec.label, found.running.slot)
        self.report()

    def _prove_later(self, name: str) -> None:
        """A module that runs for the trial period has proved itself again: its failures are forgotten."""
        if self._proof is not None:
            self._proof.cancel()

        def proved() -> None:
            self._restart_s = RESTART_MIN_S
            if name != "factory":
                self._spawn_supervised(self._on_writer(self._store.set_failures, name, 0))

        self._proof = self._loop.call_later(self._config.trial_s, proved)

    def _worker_failed(self, worker: Worker, failure: WorkerFailed) -> None:
        logger.error("%s failed: %s", worker.spec.label, failure)
        self.distrust_image(worker)
        if self._runner.worker_failed(worker, failure):
            return
        if self._proof is not None:
            self._proof.cancel()
        self._counters["restarts"] += 1
        slot = self._running.slot
        if self._crash_loop.too_many(self._running.manifest, time.monotonic()) and slot != "factory":
            self._spawn_supervised(self._step_down(slot))
        else:
            self._run_best_later()

    async def _step_down(self, name: str) -> None:
        with contextlib.suppress(Refused):  # a full disk: then once more later
            await self._on_writer(self._store.set_failures, name, slots.START_TRIES)
        self._run_best_later()

    def _run_best_later(self) -> None:
        delay_s, self._restart_s = self._restart_s, min(2 * self._restart_s, RESTART_MAX_S)
        self._loop.call_later(delay_s, lambda: self._spawn_supervised(self._run_best_again()))

    async def _run_best_again(self) -> None:
        if self._runner.update.phase is not Phase.TRIAL:
            await self.run_best()

    def _module_log(self, spec: ModuleSpec, level: str, message: str) -> None:
        self.log(LogRecord(time.time(), level, spec.label, message))

    async def swap(self, worker: Worker) -> None:
        """Makes the module on trial the one that is fed. Raises WorkerFailed, with the old module going on."""

        async def prepare(state: bytes | None) -> tuple[bytes, dict[str, bytes]]:
            return await self._kept.begin_trial(worker.spec, await self._on_writer(self._predecessor), state)

        try:
            await self._supervisor.swap(worker, prepare)
        except Refused as error:
            raise WorkerFailed(error.reason, error.detail) from error

    def _predecessor(self) -> Version | None:
        """The version that ran before the one on trial: that of the last worker, else the confirmed one, else the factory's."""
        current = self._supervisor.current
        if current is not None:
            return version_of(current.spec)
        return slots.version("confirmed", self._store, self._config.factory) or slots.version(
            "factory", self._store, self._config.factory
        )

    async def forget_trial(self, worker: Worker) -> None:
        """Drops what the module on trial kept: its trial failed."""
        with contextlib.suppress(Refused):  # a full disk: the next trial drops it
            await self._kept.forget(worker.spec)

    async def _outcome(self, spec: ModuleSpec, done: frames.Done) -> None:
        self._kept.note(spec, done.writes)
        await self._outbox.add(spec, done)

    async def _after_confirmation(self) -> None:
        await self._checkpoint()
        await self._on_writer(self._collect)

    def _collect(self) -> None:
        """Deletes what neither slot nor the update under way needs."""
        envelopes, blobs = set(), set()
        for slot in self._store.slots().values():
            envelopes.add(slot.envelope)
            envelope = self._store.envelope(slot.envelope)
            with contextlib.suppress(Refused):  # a damaged one can't run: what it needed is of no use
                blobs |= self._blobs_of(slots.parse(envelope or b""))
        verified = self._runner.update.verified
        if verified is not None and not self._runner.update.ended:
            envelopes.add(verified.envelope_digest)
            blobs |= self._blobs_of(verified.manifest)
        manifests = envelopes | {self._running.manifest}
        self._store.collect(manifests, blobs)
        self._kept.retain(manifests)

    def _blobs_of(self, manifest: manifests.Manifest) -> set[bytes]:
        image = self.image_for(manifest)
        return {manifest.digest} | ({image.digest} if image is not None else set())

    async def _checkpoint(self) -> None:
        """Keeps the module's state, so that a restart goes on from here; asks after its health on the way."""
        if self._runner.update.phase is Phase.TRIAL:
            return
        worker = self._supervisor.current
        if worker is None or not worker.alive:
            return
        illness = await self._supervisor.check()
        if illness is not None:
            logger.warning("%s says that it is not well: %s", worker.spec.label, illness)
        state = await self._supervisor.save()
        if state is not None:
            with contextlib.suppress(Refused):
                await self._kept.save_state(worker.spec, state)

    # -- what the operator wants

    def _received(self, topic: str, payload: bytes) -> None:
        if self._runner.fetcher.received(topic, payload):
            return
        if not self._orders.received(topic, payload) and not topic.startswith(LOCAL_TOPICS):
            self._supervisor.offer(topic, payload)

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

    def _follow_topics(self, worker: Worker) -> None:
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
        update, refusal = self._runner.update, self._orders.refusal
        done_chunks, chunks = self._runner.fetcher.progress(update.manifest)
        attempt = Attempt(
            state=update.phase.value,
            deployment=update.deployment,
            manifest=update.manifest,
            reason=update.reason.value if update.reason else "",
            detail=update.detail,
            done_chunks=done_chunks,
            chunks=chunks,
        )
        if refusal is not None and update.ended:
            attempt = Attempt("rejected", self._orders.refused, reason=refusal.reason.value, detail=refusal.detail)
        worker = self._supervisor.current
        on_trial = update.phase is Phase.TRIAL and self._runner.trial_worker is self._supervisor.current
        counters = dict(self._counters) | {
            "gap_us": self._supervisor.last_gap_us,
            "events_waiting": self._supervisor.waiting,
            **{f"module_{name}": value for name, value in self._supervisor.module_counters.items()},
        }
        return Report(
            device=self._config.device,
            group=self._config.group,
            board=self._config.board,
            agent=agent_version(),
            time_s=max(0, int(time.time())),
            uptime_s=int(time.monotonic() - self._started),
            running=replace(
                self._trial_running if on_trial else self._running,
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
        await self._checkpoint()
        self._supervisor.stop()
        await self._outbox.flush()
        if self._link is not None:
            await self._link.say_goodbye(topics.online(self._config.device), topics.OFFLINE)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._writer.shutdown()
        self._store.close()

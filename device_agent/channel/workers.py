"""A worker process as the agent sees it: requests out, answers in, a deadline on each, and no trust in it."""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from device_agent.channel import frames
from device_agent.channel.measures import OWN_USER, lacking
from device_agent.channel.users import WorkerUsers
from device_agent.channel.zygote import Child, Zygote
from ota.errors import OtaError
from ota.formats.capabilities import TopicGrants
from ota.formats.module import ModuleDescription
from ota.formats.reasons import Reason, Refused

LOGS_OF_OURS = 10  # that a worker may write beside its module's
PACKETS_AT_ONCE = 64
ENDED_S = 5.0  # for a process that was killed to be gone
ROW = 16  # events that a worker has before it, at most
_ROW_SHARE, _PACKET_ROOM_BYTES = 8, 8192  # of the channel's room: for the bytes of a row, for what a packet takes of it at most
_PACKET_OVERHEAD_BYTES = 64  # Linux, unix_dgram_sendmsg: all but 32 of the buffer's bytes
_SNDBUFFORCE = 32  # socket(7); beyond what the system allows everybody
logger = logging.getLogger(__name__)
_receiver = frames.Receiver()  # for one packet at a time, of whichever worker
zygote = Zygote()


class WorkerFailed(OtaError):
    """The worker is gone: it trapped, crashed, missed its deadline, or would not start. `reason` is the stable code."""

    def __init__(self, reason: Reason, detail: str, usage: frames.Usage = frames.NO_USAGE) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.usage = usage

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"


class EventRefused(OtaError):
    """The module answered an event with an error, or the event is too large for it; it goes on."""

    def __init__(self, text: str, usage: frames.Usage = frames.NO_USAGE) -> None:
        super().__init__(text)
        self.usage = usage


@dataclass(frozen=True)
class ModuleSpec:
    """What a worker is to run, all of it decided before."""

    description: ModuleDescription
    blob: Path
    digest: bytes
    config: dict[str, str]
    image: Path | None = None  # compiled ahead of time for this board; the .wasm runs where it does not load
    image_digest: bytes = b""
    manifest: bytes = b""  # digest of the envelope that all this is from
    instance: str = ""
    release: bytes = b""  # of manifest and the deployment's configuration: what keys and state are kept under

    @property
    def devices(self) -> frozenset[str]:
        """Paths of the devices that only one worker can have open: GPIO lines (chip and offset) and serial ports."""
        return frozenset(os.path.realpath(each) for each in self.description.capabilities.exclusive)

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.description.name} {self.description.version}"


@dataclass(frozen=True)
class Confinement:
    """How an agent confines its workers: whether one that cannot be confined runs nothing, and the users that they run as."""

    required: bool = True
    users: WorkerUsers = field(default_factory=WorkerUsers)

    def user(self) -> int:
        """A user for a new worker; 0 where the agent is not root, or where there is none and that may be. Raises WorkerFailed."""
        if os.geteuid() != 0:
            return 0
        try:
            return self.users.take()
        except OSError as error:
            if self.required:
                raise WorkerFailed(Reason.CONFINEMENT_LACKING, f"no {OWN_USER} for a worker: {error.strerror}") from error
            logger.warning("no %s for a worker: %s", OWN_USER, error.strerror)
            return 0


CONFINEMENT = Confinement()


class Worker:
    """One worker. Every method but `kill` is for one caller at a time."""

    def __init__(
        self,
        spec: ModuleSpec,
        log: Callable[[ModuleSpec, str, str], None],
        died: Callable[["Worker", WorkerFailed], None] = lambda worker, failure: None,
        confinement: Confinement = CONFINEMENT,
    ) -> None:
        """Makes the channel; `start` makes the process.

        `log` gets the module's log records; `died` is called when it dies with nothing asked of it.
        """
        self.spec = spec
        self._publish_grants = TopicGrants(spec.description.capabilities.filters("publish"))
        self._subscribe_grants = TopicGrants(spec.description.capabilities.filters("subscribe"))
        self._key_bytes: dict[str, int] = {}
        self.interfaces: frozenset[str] = frozenset()
        self.mode = ""  # "interpreter" or "aot", once it has started
        self.started = False
        self.lacking: tuple[str, ...] = ()  # measures of confinement that it has not
        self._log = log
        self._died = died
        self._logged, self._may_log = 0, 0
        self._loop = asyncio.get_running_loop()
        self._asked = ""  # the kind of request that waits for an answer
        self._due = 0  # how many answers are to come
        self._answers: deque[frames.Answer] = deque()
        self._waiting: asyncio.Future[None] | None = None  # who waits for one
        self._answer_s, self._answer_by_s = 0.0, 0.0  # time for an answer; when the next must be there
        self._timer: asyncio.TimerHandle | None = None
        self._failure: WorkerFailed | None = None
        self._silent = False  # it exited without reporting a failure
        self._late = ""  # why its call is terminated
        self._deadline_s = spec.description.limits.deadline_ms / 1000
        self._confinement, self._user = confinement, 0  # from `start` on
        self._process: Child | None = None  # from `start` on
        self._channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._room = min(_widen(end) for end in (self._channel, other))  # bytes of one packet
        self._other: socket.socket | None = other  # the process's end, until that has it
        self._channel.setblocking(False)

    @property
    def alive(self) -> bool:
        """Whether it can be asked anything."""
        return self._failure is None

    @property
    def fatal_image(self) -> bytes:
        """The digest of the ahead-of-time image in which the process died without reporting a failure, as on an instruction that
        the processor does not have; empty when it did not, or interpreted.
        """
        return self.spec.image_digest if self._silent and self.mode != "interpreter" else b""

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process is not None, "it was not started"
        return self._process.pid

    async def rehearse(self) -> None:
        """Loads the module without its devices, to see whether it can be loaded; then the worker ends. Raises WorkerFailed."""
        await self.start(devices=False)
        self.started = False
        self.kill()

    async def start(self, *, devices: bool = True) -> None:
        """Loads the module. Raises WorkerFailed with the reason that the worker or the clock gives."""
        await self._fork()
        spec = self.spec
        image = str(spec.image) if spec.image is not None else ""
        request = frames.Start(
            str(spec.blob),
            spec.digest,
            spec.description.to_bytes(),
            spec.config,
            image,
            spec.image_digest,
            self._user,
            self._confinement.required,
            devices,
        )
        answer = await self._ask(request, frames.START_DEADLINE_S)
        if not isinstance(answer, frames.Ready):
            raise self._fail(Reason.START_FAILED, f"answered {type(answer).__name__} to start")
        self.interfaces, self.mode, self.started = answer.interfaces, answer.mode, True
        self.lacking = lacking(answer.measures)
        if self.lacking:
            logger.warning("%s runs without: %s", spec.label, ", ".join(self.lacking))

    async def _fork(self) -> None:
        """Makes the process, on a thread: it looks for a user, and may have to start the zygote again, which takes seconds."""
        other, self._other = self._other, None
        if other is None:
            raise self._failure or self._fail(Reason.START_FAILED, "it was started before")

        def fork() -> Child:
            with other:
                self._user = self._confinement.user()
                if self._failure is not None:  # nobody may wait for this any more
                    self._give_back_user()
                    raise self._failure
                return zygote.fork(other)

        try:
            process = await self._loop.run_in_executor(None, fork)
        except OSError as error:
            raise self._fail(Reason.PROCESS_UNAVAILABLE, str(error)) from error
        except WorkerFailed as failure:
            raise self._fail(failure.reason, failure.detail) from failure
        finally:
            if self._failure is not None:  # it was killed meanwhile
                self._give_back_user()
        self._process = process
        if self._failure is not None:
            process.kill()
            raise self._failure
        self._loop.add_reader(self._channel.fileno(), self._readable)

    def _give_back_user(self) -> None:
        user, self._user = self._user, 0
        self._confinement.users.give_back(user)

    async def begin(self, state: bytes, keys: dict[str, bytes]) -> frames.Done:
        """Gives the module its state and its keys, and initialises it. Raises WorkerFailed, EventRefused."""
        self._key_bytes = {key: len(key.encode()) + len(value) for key, value in keys.items()}
        done = self._effects(await self._ask(frames.Begin(state, keys), frames.BEGIN_DEADLINE_S))
        if self._failure is not None:  # it ended right after its answer
            raise self._failure
        return done

    async def handle(self, topic: str, payload: bytes) -> frames.Done:
        """Hands over an event. Raises WorkerFailed, EventRefused."""
        self.post([frames.Event(topic, payload)])
        return await self.answered()

    @property
    def row(self) -> tuple[int, int]:
        """How many events it may have before it, and of how many bytes; one of any size may be alone."""
        return max(1, min(ROW, self._room // _PACKET_ROOM_BYTES)), self._room // _ROW_SHARE

    def post(self, events: Sequence[frames.Event]) -> None:
        """Hands over events that it handles one after the other; `answered` tells of each, in order. Not more than `row` says.

        Raises WorkerFailed, and EventRefused for an event that is too large.
        """
        if len(events) == 1 and (size := frames.size_of(events[0])) > self._room:
            raise EventRefused(f"the event has {size} bytes, the channel's maximum message size is {self._room}")
        self._send(frames.Events(tuple(events)), self._deadline_s, len(events))

    async def answered(self) -> frames.Done:
        """What became of the first of the requests that were not told of. Raises WorkerFailed, EventRefused."""
        return self._effects(await self._next_answer())

    async def tick(self, now_ns: int) -> frames.Done:
        """Calls the module's timer. Raises WorkerFailed, EventRefused."""
        return self._effects(await self._ask(frames.Tick(now_ns), self._deadline_s))

    async def check(self) -> None:
        """Asks whether the module is well. Raises WorkerFailed; a module that says it is not well raises EventRefused."""
        self._effects(await self._ask(frames.Check(), self._deadline_s))

    async def save(self) -> bytes | None:
        """The module's state, None where it has none. Raises WorkerFailed."""
        answer = await self._ask(frames.Save(), self._deadline_s)
        if isinstance(answer, frames.State):
            return answer.state
        raise self._fail(Reason.CRASHED, f"answered {type(answer).__name__} to save")

    def kill(self) -> None:
        """Ends the process at once; whoever waits for an answer gets WorkerFailed. Again: no effect."""
        self._fail(Reason.CRASHED, "the worker was stopped")

    async def ended(self) -> None:
        """Returns once a worker that was killed or has failed is gone, and with it whatever it had open; after 5 s in any case."""
        if self._process is None:
            return
        gone = asyncio.Event()
        descriptor = os.dup(self._process.descriptor)  # several may wait, and a loop has one reader for each number
        self._loop.add_reader(descriptor, gone.set)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ENDED_S):
                    await gone.wait()
        finally:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)

    def _effects(self, answer: frames.Answer) -> frames.Done:
        if isinstance(answer, frames.Done):
            if wrong := self._beyond_its_grants(answer):
                raise self._fail(Reason.CRASHED, f"the worker answered with {wrong}, which it should have kept its module from")
            return answer
        if isinstance(answer, frames.Refused):
            raise EventRefused(answer.text, answer.usage)
        raise self._fail(Reason.CRASHED, f"answered {type(answer).__name__} to {self._asked}")

    def _beyond_its_grants(self, done: frames.Done) -> str:
        """What the module may not do and its worker let pass, "" when there is nothing: a worker is not trusted with that alone."""
        size = 0
        for topic, payload in done.messages:
            if not self._publish_grants.allow(topic):
                return f"a message on {topic[:100]!r}"
            size += len(topic.encode()) + len(payload)
        if size > frames.MESSAGE_BYTES_PER_EVENT:
            return f"messages of more than {frames.MESSAGE_BYTES_PER_EVENT} bytes"
        for topic in done.reply_to.values():
            if not self._subscribe_grants.allow(topic):
                return f"a message that is to be answered on {topic[:100]!r}"
        return self._beyond_its_quota(done.writes) if done.writes else ""

    def _beyond_its_quota(self, writes: Sequence[frames.KeyWrite]) -> str:
        before = sum(self._key_bytes.values())
        for each in writes:
            size = len(each.key.encode())
            if not 0 < size <= frames.KEY_LIMIT_BYTES:
                return f"a key of {size} bytes"
            self._key_bytes.pop(each.key, None)
            if each.value is not None:
                self._key_bytes[each.key] = size + len(each.value)
        if sum(self._key_bytes.values()) > max(before, self.spec.description.capabilities.quota_bytes):
            return "more keys and values than its quota"
        return ""

    async def _ask(self, request: frames.Request, deadline_s: float) -> frames.Answer:
        self._send(request, deadline_s)
        return await self._next_answer()

    def _send(self, request: frames.Request, deadline_s: float, answers: int = 1) -> None:
        if self._failure is not None:
            raise self._failure
        per_s = self.spec.description.limits.log_lines_per_s + 1  # one says how many were dropped
        self._may_log = LOGS_OF_OURS + int(per_s * (1 + deadline_s + frames.TERMINATE_S))
        self._asked, self._due = "Event" if isinstance(request, frames.Events) else type(request).__name__, answers
        self._answers.clear()  # of who was cancelled while it waited
        self._answer_s = deadline_s
        self._begin_answer()
        try:
            self._channel.send(frames.encode_request(request))
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has ended: that is found behind what it had answered
        except OSError as error:
            self._fail(Reason.CRASHED, f"{self._asked} does not reach the worker: {error.strerror}")
        if answers == 1:
            self._look_briefly()

    async def _next_answer(self) -> frames.Answer:
        while not self._answers:
            if self._failure is not None:
                raise self._failure
            self._waiting = self._loop.create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        return self._answers.popleft()

    def _begin_answer(self) -> None:
        """The next answer has its time and its log records from now on."""
        self._logged = 0
        self._answer_by_s = self._loop.time() + self._answer_s
        if self._timer is None or self._timer.when() > self._answer_by_s:
            self._call_at(self._answer_by_s)

    def _call_at(self, when_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when_s, self._time_is_over)

    def _time_is_over(self) -> None:
        """The time of an answer is over, perhaps of one that has come: a timer for each would cost more than it is worth."""
        self._timer = None
        self._readable()  # the loop itself may have been late, with the answer there in time
        if self._failure is not None or not self._due:
            return
        if self._late:
            self._lost("")
        elif (now_s := self._loop.time()) < self._answer_by_s:
            self._call_at(self._answer_by_s)
        else:
            self._late = f"no answer to {self._asked} in {self._answer_s} s"
            self._call_at(now_s + frames.TERMINATE_S)
            assert self._process is not None, "it was asked"
            self._process.send(frames.TERMINATE)

    def _look_briefly(self) -> None:
        """Most answers come within the time that going to sleep and waking up would take: look for them first."""
        if frames.PROCESSORS < 2:
            return
        end = time.perf_counter_ns() + frames.LOOK_NS
        while self._failure is None and not self._answers:
            self._readable()
            if time.perf_counter_ns() > end:
                return

    def _readable(self) -> None:
        for _ in range(PACKETS_AT_ONCE):
            if self._failure is not None:
                return
            try:
                data = _receiver.take(self._channel)
            except BlockingIOError:
                return
            except ConnectionResetError:  # it ended with requests unread (Linux, unix_release_sock); its answers are behind that
                continue
            except OSError:
                data = b""
            if data:
                self._receive(data)
            else:
                self._silent = not self._late
                self._lost("the worker exited without reporting a failure")

    def _receive(self, data: bytes) -> None:
        try:
            answer = frames.decode_answer(data)
        except Refused as error:
            self._lost(str(error))
            return
        if isinstance(answer, frames.Log):
            self._logged += 1
            if self._logged > self._may_log:
                self._lost("the worker wrote more log records than its module may")
            else:
                self._log(self.spec, answer.level, answer.message)
        elif isinstance(answer, frames.Failed):
            self._lost(answer.detail, _reason(answer.reason), answer.usage)
        elif self._late:
            self._lost("")  # its module was terminated, and can't be called again
        elif self._due:
            self._due -= 1
            self._answers.append(answer)
            if self._due:
                self._begin_answer()
            self._wake()
        else:
            self._lost("the worker spoke without being asked")

    def _lost(self, why: str, reason: Reason = Reason.CRASHED, usage: frames.Usage = frames.NO_USAGE) -> None:
        """It ended by itself, or at its deadline: whoever waits for an answer hears of it; when nobody does, `died` does.

        Who has all answers already does not hear of it: a worker may answer and end before that is taken.
        """
        if self._failure is not None:
            return
        unheard = not self._due
        if self._late:
            why = f"{self._late}; {why}" if reason is Reason.DEADLINE_EXCEEDED else self._late
            reason = Reason.DEADLINE_EXCEEDED
        failure = self._fail(reason, why, usage)
        if unheard:
            self._died(self, failure)

    def _fail(self, reason: Reason, detail: str, usage: frames.Usage = frames.NO_USAGE) -> WorkerFailed:
        """The end of this worker; the first reason stays."""
        if self._failure is None:
            self._failure = WorkerFailed(reason, detail, usage)
            self._loop.remove_reader(self._channel.fileno())
            self._channel.close()
            if self._process is not None:
                self._process.kill()
            if self._other is not None:
                self._other.close()
            self._give_back_user()
            if self._timer is not None:
                self._timer.cancel()
        self._wake()
        return self._failure

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


def _widen(end: socket.socket) -> int:
    """Room for the largest packet, as far as may be (net.core.wmem_max, where the agent is not root). How long one may be then."""
    try:
        end.setsockopt(socket.SOL_SOCKET, _SNDBUFFORCE, frames.SOCKET_BUFFER_BYTES)
    except OSError:  # only root may
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, frames.SOCKET_BUFFER_BYTES)
    return min(frames.FRAME_LIMIT_BYTES, end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _PACKET_OVERHEAD_BYTES)


def _reason(code: str) -> Reason:
    try:
        return Reason(code)
    except ValueError:
        return Reason.CRASHED

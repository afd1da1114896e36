"""What agent and worker say to each other, a packet at a time on a SEQPACKET socket pair.

A worker is trusted less than the agent: what comes from it is decoded strictly, size first, and a packet that does not fit ends
the worker. A packet is a CBOR list, but for the two that go with every event: those are records behind a letter that begins none.

  events "E", then each: lengths of the topic, of the topic for an answer (u16 each) and of the payload (u32), and these three
  done   "D", counts of messages and writes (u16 each); calls, microseconds and bytes of memory (u64 each); then
         each message: lengths of topic and payload (u16, u32), topic, payload
         each write: length of the key (u16), 1 and the length of the value or 0 and 0 (u8, u32), key, value
"""

import mmap
import os
import signal
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ota.formats import cbor
from ota.formats.fields import malformed
from ota.formats.interfaces import LEVELS

FRAME_LIMIT_BYTES = 1 << 20
PAYLOAD_LIMIT_BYTES = 64 * 1024
STATE_LIMIT_BYTES = 64 * 1024
TEXT_LIMIT = 1000
MESSAGES_PER_EVENT = 256
WRITES_PER_EVENT = 1024
KEY_LIMIT_BYTES = 256
MESSAGE_BYTES_PER_EVENT = 256 * 1024  # topics counted
NUMBER_LIMIT = (1 << 53) - 1
# To go to sleep and to be woken takes longer than most answers do: look for them first, where another processor can work on them.
LOOK_NS = 100_000
PROCESSORS = len(os.sched_getaffinity(0))
START_DEADLINE_S, BEGIN_DEADLINE_S = 20.0, 10.0
# At its deadline a worker gets this signal, and so much longer to tell where its module was. Without a module it ends of it.
TERMINATE = signal.SIGUSR2
TERMINATE_S = 0.25
SOCKET_BUFFER_BYTES = 2 * FRAME_LIMIT_BYTES
_EVENTS, _DONE = b"E", ord("D")
_EVENT_HEAD, _DONE_HEAD = struct.Struct("<HHI"), struct.Struct("<BHHQQQ")
_MESSAGE_HEAD, _WRITE_HEAD = struct.Struct("<HHI"), struct.Struct("<HBI")


@dataclass(frozen=True)
class KeyWrite:
    """A change of a module's keys; None deletes."""

    key: str
    value: bytes | None


@dataclass(frozen=True)
class Start:
    """To the worker, first: what to run."""

    path: str  # the .wasm
    digest: bytes
    description: bytes  # encoded ModuleDescription
    config: dict[str, str]
    image: str  # path of an ahead-of-time image, "" for none
    image_digest: bytes
    user: int  # that it becomes; 0 where the agent is not root, or has none for it
    confinement_required: bool  # whether it ends where it cannot be confined
    devices: bool  # whether it opens its devices; without them it is only loaded, to see whether that works


@dataclass(frozen=True)
class Begin:
    """To the worker: take this state, if the module has any, and these keys, and initialise. Answer: Done or Refused."""

    state: bytes
    keys: dict[str, bytes]


class Event(NamedTuple):
    """An event for the worker's module."""

    topic: str
    payload: bytes
    reply_to: str = ""  # the topic on which its sender waits for an answer


@dataclass(frozen=True)
class Events:
    """To the worker: handle these, one after the other. Answer: Done or Refused, to each."""

    row: tuple[Event, ...]


@dataclass(frozen=True)
class Tick:
    """To the worker: the timer. Nanoseconds since 1970. Answer: Done or Refused."""

    now_ns: int


@dataclass(frozen=True)
class Check:
    """To the worker: are you well? Answer: Done or Refused."""


@dataclass(frozen=True)
class Save:
    """To the worker: hand over your state. Answer: State."""


Request = Start | Begin | Events | Tick | Check | Save


@dataclass(frozen=True)
class Ready:
    """From the worker: the module is loaded; the interfaces that it has."""

    interfaces: frozenset[str]
    mode: str  # "interpreter" or "aot"
    measures: frozenset[str]  # how the worker is confined: device_agent.channel.measures.MEASURES


@dataclass(frozen=True)
class Usage:
    """What a request took, and what the module holds."""

    host_calls: int = 0
    took_us: int = 0
    memory_bytes: int = 0


NO_USAGE = Usage()


@dataclass(frozen=True)
class Done:
    """From the worker: handled; what the module wants sent and kept."""

    messages: tuple[tuple[str, bytes], ...]
    writes: tuple[KeyWrite, ...]
    usage: Usage = NO_USAGE
    reply_to: Mapping[int, str] = field(default_factory=dict)  # by place of a message: the topic where its answer is waited for


@dataclass(frozen=True)
class Refused:
    """From the worker: the module answered with an error. Nothing is sent or kept."""

    text: str
    usage: Usage = NO_USAGE


@dataclass(frozen=True)
class State:
    """From the worker: the module's state, None where it has none."""

    state: bytes | None


@dataclass(frozen=True)
class Failed:
    """From the worker, its last words: why it can't go on, as a reason code."""

    reason: str
    detail: str
    usage: Usage = NO_USAGE


@dataclass(frozen=True)
class Log:
    """From the worker, at any time: a log record of the module."""

    level: str
    message: str


Answer = Ready | Done | Refused | State | Failed | Log


class Receiver:
    """Takes packets from a channel into one buffer, whose pages are only there once a packet needed them."""

    def __init__(self) -> None:
        self._buffer = mmap.mmap(-1, FRAME_LIMIT_BYTES + 1)
        self._view = memoryview(self._buffer)
        self._is_soon = True  # the last packet came within the time that looking for one may take

    def take(self, channel: socket.socket) -> bytes:
        """The next packet, cut behind the limit; empty at the end. Raises what `socket.recv_into` raises."""
        return bytes(self._view[: channel.recv_into(self._buffer)])

    def take_soon(self, channel: socket.socket) -> bytes:
        """`take`, looking for the next packet for a moment before going to sleep, where the one before came that soon."""
        started = time.perf_counter_ns()
        end = started + LOOK_NS if PROCESSORS > 1 and self._is_soon else 0
        while time.perf_counter_ns() < end:
            try:
                return bytes(self._view[: channel.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)])
            except BlockingIOError:
                continue
        data = self.take(channel)
        self._is_soon = time.perf_counter_ns() - started < LOOK_NS
        return data


def encode_request(request: Request) -> bytes:
    """A packet to a worker."""
    match request:
        case Start(path, digest, description, config, image, image_digest, user, required, devices):
            value: list[Any] = ["start", path, digest, description, config, image, image_digest, user, required, devices]
        case Begin(state, keys):
            value = ["begin", state, keys]
        case Events(row):
            parts = [_EVENTS]
            for topic, payload, reply_to in row:
                name, answer = topic.encode(), reply_to.encode()
                parts += (_EVENT_HEAD.pack(len(name), len(answer), len(payload)), name, answer, payload)
            return b"".join(parts)
        case Tick(now_ns):
            value = ["tick", now_ns]
        case Check():
            value = ["check"]
        case Save():
            value = ["save"]
    return cbor.encode(value)


def decode_request(data: bytes) -> Request:
    """In the worker. Raises Refused MALFORMED."""
    if data[:1] == _EVENTS:
        return _unpack_events(data)
    match cbor.decode(data, "request", FRAME_LIMIT_BYTES):
        case ["tick", now_ns] if type(now_ns) is int:
            return Tick(now_ns)
        case ["check"]:
            return Check()
        case ["save"]:
            return Save()
        case ["begin", bytes() as state, dict() as keys]:
            return Begin(state, keys)
        case [
            "start",
            str() as path,
            bytes() as digest,
            bytes() as about,
            dict() as config,
            str() as image,
            bytes() as image_digest,
            int() as user,
            bool() as required,
            bool() as devices,
        ]:
            return Start(path, digest, about, config, image, image_digest, user, required, devices)
    raise malformed("request", "of an unknown kind")


def encode_answer(answer: Answer) -> bytes:
    """A packet to the agent."""
    match answer:
        case Done():
            return _pack_done(answer)
        case Log(level, message):
            value: list[Any] = ["log", level, message[:TEXT_LIMIT]]
        case Refused(text, usage):
            value = ["refused", text[:TEXT_LIMIT], usage.host_calls, usage.took_us, usage.memory_bytes]
        case Ready(interfaces, mode, measures):
            value = ["ready", sorted(interfaces), mode, sorted(measures)]
        case State(state):
            value = ["state", state]
        case Failed(reason, detail, usage):
            value = ["failed", reason, detail[:TEXT_LIMIT], usage.host_calls, usage.took_us, usage.memory_bytes]
    return cbor.encode(value)


def decode_answer(data: bytes) -> Answer:
    """In the agent. Raises Refused TOO_LARGE, MALFORMED."""
    if data[:1] == b"D" and len(data) <= FRAME_LIMIT_BYTES:
        return _unpack_done(data)
    match cbor.decode(data, "answer of a worker", FRAME_LIMIT_BYTES):
        case ["log", str() as level, str() as message] if level in LEVELS and len(message) <= TEXT_LIMIT:
            return Log(level, message)
        case ["refused", str() as text, *numbers] if len(text) <= TEXT_LIMIT:
            return Refused(text, _usage(numbers))
        case ["ready", list() as interfaces, ("interpreter" | "aot") as mode, list() as measures] if all(
            isinstance(each, str) for each in (*interfaces, *measures)
        ):
            return Ready(frozenset(interfaces), mode, frozenset(measures))
        case ["state", (bytes() | None) as state] if state is None or len(state) <= STATE_LIMIT_BYTES:
            return State(state)
        case ["failed", str() as reason, str() as detail, *numbers] if len(detail) <= TEXT_LIMIT:
            return Failed(reason, detail, _usage(numbers))
    raise malformed("answer of a worker", "of an unknown kind")


def _usage(numbers: list[Any]) -> Usage:
    if len(numbers) == 3 and all(type(each) is int and 0 <= each <= NUMBER_LIMIT for each in numbers):
        return Usage(*numbers)
    raise malformed("answer of a worker", "its usage is not a list of numbers")


def size_of(event: Event) -> int:
    """How long its packet is, where it is alone."""
    return len(_EVENTS) + _EVENT_HEAD.size + len(event.topic.encode()) + len(event.reply_to.encode()) + len(event.payload)


def _unpack_events(data: bytes) -> Events:
    if len(data) > FRAME_LIMIT_BYTES:
        raise malformed("events", f"they are longer than {FRAME_LIMIT_BYTES} bytes")
    row, at = [], len(_EVENTS)
    try:
        while at < len(data):
            size, answer_size, payload_size = _EVENT_HEAD.unpack_from(data, at)
            answer = at + _EVENT_HEAD.size + size
            start = answer + answer_size
            if payload_size > len(data) - start:
                raise malformed("events", "they end too early")
            row.append(
                Event(
                    str(data[answer - size : answer], "utf-8"), data[start : start + payload_size], str(data[answer:start], "utf-8")
                )
            )
            at = start + payload_size
    except (struct.error, UnicodeDecodeError) as error:
        raise malformed("events", str(error)) from None
    if not row:
        raise malformed("events", "there is none")
    return Events(tuple(row))


def _pack_done(done: Done) -> bytes:
    usage = done.usage
    parts = [
        _DONE_HEAD.pack(_DONE, len(done.messages), len(done.writes), usage.host_calls, usage.took_us, usage.memory_bytes),
    ]
    for place, (topic, payload) in enumerate(done.messages):
        name, answer = topic.encode(), done.reply_to.get(place, "").encode()
        parts += (_MESSAGE_HEAD.pack(len(name), len(answer), len(payload)), name, answer, payload)
    for each in done.writes:
        name, value = each.key.encode(), each.value
        parts += (_WRITE_HEAD.pack(len(name), value is not None, len(value or b"")), name, value or b"")
    return b"".join(parts)


def _unpack_done(data: bytes) -> Done:
    try:
        _, messages, writes, calls, took_us, memory_bytes = _DONE_HEAD.unpack_from(data)
        if messages > MESSAGES_PER_EVENT or writes > WRITES_PER_EVENT or max(calls, took_us, memory_bytes) > NUMBER_LIMIT:
            raise malformed("answer of a worker", "a number is beyond its limit")
        at, sent, kept, answers = _DONE_HEAD.size, [], [], {}
        for place in range(messages):
            name_size, answer_size, size = _MESSAGE_HEAD.unpack_from(data, at)
            answer_at = at + _MESSAGE_HEAD.size + name_size
            if size > PAYLOAD_LIMIT_BYTES or answer_size + size > len(data) - answer_at:
                raise malformed("answer of a worker", "a message is longer than its limit")
            at = answer_at + answer_size + size
            sent.append((str(data[answer_at - name_size : answer_at], "utf-8"), data[at - size : at]))
            if answer_size:
                answers[place] = str(data[answer_at : at - size], "utf-8")
        for _ in range(writes):
            name_size, there, size = _WRITE_HEAD.unpack_from(data, at)
            name_at = at + _WRITE_HEAD.size
            if there > 1 or (size and not there) or name_size + size > len(data) - name_at:
                raise malformed("answer of a worker", "a write is longer than its limit, or neither sets nor deletes")
            at = name_at + name_size + size
            kept.append(KeyWrite(str(data[name_at : at - size], "utf-8"), data[at - size : at] if there else None))
    except (struct.error, UnicodeDecodeError) as error:
        raise malformed("answer of a worker", str(error)) from None
    if at != len(data):
        raise malformed("answer of a worker", "the lengths of its parts do not add up")
    return Done(tuple(sent), tuple(kept), Usage(calls, took_us, memory_bytes), answers)

"""What agent and worker say to each other: one CBOR list a packet on a SEQPACKET socket pair.

A worker is trusted less than the agent: what comes from it is decoded strictly, size first, and a packet that does not fit ends
the worker.
"""

import mmap
import socket
from dataclasses import dataclass
from typing import Any

from ota.formats import cbor
from ota.formats.fields import malformed
from ota.formats.report import LEVELS

FRAME_LIMIT_BYTES = 1 << 20
PAYLOAD_LIMIT_BYTES = 64 * 1024
STATE_LIMIT_BYTES = 64 * 1024
TEXT_LIMIT = 1000
MESSAGES_PER_EVENT = 256
MESSAGE_BYTES_PER_EVENT = 256 * 1024
SOCKET_BUFFER_BYTES = 2 * FRAME_LIMIT_BYTES


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


@dataclass(frozen=True)
class Begin:
    """To the worker: take this state, if the module has any, and these keys, and initialise. Answer: Done or Refused."""

    state: bytes
    keys: dict[str, bytes]


@dataclass(frozen=True)
class Event:
    """To the worker: handle an event. Answer: Done or Refused."""

    topic: str
    payload: bytes


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


Request = Start | Begin | Event | Tick | Check | Save


@dataclass(frozen=True)
class Ready:
    """From the worker: the module is loaded; the interfaces that it has."""

    interfaces: frozenset[str]
    mode: str  # "interpreter" or "aot"
    measures: frozenset[str]  # how the worker is confined: device_agent.confinement.MEASURES


@dataclass(frozen=True)
class Usage:
    """What a request took, and what the module holds."""

    host_calls: int = 0
    took_us: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True)
class Done:
    """From the worker: handled; what the module wants sent and kept."""

    messages: tuple[tuple[str, bytes], ...]
    writes: tuple[KeyWrite, ...]
    usage: Usage = Usage()


@dataclass(frozen=True)
class Refused:
    """From the worker: the module answered with an error. Nothing is sent or kept."""

    text: str


@dataclass(frozen=True)
class State:
    """From the worker: the module's state, None where it has none."""

    state: bytes | None


@dataclass(frozen=True)
class Failed:
    """From the worker, its last words: why it can't go on, as a reason code."""

    reason: str
    detail: str


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

    def take(self, channel: socket.socket) -> bytes:
        """The next packet, cut behind the limit; empty at the end. Raises what `socket.recv_into` raises."""
        return bytes(self._view[: channel.recv_into(self._buffer)])


def encode_request(request: Request) -> bytes:
    """A packet to a worker."""
    match request:
        case Start(path, digest, description, config, image, image_digest):
            value: list[Any] = ["start", path, digest, description, config, image, image_digest]
        case Begin(state, keys):
            value = ["begin", state, keys]
        case Event(topic, payload):
            value = ["event", topic, payload]
        case Tick(now_ns):
            value = ["tick", now_ns]
        case Check():
            value = ["check"]
        case Save():
            value = ["save"]
    return cbor.encode(value)


def decode_request(data: bytes) -> Request:
    """In the worker. Raises Refused MALFORMED."""
    match cbor.decode(data, "request", FRAME_LIMIT_BYTES):
        case ["event", str() as topic, bytes() as payload]:
            return Event(topic, payload)
        case ["tick", int() as now_ns]:
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
        ]:
            return Start(path, digest, about, config, image, image_digest)
    raise malformed("request", "not one that is known")


def encode_answer(answer: Answer) -> bytes:
    """A packet to the agent."""
    match answer:
        case Done(messages, writes, usage):
            value: list[Any] = ["done", [list(each) for each in messages], [[each.key, each.value] for each in writes]]
            value += [usage.host_calls, usage.took_us, usage.memory_bytes]
        case Log(level, message):
            value = ["log", level, message[:TEXT_LIMIT]]
        case Refused(text):
            value = ["refused", text[:TEXT_LIMIT]]
        case Ready(interfaces, mode, measures):
            value = ["ready", sorted(interfaces), mode, sorted(measures)]
        case State(state):
            value = ["state", state]
        case Failed(reason, detail):
            value = ["failed", reason, detail[:TEXT_LIMIT]]
    return cbor.encode(value)


def decode_answer(data: bytes) -> Answer:
    """In the agent. Raises Refused TOO_LARGE, MALFORMED."""
    match cbor.decode(data, "answer of a worker", FRAME_LIMIT_BYTES):
        case ["done", list() as messages, list() as writes, int() as calls, int() as took_us, int() as memory_bytes] if (
            len(messages) <= MESSAGES_PER_EVENT
            and 0 <= min(calls, took_us, memory_bytes) <= max(calls, took_us, memory_bytes) < 1 << 53
        ):
            usage = Usage(calls, took_us, memory_bytes)
            return Done(tuple(_message(each) for each in messages), tuple(_write(each) for each in writes), usage)
        case ["log", str() as level, str() as message] if level in LEVELS and len(message) <= TEXT_LIMIT:
            return Log(level, message)
        case ["refused", str() as text] if len(text) <= TEXT_LIMIT:
            return Refused(text)
        case ["ready", list() as interfaces, ("interpreter" | "aot") as mode, list() as measures] if all(
            isinstance(each, str) for each in (*interfaces, *measures)
        ):
            return Ready(frozenset(interfaces), mode, frozenset(measures))
        case ["state", (bytes() | None) as state] if state is None or len(state) <= STATE_LIMIT_BYTES:
            return State(state)
        case ["failed", str() as reason, str() as detail] if len(detail) <= TEXT_LIMIT:
            return Failed(reason, detail)
    raise malformed("answer of a worker", "not one that is known")


def _message(value: Any) -> tuple[str, bytes]:
    match value:
        case [str() as topic, bytes() as payload] if len(payload) <= PAYLOAD_LIMIT_BYTES:
            return topic, payload
    raise malformed("answer of a worker", "a message is not [topic, payload]")


def _write(value: Any) -> KeyWrite:
    match value:
        case [str() as key, (bytes() | None) as content]:
            return KeyWrite(key, content)
    raise malformed("answer of a worker", "a write is not [key, value]")

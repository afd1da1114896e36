"""What devices say: reports (retained), log records and telemetry."""

from dataclasses import dataclass, field
from typing import Any

from ota.formats import cbor
from ota.formats.fields import Fields, Unknown, is_name, malformed

REPORT_LIMIT_BYTES = 16 * 1024
BATCH_LIMIT_BYTES = 512 * 1024
BATCH_LIMIT_RECORDS = 1000
STATES = ("idle", "offered", "fetching", "staged", "trial", "confirmed", "rejected", "failed", "rolled-back")
LEVELS = ("trace", "debug", "info", "warn", "error")
PROBLEMS, PROBLEM_CHARACTERS = 8, 200
DETAIL_CHARACTERS = 500
COUNTERS = 64
LACKING, WORD_CHARACTERS = 8, 64
_WORD_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


@dataclass(frozen=True)
class Running:
    """The module that handles events now."""

    name: str = ""
    version: str = ""
    manifest: bytes = b""  # digest of the envelope; empty for a factory module or none
    sequence: int = 0
    slot: str = "none"  # or "confirmed", "previous", "factory", "trial"
    mode: str = ""  # "interpreter" or "aot"
    lacking: tuple[str, ...] = ()  # what the kernel lacks to confine it


@dataclass(frozen=True)
class Attempt:
    """The last update that was offered, and what became of it."""

    state: str = "idle"
    deployment: bytes = b""
    manifest: bytes = b""
    reason: str = ""
    detail: str = ""
    done_chunks: int = 0
    chunks: int = 0
    events: int = 0  # handled on trial


@dataclass(frozen=True)
class Report:
    """A device's state. Times in seconds."""

    device: str
    group: str
    board: str
    agent: str
    time_s: int
    uptime_s: int
    running: Running = Running()
    attempt: Attempt = Attempt()
    counters: dict[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()  # what is wrong with the board itself, as "code: text"

    def to_bytes(self) -> bytes:
        """Encoded. What is beyond a limit is cut: a report that nobody reads tells nothing."""
        running, attempt = self.running, self.attempt
        return cbor.encode(
            {
                "v": 1,
                "device": self.device,
                "group": self.group,
                "board": self.board,
                "agent": self.agent[:WORD_CHARACTERS],
                "time": self.time_s,
                "uptime": self.uptime_s,
                "running": {
                    "name": running.name,
                    "version": running.version,
                    "manifest": running.manifest,
                    "sequence": running.sequence,
                    "slot": running.slot,
                    "mode": running.mode,
                    "lacking": [each[:WORD_CHARACTERS] for each in running.lacking[:LACKING]],
                },
                "attempt": {
                    "state": attempt.state,
                    "deployment": attempt.deployment,
                    "manifest": attempt.manifest,
                    "reason": attempt.reason,
                    "detail": attempt.detail[:DETAIL_CHARACTERS],
                    "done": attempt.done_chunks,
                    "chunks": attempt.chunks,
                    "events": attempt.events,
                },
                "counters": dict(sorted(each for each in self.counters.items() if is_name(each[0]))[:COUNTERS]),
                "problems": [each[:PROBLEM_CHARACTERS] for each in self.problems[:PROBLEMS]],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Report":
        """Raises Refused TOO_LARGE, MALFORMED. A report is not signed: believe it as far as the broker's access control goes."""
        what = "report"
        keys = ("v", "device", "group", "board", "agent", "time", "uptime", "running", "attempt", "counters", "problems")
        top = Fields(cbor.decode(data, what, REPORT_LIMIT_BYTES), what, keys, Unknown.IGNORE)
        top.version("v")
        running_keys = ("name", "version", "manifest", "sequence", "slot", "mode", "lacking")
        attempt_keys = ("state", "deployment", "manifest", "reason", "detail", "done", "chunks", "events")
        running = Fields(top.map("running"), what, running_keys, Unknown.IGNORE)
        attempt = Fields(top.map("attempt"), what, attempt_keys, Unknown.IGNORE)
        counters = top.map("counters")
        if len(counters) > COUNTERS or not all(isinstance(k, str) and type(n) is int for k, n in counters.items()):
            raise malformed(what, f"the counters are not numbers by name, {COUNTERS} at most")
        return cls(
            device=top.name("device"),
            group=top.name("group"),
            board=top.name("board"),
            agent=top.text("agent", WORD_CHARACTERS),
            time_s=top.number("time"),
            uptime_s=top.number("uptime"),
            running=Running(
                name=running.text("name", WORD_CHARACTERS),
                version=running.text("version", WORD_CHARACTERS),
                manifest=running.data("manifest", limit=32),
                sequence=running.number("sequence"),
                slot=_word(running.text("slot")),
                mode=_word(running.text("mode")),
                lacking=_words(running.items("lacking", LACKING)),
            ),
            attempt=Attempt(
                state=_word(attempt.text("state")),
                deployment=attempt.data("deployment", limit=16),
                manifest=attempt.data("manifest", limit=32),
                reason=_word(attempt.text("reason")),
                detail=attempt.text("detail", DETAIL_CHARACTERS),
                done_chunks=attempt.number("done"),
                chunks=attempt.number("chunks"),
                events=attempt.number("events"),
            ),
            counters={name: value for name, value in counters.items() if is_name(name)},
            problems=_words(top.items("problems", PROBLEMS), PROBLEM_CHARACTERS),
        )


def _words(values: list[Any], characters: int = WORD_CHARACTERS) -> tuple[str, ...]:
    if not all(isinstance(each, str) and len(each) <= characters for each in values):
        raise malformed("report", f"a list that is not of texts of at most {characters} characters")
    return tuple(values)


def _word(value: str) -> str:
    """A state, reason, slot or mode. A newer agent may say one that is not known here: the board must not vanish for it."""
    if len(value) > WORD_CHARACTERS or not _WORD_CHARACTERS.issuperset(value):
        raise malformed("report", f"{value[:64]!r} is not a word of letters, digits and hyphens")
    return value


@dataclass(frozen=True)
class LogRecord:
    """One line of a log; `module` is name and version, or empty when the agent speaks."""

    time_s: float
    level: str
    module: str
    message: str


@dataclass(frozen=True)
class Message:
    """One message of a module. `number` rises by one with each message of the device, so that a receiver can drop repeats."""

    number: int
    time_s: float
    module: str
    topic: str
    payload: bytes


def encode_logs(records: list[LogRecord]) -> bytes:
    """A batch of log records."""
    return cbor.encode([[each.time_s, each.level, each.module, each.message] for each in records])


def decode_logs(data: bytes) -> list[LogRecord]:
    """Raises Refused TOO_LARGE, MALFORMED."""
    records = []
    for item in _batch(data, "log records"):
        match item:
            case [float() as time_s, str() as level, str() as module, str() as message, *_] if level in LEVELS:
                records.append(LogRecord(time_s, level, module, message))
            case _:
                raise malformed("log records", "a record is not [time, level, module, message]")
    return records


def encode_messages(messages: list[Message]) -> bytes:
    """A batch of messages."""
    return cbor.encode([[each.number, each.time_s, each.module, each.topic, each.payload] for each in messages])


def decode_messages(data: bytes) -> list[Message]:
    """Raises Refused TOO_LARGE, MALFORMED."""
    messages = []
    for item in _batch(data, "telemetry"):
        match item:
            case [number, float() as time_s, str() as module, str() as topic, bytes() as payload, *_] if type(number) is int:
                messages.append(Message(number, time_s, module, topic, payload))
            case _:
                raise malformed("telemetry", "a message is not [number, time, module, topic, payload]")
    return messages


def _batch(data: bytes, what: str) -> list[object]:
    value = cbor.decode(data, what, BATCH_LIMIT_BYTES)
    if not isinstance(value, list) or len(value) > BATCH_LIMIT_RECORDS:
        raise malformed(what, f"not a list of at most {BATCH_LIMIT_RECORDS} records")
    return value

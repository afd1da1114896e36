"""What devices say: reports (retained), log records and telemetry."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from ota.formats import cbor
from ota.formats.fields import Fields, Unknown, is_name, malformed
from ota.formats.interfaces import LEVELS

T = TypeVar("T")
REPORT_LIMIT_BYTES = 64 * 1024
BATCH_LIMIT_BYTES = 512 * 1024
BATCH_LIMIT_RECORDS = 1000
BATCH_BYTES = 128  # of a batch around its records, at most
STATES = ("idle", "offered", "fetching", "staged", "starting", "trial", "passed", "confirmed", "rejected", "failed", "rolled-back")
INSTANCES, REFUSALS = 64, 4
_REPORT_KEYS = (
    *("v", "device", "group", "board", "agent", "time", "uptime", "instances", "refusals", "counters", "problems"),
    *("root", "algorithms", "counter", "journal", "encryption", "group-keys", "documents"),
)
_SUMMARY_KEYS = ("name", "module", "version", "sequence", "slot", "state", "reason", "counter")
PROBLEMS, PROBLEM_CHARACTERS = 8, 200
DETAIL_CHARACTERS = 500
COUNTERS = 64
LACKING, WORD_CHARACTERS = 8, 64
ALGORITHMS, DIGEST_BYTES = 16, 32
ENCRYPTION_KEY_BYTES = 256
GROUP_KEYS, KEY_ID_BYTES = 24, 8
DOCUMENTS = ("group", "device")
_WORD_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


@dataclass(frozen=True)
class Running:
    """The module that handles an instance's events now."""

    name: str = ""
    version: str = ""
    manifest: bytes = b""  # digest of the envelope; empty for none
    config: bytes = b""  # digest of the configuration that the deployment gave it; empty for none
    sequence: int = 0
    slot: str = "none"  # or "confirmed", "previous", "factory", "trial"
    mode: str = ""  # "interpreter" or "aot"
    lacking: tuple[str, ...] = ()  # what the kernel lacks to confine it


@dataclass(frozen=True)
class Attempt:
    """The last update that was offered to an instance, and what became of it."""

    state: str = "idle"
    deployment: bytes = b""
    manifest: bytes = b""  # empty for a removal
    config: bytes = b""  # digest of the configuration; empty for none
    reason: str = ""
    detail: str = ""
    done_chunks: int = 0
    chunks: int = 0
    events: int = 0  # handled on trial


def stepped_down(state: str, slot: str) -> bool:
    """Whether what was confirmed last (`state` of the attempt) runs no more: it failed too often, or can't be loaded."""
    return state == "confirmed" and slot in ("previous", "factory")


@dataclass(frozen=True)
class Summary:
    """An instance in a few words, for a list of all boards; its own report has the rest."""

    name: str
    module: str = ""
    version: str = ""
    sequence: int = 0
    slot: str = "none"
    state: str = "idle"
    reason: str = ""
    counter: int = 0  # of its own report that was published last: an older one is a replay


@dataclass(frozen=True)
class Refusal:
    """A document that was refused as a whole."""

    document: str  # "group", "device" or "root"
    epoch: int  # that it claims; of a root its number
    reason: str
    detail: str


@dataclass(frozen=True)
class JournalHead:
    """The end of a board's journal: the number of its last row, and one hash for all its rows. Zero and empty: no rows yet."""

    row: int = 0
    digest: bytes = b""


NO_ROWS = JournalHead()


@dataclass(frozen=True)
class Report:
    """A device's state. Times in seconds."""

    device: str
    group: str
    board: str
    agent: str
    time_s: int
    uptime_s: int
    instances: tuple[Summary, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    counters: dict[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()  # what is wrong with the board itself, as "code: text"
    root: int = 0  # number of the root document in force; 0 when the board does not say
    algorithms: tuple[str, ...] = ()  # of signatures that the agent can verify, by name
    counter: int = 0  # rises over all that a board signs
    journal: JournalHead = JournalHead()
    encryption: bytes = b""  # the board's own key to encrypt for, an encoded COSE_Key; empty: the board does not say
    group_keys: tuple[bytes, ...] = ()  # identifiers of keys of groups that it has
    documents: Mapping[str, int] | None = None  # epochs of the deployments in force, of "group" and "device"; None: it does not say

    def to_bytes(self) -> bytes:
        """Encoded. What is beyond a limit is cut: a report that nobody reads tells nothing."""
        return cbor.encode(
            {
                "v": 2,
                "device": self.device,
                "group": self.group,
                "board": self.board,
                "agent": self.agent[:WORD_CHARACTERS],
                "time": self.time_s,
                "uptime": self.uptime_s,
                "instances": [{key: getattr(each, key) for key in _SUMMARY_KEYS} for each in self.instances[:INSTANCES]],
                "refusals": [
                    {
                        "document": each.document,
                        "epoch": each.epoch,
                        "reason": each.reason,
                        "detail": each.detail[:DETAIL_CHARACTERS],
                    }
                    for each in self.refusals[:REFUSALS]
                ],
                "counters": _cut(self.counters),
                "problems": [each[:PROBLEM_CHARACTERS] for each in self.problems[:PROBLEMS]],
                "root": self.root,
                "algorithms": [each[:WORD_CHARACTERS] for each in self.algorithms[:ALGORITHMS]],
                "counter": self.counter,
                "journal": [self.journal.row, self.journal.digest],
            }
            | ({"encryption": self.encryption} if self.encryption else {})
            | ({"group-keys": list(self.group_keys[:GROUP_KEYS])} if self.group_keys else {})
            | ({"documents": dict(self.documents)} if self.documents is not None else {})
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Report":
        """Raises Refused TOO_LARGE, MALFORMED. It travels signed (ota.formats.signed_report)."""
        what = "report"
        top = Fields(cbor.decode(data, what, REPORT_LIMIT_BYTES), what, _REPORT_KEYS, Unknown.IGNORE)
        top.version("v", 2)
        return cls(
            device=top.name("device"),
            group=top.name("group"),
            board=top.name("board"),
            agent=top.text("agent", WORD_CHARACTERS),
            time_s=top.number("time"),
            uptime_s=top.number("uptime"),
            instances=tuple(_summary(each) for each in top.items("instances", INSTANCES)),
            refusals=tuple(_refusal(each) for each in top.items("refusals", REFUSALS)),
            counters=_counters(top.map("counters"), what),
            problems=_words(top.items("problems", PROBLEMS), PROBLEM_CHARACTERS),
            root=top.number("root"),
            algorithms=tuple(_word(each) for each in _words(top.items("algorithms", ALGORITHMS))),
            counter=top.number("counter"),
            journal=_journal_head(top.items("journal", 8)),
            encryption=top.data("encryption", limit=ENCRYPTION_KEY_BYTES) if "encryption" in top else b"",
            group_keys=_key_ids(top.items("group-keys", GROUP_KEYS)) if "group-keys" in top else (),
            documents=_documents(top.map("documents")) if "documents" in top else None,
        )


@dataclass(frozen=True)
class InstanceReport:
    """The state of one instance of a device. Times in seconds."""

    device: str
    instance: str
    time_s: int
    running: Running = Running()
    attempt: Attempt = Attempt()
    counters: dict[str, int] = field(default_factory=dict)
    counter: int = 0  # as in the board's own report

    def to_bytes(self) -> bytes:
        """Encoded. What is beyond a limit is cut."""
        running, attempt = self.running, self.attempt
        return cbor.encode(
            {
                "v": 2,
                "device": self.device,
                "instance": self.instance,
                "time": self.time_s,
                "running": {
                    "name": running.name,
                    "version": running.version,
                    "manifest": running.manifest,
                    "config": running.config,
                    "sequence": running.sequence,
                    "slot": running.slot,
                    "mode": running.mode,
                    "lacking": [each[:WORD_CHARACTERS] for each in running.lacking[:LACKING]],
                },
                "attempt": {
                    "state": attempt.state,
                    "deployment": attempt.deployment,
                    "manifest": attempt.manifest,
                    "config": attempt.config,
                    "reason": attempt.reason,
                    "detail": attempt.detail[:DETAIL_CHARACTERS],
                    "done": attempt.done_chunks,
                    "chunks": attempt.chunks,
                    "events": attempt.events,
                },
                "counters": _cut(self.counters),
                "counter": self.counter,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "InstanceReport":
        """Raises Refused TOO_LARGE, MALFORMED. It travels signed, as the board's."""
        what = "instance report"
        keys = ("v", "device", "instance", "time", "running", "attempt", "counters", "counter")
        top = Fields(cbor.decode(data, what, REPORT_LIMIT_BYTES), what, keys, Unknown.IGNORE)
        top.version("v", 2)
        return cls(
            device=top.name("device"),
            instance=top.name("instance"),
            time_s=top.number("time"),
            running=_running(top.map("running"), what),
            attempt=_attempt(top.map("attempt"), what),
            counters=_counters(top.map("counters"), what),
            counter=top.number("counter"),
        )


def _journal_head(value: list[Any]) -> JournalHead:
    match value:
        case [int() as row, bytes() as digest, *_] if type(row) is int and row >= 0 and len(digest) in (0, DIGEST_BYTES):
            return JournalHead(row, digest)
    raise malformed("report", "the journal's head is not [row, digest]")


def _running(value: Any, what: str) -> Running:
    fields = Fields(value, what, ("name", "version", "manifest", "config", "sequence", "slot", "mode", "lacking"), Unknown.IGNORE)
    return Running(
        name=fields.text("name", WORD_CHARACTERS),
        version=fields.text("version", WORD_CHARACTERS),
        manifest=fields.data("manifest", limit=32),
        config=fields.data("config", limit=32),
        sequence=fields.number("sequence"),
        slot=_word(fields.text("slot")),
        mode=_word(fields.text("mode")),
        lacking=_words(fields.items("lacking", LACKING)),
    )


def _attempt(value: Any, what: str) -> Attempt:
    keys = ("state", "deployment", "manifest", "config", "reason", "detail", "done", "chunks", "events")
    fields = Fields(value, what, keys, Unknown.IGNORE)
    return Attempt(
        state=_word(fields.text("state")),
        deployment=fields.data("deployment", limit=16),
        manifest=fields.data("manifest", limit=32),
        config=fields.data("config", limit=32),
        reason=_word(fields.text("reason")),
        detail=fields.text("detail", DETAIL_CHARACTERS),
        done_chunks=fields.number("done"),
        chunks=fields.number("chunks"),
        events=fields.number("events"),
    )


def _summary(value: Any) -> Summary:
    fields = Fields(value, "report: instance", _SUMMARY_KEYS, Unknown.IGNORE)
    return Summary(
        name=fields.name("name"),
        module=fields.text("module", WORD_CHARACTERS),
        version=fields.text("version", WORD_CHARACTERS),
        sequence=fields.number("sequence"),
        slot=_word(fields.text("slot")),
        state=_word(fields.text("state")),
        reason=_word(fields.text("reason")),
        counter=fields.number("counter"),
    )


def _refusal(value: Any) -> Refusal:
    fields = Fields(value, "report: refusal", ("document", "epoch", "reason", "detail"), Unknown.IGNORE)
    return Refusal(
        document=_word(fields.text("document")),
        epoch=fields.number("epoch"),
        reason=_word(fields.text("reason")),
        detail=fields.text("detail", DETAIL_CHARACTERS),
    )


def _cut(counters: dict[str, int]) -> dict[str, int]:
    return dict(sorted(each for each in counters.items() if is_name(each[0]))[:COUNTERS])


def _counters(value: dict[Any, Any], what: str) -> dict[str, int]:
    if len(value) > COUNTERS or not all(isinstance(k, str) and type(n) is int for k, n in value.items()):
        raise malformed(what, f"the counters are not numbers by name, {COUNTERS} at most")
    return {name: number for name, number in value.items() if is_name(name)}


def _key_ids(values: list[Any]) -> tuple[bytes, ...]:
    if not all(isinstance(each, bytes) and 0 < len(each) <= KEY_ID_BYTES for each in values):
        raise malformed("report", "an identifier of a key that is none")
    return tuple(values)


def _documents(value: Any) -> dict[str, int]:
    fields = Fields(value, "report: documents", DOCUMENTS, Unknown.IGNORE)
    return {name: fields.number(name) for name in DOCUMENTS if name in fields}


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
    """One line of a log; `module` is name and version. It and `instance` are empty when the agent speaks."""

    time_s: float
    level: str
    instance: str
    module: str
    message: str


class Message(NamedTuple):
    """One message of a module. `number` rises by one with each message of the device, so that a receiver can drop repeats."""

    number: int
    time_s: float
    instance: str
    module: str  # name and version
    topic: str
    payload: bytes
    reply_to: str = ""  # the topic on which the module waits for an answer; not in a batch


@dataclass(frozen=True)
class Batch(Generic[T]):
    """What a device said at once, under one signature."""

    device: str
    counter: int  # as in its report
    records: list[T]


def encode_logs(device: str, counter: int, records: list[LogRecord]) -> bytes:
    """A batch of log records of a device."""
    return _encode_batch(device, counter, [[each.time_s, each.level, each.instance, each.module, each.message] for each in records])


def decode_logs(data: bytes) -> Batch[LogRecord]:
    """Raises Refused TOO_LARGE, MALFORMED."""
    batch, records = _batch(data, "log records"), []
    for item in batch.records:
        match item:
            case [float() as time_s, str() as level, str() as instance, str() as module, str() as message, *_] if level in LEVELS:
                records.append(LogRecord(time_s, level, instance, module, message))
            case _:
                raise malformed("log records", "a record is not [time, level, instance, module, message]")
    return Batch(batch.device, batch.counter, records)


def encode_messages(device: str, counter: int, messages: list[Message]) -> bytes:
    """A batch of messages of a device's modules."""
    found = [[each.number, each.time_s, each.instance, each.module, each.topic, each.payload] for each in messages]
    return _encode_batch(device, counter, found)


def decode_messages(data: bytes) -> Batch[Message]:
    """Raises Refused TOO_LARGE, MALFORMED."""
    batch, messages = _batch(data, "telemetry"), []
    for item in batch.records:
        match item:
            case [number, float() as time_s, str() as instance, str() as module, str() as topic, bytes() as payload, *_] if (
                type(number) is int
            ):
                messages.append(Message(number, time_s, instance, module, topic, payload))
            case _:
                raise malformed("telemetry", "a message is not [number, time, instance, module, topic, payload]")
    return Batch(batch.device, batch.counter, messages)


def _encode_batch(device: str, counter: int, records: list[list[Any]]) -> bytes:
    return cbor.encode({"v": 2, "device": device, "counter": counter, "records": records})


def _batch(data: bytes, what: str) -> Batch[Any]:
    fields = Fields(cbor.decode(data, what, BATCH_LIMIT_BYTES), what, ("v", "device", "counter", "records"), Unknown.IGNORE)
    fields.version("v", 2)
    return Batch(fields.name("device"), fields.number("counter"), fields.items("records", BATCH_LIMIT_RECORDS))

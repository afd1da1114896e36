"""Follows what boards log and what their modules publish. Neither is kept by the broker: what nobody hears is gone."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from ota.formats import topics
from ota.formats.fields import is_name
from ota.formats.reasons import Reason, Refused
from ota.formats.report import Batch, LogRecord, Message
from ota.operator.broker import Broker
from ota.operator.roster import Roster
from ota.operator.signers import MAX_BOARDS

__all__ = ["Logs", "message_of", "module_topics"]

BOARDS = "devices"  # boards publish below it and their name


def module_topics(device: str) -> str:
    """The filter for what modules of a board publish, unless the board's policy has another template; "+" for all boards."""
    return f"{BOARDS}/{device}/#"


class Logs:
    """What boards log and publish. What is not signed by the board's key, or is an old batch, is passed over and counted."""

    def __init__(self, broker: Broker, roster: Roster, refused: Callable[[str, Refused], None] = lambda name, error: None) -> None:
        """`refused` gets the name of a board and why a batch was passed over that came as its own."""
        self._broker, self._roster, self._refused = broker, roster, refused
        self._counters: dict[tuple[str, str], int] = {}  # the highest, by board and kind
        self._asked: set[str] = set()  # boards whose report was read for their key: it may be newer than what comes

    def follow(self, timeout_s: float, device: str = "+") -> Iterator[tuple[str, LogRecord | Message]]:
        """Log records and messages of devices, as (device, record).

        Messages come in batches, or one by one on whatever topics the caller has subscribed to. Raises BrokerError.
        """
        ours = {topics.log(device), topics.telemetry(device)}
        self._broker.subscribe(*ours)
        for message in self._broker.messages(timeout_s):
            if any(topics.covers(each, message.topic) for each in ours):
                name, kind = message.topic.split("/")[-2:]
                for record in self._batch(name, kind, message.payload):
                    yield name, record
                continue
            found = message_of(message.topic, message.payload, message.about)
            if found and _may_be_of(message.topic, found[0], device):
                yield found

    def _batch(self, name: str, kind: str, payload: bytes) -> Sequence[LogRecord | Message]:
        signers = self._roster.signers
        if not is_name(name):
            return ()
        try:
            if not signers.knows(name) and name not in self._asked and len(self._asked) < MAX_BOARDS:
                self._read_key(name)
            batch: Batch[LogRecord] | Batch[Message]
            read = signers.logs if kind == "log" else signers.messages
            batch = read(name, payload, int(time.time()))
            seen = self._counters.get((name, kind), 0 if name in self._asked else signers.counter(name))
            if batch.counter <= seen:
                raise Refused(Reason.REPORT_REPLAYED, f"it is an old one: it has counter {batch.counter}, and {seen} was seen")
        except Refused as error:
            self._refused(name, error)
            return ()
        self._counters[name, kind] = batch.counter  # of boards whose key is known: they are bounded
        return batch.records

    def _read_key(self, name: str) -> None:
        """The key comes with the board's own report. Raises Refused."""
        self._asked.add(name)
        report = self._broker.retained_one(topics.report(name))
        if report is not None:
            self._roster.signers.report(name, report, int(time.time()))
            self._roster.signers.save()


def _may_be_of(topic: str, name: str, device: str) -> bool:
    """Whether it is of a board that is wanted. Brokers' rules say who writes below which name: no board speaks for another."""
    levels = topic.split("/")
    return device in ("+", name) and (levels[0] != BOARDS or levels[1:2] == [name])


def message_of(topic: str, payload: bytes, properties: Iterable[tuple[str, str]]) -> tuple[str, Message] | None:
    """The board and its module's message, by the user properties that boards give them; None for what somebody else sent."""
    about = dict(properties)
    try:
        number, time_s = int(about["number"]), float(about["time"])
        return about["board"], Message(number, time_s, about["instance"], about["module"], topic, payload)
    except (KeyError, ValueError):
        return None

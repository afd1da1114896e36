"""Measures on a broker what wamr-ota rests on: what it announces, keeps, cuts and delivers.

It writes below ota/v1/check/ only, and cleans up. Every measurement has an end: so many messages, so many seconds. What could not
be measured in them is reported as unknown.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from ota.formats import topics
from ota.formats.chunks import DEFAULT_CHUNK_BYTES
from ota.operator.broker import Broker, BrokerError
from ota.operator.session import FIRST_FAILURE, PACKET_OVERHEAD_BYTES, Incoming, Session, named
from ota.operator.workspace import Settings

__all__ = ["Finding", "Verdict", "check"]

MESSAGES = 2000  # retained at the same time, of PAYLOAD_BYTES each
PAYLOAD_BYTES = 32
ORDER_CLIENTS = 12
OPEN_TOPICS = 400  # asked for at once
QUIET_S = 2.0  # nothing came for so long, and our marker is back: nothing will
STEP_S = 20.0  # for one measurement
TOPIC_BYTES = 120
LEAST_BYTES = 4096  # of a message: a manifest with many capabilities, a full report
VERSION_TOPIC = "$SYS/broker/version"  # of mosquitto and brokers that follow it


class Verdict(Enum):
    """What a finding means."""

    GOOD = "good"
    NOTE = "note"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """One thing that was measured; `advice` says what to change, if anything."""

    what: str
    found: str
    verdict: Verdict = Verdict.GOOD
    advice: str = ""


def check(settings: Settings, progress: Callable[[str], None] = lambda _: None) -> Iterator[Finding]:
    """Measures one thing after the other. Raises BrokerError when there is no MQTT 5 broker, or it refuses us."""
    prefix = f"{topics.PREFIX}/check/{secrets.token_hex(8)}"
    small = [(f"{prefix}/many/{number}", b"%d" % number * (PAYLOAD_BYTES // 4)) for number in range(MESSAGES)]
    progress("limits")
    with _Probe(settings) as probe:
        announced = list(_announced(probe))
        yield from announced
        version = _version(settings)
        yield Finding("software", version or "does not say", Verdict.GOOD if version else Verdict.UNKNOWN)
        progress("rights")
        rights = list(_rights(probe, prefix))
        yield from rights
        if any(each.verdict is Verdict.BAD for each in (*announced, *rights)):
            return  # the rest would fail for that reason
    try:
        progress(f"{MESSAGES} retained messages")
        keeping, topics_a_packet = _keeping(settings, small)
        yield from keeping
        progress("wildcards")
        yield from _wildcards(settings, prefix)
        yield from _dots(settings, prefix)
        progress("windows")
        yield from _windows(settings, [topic for topic, _ in small[:OPEN_TOPICS]], topics_a_packet)
        progress("order")
        yield _order(settings, prefix)
    finally:
        progress("cleaning up")
        with Broker(settings) as broker:
            broker.publish_all([(topic, b"") for topic, _ in small])
    yield _persistence(version)


class _Probe:
    """A connection that is asked one thing after the other."""

    def __init__(self, settings: Settings) -> None:
        self.session = Session(settings)

    def __enter__(self) -> "_Probe":
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def answer(self, mid: int) -> list[str]:
        """The refusals in what the broker answered to a packet; "" for what it granted. Raises BrokerError without an answer."""
        end = time.monotonic() + STEP_S
        while mid not in self.session.answers:
            if time.monotonic() >= end:
                raise BrokerError(f"the broker did not answer in {STEP_S:.0f} s")
            self.session.pump(0.5)
        return [named(each) if each.value >= FIRST_FAILURE else "" for each in self.session.answers.pop(mid)]

    def collect(self, enough: Callable[[list[Incoming]], bool], marker: str) -> list[Incoming]:
        """What comes, until it is enough, or our marker is back and nothing follows it, or time is over."""
        came: list[Incoming] = []
        self.answer(self.session.subscribe([marker]))
        self.session.publish(marker, b"marker", retain=False)
        end, heard, marked = time.monotonic() + STEP_S, time.monotonic(), False
        while time.monotonic() < end and not enough(came) and not (marked and time.monotonic() - heard > QUIET_S):
            if self.session.pump(0.2):
                heard = time.monotonic()
            while self.session.arrived:
                message = self.session.arrived.popleft()
                marked |= message.topic == marker
                came += [message] if message.topic != marker else []
        return came


def _announced(probe: _Probe) -> Iterator[Finding]:
    limits = probe.session.limits
    yield Finding("MQTT 5", "yes")
    yield Finding("round trip", f"{1000 * probe.session.round_trip_s:.1f} ms")
    yield Finding("Receive Maximum", str(limits.receive_maximum))
    size, room = str(limits.maximum_packet_bytes), limits.maximum_packet_bytes - PACKET_OVERHEAD_BYTES - TOPIC_BYTES
    if room < LEAST_BYTES:
        advice = (
            f"allow packets of {DEFAULT_CHUNK_BYTES + PACKET_OVERHEAD_BYTES + TOPIC_BYTES} bytes: manifests and reports need room"
        )
        yield Finding("Maximum Packet Size", size, Verdict.BAD, advice)
    elif room < DEFAULT_CHUNK_BYTES:
        advice = f"publish with --chunk-bytes {1 << (room.bit_length() - 1)}, or allow larger packets"
        yield Finding("Maximum Packet Size", size, Verdict.NOTE, advice)
    else:
        yield Finding("Maximum Packet Size", size)
    yield Finding("Maximum QoS", str(limits.maximum_qos))
    wildcards = "yes" if limits.wildcards else "no"
    yield Finding("wildcards", wildcards, Verdict.GOOD if limits.wildcards else Verdict.NOTE)


def _version(settings: Settings) -> str:
    """What the broker says it is. On a connection of its own: some brokers end one that asks for a topic with $."""
    with contextlib.suppress(BrokerError), _Probe(settings) as probe:
        if probe.answer(probe.session.subscribe([VERSION_TOPIC]))[0]:
            return ""
        end = time.monotonic() + 1 + 2 * probe.session.round_trip_s
        while time.monotonic() < end:
            probe.session.pump(0.1)
            for message in probe.session.arrived:
                if message.topic == VERSION_TOPIC:
                    return message.payload.decode("utf-8", "replace")[:100]
    return ""


def _rights(probe: _Probe, prefix: str) -> Iterator[Finding]:
    """A refusal has a reason code; mosquitto grants a subscription that its rules deny, and delivers nothing."""
    session, topic, where = probe.session, f"{prefix}/rights", f"below {topics.PREFIX}/check"
    if refusal := probe.answer(session.subscribe([topic]))[0]:
        yield Finding("may read", f"no: {refusal}", Verdict.BAD, f"let this user read {topics.PREFIX}/#")
        return
    if refusal := probe.answer(session.publish(topic, b"1", retain=False))[0]:
        yield Finding("may write", f"no: {refusal}", Verdict.BAD, f"let this user write {topics.PREFIX}/#")
        return
    end = time.monotonic() + min(STEP_S, session.patience_s)
    while time.monotonic() < end:
        if any(message.topic == topic for message in session.arrived):
            yield Finding("may read and write", f"yes, {where}")
            return
        session.pump(0.5)
    yield Finding(
        "may read and write",
        f"both were granted {where}, and our message did not come back",
        Verdict.BAD,
        f"the broker's access rules deny what it grants: let this user read and write {topics.PREFIX}/#",
    )


def _keeping(settings: Settings, small: Sequence[tuple[str, bytes]]) -> tuple[list[Finding], int]:
    """What is kept, and how many topics one packet may have."""
    started = time.monotonic()
    with Broker(settings) as broker:
        broker.publish_all(small)
    spent_s = time.monotonic() - started
    findings = [Finding("publishing", f"{len(small) / spent_s:,.0f} messages a second")]
    wanted = dict(small)
    started = time.monotonic()
    with Broker(settings) as broker:
        answers = list(broker.retained(wanted, each_bytes=PAYLOAD_BYTES))
        most = broker.packets.topics
    spent_s = time.monotonic() - started
    kept = sum(each.payload == wanted[each.topic] for each in answers)
    unknown = sum(bool(each.unknown) for each in answers)
    found = f"{kept} of {len(wanted)} by exact topics, {len(wanted) / spent_s:,.0f} a second"
    if unknown:
        findings.append(Finding("retained messages", f"{found}; {unknown} can't be known", Verdict.UNKNOWN))
    elif kept < len(wanted):
        advice = "raise what the broker retains, and the rate at which it does: updates and deployments are retained messages"
        findings.append(Finding("retained messages", found, Verdict.BAD, advice))
    else:
        findings.append(Finding("retained messages", found))
    if most < topics.TOPICS_A_PACKET:
        slower = "boards and operators ask for fewer at a time, which takes longer"
        findings.append(Finding("topics in one SUBSCRIBE", f"{most} are taken, more are refused", Verdict.NOTE, slower))
    else:
        findings.append(Finding("topics in one SUBSCRIBE", f"{most} and more"))
    return findings, most


def _wildcards(settings: Settings, prefix: str) -> Iterator[Finding]:
    with _Probe(settings) as probe:
        if refusal := probe.answer(probe.session.subscribe([f"{prefix}/many/+"]))[0]:
            yield Finding("wildcard reads", f"refused: {refusal}", Verdict.NOTE, "`ota status` needs a roster of devices then")
            return
        came = probe.collect(lambda found: len({each.topic for each in found}) >= MESSAGES, f"{prefix}/marker")
    count = len({each.topic for each in came})
    if count >= MESSAGES:
        yield Finding("wildcard reads", f"all of {MESSAGES}")
    else:
        yield Finding(
            "wildcard reads",
            f"cut at {count} of {MESSAGES}",
            Verdict.NOTE,
            "wamr-ota reads exact topics and is not harmed; mosquitto: raise max_queued_messages; other clients may be cut",
        )


def _dots(settings: Settings, prefix: str) -> Iterator[Finding]:
    """Whether a wildcard brings a name with a dot, where it brings others: some brokers take the dot for the end of a level."""
    names = plain, dotted = f"{prefix}/dots/board-1", f"{prefix}/dots/board.1"
    with Broker(settings) as broker:
        broker.publish_all([(each, b"1") for each in names])
    try:
        with _Probe(settings) as probe:
            if any(probe.answer(probe.session.subscribe([f"{prefix}/dots/+"]))):
                return
            came = {each.topic for each in probe.collect(lambda found: len(found) >= len(names), f"{prefix}/marker")}
    finally:
        with Broker(settings) as broker:
            broker.publish_all([(each, b"") for each in names])
    if dotted in came:
        yield Finding("names with a dot", "found by wildcards")
    elif plain in came:
        advice = "give boards and groups names without dots, or let the broker end levels at / alone (Artemis: wildcard-addresses)"
        yield Finding("names with a dot", "passed over by wildcards, others are found", Verdict.NOTE, advice)


def _windows(settings: Settings, wanted: Sequence[str], most: int) -> Iterator[Finding]:
    """How many of many exact topics arrive when all are asked for at once, and what a subscription costs."""
    with _Probe(settings) as probe:
        started = time.monotonic()
        probe.answer(probe.session.subscribe(list(wanted[:most])))
        spent_s = time.monotonic() - started
        for start in range(most, len(wanted), most):
            probe.session.subscribe(list(wanted[start : start + most]))
        marker = f"{wanted[0].rpartition('/')[0]}-marker"
        came = probe.collect(lambda found: len({each.topic for each in found}) >= len(wanted), marker)
    yield Finding("subscribing", f"{1000 * spent_s / most:.2f} ms a topic")
    count = len({each.topic for each in came})
    if count < len(wanted):
        yield Finding(
            "topics at once", f"{count} of {len(wanted)} arrived on one connection", Verdict.NOTE, "wamr-ota keeps below 100"
        )
    else:
        yield Finding("topics at once", f"all of {len(wanted)}")


def _order(settings: Settings, prefix: str) -> Finding:
    """Whether retained messages come in the order of the filters, for several clients; nothing of ours leans on it."""
    first, second = f"{prefix}/many/0", f"{prefix}/many/1"
    kept = 0
    for _ in range(ORDER_CLIENTS):
        with _Probe(settings) as probe:
            probe.session.subscribe([first, second])
            came = [each.topic for each in probe.collect(lambda found: len(found) >= 2, f"{prefix}/marker")]
        if len(came) < 2:
            return Finding("order of filters", "unknown", Verdict.UNKNOWN)
        kept += came.index(first) < came.index(second)
    found = f"kept for {kept} of {ORDER_CLIENTS} clients" + (", which does no harm" if kept < ORDER_CLIENTS else "")
    return Finding("order of filters", found)


def _persistence(version: str) -> Finding:
    """What only a restart shows."""
    advice = "let the broker keep retained messages on disk, without an expiry of its own"
    if "mosquitto" in version.lower():
        advice = "in mosquitto.conf: persistence true, autosave_interval 60 (its default loses half an hour), max_queued_messages 0"
    return Finding("over a restart", "not measured", Verdict.UNKNOWN, f"{advice}; `ota republish` puts back what is lost")

"""What boards sign, without boards: each name has a key of its own, the same in every test."""

import functools
import itertools
import time
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric import ec

from device_agent.broker.identity import Identity
from ota.formats.cbor import sha256
from ota.formats.report import InstanceReport, LogRecord, Message, Report, decode_messages, encode_logs, encode_messages
from ota.formats.signed_report import INSTANCE_REPORT, LOG, REPORT, TELEMETRY, Statement

_counter = itertools.count(time.time_ns())


@functools.cache
def identity(name: str) -> Identity:
    """The key of a board without a certificate."""
    return Identity(ec.derive_private_key(int.from_bytes(sha256(name.encode())) >> 1, ec.SECP256R1()))


def signed(report: Report | InstanceReport, signer: Identity | None = None) -> bytes:
    """As its board sends it: signed with its key, and with a counter higher than any before unless it has one."""
    counted = report if report.counter else replace(report, counter=next(_counter))
    kind, introduce = (REPORT, True) if isinstance(report, Report) else (INSTANCE_REPORT, False)
    return (signer or identity(report.device)).sign1(counted.to_bytes(), kind, introduce=introduce)


def signed_logs(device: str, records: list[LogRecord], counter: int = 0, signer: Identity | None = None) -> bytes:
    """A batch of log records."""
    return (signer or identity(device)).sign1(encode_logs(device, counter or next(_counter), records), LOG, introduce=False)


def signed_messages(device: str, messages: list[Message], counter: int = 0, signer: Identity | None = None) -> bytes:
    """A batch of messages of modules."""
    payload = encode_messages(device, counter or next(_counter), messages)
    return (signer or identity(device)).sign1(payload, TELEMETRY, introduce=False)


def board_report(data: bytes) -> Report:
    """What a report says, whoever signed it."""
    return Report.from_bytes(Statement.from_bytes(data, REPORT).claimed)


def instance_report(data: bytes) -> InstanceReport:
    """What a report of an instance says, whoever signed it."""
    return InstanceReport.from_bytes(Statement.from_bytes(data, INSTANCE_REPORT).claimed)


def messages(data: bytes) -> list[Message]:
    """What a batch of messages says, whoever signed it."""
    return decode_messages(Statement.from_bytes(data, TELEMETRY).claimed).records

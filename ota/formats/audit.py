"""The audit log: who did what with which key, a line each, chained by hash and signed.

A line is a row (JSON), a tab, and a COSE_Sign1 (base64) over the row's bytes with the key that acted. Each row names the hash of
the line before it, so that a line which was removed, changed or moved is noticed. Lines cut off the end are noticed by what they
were about (`ota.operator.audit`).
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ota.formats.cbor import sha256
from ota.formats.cose import ALGORITHM, TYPE, Sign1, VerifyKey
from ota.formats.fields import malformed
from ota.formats.reasons import Reason, Refused

__all__ = ["AUDIT_TYPE", "LINE_LIMIT_BYTES", "ROLES_OF_ACTIONS", "START", "Row", "encode", "hash_of", "problems", "read_line"]

AUDIT_TYPE = "application/vnd.wamr-ota.audit+json"
LINE_LIMIT_BYTES = 32 * 1024
START = bytes(32).hex()  # what the first row names as the line before it
ROLES_OF_ACTIONS: Mapping[str, str] = {
    "sign-root": "root",
    "sign-manifest": "release",
    "sign-deployment": "deploy",
    "sign-certificate": "ca",
    "rotate-authority": "ca",
    "retire-device": "ca",
    "take-back-device": "ca",
    "forget-device": "ca",
    "trust-device": "ca",
    "make-token": "ca",
    "make-password": "ca",
    "make-group-key": "deploy",
    "remove-group-key": "deploy",
    "hand-out-group-keys": "deploy",
}
_MEMBERS = {"number": int, "time": str, "by": str, "action": str, "about": dict, "before": str}


class Signs(Protocol):
    """What signs a line: `ota.keyring.SigningKey`."""

    def sign1(self, payload: bytes, kind: str | None = None) -> bytes:
        """A COSE_Sign1 over a detached payload."""


@dataclass(frozen=True)
class Row:
    """One act."""

    number: int  # from 1, without gaps
    time: str  # UTC, as 2026-01-31T12:00:00Z, by the clock of the machine
    by: str  # who says the machine that it was: user@host
    action: str  # of ROLES_OF_ACTIONS
    about: Mapping[str, str]
    before: str  # SHA-256 of the line before this one, in hexadecimal digits


def encode(row: Row, key: Signs) -> bytes:
    """The line of a row, with its end."""
    payload = json.dumps(
        {name: getattr(row, name) if name != "about" else dict(row.about) for name in _MEMBERS},
        ensure_ascii=True,
        separators=(", ", ": "),
    ).encode()
    return payload + b"\t" + b64encode(key.sign1(payload, AUDIT_TYPE)) + b"\n"


def hash_of(line: bytes) -> str:
    """What the row after this line names."""
    return sha256(line).hex()


def read_line(line: bytes) -> tuple[Row, Sign1, bytes]:
    """Row, signature and what is signed; not verified. Raises Refused TOO_LARGE, MALFORMED."""
    if len(line) > LINE_LIMIT_BYTES:
        raise Refused(Reason.TOO_LARGE, f"a line of {len(line)} bytes, the limit is {LINE_LIMIT_BYTES}")
    payload, tab, signature = line.removesuffix(b"\n").partition(b"\t")
    try:
        value: Any = json.loads(payload)
        decoded = b64decode(signature, validate=True)
    except (ValueError, RecursionError):
        raise malformed("audit log", "a line that is not JSON, a tab and base64") from None
    if not tab or not isinstance(value, dict) or value.keys() != _MEMBERS.keys():
        raise malformed("audit log", "a row has other members than number, time, by, action, about and before")
    if not all(type(value[name]) is kind for name, kind in _MEMBERS.items()):
        raise malformed("audit log", "a member of a row has another type")
    if not all(isinstance(each, str) for each in value["about"].values()):
        raise malformed("audit log", "what a row is about is not texts by name")
    return Row(**value), Sign1.from_bytes(decoded), payload


def problems(lines: Iterable[bytes], keys: Callable[[str], Iterable[VerifyKey]], seen: list[Row]) -> Iterator[str]:
    """What is wrong with a log, a text each; rows that can be believed are added to `seen`.

    `keys`: those that may sign, or once might, by role.
    """
    before = START
    for number, line in enumerate(lines, 1):
        try:
            row, signature, payload = read_line(line)
            if row.number != number:
                yield f"line {number}: it says that it is line {row.number}: lines were removed, added or moved before it"
            if row.before != before:
                yield f"line {number}: the line before it is another than when it was written"
            _check(row, signature, payload, keys)
            seen.append(row)
        except Refused as error:
            yield f"line {number}: {error}"
        before = hash_of(line)


def _check(row: Row, signature: Sign1, payload: bytes, keys: Callable[[str], Iterable[VerifyKey]]) -> None:
    role = ROLES_OF_ACTIONS.get(row.action)
    if role is None:
        raise malformed("audit log", f"an act {row.action!r} that this version does not know")
    by_id = {each.key_id: each for each in keys(role)}
    key = by_id.get(signature.key_id or b"")
    if key is None or signature.headers.get(TYPE) != AUDIT_TYPE:
        raise Refused(Reason.SIGNER_UNKNOWN, f"{row.action} is not signed with a {role} key of this workspace")
    if ALGORITHM not in signature.headers:
        raise Refused(Reason.SIGNATURE_INVALID, "the algorithm is not protected by the signature")
    signature.verify(key, payload)

"""The workspace's audit log, audit.log: written before what it tells of has an effect (compared by `ota.operator.audit_check`)."""

import contextlib
import fcntl
import getpass
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cryptography import x509

from ota.certificates import UNREADABLE
from ota.durable import sync_folder
from ota.errors import OtaError
from ota.formats.audit import LINE_LIMIT_BYTES, ROLES_OF_ACTIONS, START, Row, Signs, encode, hash_of, problems, read_line
from ota.formats.cbor import sha256
from ota.formats.cose import VerifyKey
from ota.formats.text import printable
from ota.formats.trust import Root
from ota.operator.root_draft import DRAFT
from ota.operator.signing import Signable, read_file
from ota.operator.workspace import Workspace

__all__ = ["ACTIONS", "FILE", "Audit", "AuditError", "authorities"]

FILE = "audit.log"
ABOUT_CHARACTERS = 400
ACTIONS = {"root": "sign-root", "deploy": "sign-deployment", "release": "sign-manifest"}  # by who signs


class AuditError(OtaError):
    """The log can't be written or read."""


class Audit:
    """The log of one workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.path: Path = workspace.folder / FILE

    def record(self, action: str, key: Signs, now_s: int, about: Mapping[str, str]) -> None:
        """Adds a row, durably, before the act. `action`: of `ota.formats.audit.ROLES_OF_ACTIONS`. Raises AuditError."""
        assert action in ROLES_OF_ACTIONS, "the role that may do it is in the table"
        texts = {name: printable(text)[:ABOUT_CHARACTERS] for name, text in about.items()}
        try:
            new = not self.path.exists()
            with self.path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                number, before = _last(file.fileno())
                row = Row(number + 1, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s)), _actor(), action, texts, before)
                file.write(encode(row, key))
                file.flush()
                os.fsync(file.fileno())
            if new:
                sync_folder(self.path.parent)
        except OSError as error:
            raise AuditError(f"{self.path}: {error.strerror}: nothing is done that the log does not tell") from error

    def signed(self, document: bytes, key: Signs, now_s: int) -> None:
        """Adds the row of a root, deployment or manifest that has been signed with a key, before anybody gets it.

        Raises AuditError.
        """
        found = Signable.from_bytes(document)
        self.record(ACTIONS[found.role], key, now_s, {"what": found.label, "digest": sha256(found.payload).hex()})

    def rows(self) -> Iterator[Row]:
        """Every row, without a check. Raises AuditError, Refused."""
        for line in self.lines():
            yield read_line(line)[0]

    def problems(self, seen: list[Row]) -> Iterator[str]:
        """What is wrong with lines, a text each; the rows that can be believed are added to `seen`. Raises AuditError."""
        yield from problems(self.lines(), self._keys, seen)

    def lines(self) -> Iterator[bytes]:
        """Each line as it is, without a check. Raises AuditError."""
        try:
            with self.path.open("rb") as file:
                while line := file.readline(LINE_LIMIT_BYTES + 2):
                    if not line.endswith(b"\n") and len(line) <= LINE_LIMIT_BYTES:
                        return  # cut off by a lost power: nothing was done then
                    yield line
        except FileNotFoundError:
            return
        except OSError as error:
            raise AuditError(f"{self.path}: {error.strerror}") from error

    def _keys(self, role: str) -> Iterable[VerifyKey]:
        if role == "ca":
            yield from (VerifyKey(each.public_key()) for each in authorities(self._workspace))
            return
        for root in self._workspace.roots():
            yield from root.roles[role].keys.values()
        draft = self._workspace.folder / DRAFT
        if role == "root" and draft.exists():  # a key that only the next root has signs that root, and nothing else
            with contextlib.suppress(OtaError):
                found = read_file(draft).content
                yield from found.roles[role].keys.values() if isinstance(found, Root) else ()


def authorities(workspace: Workspace) -> Iterator[x509.Certificate]:
    """Every authority that there ever was. Raises AuditError."""
    for path in sorted((workspace.folder / "trust").glob("ca*.pem")):
        try:
            yield from x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, *UNREADABLE) as error:
            raise AuditError(f"{path} can't be read: {error}") from error


def _last(file: int) -> tuple[int, str]:
    """Number and hash of the last line; a line that lost power cut off is removed, because what it tells was not done."""
    size = os.fstat(file).st_size
    start = max(0, size - 2 * LINE_LIMIT_BYTES)
    tail = os.pread(file, size - start, start)
    whole = tail[: tail.rfind(b"\n") + 1]
    if len(whole) < len(tail):
        os.ftruncate(file, start + len(whole))
    if not whole:
        return 0, START
    line = whole[whole.rfind(b"\n", 0, -1) + 1 :]
    return read_line(line)[0].number, hash_of(line)


def _actor() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # no such user in the system's list
        user = str(os.getuid())
    return printable(f"{user}@{socket.gethostname()}")[:128]

"""The workspace's audit log, audit.log: written before what it tells of has an effect, and compared with what there is.

Whoever can write to the folder can cut lines off the end. So each root document, deployment, update, certificate, later authority
and retired device of the workspace is looked for in the log: who did what has no line removed the line, or had the key elsewhere.
"""

import contextlib
import fcntl
import getpass
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ota.durable import sync_folder
from ota.errors import OtaError
from ota.formats.audit import LINE_LIMIT_BYTES, ROLES_OF_ACTIONS, START, Row, Signs, encode, hash_of, problems, read_line
from ota.formats.cbor import sha256
from ota.formats.cose import VerifyKey
from ota.formats.text import printable
from ota.formats.trust import Root
from ota.operator import issued
from ota.operator.ledger import Ledger
from ota.operator.root_draft import DRAFT
from ota.operator.signing import Signable, read_file
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace

__all__ = ["FILE", "Audit", "AuditError"]

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

    def problems(self) -> Iterator[str]:
        """What is wrong, a text each: with lines, and with what there is and has no line. Raises AuditError."""
        seen: list[Row] = []
        yield from problems(self.lines(), self._keys, seen)
        told = {(row.action, row.about.get("digest", "")) for row in seen}  # a thief of one role's key tells of no other's acts
        for action, what, digest in self._present():
            if (action, digest) not in told:
                yield f"{what} ({digest[:16]}) has no line: the line was removed, or it was signed elsewhere"
        retired = {row.about.get("device", "") for row in seen if row.action == "retire-device"}
        for device in sorted(issued.retired(self._workspace).keys() - retired):
            yield f"the end of device {device} has no line: the line was removed, or it was retired elsewhere"
        made = {row.about.get("next", "") for row in seen if row.action == "rotate-authority"}
        names = {each.subject.rfc4514_string(): each for each in self._authorities()}
        for name in sorted(name for name, each in names.items() if issued.authority_number(each) > 1 and name not in made):
            yield f"the authority {name} has no line: the line was removed, or it was made elsewhere"

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
            yield from (VerifyKey(each.public_key()) for each in self._authorities())
            return
        for root in self._workspace.roots():
            yield from root.roles[role].keys.values()
        draft = self._workspace.folder / DRAFT
        if role == "root" and draft.exists():  # a key that only the next root has signs that root, and nothing else
            with contextlib.suppress(OtaError):
                found = read_file(draft).content
                yield from found.roles[role].keys.values() if isinstance(found, Root) else ()

    def _authorities(self) -> Iterator[x509.Certificate]:
        for path in sorted((self._workspace.folder / "trust").glob("ca*.pem")):
            try:
                yield from x509.load_pem_x509_certificates(path.read_bytes())
            except (OSError, ValueError) as error:
                raise AuditError(f"{path} can't be read: {error}") from error

    def _present(self) -> Iterator[tuple[str, str, str]]:
        documents = [each for number, each in self._workspace.root_documents().items() if number > 1]  # the first: by `ota init`
        documents += [record.document for record in Ledger(self._workspace).records()]
        kept = Updates(self._workspace)
        for each in kept.all():
            with contextlib.suppress(OtaError):  # `ota publish` says it when it needs one that is damaged
                documents.append(kept.load(each.digest).envelope)
        for found in map(Signable.from_bytes, documents):
            yield ACTIONS[found.role], found.label, sha256(found.payload).hex()
        for path in sorted((self._workspace.folder / "devices").glob("*.pem")):
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            digest = sha256(certificate.public_bytes(Encoding.DER)).hex()
            yield "sign-certificate", f"the certificate of {path.stem}", digest


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

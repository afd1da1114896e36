"""What a broker holds of a workspace, in another place: a bundle, or an archive of folders or of what fsspec reaches.

The messages are the same, and their names are the topics below `ota/v1/`. An archive grows: what is named by its digest is written
once, and of a deployment the newest is kept. An archive has the bills of materials, too, as sbom/DIGEST: boards do not need them.
"""

import contextlib
import importlib
import os
import re
import secrets
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ota.durable import write_durably
from ota.errors import OtaError
from ota.formats import bundle, topics
from ota.formats.bundle import BUNDLE_LIMIT_BYTES, read_contents
from ota.formats.cbor import sha256
from ota.formats.deployment import Deployment, claimed
from ota.formats.reasons import Reason, Refused, naming
from ota.formats.trust import first_root
from ota.operator.ledger import Ledger
from ota.operator.publish import artifacts, roots
from ota.operator.retire import CRL_FILE
from ota.operator.scope import Scope
from ota.operator.survey import is_current, verify_ours
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace

__all__ = ["Archive", "Archived", "BundleFile", "Holdings", "archive", "bill_topic", "documents", "open_holdings", "pack"]

_BILL = re.compile(rf"{topics.PREFIX}/sbom/[0-9a-f]{{64}}")
Message = tuple[str, Callable[[], bytes]]
MEMBER_LIMIT_BYTES = 4 << 20  # the largest member is an index


class Holdings(Protocol):
    """A place that holds messages."""

    def read(self, topic: str) -> bytes | None:
        """The message of a topic, None when it is not there. Raises OtaError."""

    def topics(self) -> Iterable[str]:
        """Everything that is there. Raises OtaError."""


class BundleFile:
    """A bundle."""

    def __init__(self, path: Path) -> None:
        """Raises Refused as `ota.formats.bundle.read_contents`, OSError."""
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        with naming(path):
            self._contents = read_contents(self._at, os.fstat(self._file).st_size)

    def _at(self, offset: int, size: int) -> bytes:
        return os.pread(self._file, size, offset)

    def read(self, topic: str) -> bytes | None:
        """As `Holdings` has it."""
        span = self._contents.find(topic)
        return self._at(span.offset, span.size) if span is not None else None

    def topics(self) -> Iterable[str]:
        """As `Holdings` has it."""
        return self._contents.topics()


class Archive:
    """A folder, or a URL that fsspec knows, such as s3://bucket/folder."""

    def __init__(self, place: str) -> None:
        """Raises OtaError where fsspec, or what it needs for the URL, is not installed."""
        self.place = place
        self._system: Any = None
        self._root = place
        if "://" in place:
            try:
                self._system, self._root = importlib.import_module("fsspec").url_to_fs(place)
            except (ImportError, ValueError) as error:
                raise OtaError(f"{place}: {error}: pip install 'wamr-ota[archive]', and s3fs for s3://") from error

    def read(self, topic: str) -> bytes | None:
        """As `Holdings` has it."""
        path = self._path(topic)
        try:
            if self._system is not None:
                found = bytes(self._system.cat_file(path, end=MEMBER_LIMIT_BYTES + 1))
            else:
                with Path(path).open("rb") as file:
                    found = file.read(MEMBER_LIMIT_BYTES + 1)
        except FileNotFoundError:
            return None
        if len(found) > MEMBER_LIMIT_BYTES:
            raise Refused(Reason.TOO_LARGE, f"{path} has more than {MEMBER_LIMIT_BYTES} bytes")
        return found

    def holds(self, topic: str, payload: bytes) -> bool:
        """Whether the message of a topic is there as it should be."""
        with contextlib.suppress(Refused):
            return self.read(topic) == payload
        return False

    def topics(self) -> Iterable[str]:
        """As `Holdings` has it."""
        if self._system is not None:
            paths = [str(each).removeprefix(f"{self._root}/") for each in self._system.find(self._root)]
        else:
            paths = [str(each.relative_to(self._root)) for each in Path(self._root).rglob("*") if each.is_file()]
        found = [each for each in (f"{topics.PREFIX}/{path}" for path in paths) if bundle.is_member(each) or _BILL.fullmatch(each)]
        return sorted(found, key=lambda each: bundle.order(each) or (9, ()))

    def write(self, topic: str, payload: bytes) -> None:
        """Whole or not at all: under another name, read back, and moved. Raises OtaError where it is not kept as it is."""
        path = self._path(topic)
        if self._system is not None:
            folder, _, name = path.rpartition("/")
            part = f"{folder}/.{name}.{secrets.token_hex(4)}.part"
            self._system.makedirs(folder, exist_ok=True)
            try:
                self._system.pipe_file(part, payload)
                if self._system.cat_file(part) != payload:
                    raise OtaError(f"{part} does not hold what was written to it: is {self.place} damaged, or full?")
                self._move(part, path)
            except BaseException:
                with contextlib.suppress(Exception):  # the first error is the one to tell
                    self._system.rm_file(part)
                raise
        else:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_durably(Path(path), payload)

    def _move(self, part: str, path: str) -> None:
        try:
            self._system.mv(part, path)
        except OSError:  # some servers move onto no file that is there
            if not self._system.exists(path):
                raise
            self._system.rm_file(path)
            self._system.mv(part, path)
        self._system.invalidate_cache()

    def _path(self, topic: str) -> str:
        return f"{self._root}/{topic.removeprefix(f'{topics.PREFIX}/')}"


def open_holdings(place: str) -> Holdings:
    """A bundle where it is a file, else an archive. Raises OtaError where there is nothing."""
    if "://" not in place and not Path(place).exists():
        raise OtaError(f"{place} is not there: name a bundle, an archive's folder, or a URL")
    return BundleFile(Path(place)) if "://" not in place and Path(place).is_file() else Archive(place)


def documents(workspace: Workspace, scopes: Iterable[Scope]) -> dict[Scope, tuple[Deployment, bytes]]:
    """The deployments of these groups and devices that boards take. Raises OtaError for one that they would not."""
    found = {}
    for scope in scopes:
        record = Ledger(workspace).record(scope)
        if record is None:
            raise OtaError(f"this workspace never published to {scope}")
        if not is_current(workspace, record.document, scope):
            raise OtaError(f"the deployment of {scope} is signed with a key that was replaced: publish to it again")
        found[scope] = verify_ours(workspace, record.document, scope), record.document
    return found


def pack(workspace: Workspace, scopes: Iterable[Scope], out: Path) -> int:
    """Writes a bundle of everything that boards of these groups and devices need; returns its size in bytes.

    Raises OtaError for an update that is not kept here, for a bundle that would be larger than boards take, and for a folder.
    """
    if out.is_dir():
        raise OtaError(f"{out} is a folder: name the file")
    found = documents(workspace, scopes)
    digests = {entry.manifest_digest for deployment, _ in found.values() for entry in deployment.entries.values()} - {b""}
    messages = [
        *_plain(roots(workspace)),
        *_plain(_revoked(workspace)),
        *_plain((scope.topic, document) for scope, (_, document) in found.items()),
    ]
    for digest in digests:
        messages += _of_update(workspace, digest)
    ordered = sorted(dict(messages).items(), key=lambda each: bundle.order(each[0]) or (9, ()))
    part = out.with_name(f".{out.name}.part")
    try:
        with part.open("wb") as file:
            size = bundle.pack(ordered, file.write)
            file.flush()
            os.fsync(file.fileno())
        if size > BUNDLE_LIMIT_BYTES:
            raise Refused(Reason.TOO_LARGE, f"the bundle is {size} bytes, the limit is {BUNDLE_LIMIT_BYTES}: pack fewer groups")
        BundleFile(part)  # as boards will
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return size


class Archived(NamedTuple):
    """How many messages of an archive are new, were there, and were there damaged."""

    new: int
    there: int
    repaired: int


def archive(workspace: Workspace, place: Archive, progress: Callable[[int, int], None] = lambda _, __: None) -> Archived:
    """Adds what this workspace published: roots, deployments, all updates that it keeps.

    What is there is read, and written anew where it is not what it was. `progress` gets how many of how many updates are done.
    Raises OtaError, and what the place raises.
    """
    kept, new, there, repaired = Updates(workspace).all(), 0, 0, 0
    for topic, document in _archived(workspace, place):
        if document is None:
            there += 1
        else:
            place.write(topic, document)
            new += 1
    present = set(place.topics())
    for number, each in enumerate(kept):
        for topic, content in (
            *_bill(workspace, each.digest),
            *_of_update(workspace, each.digest),
        ):  # the manifest comes last: with it the update is whole
            payload = content()
            if topic not in present:
                place.write(topic, payload)
                new += 1
            elif place.holds(topic, payload):
                there += 1
            else:
                place.write(topic, payload)
                repaired += 1
        progress(number + 1, len(kept))
    return Archived(new, there, repaired)


def _archived(workspace: Workspace, place: Archive) -> Iterator[tuple[str, bytes | None]]:
    """Roots and deployments, None for those that are there. Raises OtaError for another workspace's place, or a newer copy's."""
    for topic, document in _revoked(workspace):
        yield topic, None if place.read(topic) == document else document
    for topic, document in roots(workspace):
        known = place.read(topic)
        if known not in (None, document) and _is_root(known):
            raise OtaError(f"{place.place} is another workspace's archive: its {topic} is not this one's")
        yield topic, None if known == document else document
    for record in Ledger(workspace).records():
        known, topic = place.read(record.scope.topic), record.scope.topic
        ours, theirs = claimed(record.document), claimed(known) if known is not None else None
        if ours is not None and theirs is not None and theirs.epoch > ours.epoch:
            raise OtaError(
                f"{place.place} has a newer deployment of {record.scope} (epoch {theirs.epoch}, here {ours.epoch}): is this an old"
                " copy of the workspace? `ota republish --from` takes it from there"
            )
        yield topic, None if known == record.document else record.document


def _is_root(document: bytes) -> bool:
    """Whether it verifies by itself; else it is damaged, and to be repaired."""
    with contextlib.suppress(Refused):
        return bool(first_root(document))
    return False


def _revoked(workspace: Workspace) -> list[tuple[str, bytes]]:
    """The list of certificates that were revoked before their time, for brokers; nothing where there is none."""
    file = workspace.folder / "trust" / CRL_FILE
    return [(f"{topics.PREFIX}/{bundle.CRL}", file.read_bytes())] if file.exists() else []


def bill_topic(digest: bytes) -> str:
    """What a bill of materials is called in an archive."""
    return f"{topics.PREFIX}/sbom/{digest.hex()}"


def _bill(workspace: Workspace, digest: bytes) -> Iterator[Message]:
    """The bill of materials of an update that has one."""
    bill = Updates(workspace).load(digest).sbom
    if bill:
        yield from _plain([(bill_topic(sha256(bill)), bill)])


def _of_update(workspace: Workspace, digest: bytes) -> Iterator[Message]:
    """Everything of one update."""
    yield from _plain(artifacts(Updates(workspace).load(digest)))


def _plain(messages: Iterable[tuple[str, bytes]]) -> Iterator[Message]:
    for topic, payload in messages:
        yield topic, lambda payload=payload: payload  # type: ignore[misc]

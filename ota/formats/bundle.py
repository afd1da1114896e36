"""A bundle: an update as one file, and what a board says of it as another. Both hold what a broker would hold.

A bundle is an uncompressed POSIX tar file. Its members are regular files that are named like topics below `ota/v1/`:

root/N                             the chain of root documents, without a gap
group/G/desired, device/D/desired  deployments
manifest/H                         SUIT envelopes, by digest
blob/H/index, blob/H/0, …          blobs in chunks, by digest
crl                                certificates that were revoked before their time

in this order, and in no other. A file of reports has the members `device/D/report` and `device/D/instance/I/report`.
Nothing is believed because it lies in a bundle: each member is verified like the same message of a broker.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ota.formats import topics
from ota.formats.chunks import CHUNK_MAX_BYTES, CHUNK_MIN_BYTES, INDEX_LIMIT_BYTES
from ota.formats.deployment import DEPLOYMENT_LIMIT_BYTES
from ota.formats.fields import is_name
from ota.formats.manifest import MANIFEST_LIMIT_BYTES
from ota.formats.reasons import Reason, Refused
from ota.formats.report import REPORT_LIMIT_BYTES
from ota.formats.trust import ROOT_LIMIT_BYTES

__all__ = [
    "BUNDLE_LIMIT_BYTES",
    "CRL",
    "SUFFIX",
    "Contents",
    "is_member",
    "order",
    "pack",
    "pack_reports",
    "read_contents",
    "read_reports",
]

SUFFIX = ".bundle"
BUNDLE_LIMIT_BYTES = 1 << 30
MEMBERS_LIMIT = 4096  # the chunks of a blob, which lie side by side, count as one
CRL_LIMIT_BYTES = 1 << 20
CRL = "crl"
BLOCK = 512
_RECORD = 20 * BLOCK  # tar(1) fills up to a multiple of it
_NAME, _DIGEST = r"([A-Za-z0-9._-]{1,64})", r"([0-9a-f]{64})"


@dataclass(frozen=True)
class _Kind:
    """Members of a kind. Their order among themselves is that of their names, numbers by value."""

    pattern: re.Pattern[str]
    limit_bytes: int
    counted: bool = False  # whether what is short in its names is a number


# In the order of a bundle. An index sorts before the chunks of its blob, since it has no number.
_OF_BUNDLE = (
    _Kind(re.compile(r"root/([1-9][0-9]{0,8})"), ROOT_LIMIT_BYTES, counted=True),
    _Kind(re.compile(rf"group/{_NAME}/desired"), DEPLOYMENT_LIMIT_BYTES),
    _Kind(re.compile(rf"device/{_NAME}/desired"), DEPLOYMENT_LIMIT_BYTES),
    _Kind(re.compile(rf"manifest/{_DIGEST}"), MANIFEST_LIMIT_BYTES),
    _Kind(re.compile(rf"blob/{_DIGEST}/(?:index|(0|[1-9][0-9]{{0,5}}))"), INDEX_LIMIT_BYTES, counted=True),
    _Kind(re.compile(CRL), CRL_LIMIT_BYTES),
)
_OF_REPORTS = (
    _Kind(re.compile(rf"device/{_NAME}/report"), REPORT_LIMIT_BYTES),
    _Kind(re.compile(rf"device/{_NAME}/instance/{_NAME}/report"), REPORT_LIMIT_BYTES),
)
Order = tuple[int, tuple[tuple[int, str], ...]]


@dataclass(frozen=True)
class Span:
    """Where the content of a member lies in the file."""

    offset: int
    size: int


@dataclass
class _Chunks:
    """The chunks of one blob, side by side: all have the same size, but for the last."""

    first: Span
    count: int
    last_bytes: int

    def find(self, number: int) -> Span | None:
        if not 0 <= number < self.count:
            return None
        size = self.first.size if number < self.count - 1 else self.last_bytes
        return Span(self.first.offset + number * (BLOCK + _whole(self.first.size)), size)

    def add(self, number: int, span: Span) -> bool:
        """Whether it follows those that are there."""
        if number != self.count or not 0 < span.size <= self.first.size or self.last_bytes != self.first.size:
            return False
        self.count, self.last_bytes = self.count + 1, span.size
        return self.first.size >= CHUNK_MIN_BYTES


@dataclass
class Contents:
    """What a bundle holds, by topic; where it lies, not what it is."""

    _spans: dict[str, Span] = field(default_factory=dict)
    _chunks: dict[str, _Chunks] = field(default_factory=dict)  # by the blob's digest in digits
    roots: list[int] = field(default_factory=list)

    def find(self, topic: str) -> Span | None:
        """Where the message of a topic lies; None when it is not there."""
        name = topic.removeprefix(f"{topics.PREFIX}/")
        if name == topic:
            return None
        if name in self._spans:
            return self._spans[name]
        found = re.fullmatch(rf"blob/{_DIGEST}/([0-9]{{1,6}})", name)
        chunks = self._chunks.get(found[1]) if found is not None else None
        return chunks.find(int(found[2])) if chunks is not None and found is not None else None

    def topics(self) -> Iterator[str]:
        """Everything that is there, in order."""
        for name in self._spans:
            yield f"{topics.PREFIX}/{name}"
            blob = name.removeprefix("blob/").removesuffix("/index")
            if blob in self._chunks:
                for number in range(self._chunks[blob].count):
                    yield f"{topics.PREFIX}/blob/{blob}/{number}"

    def _add(self, name: str, span: Span) -> None:
        kind, _, rest = name.partition("/")
        blob, _, number = rest.partition("/")
        if kind == "root":
            if self.roots and int(rest) != self.roots[-1] + 1:
                raise Refused(Reason.ROOT_NOT_NEXT, f"the bundle has root {rest} behind root {self.roots[-1]}")
            self.roots.append(int(rest))
        if kind != "blob" or number == "index":
            if len(self._spans) >= MEMBERS_LIMIT:
                raise Refused(Reason.TOO_LARGE, f"the bundle has more than {MEMBERS_LIMIT} members beside chunks")
            self._spans[name] = span
            return
        if span.size > CHUNK_MAX_BYTES:
            raise Refused(Reason.TOO_LARGE, f"{name} is {span.size} bytes, the limit is {CHUNK_MAX_BYTES}")
        if number == "0" and f"blob/{blob}/index" in self._spans and span.size:
            self._chunks[blob] = _Chunks(span, 1, span.size)
        elif blob not in self._chunks or not self._chunks[blob].add(int(number), span):
            raise _invalid(f"{name} is not the next chunk of its blob")


def read_contents(read: Callable[[int, int], bytes], size: int) -> Contents:
    """What a bundle of `size` bytes holds. `read` gives at most so many bytes at an offset. Contents are not looked at.

    Raises Refused TOO_LARGE, BUNDLE_TRUNCATED, BUNDLE_INVALID, ROOT_NOT_NEXT, before it has read more than headers, or kept more
    than MEMBERS_LIMIT entries; and what `read` raises.
    """
    contents = Contents()
    for name, span in _members(read, size, _OF_BUNDLE):
        contents._add(name, span)
    if not contents._spans:
        raise _invalid("it is empty")
    return contents


def read_reports(data: bytes) -> list[tuple[str, bytes]]:
    """Topics and messages of a file of reports. Raises Refused as `read_contents`."""
    found = list(_members(lambda offset, count: data[offset : offset + count], len(data), _OF_REPORTS))
    return [(f"{topics.PREFIX}/{name}", data[span.offset : span.offset + span.size]) for name, span in found]


def is_member(topic: str) -> bool:
    """Whether a message of this topic belongs into a bundle."""
    return order(topic) is not None


def order(topic: str) -> Order | None:
    """What a bundle's members are ordered by; None for a topic that is none of them."""
    name = topic.removeprefix(f"{topics.PREFIX}/")
    return _order(name, _OF_BUNDLE) if name != topic else None


def pack(messages: Iterable[tuple[str, Callable[[], bytes]]], write: Callable[[bytes], object]) -> int:
    """Writes a tar file of these messages, by topic, in the order that they are given; returns its size.

    Each content is asked for when its turn comes. The same messages give the same bytes.
    """
    import tarfile  # nearly a megabyte, which a board without bundles need not have

    size = 0
    for topic, content in messages:
        payload = content()
        entry = tarfile.TarInfo(topic.removeprefix(f"{topics.PREFIX}/"))
        entry.size, entry.mode = len(payload), 0o644
        whole = entry.tobuf(tarfile.USTAR_FORMAT) + payload + bytes(_whole(len(payload)) - len(payload))
        write(whole)
        size += len(whole)
    write(bytes(2 * BLOCK))
    return size + 2 * BLOCK


def pack_reports(messages: Iterable[tuple[str, bytes]]) -> bytes:
    """A file of reports."""
    made = io.BytesIO()
    ordered = sorted(messages, key=lambda each: _order(each[0].removeprefix(f"{topics.PREFIX}/"), _OF_REPORTS) or (9, ()))
    pack(((topic, lambda payload=payload: payload) for topic, payload in ordered), made.write)  # type: ignore[misc]
    return made.getvalue()


def _strange(name: str, kinds: tuple[_Kind, ...]) -> Refused:
    """A bundle where reports are expected is told as such, and the other way round."""
    expected, other = ("reports", "updates") if kinds is _OF_REPORTS else ("updates", "reports")
    if _order(name, _OF_BUNDLE if kinds is _OF_REPORTS else _OF_REPORTS) is None:
        return _invalid(f"{name!r} is not a member of a bundle")
    return Refused(Reason.BUNDLE_INVALID, f"the file holds {other}, and {expected} are expected: {name!r} is in it")


def _members(read: Callable[[int, int], bytes], size: int, kinds: tuple[_Kind, ...]) -> Iterator[tuple[str, Span]]:
    if size > BUNDLE_LIMIT_BYTES:
        raise Refused(Reason.TOO_LARGE, f"the bundle is {size} bytes, the limit is {BUNDLE_LIMIT_BYTES}")
    offset, last = 0, None
    while (header := _header(read, offset, size)) is not None:
        name, length = header
        place = _order(name, kinds)
        if place is None:
            raise _strange(name, kinds)
        if last is not None and place <= last:
            raise _invalid(f"{name} is there twice, or out of order")
        limit = kinds[place[0]].limit_bytes
        if length > limit:
            raise Refused(Reason.TOO_LARGE, f"{name} is {length} bytes, the limit is {limit}")
        offset, last = offset + BLOCK, place
        yield name, Span(offset, length)
        offset += _whole(length)
    _check_end(read, offset, size)


def _header(read: Callable[[int, int], bytes], offset: int, size: int) -> tuple[str, int] | None:
    """Name and size of the member whose header lies there; None at the end of the archive."""
    import tarfile

    block = read(offset, BLOCK)
    if len(block) < BLOCK:
        raise _truncated(f"it has {size} bytes, and no end")
    if not any(block):
        return None
    try:
        entry = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise _invalid(f"no header of a tar file at byte {offset}: {error}") from error
    if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or entry.linkname or entry.size < 0:
        raise _invalid(f"{entry.name!r} is not a regular file: only these are members of a bundle")
    if entry.size > size - offset - BLOCK:
        raise _truncated(f"{entry.name!r} has {entry.size} bytes, {size - offset - BLOCK} are there")
    return entry.name, entry.size


def _check_end(read: Callable[[int, int], bytes], offset: int, size: int) -> None:
    """Two blocks of zeros, and what tar(1) fills its last record with."""
    rest = read(offset, 2 * _RECORD)
    if len(rest) < 2 * BLOCK:
        raise _truncated(f"it has {size} bytes, and no end")
    if any(rest) or size - offset > len(rest):
        raise _invalid(f"something follows its end at byte {offset}")


def _order(name: str, kinds: tuple[_Kind, ...]) -> Order | None:
    for rank, kind in enumerate(kinds):
        found = kind.pattern.fullmatch(name)
        if found is not None:
            parts = [each for each in found.groups() if each is not None]
            if not all(is_name(each) for each in parts):
                return None
            return rank, tuple((int(each), "") if kind.counted and len(each) < 10 else (0, each) for each in parts)
    return None


def _whole(size: int) -> int:
    """With what fills its last block."""
    return -(-size // BLOCK) * BLOCK


def _invalid(detail: str) -> Refused:
    return Refused(Reason.BUNDLE_INVALID, f"the file is no bundle: {detail}")


def _truncated(detail: str) -> Refused:
    return Refused(Reason.BUNDLE_TRUNCATED, f"the bundle is cut off: {detail}")

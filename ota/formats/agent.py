"""An agent as an update: what its manifest says, and which boards can run it.

The component "a" is a tarball, one file (boards/tarball.py): an agent for one architecture, with WAMR in it. Its class has the
platform in the place of an architecture and the launcher's protocol in the place of a contract, so that a board refuses what it
cannot run before it fetches it. A tarball for "at least" a version of Python or of the C library is of one class; a board belongs
to the classes of all versions up to its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from ota.formats import cbor, suit
from ota.formats.classes import class_id
from ota.formats.fields import NAME_CHARACTERS, NON_CRITICAL, Fields, Unknown, malformed
from ota.formats.profile import Profile
from ota.formats.provenance import Kind
from ota.formats.reasons import Reason, Refused

__all__ = ["ABI", "ARCHITECTURES", "NAME", "AgentDescription", "AgentManifest", "Host", "Platform", "check_schema"]

NAME = "agent"
ABI = "wamr-ota:launcher@1"
"""What launcher (boards/onboard/launch) and agent expect of each other. The air does not replace a launcher: flashing does."""
ARCHITECTURES = ("x86_64", "aarch64", "armv7", "riscv64")
DESCRIPTION_LIMIT_BYTES = 4096
UNPACKED_LIMIT_BYTES = 256 << 20
LEAST_PYTHON, LEAST_GLIBC = 11, 17  # of 3.x, of 2.x
_NAME_CHARACTERS = NAME_CHARACTERS | {"+"}


@dataclass(frozen=True)
class Platform:
    """What a tarball needs of a board."""

    architecture: str  # one of ARCHITECTURES
    python: str  # "py311": 3.11 or newer; "cp313": 3.13 and no other
    libc: str  # "glibc-2.17": 2.17 or newer

    @property
    def text(self) -> str:
        """As it stands in the class."""
        return f"{self.architecture}, {self.python}, {self.libc}"

    @classmethod
    def parse(cls, values: Iterable[Any], what: str) -> "Platform":
        """From architecture, Python and libc. Raises Refused MALFORMED."""
        found = tuple(values)
        if len(found) != 3 or not all(isinstance(each, str) and 0 < len(each) <= 32 for each in found):
            raise malformed(what, "the platform is not an architecture, a Python and a C library")
        architecture, python, libc = found
        if architecture not in ARCHITECTURES or not NAME_CHARACTERS.issuperset(python + libc):
            raise malformed(what, f"no platform of ours: {', '.join(found)}")
        return cls(architecture, python, libc)


@dataclass(frozen=True)
class Host:
    """What a board has: its architecture, the minor versions of Python 3 and glibc 2; 0 for a C library that is none."""

    architecture: str
    python: int
    glibc: int

    @property
    def text(self) -> str:
        """For people."""
        libc = f"glibc 2.{self.glibc}" if self.glibc else "another C library than glibc"
        return f"{self.architecture}, Python 3.{self.python}, {libc}"

    def platforms(self) -> tuple[Platform, ...]:
        """Every platform whose tarballs run here."""
        pythons = [f"py3{minor}" for minor in range(LEAST_PYTHON, self.python + 1)] + [f"cp3{self.python}"]
        libcs = [f"glibc-2.{minor}" for minor in range(LEAST_GLIBC, self.glibc + 1)]
        return tuple(Platform(self.architecture, python, libc) for python in pythons for libc in libcs)

    def classes(self, vendor: bytes, boards: Iterable[str]) -> frozenset[bytes]:
        """The class identifiers of agents for this board, which belongs to these classes of boards."""
        return frozenset(class_id(vendor, board, each.text, ABI) for board in boards for each in self.platforms())


@dataclass(frozen=True)
class AgentDescription:
    """What an agent is; the arguments of SUIT's invoke. A tarball has the same in its file agent.json."""

    version: str  # what its reports will call it: the version of the wheel, and a hash of the content
    platform: Platform
    schema: int  # of the database that it writes
    reads: int  # the oldest schema that it opens
    readable_by: int  # the oldest schema whose agents still open what it writes
    unpacked_bytes: int
    security_epoch: int = 0
    board: str = ""  # what the class of boards that the manifest names is called, for people
    kind: Kind = Kind.UNSPECIFIED

    _VERSION, _PLATFORM, _SCHEMA, _READS, _READABLE, _UNPACKED, _EPOCH = range(1, 8)
    _BOARD, _KIND = NON_CRITICAL, NON_CRITICAL + 1

    def to_bytes(self) -> bytes:
        """Encoded."""
        members: dict[int, Any] = {
            self._VERSION: self.version,
            self._PLATFORM: [self.platform.architecture, self.platform.python, self.platform.libc],
            self._SCHEMA: self.schema,
            self._READS: self.reads,
            self._READABLE: self.readable_by,
            self._UNPACKED: self.unpacked_bytes,
        }
        rest = {self._EPOCH: self.security_epoch, self._BOARD: self.board, self._KIND: self.kind.value}
        return cbor.encode(members | {key: value for key, value in rest.items() if value})

    @classmethod
    def from_bytes(cls, data: bytes) -> "AgentDescription":
        """Raises Refused TOO_LARGE, MALFORMED, MEMBER_UNKNOWN."""
        what = "agent description"
        value = cbor.decode(data, what, DESCRIPTION_LIMIT_BYTES)
        fields = Fields(value, what, (*range(1, 8), cls._BOARD, cls._KIND), Unknown.CRITICAL)
        found = cls(
            version=_checked_version(fields.text(cls._VERSION, 64), what),
            platform=Platform.parse(fields.items(cls._PLATFORM, 3), what),
            schema=fields.number(cls._SCHEMA, 1),
            reads=fields.number(cls._READS, 1),
            readable_by=fields.number(cls._READABLE, 1),
            unpacked_bytes=fields.number(cls._UNPACKED, 1, UNPACKED_LIMIT_BYTES),
            security_epoch=fields.number(cls._EPOCH) if cls._EPOCH in fields else 0,
            board=fields.name(cls._BOARD) if cls._BOARD in fields else "",
            kind=Kind.of(fields.number(cls._KIND)) if cls._KIND in fields else Kind.UNSPECIFIED,
        )
        if not max(found.reads, found.readable_by) <= found.schema:
            raise malformed(what, f"schema {found.schema} is older than what it reads or is read by")
        return found


def _checked_version(text: str, what: str) -> str:
    """It is the name of a folder on boards."""
    if not text or text[0] == "." or text.endswith(".new") or not _NAME_CHARACTERS.issuperset(text):
        raise malformed(what, f"the version is {text!r}, not letters, digits and -_.+ (and no .new at its end)")
    return text


def check_schema(wanted: AgentDescription, ours: int, readable_by: int) -> None:
    """Whether an agent opens the database of the one that runs, and that opens it again when the new one has written it.

    The one that runs writes schema `ours`; agents open it that know schema `readable_by`. Raises Refused SCHEMA_MISMATCH.
    """
    if wanted.reads > ours:
        raise Refused(Reason.SCHEMA_MISMATCH, f"the agent opens databases from schema {wanted.reads} on, this board's is {ours}")
    if wanted.schema < readable_by:
        raise Refused(
            Reason.SCHEMA_MISMATCH, f"the agent knows schema {wanted.schema}, agents open this board's from schema {readable_by} on"
        )
    if wanted.readable_by > ours:
        raise Refused(
            Reason.SCHEMA_MISMATCH,
            f"agents know what it writes from schema {wanted.readable_by} on, the one that runs knows {ours}: there is no way back",
        )


@dataclass(frozen=True)
class AgentManifest:
    """The content of an agent's manifest."""

    sequence: int
    vendor: bytes
    class_identifier: bytes
    digest: bytes  # SHA-256 of the tarball
    size: int
    index_digest: bytes  # SHA-256 of the chunk index
    agent: AgentDescription
    text_digest: bytes = b""  # ota.formats.provenance

    COMPONENT: ClassVar = [b"a"]

    @property
    def sent_digest(self) -> bytes:
        """SHA-256 of what travels: an agent is never encrypted."""
        return self.digest

    @property
    def name(self) -> str:
        """For people."""
        return NAME

    @property
    def kept_as(self) -> str:
        """The name that floors and slots have it under: no module's."""
        return f"@{NAME}"

    @property
    def version(self) -> str:
        """What its reports will call it."""
        return self.agent.version

    @property
    def security_epoch(self) -> int:
        """What must not go back."""
        return self.agent.security_epoch

    @property
    def kind(self) -> Kind:
        """What it is for."""
        return self.agent.kind

    @property
    def claimed_board(self) -> str:
        """What the class of boards is called, says the author; `ota.formats.manifest.board_of` checks it."""
        return self.agent.board

    def class_of(self, board: str) -> bytes:
        """The class identifier that it would have for boards of this class."""
        return class_id(self.vendor, board, self.agent.platform.text, ABI)

    def to_bytes(self) -> bytes:
        """The encoded SUIT_Manifest; `ota.formats.suit.signed_digest` of it is what is signed."""
        profile = Profile(
            sequence=self.sequence,
            vendor=self.vendor,
            class_identifier=self.class_identifier,
            digest=self.digest,
            size=self.size,
            index_digest=self.index_digest,
            invoke_arguments=self.agent.to_bytes(),
            text_digest=self.text_digest,
        )
        return profile.to_bytes(self.COMPONENT)

    @classmethod
    def from_envelope(cls, envelope: suit.Envelope) -> "AgentManifest":
        """Raises Refused COMMAND_UNSUPPORTED for what the profile leaves out, MALFORMED for values of the wrong shape."""
        found = Profile.from_envelope(envelope, [cls.COMPONENT])
        return cls(
            sequence=found.sequence,
            vendor=found.vendor,
            class_identifier=found.class_identifier,
            digest=found.digest,
            size=found.size,
            index_digest=found.index_digest,
            agent=AgentDescription.from_bytes(found.invoke_arguments),
            text_digest=found.text_digest,
        )

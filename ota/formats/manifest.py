"""What an update is and needs: manifests of our profile of SUIT (ota.formats.profile), and what a device accepts.

The component "m" is the .wasm, its invoke arguments describe the module, and where there are ahead-of-time images of it, the
component "i" has them. The component "a" is ota.formats.agent's. Where a module is encrypted (ota.formats.encryption), digests and
sizes are still those of the plaintext, and so are the names of blobs on a board; `sent_digest` is what travels.
Verification yields a `Verified` manifest, and installing code takes nothing else.
"""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from ota.formats import cbor, suit
from ota.formats.agent import AgentManifest
from ota.formats.capabilities import ABI
from ota.formats.chunks import BLOB_LIMIT_BYTES
from ota.formats.classes import ANY_BOARD, class_id, vendor_id
from ota.formats.encryption import Ciphertext
from ota.formats.module import ModuleDescription
from ota.formats.profile import (
    CIPHERTEXT,
    DECRYPTED,
    MANIFEST_LIMIT_BYTES,
    MAX_IMAGES,
    REPORT,
    REPORT_FAILURE,
    Profile,
    components_of,
    decrypted,
    decrypting,
    read_decrypted,
    read_sequence,
    read_sequences,
    read_source,
    sha256_of,
    source,
)
from ota.formats.provenance import Kind
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import check_signatures
from ota.formats.trust import Root

__all__ = [
    "ANY_BOARD",
    "MANIFEST_LIMIT_BYTES",
    "MAX_IMAGES",
    "Acceptance",
    "AgentManifest",
    "AnyManifest",
    "AnyVerified",
    "AotImage",
    "Manifest",
    "Verified",
    "VerifiedAgent",
    "VerifiedManifest",
    "board_of",
    "check_signers",
    "class_id",
    "image_class_id",
    "image_name",
    "read_manifest",
    "vendor_id",
    "verify",
    "verify_agent",
    "verify_any",
    "verify_signed",
]

COMPONENT, IMAGE_COMPONENT = [b"m"], [b"i"]
_COMPONENTS = (
    *([COMPONENT], [COMPONENT, IMAGE_COMPONENT]),
    *([COMPONENT, CIPHERTEXT], [COMPONENT, IMAGE_COMPONENT, CIPHERTEXT]),
)


def image_class_id(vendor: bytes, board: str, flags: str, cpu: str, abi: str) -> bytes:
    """The class identifier of boards that an ahead-of-time image is for: of class `board`, with a runtime that says `flags`
    (`pywamr.aot_target`) and a processor that is at least `cpu`: LLVM's name, "" for the baseline instruction set, with features
    behind it in any order, such as "cortex-a53+crc".
    """
    name, *features = cpu.split("+")
    return class_id(vendor, board, f"{flags} cpu={'+'.join((name or 'least', *sorted(set(features))))}", abi)


def board_of(manifest: "AnyManifest") -> str:
    """The class of boards that a manifest is for, "" where it does not say or says another than it is for."""
    for name in (manifest.claimed_board, ANY_BOARD):
        if name and manifest.class_of(name) == manifest.class_identifier:
            return name
    return ""


def image_name(digest: bytes, suffix: str = ".aot") -> str:
    """The name of an image's file in a folder that `ota build` made."""
    return digest.hex()[:16] + suffix


@dataclass(frozen=True)
class AotImage:
    """The module compiled for one class of boards; bound to the .wasm by standing in the same signed manifest."""

    class_identifier: bytes
    digest: bytes  # SHA-256 of the image
    size: int
    index_digest: bytes  # SHA-256 of the chunk index of what travels
    ciphertext: Ciphertext | None = None  # that travels in the place of the image

    _CHOSEN: ClassVar = (
        (suit.SET_COMPONENT_INDEX, 1),
        (suit.OVERRIDE_PARAMETERS, None),
        (suit.CLASS_IDENTIFIER, REPORT),
    )
    _COMMANDS: ClassVar = (*_CHOSEN, (suit.FETCH, REPORT_FAILURE), (suit.IMAGE_MATCH, REPORT))
    _ENCRYPTED: ClassVar = (*_CHOSEN, *decrypting(1, 2), (suit.IMAGE_MATCH, REPORT))
    _PARAMETERS: ClassVar = (suit.P_CLASS, suit.P_DIGEST, suit.P_SIZE)

    @property
    def sent_digest(self) -> bytes:
        """SHA-256 of what travels."""
        return self.ciphertext.digest if self.ciphertext is not None else self.digest

    def to_bytes(self) -> bytes:
        """One choice of the try-each: an encoded sequence."""
        parameters = {
            suit.P_CLASS: self.class_identifier,
            suit.P_DIGEST: suit.sha256_digest(self.digest),
            suit.P_SIZE: self.size,
        }
        if self.ciphertext is None:
            parameters |= source(self.digest, self.size, self.index_digest)
            fetch = [suit.FETCH, REPORT_FAILURE]
        else:
            fetch = decrypted(1, 2, self.ciphertext, self.size, self.index_digest)
        commands: list[Any] = []
        for number, argument in self._CHOSEN:
            commands += [number, parameters if argument is None else argument]
        return cbor.encode([*commands, *fetch, suit.IMAGE_MATCH, REPORT])

    @classmethod
    def from_bytes(cls, encoded: bytes, *, encrypted: bool) -> "AotImage":
        """Raises Refused MALFORMED, COMMAND_UNSUPPORTED, and for an encrypted one TOO_LARGE, ENCRYPTION_UNSUPPORTED."""
        ciphertext = None
        if encrypted:
            fields, *sets = read_sequences(encoded, "image", cls._ENCRYPTED, (cls._PARAMETERS, *DECRYPTED))
        else:
            fields = read_sequence(encoded, "image", cls._COMMANDS, (*cls._PARAMETERS, suit.P_URI, suit.P_FETCH_ARGS))
        digest, size = sha256_of(fields.data(suit.P_DIGEST)), fields.number(suit.P_SIZE, 1, BLOB_LIMIT_BYTES)
        if encrypted:
            ciphertext, index_digest = read_decrypted(sets, "image", size, 2)
        else:
            index_digest = read_source(fields, "image", digest, size)
        return cls(fields.data(suit.P_CLASS, 16), digest, size, index_digest, ciphertext)


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest of our profile."""

    sequence: int
    vendor: bytes
    class_identifier: bytes
    digest: bytes  # SHA-256 of the .wasm
    size: int
    index_digest: bytes  # SHA-256 of the chunk index of what travels
    module: ModuleDescription
    images: tuple[AotImage, ...] = ()
    text_digest: bytes = b""  # ota.formats.provenance
    ciphertext: Ciphertext | None = None  # that travels in the place of the .wasm; images have theirs then, too

    @property
    def sent_digest(self) -> bytes:
        """SHA-256 of what travels."""
        return self.ciphertext.digest if self.ciphertext is not None else self.digest

    def image_for(self, classes: Sequence[bytes]) -> AotImage | None:
        """The image for the first of a board's classes that has one; None: the board interprets the .wasm."""
        by_class = {image.class_identifier: image for image in self.images}
        return next((by_class[each] for each in classes if each in by_class), None)

    @property
    def name(self) -> str:
        """The module's name."""
        return self.module.name

    @property
    def kept_as(self) -> str:
        """The name that floors and slots have it under."""
        return self.module.name

    @property
    def version(self) -> str:
        """For display."""
        return self.module.version

    @property
    def security_epoch(self) -> int:
        """What must not go back."""
        return self.module.security_epoch

    @property
    def kind(self) -> Kind:
        """What it is for."""
        return self.module.kind

    @property
    def claimed_board(self) -> str:
        """What the class of boards is called, says the author; `board_of` checks it."""
        return self.module.board

    def class_of(self, board: str) -> bytes:
        """The class identifier that it would have for boards of this class."""
        return class_id(self.vendor, board, "wasm", ABI)

    def to_bytes(self) -> bytes:
        """The encoded SUIT_Manifest; `ota.formats.suit.signed_digest` of it is what is signed."""
        profile = Profile(
            sequence=self.sequence,
            vendor=self.vendor,
            class_identifier=self.class_identifier,
            digest=self.digest,
            size=self.size,
            index_digest=self.index_digest,
            invoke_arguments=self.module.to_bytes(),
            choices=tuple(image.to_bytes() for image in self.images),
            text_digest=self.text_digest,
            ciphertext=self.ciphertext,
        )
        return profile.to_bytes(COMPONENT, IMAGE_COMPONENT)

    @classmethod
    def from_envelope(cls, envelope: suit.Envelope) -> "Manifest":
        """Raises Refused COMMAND_UNSUPPORTED for what the profile leaves out, MALFORMED for values of the wrong shape, and where it
        is encrypted ENCRYPTION_UNSUPPORTED.
        """
        found = Profile.from_envelope(envelope, *_COMPONENTS)
        return cls(
            sequence=found.sequence,
            vendor=found.vendor,
            class_identifier=found.class_identifier,
            digest=found.digest,
            size=found.size,
            index_digest=found.index_digest,
            module=ModuleDescription.from_bytes(found.invoke_arguments),
            images=tuple(AotImage.from_bytes(each, encrypted=found.ciphertext is not None) for each in found.choices),
            text_digest=found.text_digest,
            ciphertext=found.ciphertext,
        )


AnyManifest = Manifest | AgentManifest


def read_manifest(envelope: suit.Envelope) -> AnyManifest:
    """The manifest of whatever component there is. Raises Refused COMMAND_UNSUPPORTED, MALFORMED."""
    if components_of(envelope) == [AgentManifest.COMPONENT]:
        return AgentManifest.from_envelope(envelope)
    return Manifest.from_envelope(envelope)


M_co = TypeVar("M_co", covariant=True, bound=AnyManifest)


@dataclass(frozen=True)
class Acceptance:
    """What a device accepts: who it is, and what it must not go back behind."""

    vendor: bytes
    classes: Collection[bytes]
    committed_sequence: int
    committed_epoch: int
    boards: Sequence[str] = ()  # what its classes are called


@dataclass(frozen=True)
class Verified(Generic[M_co]):
    """A manifest that release keys signed, that is meant for this device and newer than what it committed to."""

    manifest: M_co
    envelope_digest: bytes  # what deployments name
    signers: frozenset[bytes] = frozenset()  # the release keys that signed it

    @property
    def label(self) -> str:
        """Name and version, for people."""
        return f"{self.manifest.name} {self.manifest.version}"


AnyVerified = Verified[AnyManifest]
VerifiedManifest = Verified[Manifest]
VerifiedAgent = Verified[AgentManifest]


def verify_any(data: bytes, root: Root) -> AnyVerified:
    """A manifest that enough release keys of this root signed, whatever it updates and whoever it is meant for.

    Raises Refused TOO_LARGE, MALFORMED, COMMAND_UNSUPPORTED, and the SIGNATURE and SIGNER reasons.
    """
    envelope, signers = _signed(data, root)
    return Verified(read_manifest(envelope), cbor.sha256(data), signers)


def verify_signed(data: bytes, root: Root) -> VerifiedManifest:
    """A module's manifest, as `verify_any`. Raises Refused likewise."""
    envelope, signers = _signed(data, root)
    return Verified(Manifest.from_envelope(envelope), cbor.sha256(data), signers)


def _signed(data: bytes, root: Root) -> tuple[suit.Envelope, frozenset[bytes]]:
    envelope = suit.Envelope.from_bytes(data, MANIFEST_LIMIT_BYTES)
    if not envelope.signatures:
        raise Refused(Reason.SIGNATURE_MISSING, "the manifest is not signed")
    return envelope, check_signatures(envelope.signatures, envelope.digest, root.roles["release"], None, "the manifest")


def check_signers(verified: AnyVerified, root: Root) -> None:
    """Whether the keys that signed it may still sign: a root may have taken them away since it was verified.

    Raises Refused SIGNER_UNKNOWN, SIGNER_THRESHOLD.
    """
    role = root.roles["release"]
    left = verified.signers & role.keys.keys()
    if not left:
        raise Refused(Reason.SIGNER_UNKNOWN, f"no key that signed the manifest may sign it under root {root.number}")
    if lack := role.lacks(left):
        raise Refused(Reason.SIGNER_THRESHOLD, f"the manifest: {lack} under root {root.number}")


def verify(data: bytes, root: Root, acceptance: Acceptance) -> VerifiedManifest:
    """A module's manifest that this device may install.

    Raises Refused as `verify_signed` does, and VENDOR_MISMATCH, CLASS_MISMATCH, SEQUENCE_TOO_OLD, EPOCH_TOO_OLD.
    """
    verified = verify_signed(data, root)
    _check_accepted(verified.manifest, root, acceptance)
    return verified


def verify_agent(data: bytes, root: Root, acceptance: Acceptance) -> VerifiedAgent:
    """An agent's manifest that this device may install. Raises Refused as `verify` does."""
    envelope, signers = _signed(data, root)
    manifest = AgentManifest.from_envelope(envelope)
    _check_accepted(manifest, root, acceptance)
    return Verified(manifest, cbor.sha256(data), signers)


def _check_accepted(manifest: AnyManifest, root: Root, acceptance: Acceptance) -> None:
    if manifest.vendor != acceptance.vendor:
        raise Refused(
            Reason.VENDOR_MISMATCH,
            f"the manifest is for vendor {uuid.UUID(bytes=manifest.vendor)}, this board accepts {root.vendor}",
        )
    if manifest.class_identifier not in acceptance.classes:
        wanted = board_of(manifest) or f"class {uuid.UUID(bytes=manifest.class_identifier)}"
        needs = f" with {manifest.agent.platform.text}" if isinstance(manifest, AgentManifest) else ""
        ours = " and ".join(acceptance.boards) or "another class"
        raise Refused(Reason.CLASS_MISMATCH, f"the manifest is for boards of {wanted}{needs}, this board is of {ours}")
    check_floors(manifest, acceptance.committed_sequence, acceptance.committed_epoch)


def check_floors(manifest: AnyManifest, committed_sequence: int, committed_epoch: int) -> None:
    """Raises Refused SEQUENCE_TOO_OLD, EPOCH_TOO_OLD for what is behind what was committed."""
    if manifest.sequence <= committed_sequence:
        raise Refused(
            Reason.SEQUENCE_TOO_OLD, f"sequence {manifest.sequence} is not above {committed_sequence}, which is committed"
        )
    if manifest.security_epoch < committed_epoch:
        raise Refused(Reason.EPOCH_TOO_OLD, f"security epoch {manifest.security_epoch} is below {committed_epoch}")

"""What an update is and needs: our profile of a SUIT manifest.

The component "module" is the .wasm. The shared sequence names vendor, class, digest and size; `install` fetches by digest;
`validate` matches the image; `invoke` starts it, its arguments describing the module. Where there are ahead-of-time images of
it, a component "image" is installed by a try-each over their classes, the last choice being none. Anything else, and anything
in another order, is refused by name.
Verification yields a `VerifiedManifest`, and installing code takes nothing else.
"""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ota.formats import cbor, suit
from ota.formats.capabilities import ABI
from ota.formats.chunks import BLOB_LIMIT_BYTES
from ota.formats.fields import Fields, malformed
from ota.formats.module import ModuleDescription
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import check_signatures
from ota.formats.trust import Root

MANIFEST_LIMIT_BYTES = 16 * 1024
COMPONENT, IMAGE_COMPONENT = [b"module"], [b"image"]
MAX_IMAGES = 16
REPORT = 15  # every reporting bit of a condition, as the draft's examples have it
REPORT_FAILURE = 2


def vendor_id(domain: str) -> bytes:
    """The vendor identifier: UUIDv5 of a domain name (draft section 8.4.8.2, RFC 9562)."""
    return uuid.uuid5(uuid.NAMESPACE_DNS, domain).bytes


# The class of boards that every board belongs to, besides its own.
ANY_BOARD = "generic"


def class_id(vendor: bytes, board: str, architecture: str, abi: str) -> bytes:
    """The class identifier: UUIDv5, in the vendor's name space, of board class, architecture ("wasm": any) and contract."""
    return uuid.uuid5(uuid.UUID(bytes=vendor), f"{board}/{architecture}/{abi}").bytes


def image_class_id(vendor: bytes, board: str, flags: str, cpu: str, abi: str) -> bytes:
    """The class identifier of boards that an ahead-of-time image is for: of class `board`, with a runtime that says `flags`
    (`pywamr.aot_target`) and a processor that is at least `cpu`: LLVM's name, "" for the baseline instruction set, with features
    behind it in any order, such as "cortex-a53+crc".
    """
    name, *features = cpu.split("+")
    return class_id(vendor, board, f"{flags} cpu={'+'.join((name or 'least', *sorted(set(features))))}", abi)


def board_of(manifest: "Manifest") -> str:
    """The class of boards that a manifest is for, "" where it does not say or says another than it is for."""
    for name in (manifest.module.board, ANY_BOARD):
        if name and class_id(manifest.vendor, name, "wasm", ABI) == manifest.class_identifier:
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
    index_digest: bytes  # SHA-256 of the chunk index

    _COMMANDS: ClassVar = (
        (suit.SET_COMPONENT_INDEX, 1),
        (suit.OVERRIDE_PARAMETERS, None),
        (suit.CLASS_IDENTIFIER, REPORT),
        (suit.FETCH, REPORT_FAILURE),
        (suit.IMAGE_MATCH, REPORT),
    )
    _PARAMETERS: ClassVar = (suit.P_CLASS, suit.P_DIGEST, suit.P_SIZE, suit.P_URI, suit.P_FETCH_ARGS)

    def to_bytes(self) -> bytes:
        """One choice of the try-each: an encoded sequence."""
        parameters = {
            suit.P_CLASS: self.class_identifier,
            suit.P_DIGEST: suit.sha256_digest(self.digest),
            suit.P_SIZE: self.size,
            suit.P_URI: _uri(self.digest),
            suit.P_FETCH_ARGS: self.index_digest,
        }
        commands: list[Any] = []
        for number, argument in self._COMMANDS:
            commands += [number, parameters if argument is None else argument]
        return cbor.encode(commands)

    @classmethod
    def from_bytes(cls, encoded: bytes) -> "AotImage":
        """Raises Refused MALFORMED, COMMAND_UNSUPPORTED."""
        fields = _sequence(encoded, "image", cls._COMMANDS, cls._PARAMETERS)
        digest = _sha256(fields.data(suit.P_DIGEST))
        if fields.text(suit.P_URI) != _uri(digest):
            raise malformed("image", "the URI to fetch from does not name the image's digest")
        return cls(
            class_identifier=fields.data(suit.P_CLASS, 16),
            digest=digest,
            size=fields.number(suit.P_SIZE, 1, BLOB_LIMIT_BYTES),
            index_digest=fields.data(suit.P_FETCH_ARGS, 32),
        )


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest of our profile."""

    sequence: int
    vendor: bytes
    class_identifier: bytes
    digest: bytes  # SHA-256 of the .wasm
    size: int
    index_digest: bytes  # SHA-256 of the chunk index
    module: ModuleDescription
    images: tuple[AotImage, ...] = ()

    def image_for(self, classes: Sequence[bytes]) -> AotImage | None:
        """The image for the first of a board's classes that has one; None: the board interprets the .wasm."""
        by_class = {image.class_identifier: image for image in self.images}
        return next((by_class[each] for each in classes if each in by_class), None)

    def to_bytes(self) -> bytes:
        """The encoded SUIT_Manifest; `ota.formats.suit.signed_digest` of it is what is signed."""
        shared = [
            suit.OVERRIDE_PARAMETERS,
            {
                suit.P_VENDOR: self.vendor,
                suit.P_CLASS: self.class_identifier,
                suit.P_DIGEST: suit.sha256_digest(self.digest),
                suit.P_SIZE: self.size,
            },
            suit.VENDOR_IDENTIFIER,
            REPORT,
            suit.CLASS_IDENTIFIER,
            REPORT,
        ]
        install = [
            suit.OVERRIDE_PARAMETERS,
            {suit.P_URI: _uri(self.digest), suit.P_FETCH_ARGS: self.index_digest},
            suit.FETCH,
            REPORT_FAILURE,
            suit.IMAGE_MATCH,
            REPORT,
        ]
        components = [COMPONENT]
        if self.images:
            components.append(IMAGE_COMPONENT)
            install += [suit.TRY_EACH, [*(image.to_bytes() for image in self.images), None]]
        invoke = [suit.OVERRIDE_PARAMETERS, {suit.P_INVOKE_ARGS: self.module.to_bytes()}, suit.INVOKE_COMMAND, REPORT_FAILURE]
        return cbor.encode(
            {
                suit.VERSION: 1,
                suit.SEQUENCE: self.sequence,
                suit.COMMON: cbor.encode({suit.COMPONENTS: components, suit.SHARED_SEQUENCE: cbor.encode(shared)}),
                suit.VALIDATE: cbor.encode([suit.IMAGE_MATCH, REPORT]),
                suit.INVOKE: cbor.encode(invoke),
                suit.INSTALL: cbor.encode(install),
            }
        )

    @classmethod
    def from_envelope(cls, envelope: suit.Envelope) -> "Manifest":
        """Raises Refused COMMAND_UNSUPPORTED for what the profile leaves out, MALFORMED for values of the wrong shape."""
        if envelope.severed or envelope.integrated:
            raise Refused(Reason.COMMAND_UNSUPPORTED, "severed members and integrated payloads are not in the profile")
        what = "SUIT manifest"
        members = (suit.VERSION, suit.SEQUENCE, suit.COMMON, suit.VALIDATE, suit.INVOKE, suit.INSTALL)
        extra = [suit.MANIFEST_MEMBERS.get(key, str(key)) for key in envelope.manifest if key not in members]
        if extra:
            raise Refused(Reason.COMMAND_UNSUPPORTED, f"manifest members not in the profile: {', '.join(extra)}")
        fields = Fields(envelope.manifest, what, members)
        fields.number(suit.VERSION, 1, 1)
        common_value = cbor.decode(fields.data(suit.COMMON), "SUIT common", MANIFEST_LIMIT_BYTES)
        common = Fields(common_value, "SUIT common", (suit.COMPONENTS, suit.SHARED_SEQUENCE))
        components = common.items(suit.COMPONENTS, 16)
        if components not in ([COMPONENT], [COMPONENT, IMAGE_COMPONENT]):
            raise Refused(Reason.COMMAND_UNSUPPORTED, "the profile has the component module, and perhaps image")

        shared = _sequence(
            common.data(suit.SHARED_SEQUENCE),
            "shared sequence",
            ((suit.OVERRIDE_PARAMETERS, None), (suit.VENDOR_IDENTIFIER, REPORT), (suit.CLASS_IDENTIFIER, REPORT)),
            (suit.P_VENDOR, suit.P_CLASS, suit.P_DIGEST, suit.P_SIZE),
        )
        install_bytes, images = _split_images(fields.data(suit.INSTALL), len(components) > 1)
        install = _sequence(
            install_bytes,
            "install",
            ((suit.OVERRIDE_PARAMETERS, None), (suit.FETCH, REPORT_FAILURE), (suit.IMAGE_MATCH, REPORT)),
            (suit.P_URI, suit.P_FETCH_ARGS),
        )
        invoke = _sequence(
            fields.data(suit.INVOKE),
            "invoke",
            ((suit.OVERRIDE_PARAMETERS, None), (suit.INVOKE_COMMAND, REPORT_FAILURE)),
            (suit.P_INVOKE_ARGS,),
        )
        _sequence(fields.data(suit.VALIDATE), "validate", ((suit.IMAGE_MATCH, REPORT),), ())
        digest = _sha256(shared.data(suit.P_DIGEST))
        if install.text(suit.P_URI) != _uri(digest):
            raise malformed(what, "the URI to fetch from does not name the image's digest")
        return cls(
            sequence=fields.number(suit.SEQUENCE),
            vendor=shared.data(suit.P_VENDOR, 16),
            class_identifier=shared.data(suit.P_CLASS, 16),
            digest=digest,
            size=shared.number(suit.P_SIZE, 1, BLOB_LIMIT_BYTES),
            index_digest=install.data(suit.P_FETCH_ARGS, 32),
            module=ModuleDescription.from_bytes(invoke.data(suit.P_INVOKE_ARGS)),
            images=images,
        )


def _uri(digest: bytes) -> str:
    return f"ota:blob/{digest.hex()}"


def _sha256(encoded: bytes) -> bytes:
    algorithm, digest = suit.read_digest(encoded)
    if algorithm != suit.SHA_256 or len(digest) != 32:
        raise Refused(Reason.COMMAND_UNSUPPORTED, "the image digest is not a SHA-256")
    return digest


def _split_images(install: bytes, expected: bool) -> tuple[bytes, tuple[AotImage, ...]]:
    """The install sequence without the try-each at its end, and the images of that."""
    if not expected:
        return install, ()
    commands = list(suit.command_sequence(install, "install"))
    number, choices = commands.pop() if commands else (0, None)
    if number != suit.TRY_EACH or not isinstance(choices, list) or not 2 <= len(choices) <= MAX_IMAGES + 1:
        raise Refused(Reason.COMMAND_UNSUPPORTED, f"install does not end in a try-each of 1 to {MAX_IMAGES} images")
    *encoded, last = choices
    if last is not None or not all(isinstance(each, bytes) for each in encoded):
        raise Refused(Reason.COMMAND_UNSUPPORTED, "the last choice of the try-each is not none")
    rest = [part for command in commands for part in command]
    return cbor.encode(rest), tuple(AotImage.from_bytes(each) for each in encoded)


def _sequence(encoded: bytes, what: str, expected: tuple[tuple[int, int | None], ...], parameters: tuple[int, ...]) -> Fields:
    """Reads a sequence of exactly the expected commands; returns its parameters. None as an argument: the parameters are there."""
    commands = suit.command_sequence(encoded, what)
    if tuple(number for number, _ in commands) != tuple(number for number, _ in expected):
        names = ", ".join(suit.COMMANDS[number] for number, _ in commands)
        raise Refused(Reason.COMMAND_UNSUPPORTED, f"{what} has commands not in the profile: {names}")
    found: Any = {}
    for (number, argument), (_, wanted) in zip(commands, expected, strict=True):
        if wanted is None:
            found = argument
        elif type(argument) is not int or argument != wanted:  # True is 1 to Python
            raise Refused(Reason.COMMAND_UNSUPPORTED, f"{what}: {suit.COMMANDS[number]} has argument {argument!r}")
    return Fields(found, what, parameters)


@dataclass(frozen=True)
class Acceptance:
    """What a device accepts: who it is, and what it must not go back behind."""

    vendor: bytes
    classes: Collection[bytes]
    committed_sequence: int
    committed_epoch: int
    boards: Sequence[str] = ()  # what its classes are called


@dataclass(frozen=True)
class VerifiedManifest:
    """A manifest that release keys signed, that is meant for this device and newer than what it committed to."""

    manifest: Manifest
    envelope_digest: bytes  # what deployments name
    signers: frozenset[bytes] = frozenset()  # the release keys that signed it

    @property
    def label(self) -> str:
        """Name and version, for people."""
        return f"{self.manifest.module.name} {self.manifest.module.version}"


def verify_signed(data: bytes, root: Root) -> VerifiedManifest:
    """A manifest that enough release keys of this root signed, whoever it is meant for.

    Raises Refused TOO_LARGE, MALFORMED, COMMAND_UNSUPPORTED, and the SIGNATURE and SIGNER reasons.
    """
    envelope = suit.Envelope.from_bytes(data, MANIFEST_LIMIT_BYTES)
    if not envelope.signatures:
        raise Refused(Reason.SIGNATURE_MISSING, "the manifest is not signed")
    signers = check_signatures(envelope.signatures, envelope.digest, root.roles["release"], None, "the manifest")
    return VerifiedManifest(Manifest.from_envelope(envelope), cbor.sha256(data), signers)


def check_signers(verified: VerifiedManifest, root: Root) -> None:
    """Whether the keys that signed it may still sign: a root may have taken them away since it was verified.

    Raises Refused SIGNER_UNKNOWN, SIGNER_THRESHOLD.
    """
    role = root.roles["release"]
    left = verified.signers & role.keys.keys()
    if not left:
        raise Refused(Reason.SIGNER_UNKNOWN, f"no key that signed the manifest may sign it under root {root.number}")
    if len(left) < role.threshold:
        raise Refused(Reason.SIGNER_THRESHOLD, f"{len(left)} of {role.threshold} needed signatures under root {root.number}")


def verify(data: bytes, root: Root, acceptance: Acceptance) -> VerifiedManifest:
    """A manifest that this device may install.

    Raises Refused as `verify_signed` does, and VENDOR_MISMATCH, CLASS_MISMATCH, SEQUENCE_TOO_OLD, EPOCH_TOO_OLD.
    """
    verified = verify_signed(data, root)
    manifest = verified.manifest
    if manifest.vendor != acceptance.vendor:
        raise Refused(
            Reason.VENDOR_MISMATCH,
            f"the manifest is for vendor {uuid.UUID(bytes=manifest.vendor)}, this board accepts {root.vendor}",
        )
    if manifest.class_identifier not in acceptance.classes:
        wanted = board_of(manifest) or f"class {uuid.UUID(bytes=manifest.class_identifier)}"
        ours = " and ".join(acceptance.boards) or "another class"
        raise Refused(Reason.CLASS_MISMATCH, f"the manifest is for boards of {wanted}, this board is of {ours}")
    if manifest.sequence <= acceptance.committed_sequence:
        raise Refused(
            Reason.SEQUENCE_TOO_OLD,
            f"sequence {manifest.sequence} is not above {acceptance.committed_sequence}, which is committed",
        )
    if manifest.module.security_epoch < acceptance.committed_epoch:
        raise Refused(
            Reason.EPOCH_TOO_OLD, f"security epoch {manifest.module.security_epoch} is below {acceptance.committed_epoch}"
        )
    return verified

"""Our profile of SUIT: the one shape that every manifest of ours has, whatever it updates.

The shared sequence names vendor, class, digest and size; `install` fetches by digest; `validate` matches the image; `invoke`
starts it, its arguments describing what it is. A second component, of images that a board may take instead, is installed by a
try-each, the last choice being none. Anything else, and anything in another order, is refused by name. Signatures are not verified.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ota.formats import cbor, suit
from ota.formats.chunks import BLOB_LIMIT_BYTES, DEFAULT_CHUNK_BYTES, ChunkIndex
from ota.formats.fields import Fields, malformed
from ota.formats.provenance import TEXT_LIMIT_BYTES
from ota.formats.reasons import Reason, Refused

__all__ = [
    "MANIFEST_LIMIT_BYTES",
    "MAX_IMAGES",
    "REPORT",
    "REPORT_FAILURE",
    "Profile",
    "components_of",
    "read_sequence",
    "read_source",
    "sha256_of",
    "source",
]

MANIFEST_LIMIT_BYTES = 32 * 1024  # with several signatures of ML-DSA
MAX_IMAGES = 16
REPORT = 15  # every reporting bit of a condition, as the draft's examples have it
REPORT_FAILURE = 2
_CALLED = {b"m": "module", b"i": "image", b"a": "agent"}
"""What components are called: for people, and by manifests that boards have kept since their databases were of schema 1 to 3."""
_MEMBERS = (suit.VERSION, suit.SEQUENCE, suit.COMMON, suit.VALIDATE, suit.INVOKE, suit.INSTALL, suit.TEXT)


@dataclass(frozen=True)
class Profile:
    """The content of a manifest, before it is known what its component is."""

    sequence: int
    vendor: bytes
    class_identifier: bytes
    digest: bytes  # SHA-256 of the blob
    size: int
    index_digest: bytes  # SHA-256 of the blob's chunk index
    invoke_arguments: bytes
    choices: tuple[bytes, ...] = ()  # encoded sequences of the try-each
    text_digest: bytes = b""  # of the severable text; empty: it has none

    def to_bytes(self, component: list[bytes], images: list[bytes] | None = None) -> bytes:
        """The encoded SUIT_Manifest; `images` is the component of the choices."""
        parameters = {
            suit.P_VENDOR: self.vendor,
            suit.P_CLASS: self.class_identifier,
            suit.P_DIGEST: suit.sha256_digest(self.digest),
            suit.P_SIZE: self.size,
        }
        shared: list[Any] = [suit.OVERRIDE_PARAMETERS, parameters, suit.VENDOR_IDENTIFIER, REPORT, suit.CLASS_IDENTIFIER, REPORT]
        fetched = source(self.digest, self.size, self.index_digest)
        install: list[Any] = [suit.OVERRIDE_PARAMETERS, fetched, suit.FETCH, REPORT_FAILURE, suit.IMAGE_MATCH, REPORT]
        components = [component]
        if self.choices:
            assert images is not None, "choices are of a component"
            components.append(images)
            install += [suit.TRY_EACH, [*self.choices, None]]
        arguments = {suit.P_INVOKE_ARGS: self.invoke_arguments}
        text = {suit.TEXT: [suit.SHA_256, self.text_digest]} if self.text_digest else {}
        return cbor.encode(
            text
            | {
                suit.VERSION: 1,
                suit.SEQUENCE: self.sequence,
                suit.COMMON: cbor.encode({suit.COMPONENTS: components, suit.SHARED_SEQUENCE: cbor.encode(shared)}),
                suit.VALIDATE: cbor.encode([suit.IMAGE_MATCH, REPORT]),
                suit.INVOKE: cbor.encode([suit.OVERRIDE_PARAMETERS, arguments, suit.INVOKE_COMMAND, REPORT_FAILURE]),
                suit.INSTALL: cbor.encode(install),
            }
        )

    @classmethod
    def from_envelope(cls, envelope: suit.Envelope, *allowed: Sequence[Any]) -> "Profile":
        """`allowed`: lists of components. Raises Refused COMMAND_UNSUPPORTED for what the profile leaves out, MALFORMED."""
        if envelope.severed.keys() - {suit.TEXT} or envelope.integrated:
            raise Refused(Reason.COMMAND_UNSUPPORTED, "severed members but text, and integrated payloads, are not in the profile")
        if (size := len(envelope.severed.get(suit.TEXT, b""))) > TEXT_LIMIT_BYTES:
            raise Refused(Reason.TOO_LARGE, f"text is {size} bytes, the limit is {TEXT_LIMIT_BYTES}")
        extra = [suit.MANIFEST_MEMBERS.get(key, str(key)) for key in envelope.manifest if key not in _MEMBERS]
        if extra:
            raise Refused(Reason.COMMAND_UNSUPPORTED, f"manifest members not in the profile: {', '.join(extra)}")
        what = "SUIT manifest"
        fields = Fields(envelope.manifest, what, _MEMBERS)
        fields.number(suit.VERSION, 1, 1)
        common = _common(fields)
        if _components(common) not in allowed:
            names = " or ".join(" and ".join(_CALLED[each] for (each,) in components) for components in allowed)
            raise Refused(Reason.COMMAND_UNSUPPORTED, f"the profile has here the components {names}")
        install_bytes, choices = _split_choices(fields.data(suit.INSTALL), len(_components(common)) > 1)
        shared = read_sequence(
            common.data(suit.SHARED_SEQUENCE),
            "shared sequence",
            ((suit.OVERRIDE_PARAMETERS, None), (suit.VENDOR_IDENTIFIER, REPORT), (suit.CLASS_IDENTIFIER, REPORT)),
            (suit.P_VENDOR, suit.P_CLASS, suit.P_DIGEST, suit.P_SIZE),
        )
        install = read_sequence(
            install_bytes,
            "install",
            ((suit.OVERRIDE_PARAMETERS, None), (suit.FETCH, REPORT_FAILURE), (suit.IMAGE_MATCH, REPORT)),
            (suit.P_URI, suit.P_FETCH_ARGS),
        )
        invoke = read_sequence(
            fields.data(suit.INVOKE),
            "invoke",
            ((suit.OVERRIDE_PARAMETERS, None), (suit.INVOKE_COMMAND, REPORT_FAILURE)),
            (suit.P_INVOKE_ARGS,),
        )
        read_sequence(fields.data(suit.VALIDATE), "validate", ((suit.IMAGE_MATCH, REPORT),), ())
        digest, size = sha256_of(shared.data(suit.P_DIGEST)), shared.number(suit.P_SIZE, 1, BLOB_LIMIT_BYTES)
        return cls(
            sequence=fields.number(suit.SEQUENCE),
            vendor=shared.data(suit.P_VENDOR, 16),
            class_identifier=shared.data(suit.P_CLASS, 16),
            digest=digest,
            size=size,
            index_digest=read_source(install, what, digest, size),
            invoke_arguments=invoke.data(suit.P_INVOKE_ARGS),
            choices=choices,
            text_digest=_text_digest(envelope.manifest[suit.TEXT]) if suit.TEXT in fields else b"",
        )


def components_of(envelope: suit.Envelope) -> list[Any]:
    """The components that a manifest names. Raises Refused MALFORMED."""
    known = set(envelope.manifest) & set(_MEMBERS)
    return _components(_common(Fields({key: envelope.manifest[key] for key in known}, "SUIT manifest", _MEMBERS)))


def _components(common: Fields) -> list[Any]:
    """By their names of today."""
    names = {called.encode(): name for name, called in _CALLED.items()}
    found = common.items(suit.COMPONENTS, 16)
    return [
        [names.get(part, part) if isinstance(part, bytes) else part for part in each] if isinstance(each, list) else each
        for each in found
    ]


def _common(fields: Fields) -> Fields:
    value = cbor.decode(fields.data(suit.COMMON), "SUIT common", MANIFEST_LIMIT_BYTES)
    return Fields(value, "SUIT common", (suit.COMPONENTS, suit.SHARED_SEQUENCE))


BY_DIGEST = "b:"
"""The URI of every blob: the parameter image-digest names it, and where a blob of that name is found is the transport's matter."""


def source(digest: bytes, size: int, index_digest: bytes) -> dict[int, Any]:
    """Where a blob is fetched from: the parameters of a fetch. The index of one chunk goes without saying."""
    whole = _index_of_one_chunk(digest, size)
    return {suit.P_URI: BY_DIGEST} | ({} if index_digest == whole else {suit.P_FETCH_ARGS: index_digest})


def read_source(fields: Fields, what: str, digest: bytes, size: int) -> bytes:
    """The digest of the blob's chunk index. Raises Refused MALFORMED."""
    uri = fields.text(suit.P_URI)
    if uri == f"ota:blob/{digest.hex()}":  # that of a manifest since schema 1 to 3
        return fields.data(suit.P_FETCH_ARGS, 32)
    if uri != BY_DIGEST:
        raise malformed(what, f"the URI to fetch from is not {BY_DIGEST!r}: blobs are fetched by their digest")
    whole = _index_of_one_chunk(digest, size)
    if suit.P_FETCH_ARGS in fields:
        index_digest = fields.data(suit.P_FETCH_ARGS, 32)
        if index_digest != whole:
            return index_digest
        raise malformed(what, "it names the chunk index of one chunk, which goes without saying")
    if whole is None:
        raise malformed(what, f"a blob of {size} bytes, and no digest of its chunk index")
    return whole


def _index_of_one_chunk(digest: bytes, size: int) -> bytes | None:
    """The digest of the index of a blob that is one chunk of the default size; None for a larger blob."""
    if size > DEFAULT_CHUNK_BYTES:
        return None
    return cbor.sha256(ChunkIndex(digest, size, DEFAULT_CHUNK_BYTES, (digest,)).to_bytes())


def sha256_of(encoded: bytes) -> bytes:
    """The digest in an encoded SUIT_Digest. Raises Refused MALFORMED, and COMMAND_UNSUPPORTED for another algorithm."""
    algorithm, digest = suit.read_digest(encoded)
    if algorithm != suit.SHA_256 or len(digest) != 32:
        raise Refused(Reason.COMMAND_UNSUPPORTED, "a digest is not a SHA-256")
    return digest


def _text_digest(value: Any) -> bytes:
    """Of a text that may be severed. Raises Refused MALFORMED, COMMAND_UNSUPPORTED for a text inside of the manifest."""
    if not isinstance(value, list):
        raise Refused(Reason.COMMAND_UNSUPPORTED, "a text that can't be severed is not in the profile")
    return sha256_of(cbor.encode(value))


def _split_choices(install: bytes, expected: bool) -> tuple[bytes, tuple[bytes, ...]]:
    """The install sequence without the try-each at its end, and the choices of that."""
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
    return cbor.encode(rest), tuple(encoded)


def read_sequence(encoded: bytes, what: str, expected: tuple[tuple[int, int | None], ...], parameters: tuple[int, ...]) -> Fields:
    """Reads a sequence of exactly the expected commands; returns its parameters. None as an argument: the parameters are there.

    Raises Refused MALFORMED, COMMAND_UNSUPPORTED.
    """
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

"""Our profile of SUIT: the one shape that every manifest of ours has, whatever it updates.

The shared sequence names vendor, class, digest and size; `install` fetches by digest; `validate` matches the image; `invoke`
starts it, its arguments describing what it is. A second component, of images that a board may take instead, is installed by a
try-each, the last choice being none. Where blobs are encrypted, `install` fetches each ciphertext into a component of its own and
copies it from there, which decrypts it. Anything else, and anything in another order, is refused by name. Signatures are not
verified.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ota.formats import cbor, suit
from ota.formats.chunks import BLOB_LIMIT_BYTES, DEFAULT_CHUNK_BYTES, ChunkIndex
from ota.formats.encryption import INFO_LIMIT_BYTES, Ciphertext, EncryptionInfo
from ota.formats.fields import Fields, malformed
from ota.formats.provenance import TEXT_LIMIT_BYTES
from ota.formats.reasons import Reason, Refused

__all__ = [
    "CIPHERTEXT",
    "DECRYPTED",
    "MANIFEST_LIMIT_BYTES",
    "MAX_IMAGES",
    "REPORT",
    "REPORT_FAILURE",
    "Profile",
    "components_of",
    "decrypted",
    "decrypting",
    "read_decrypted",
    "read_sequence",
    "read_sequences",
    "read_source",
    "sha256_of",
    "source",
]

MANIFEST_LIMIT_BYTES = 32 * 1024  # with several signatures of ML-DSA
MAX_IMAGES = 16
REPORT = 15  # every reporting bit of a condition, as the draft's examples have it
REPORT_FAILURE = 2
CIPHERTEXT = [b"c"]  # the component that ciphertexts are fetched into, one after the other
_CALLED = {b"m": "module", b"i": "image", b"a": "agent", b"c": "ciphertext"}
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
    index_digest: bytes  # SHA-256 of the chunk index of what travels
    invoke_arguments: bytes
    choices: tuple[bytes, ...] = ()  # encoded sequences of the try-each
    text_digest: bytes = b""  # of the severable text; empty: it has none
    ciphertext: Ciphertext | None = None  # that travels in the place of the blob

    def to_bytes(self, component: list[bytes], images: list[bytes] | None = None) -> bytes:
        """The encoded SUIT_Manifest; `images` is the component of the choices."""
        parameters = {
            suit.P_VENDOR: self.vendor,
            suit.P_CLASS: self.class_identifier,
            suit.P_DIGEST: suit.sha256_digest(self.digest),
            suit.P_SIZE: self.size,
        }
        shared: list[Any] = [suit.OVERRIDE_PARAMETERS, parameters, suit.VENDOR_IDENTIFIER, REPORT, suit.CLASS_IDENTIFIER, REPORT]
        components = [component]
        if self.choices:
            assert images is not None, "choices are of a component"
            components.append(images)
        install: list[Any] = []
        if self.ciphertext is None:
            fetched = source(self.digest, self.size, self.index_digest)
            install += [suit.OVERRIDE_PARAMETERS, fetched, suit.FETCH, REPORT_FAILURE]
        else:
            install += decrypted(0, len(components), self.ciphertext, self.size, self.index_digest)
            components.append(CIPHERTEXT)
        install += [suit.IMAGE_MATCH, REPORT]
        install += [suit.TRY_EACH, [*self.choices, None]] if self.choices else []
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
        components = _components(common)
        encrypted_in = components.index(CIPHERTEXT) if CIPHERTEXT in components else 0
        install_bytes, choices = _split_choices(fields.data(suit.INSTALL), len(components) - (encrypted_in > 0) > 1)
        shared = read_sequence(
            common.data(suit.SHARED_SEQUENCE),
            "shared sequence",
            ((suit.OVERRIDE_PARAMETERS, None), (suit.VENDOR_IDENTIFIER, REPORT), (suit.CLASS_IDENTIFIER, REPORT)),
            (suit.P_VENDOR, suit.P_CLASS, suit.P_DIGEST, suit.P_SIZE),
        )
        invoke = read_sequence(
            fields.data(suit.INVOKE),
            "invoke",
            ((suit.OVERRIDE_PARAMETERS, None), (suit.INVOKE_COMMAND, REPORT_FAILURE)),
            (suit.P_INVOKE_ARGS,),
        )
        read_sequence(fields.data(suit.VALIDATE), "validate", ((suit.IMAGE_MATCH, REPORT),), ())
        digest, size = sha256_of(shared.data(suit.P_DIGEST)), shared.number(suit.P_SIZE, 1, BLOB_LIMIT_BYTES)
        ciphertext = None
        if encrypted_in:
            sets = read_sequences(install_bytes, "install", (*decrypting(0, encrypted_in), (suit.IMAGE_MATCH, REPORT)), DECRYPTED)
            ciphertext, index_digest = read_decrypted(sets, what, size, encrypted_in)
        else:
            fetching = ((suit.OVERRIDE_PARAMETERS, None), (suit.FETCH, REPORT_FAILURE), (suit.IMAGE_MATCH, REPORT))
            install = read_sequence(install_bytes, "install", fetching, (suit.P_URI, suit.P_FETCH_ARGS))
            index_digest = read_source(install, what, digest, size)
        return cls(
            sequence=fields.number(suit.SEQUENCE),
            vendor=shared.data(suit.P_VENDOR, 16),
            class_identifier=shared.data(suit.P_CLASS, 16),
            digest=digest,
            size=size,
            index_digest=index_digest,
            invoke_arguments=invoke.data(suit.P_INVOKE_ARGS),
            choices=choices,
            text_digest=_text_digest(envelope.manifest[suit.TEXT]) if suit.TEXT in fields else b"",
            ciphertext=ciphertext,
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


def decrypting(target: int, source_component: int) -> tuple[tuple[int, int | None], ...]:
    """The commands that fetch a ciphertext into one component and decrypt it into another; both are given by number."""
    return (
        (suit.SET_COMPONENT_INDEX, source_component),
        (suit.OVERRIDE_PARAMETERS, None),
        (suit.FETCH, REPORT_FAILURE),
        (suit.IMAGE_MATCH, REPORT),
        (suit.SET_COMPONENT_INDEX, target),
        (suit.OVERRIDE_PARAMETERS, None),
        (suit.COPY, REPORT_FAILURE),
    )


DECRYPTED = ((suit.P_DIGEST, suit.P_SIZE, suit.P_URI, suit.P_FETCH_ARGS), (suit.P_ENCRYPTION, suit.P_SOURCE))
"""The parameters of the ciphertext, and of what is decrypted (draft-ietf-suit-firmware-encryption-26, section 4.2)."""


def decrypted(target: int, source_component: int, ciphertext: Ciphertext, size: int, index_digest: bytes) -> list[Any]:
    """The commands of `decrypting` with their parameters, as a sequence has them."""
    fetched = {
        suit.P_DIGEST: suit.sha256_digest(ciphertext.digest),
        suit.P_SIZE: size,
        **source(ciphertext.digest, size, index_digest),
    }
    parameters = iter((fetched, {suit.P_ENCRYPTION: ciphertext.info, suit.P_SOURCE: source_component}))
    commands: list[Any] = []
    for number, argument in decrypting(target, source_component):
        commands += [number, next(parameters) if argument is None else argument]
    return commands


def read_decrypted(sets: Sequence[Fields], what: str, size: int, source_component: int) -> tuple[Ciphertext, bytes]:
    """The ciphertext of a blob of this size, and the digest of its chunk index. `sets`: the parameters, as DECRYPTED has them.

    Raises Refused MALFORMED, TOO_LARGE, COMMAND_UNSUPPORTED, ENCRYPTION_UNSUPPORTED.
    """
    fetched, copied = sets
    digest = sha256_of(fetched.data(suit.P_DIGEST))
    fetched.number(suit.P_SIZE, size, size)  # counter mode keeps it
    copied.number(suit.P_SOURCE, source_component, source_component)
    info = copied.data(suit.P_ENCRYPTION, limit=INFO_LIMIT_BYTES)
    EncryptionInfo.from_bytes(info)
    return Ciphertext(digest, info), read_source(fetched, what, digest, size)


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
    (found,) = read_sequences(encoded, what, expected, (parameters,))
    return found


def read_sequences(
    encoded: bytes, what: str, expected: tuple[tuple[int, int | None], ...], parameters: tuple[tuple[int, ...], ...]
) -> list[Fields]:
    """As `read_sequence`, where parameters are set several times; `parameters` has those of each time."""
    commands = suit.command_sequence(encoded, what)
    if tuple(number for number, _ in commands) != tuple(number for number, _ in expected):
        names = ", ".join(suit.COMMANDS[number] for number, _ in commands)
        raise Refused(Reason.COMMAND_UNSUPPORTED, f"{what} has commands not in the profile: {names}")
    found: list[Any] = []
    for (number, argument), (_, wanted) in zip(commands, expected, strict=True):
        if wanted is None:
            found.append(argument)
        elif type(argument) is not int or argument != wanted:  # True is 1 to Python
            raise Refused(Reason.COMMAND_UNSUPPORTED, f"{what}: {suit.COMMANDS[number]} has argument {argument!r}")
    return [Fields(each, what, known) for each, known in zip(found or [{}], parameters, strict=True)]

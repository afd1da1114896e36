"""SUIT envelopes (draft-ietf-suit-manifest-37): structure only, for every command of the draft.

What our own updates may contain is `ota.formats.manifest`'s much smaller profile; this module reads any envelope so that it can
be shown, and so that what the profile refuses can be named.
"""

from dataclasses import dataclass
from typing import Any

from cbor2 import CBORTag

from ota.formats import cbor
from ota.formats.cose import SIGN1_TAG, Sign1
from ota.formats.fields import malformed
from ota.formats.reasons import Reason, Refused

ENVELOPE_TAG = 107
MAX_SIGNATURES = 16
SHA_256 = -16
AUTHENTICATION, MANIFEST = 2, 3

# Manifest members.
VERSION, SEQUENCE, COMMON, REFERENCE_URI, VALIDATE, LOAD, INVOKE, PAYLOAD_FETCH, INSTALL, TEXT = 1, 2, 3, 4, 7, 8, 9, 16, 20, 23
MANIFEST_MEMBERS = {
    VERSION: "manifest-version",
    SEQUENCE: "sequence-number",
    COMMON: "common",
    REFERENCE_URI: "reference-uri",
    VALIDATE: "validate",
    LOAD: "load",
    INVOKE: "invoke",
    PAYLOAD_FETCH: "payload-fetch",
    INSTALL: "install",
    TEXT: "text",
}
SEQUENCES = (VALIDATE, LOAD, INVOKE, PAYLOAD_FETCH, INSTALL)
SEVERABLE = (PAYLOAD_FETCH, INSTALL, TEXT)
COMPONENTS, SHARED_SEQUENCE = 2, 4

# Commands.
VENDOR_IDENTIFIER, CLASS_IDENTIFIER, IMAGE_MATCH = 1, 2, 3
SET_COMPONENT_INDEX, TRY_EACH, OVERRIDE_PARAMETERS, FETCH, COPY, INVOKE_COMMAND, RUN_SEQUENCE = 12, 15, 20, 21, 22, 23, 32
COMMANDS = {
    VENDOR_IDENTIFIER: "condition-vendor-identifier",
    CLASS_IDENTIFIER: "condition-class-identifier",
    IMAGE_MATCH: "condition-image-match",
    5: "condition-component-slot",
    6: "condition-check-content",
    SET_COMPONENT_INDEX: "directive-set-component-index",
    14: "condition-abort",
    TRY_EACH: "directive-try-each",
    18: "directive-write",
    OVERRIDE_PARAMETERS: "directive-override-parameters",
    FETCH: "directive-fetch",
    COPY: "directive-copy",
    INVOKE_COMMAND: "directive-invoke",
    24: "condition-device-identifier",
    31: "directive-swap",
    RUN_SEQUENCE: "directive-run-sequence",
}

# Parameters.
P_VENDOR, P_CLASS, P_DIGEST, P_SIZE, P_URI, P_INVOKE_ARGS, P_FETCH_ARGS = 1, 2, 3, 14, 21, 23, 25
P_ENCRYPTION, P_SOURCE = 19, 22  # the first of them: draft-ietf-suit-firmware-encryption-26
PARAMETERS = {
    P_VENDOR: "vendor-identifier",
    P_CLASS: "class-identifier",
    P_DIGEST: "image-digest",
    5: "component-slot",
    12: "strict-order",
    13: "soft-failure",
    P_SIZE: "image-size",
    18: "content",
    P_ENCRYPTION: "encryption-info",
    P_URI: "uri",
    P_SOURCE: "source-component",
    P_INVOKE_ARGS: "invoke-args",
    24: "device-identifier",
    P_FETCH_ARGS: "fetch-arguments",
}

Command = tuple[int, Any]


@dataclass(frozen=True)
class Envelope:
    """A decoded envelope. The digest binds the manifest to the authentication wrapper and is checked here; signatures are not."""

    digest: bytes  # SUIT_Digest as it is signed: the encoded [algorithm, bytes]
    signatures: tuple[Sign1, ...]
    manifest_bytes: bytes
    manifest: dict[int, Any]
    severed: dict[int, bytes]
    integrated: dict[str, bytes]

    @classmethod
    def from_bytes(cls, data: bytes, limit_bytes: int) -> "Envelope":
        """Raises Refused TOO_LARGE, MALFORMED, SIGNATURE_INVALID when the signed digest is not the manifest's, SEVERED_MISMATCH."""
        what = "SUIT envelope"
        value = cbor.decode(data, what, limit_bytes, (ENVELOPE_TAG,))
        if not isinstance(value, CBORTag) or value.tag != ENVELOPE_TAG or not isinstance(value.value, dict):
            raise malformed(what, f"not a map under tag {ENVELOPE_TAG}")
        members: dict[Any, Any] = value.value
        wrapper, manifest_bytes = members.pop(AUTHENTICATION, None), members.pop(MANIFEST, None)
        if not isinstance(wrapper, bytes) or not isinstance(manifest_bytes, bytes):
            raise malformed(what, "authentication wrapper or manifest is missing")
        severed, integrated = {}, {}
        for key, content in members.items():
            if not isinstance(content, bytes):
                raise malformed(what, f"member {key!r} is not bytes")
            if isinstance(key, str):
                integrated[key] = content
            elif key in SEVERABLE:
                severed[key] = content
            else:
                raise malformed(what, f"member {key!r} is unknown")
        digest, signatures = _authentication(wrapper)
        _check_digest(digest, cbor.encode(manifest_bytes), "the manifest", Reason.SIGNATURE_INVALID)
        manifest = cbor.decode(manifest_bytes, "SUIT manifest", limit_bytes)
        if not isinstance(manifest, dict):
            raise malformed("SUIT manifest", "not a map")
        for member, content in severed.items():
            if not isinstance(manifest.get(member), list):
                raise malformed(what, f"{MANIFEST_MEMBERS[member]} is severed, but the manifest has no digest of it")
            _check_digest(cbor.encode(manifest[member]), cbor.encode(content), MANIFEST_MEMBERS[member], Reason.SEVERED_MISMATCH)
        return cls(digest, signatures, manifest_bytes, manifest, severed, integrated)

    def sequence(self, member: int) -> tuple[Command, ...] | None:
        """The commands of a section, whether severed or not; None where there is no such section, or only its digest."""
        content = self.severed.get(member, self.manifest.get(member))
        if content is None or isinstance(content, list):
            return None
        return command_sequence(content, MANIFEST_MEMBERS[member])


def _authentication(wrapper: bytes) -> tuple[bytes, tuple[Sign1, ...]]:
    value = cbor.decode(wrapper, "authentication wrapper", 64 * 1024)
    if not isinstance(value, list) or not value or not all(isinstance(each, bytes) for each in value):
        raise malformed("authentication wrapper", "not a list of byte strings")
    blocks = value[1:]
    if len(blocks) > MAX_SIGNATURES:
        raise malformed("authentication wrapper", f"{len(blocks)} signatures, the limit is {MAX_SIGNATURES}")
    for block in blocks:
        if not block or block[0] != 0xC0 | SIGN1_TAG:
            raise malformed("authentication wrapper", "a block that is not COSE_Sign1")
    return value[0], tuple(Sign1.from_bytes(block) for block in blocks)


def _check_digest(encoded: bytes, content: bytes, what: str, reason: Reason) -> None:
    algorithm, expected = read_digest(encoded)
    if algorithm != SHA_256:
        raise Refused(Reason.COMMAND_UNSUPPORTED, f"digest algorithm {algorithm}: only SHA-256 ({SHA_256}) is supported")
    if cbor.sha256(content) != expected:
        raise Refused(reason, f"the digest of {what} is {cbor.sha256(content).hex()}, signed is {expected.hex()}")


def read_digest(encoded: bytes) -> tuple[int, bytes]:
    """A SUIT_Digest: (algorithm, bytes). Raises Refused MALFORMED."""
    match cbor.decode(encoded, "SUIT digest", 256):
        case [int() as algorithm, bytes() as digest] if not isinstance(algorithm, bool) and 16 <= len(digest) <= 64:
            return algorithm, digest
    raise malformed("SUIT digest", "not [algorithm, bytes]")


def sha256_digest(digest: bytes) -> bytes:
    """SUIT_Digest of a SHA-256, encoded."""
    return cbor.encode([SHA_256, digest])


def command_sequence(encoded: bytes, what: str) -> tuple[Command, ...]:
    """The commands of an encoded sequence, in order. Raises Refused MALFORMED, COMMAND_UNSUPPORTED for one that the draft lacks."""
    value = cbor.decode(encoded, what, 64 * 1024) if isinstance(encoded, bytes) else None
    if not isinstance(value, list) or len(value) % 2:
        raise malformed(what, "not a list of commands and arguments")
    commands = tuple(zip(value[::2], value[1::2], strict=True))
    for number, _ in commands:
        if type(number) is not int or number not in COMMANDS:
            raise Refused(Reason.COMMAND_UNSUPPORTED, f"{what}: command {number!r} is not in draft-ietf-suit-manifest-37")
    return commands


def encode_envelope(manifest_bytes: bytes, signatures: list[bytes], text: bytes = b"") -> bytes:
    """An envelope of a manifest, COSE_Sign1 signatures over its `signed_digest`, and the text that it has the digest of."""
    wrapper = cbor.encode([signed_digest(manifest_bytes), *signatures])
    severed = {TEXT: text} if text else {}
    return cbor.encode(CBORTag(ENVELOPE_TAG, {AUTHENTICATION: wrapper, MANIFEST: manifest_bytes} | severed))


def add_signature(envelope: bytes, signature: bytes, limit_bytes: int) -> bytes:
    """The same envelope with one COSE_Sign1 more. Raises Refused as `Envelope.from_bytes`."""
    Envelope.from_bytes(envelope, limit_bytes)
    members = dict(cbor.decode(envelope, "SUIT envelope", limit_bytes, (ENVELOPE_TAG,)).value)
    wrapper = cbor.decode(members[AUTHENTICATION], "authentication wrapper", limit_bytes)
    return cbor.encode(CBORTag(ENVELOPE_TAG, members | {AUTHENTICATION: cbor.encode([*wrapper, signature])}))


def signed_digest(manifest_bytes: bytes) -> bytes:
    """What signatures are made over: the digest of the manifest in its byte-string wrapping (draft, section 8.3)."""
    return sha256_digest(cbor.sha256(cbor.encode(manifest_bytes)))

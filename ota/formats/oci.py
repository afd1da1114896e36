"""References to artifacts in OCI registries, and what manifests and indexes there say. Does no I/O.

By the OCI image and distribution specifications 1.1, and the CNCF's "Wasm OCI Artifact Layout".
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ota.errors import OtaError
from ota.formats.cbor import sha256
from ota.formats.chunks import BLOB_LIMIT_BYTES
from ota.formats.fields import malformed
from ota.formats.provenance import LINE_LIMIT
from ota.formats.reasons import Reason, Refused

__all__ = [
    "CONFIG",
    "CONFIG_LIMIT_BYTES",
    "DESCRIPTION",
    "DESCRIPTION_LIMIT_BYTES",
    "INDEXES",
    "MANIFEST",
    "MANIFESTS",
    "MANIFEST_LIMIT_BYTES",
    "SCHEME",
    "TITLE",
    "WASM",
    "Artifact",
    "Descriptor",
    "Reference",
    "digest_of",
    "entries",
    "manifest_in",
    "parse_json",
]

SCHEME = "oci://"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MANIFESTS = (MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")
INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
CONFIG = "application/vnd.wasm.config.v0+json"
WASM = "application/wasm"
DESCRIPTION = "application/vnd.wamr-ota.description.v1+toml"  # the .toml that lies beside a module
TITLE = "org.opencontainers.image.title"
_WASM_TYPES = (WASM, "application/vnd.wasm.content.layer.v1+wasm")  # the second: wasm-to-oci's
_ARCHIVES = ("application/vnd.oci.image.layer.v1.tar",)  # what `oras push` calls a plain file unless it is told

MANIFEST_LIMIT_BYTES, CONFIG_LIMIT_BYTES, DESCRIPTION_LIMIT_BYTES = 256 * 1024, 64 * 1024, 64 * 1024
MAX_DESCRIPTORS = 64
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"oci://(?P<host>{_HOST})/(?P<name>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True)
class Reference:
    """An artifact: oci://HOST/NAME:TAG, oci://HOST/NAME@sha256:…, or both, where the digest counts."""

    host: str  # with its port, if it has one
    name: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Raises OtaError for what is no reference, or one without tag and digest."""
        found = _REFERENCE.fullmatch(text) if len(text) <= 2 * LINE_LIMIT else None
        if found is None:
            raise OtaError(f"{text[: 2 * LINE_LIMIT]!r} is no artifact: {SCHEME}REGISTRY/NAME:TAG or …@sha256:DIGEST is expected")
        reference = cls(**{key: value or "" for key, value in found.groupdict().items()})
        if not reference.tag and not reference.digest:
            raise OtaError(f"{text}: a tag or a digest is missing: {text}:TAG or {text}@sha256:DIGEST")
        if len(str(replace(reference, tag="", digest=digest_of(b"")))) > LINE_LIMIT:
            raise OtaError(f"{text}: the name is too long to be kept in a manifest, {LINE_LIMIT} characters with the digest")
        return reference

    def pinned(self, digest: str) -> "Reference":
        """The same artifact by its digest, which never names another."""
        return replace(self, tag="", digest=digest)

    def __str__(self) -> str:
        tag, digest = self.tag and f":{self.tag}", self.digest and f"@{self.digest}"
        return f"{SCHEME}{self.host}/{self.name}{tag}{digest}"


@dataclass(frozen=True)
class Descriptor:
    """What a manifest names by type, digest and size."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str]
    platform: tuple[str, str] = ("", "")  # operating system and architecture, in indexes
    artifact_type: str = ""  # likewise

    @classmethod
    def parse(cls, value: Any, what: str) -> "Descriptor":
        """Raises Refused MALFORMED."""
        if not isinstance(value, dict):
            raise malformed(what, "a descriptor is no object")
        media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
        if not isinstance(media_type, str) or not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise malformed(what, "a descriptor has no media type, or no digest by SHA-256")
        if type(size) is not int or size < 0:
            raise malformed(what, f"the size of {digest} is not a number from 0 on")
        platform = value.get("platform") or {}
        annotations = value.get("annotations") or {}
        if not isinstance(platform, dict) or not isinstance(annotations, dict):
            raise malformed(what, f"annotations or platform of {digest} are no objects")
        texts = {key: text for key, text in annotations.items() if isinstance(text, str)}
        about = (str(platform.get("os", "")), str(platform.get("architecture", "")))
        return cls(media_type, digest, size, texts, about, str(value.get("artifactType", "")))

    @property
    def title(self) -> str:
        """The name of the file that it was."""
        return self.annotations.get(TITLE, "")

    @property
    def is_module(self) -> bool:
        """Whether it says that it is WebAssembly: by its type, or as a plain file by its name."""
        return self.media_type in _WASM_TYPES or (self.media_type in _ARCHIVES and self.title.endswith(".wasm"))

    def to_json(self) -> dict[str, Any]:
        """As manifests have it."""
        shown = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return shown | ({"annotations": dict(self.annotations)} if self.annotations else {})


@dataclass(frozen=True)
class Artifact:
    """The manifest of an artifact that has one module."""

    config: Descriptor
    layers: tuple[Descriptor, ...]

    @classmethod
    def from_bytes(cls, data: bytes, what: str) -> "Artifact":
        """Raises Refused TOO_LARGE, MALFORMED."""
        value = parse_json(data, MANIFEST_LIMIT_BYTES, what)
        return cls(Descriptor.parse(value.get("config"), what), _descriptors(value.get("layers"), what))

    def module(self, what: str) -> Descriptor:
        """The one layer that is a module. Raises Refused ARTIFACT_UNSUITABLE, TOO_LARGE."""
        found = [each for each in self.layers if each.is_module]
        if len(found) != 1:
            types = ", ".join(sorted({each.media_type for each in self.layers})) or "none"
            raise Refused(
                Reason.ARTIFACT_UNSUITABLE,
                f"{what} has {len(found)} layers that are modules, one is expected ({WASM}); layers: {types}",
            )
        _check_size(found[0], BLOB_LIMIT_BYTES, what)
        return found[0]

    def description(self, what: str) -> Descriptor | None:
        """The layer with the module's .toml, if it has one. Raises Refused ARTIFACT_UNSUITABLE, TOO_LARGE."""
        found = [each for each in self.layers if each.media_type == DESCRIPTION]
        if len(found) > 1:
            raise Refused(Reason.ARTIFACT_UNSUITABLE, f"{what} has {len(found)} descriptions of its module")
        for each in found:
            _check_size(each, DESCRIPTION_LIMIT_BYTES, what)
        return found[0] if found else None

    def check_config(self, data: bytes, what: str) -> None:
        """Whether the config of a CNCF artifact is about these layers. Raises Refused MALFORMED, ARTIFACT_UNSUITABLE."""
        value = parse_json(data, CONFIG_LIMIT_BYTES, f"{what}: its config")
        if value.get("architecture") != "wasm":
            raise Refused(Reason.ARTIFACT_UNSUITABLE, f"{what} is for another architecture than wasm")
        if value.get("layerDigests") != [each.digest for each in self.layers]:
            raise malformed(what, "its config names other layers than its manifest")


def manifest_in(index: bytes, what: str) -> Descriptor:
    """The manifest of an index, several artifacts under one name, that is for us: the one for wasm, or the one that there is.

    Raises Refused TOO_LARGE, MALFORMED, ARTIFACT_UNSUITABLE.
    """
    every = [each for each in entries(index, what) if each.media_type in MANIFESTS]
    found = [each for each in every if each.platform[1] == "wasm"] or [each for each in every if each.platform == ("", "")]
    found = [each for each in found if each.platform[0] == "wasip1"] or found
    if len(found) != 1:
        platforms = ", ".join(sorted("/".join(each.platform) for each in every)) or "none"
        raise Refused(
            Reason.ARTIFACT_UNSUITABLE, f"{what} has {len(found)} manifests for wasm, name one by its digest; it has {platforms}"
        )
    _check_size(found[0], MANIFEST_LIMIT_BYTES, what)
    return found[0]


def entries(index: bytes, what: str) -> tuple[Descriptor, ...]:
    """All that an index names. Raises Refused TOO_LARGE, MALFORMED."""
    return _descriptors(parse_json(index, MANIFEST_LIMIT_BYTES, what).get("manifests"), what)


def digest_of(data: bytes) -> str:
    """As registries write it."""
    return f"sha256:{sha256(data).hex()}"


def parse_json(data: bytes, limit_bytes: int, what: str) -> dict[str, Any]:
    """An object from outside. Raises Refused TOO_LARGE, MALFORMED."""
    if len(data) > limit_bytes:
        raise Refused(Reason.TOO_LARGE, f"{what} has {len(data)} bytes, the limit is {limit_bytes}")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise malformed(what, f"not JSON ({error})") from None
    if not isinstance(value, dict):
        raise malformed(what, "not a JSON object")
    return value


def _descriptors(value: Any, what: str) -> tuple[Descriptor, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise malformed(what, "no list of descriptors")
    if len(value) > MAX_DESCRIPTORS:
        raise Refused(Reason.TOO_LARGE, f"{what} names {len(value)} parts, at most {MAX_DESCRIPTORS} are looked through")
    return tuple(Descriptor.parse(each, what) for each in value)


def _check_size(found: Descriptor, limit: int, what: str) -> None:
    if found.size > limit:
        raise Refused(Reason.TOO_LARGE, f"{what}: {found.digest} has {found.size} bytes, the limit is {limit}")

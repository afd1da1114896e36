"""Modules in OCI registries: fetched as an artifact of the CNCF's layout or of plain files, and pushed in that layout."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ota.author import cosign
from ota.author.build import BuildError
from ota.author.registry import Repository
from ota.author.source import content, source_date_s
from ota.formats import component, oci, wasm
from ota.formats.loadable import core_module
from ota.formats.oci import Artifact, Descriptor, Reference
from ota.formats.reasons import Reason, Refused, naming

__all__ = ["Fetched", "fetch", "push"]


@dataclass(frozen=True)
class Fetched:
    """A module as it came out of a registry."""

    blob: bytes
    description: bytes  # its .toml, empty where the artifact has none
    pinned: Reference  # by the digest of what the tag named


def fetch(repository: Repository, key: cosign.PublicKey | None = None) -> Fetched:
    """One look at the tag; everything after it goes by digest, so that a tag that moves changes nothing.

    With a `key`, the artifact must be signed by it. Raises HttpError, Refused.
    """
    reference = repository.reference
    document = repository.manifest(reference.digest or reference.tag)
    pinned = reference.pinned(oci.digest_of(document))
    what = str(pinned)
    if key is not None:
        cosign.check(repository, pinned.digest, key)
    if _media_type(document, what) in oci.INDEXES:
        chosen = oci.manifest_in(document, what)
        document = repository.manifest(chosen.digest)
        if len(document) != chosen.size:
            raise Refused(Reason.MANIFEST_DIGEST_MISMATCH, f"{what}: {chosen.digest} has not the size that the index says")
    artifact = Artifact.from_bytes(document, what)
    module, described = artifact.module(what), artifact.description(what)
    if artifact.config.media_type == oci.CONFIG and artifact.config.size:  # oras is often given /dev/null
        artifact.check_config(repository.blob(artifact.config, oci.CONFIG_LIMIT_BYTES), what)
    description = repository.blob(described, oci.DESCRIPTION_LIMIT_BYTES) if described is not None else b""
    return Fetched(repository.blob(module, module.size), description, pinned)


def _media_type(document: bytes, what: str) -> str:
    """Of the document itself: what a header says of it is under no digest. Raises Refused MALFORMED, ARTIFACT_UNSUITABLE."""
    value = oci.parse_json(document, oci.MANIFEST_LIMIT_BYTES, what)
    found = value.get("mediaType", oci.INDEXES[0] if "manifests" in value else oci.MANIFEST)
    if found not in (*oci.MANIFESTS, *oci.INDEXES) or ("manifests" in value) == ("layers" in value):
        raise Refused(Reason.ARTIFACT_UNSUITABLE, f"{what} is neither a manifest nor an index of OCI or Docker: {str(found)[:100]}")
    return str(found)


def push(repository: Repository, module: Path, environment: Mapping[str, str] = os.environ) -> Reference:
    """Pushes a module, with the .toml beside it if there is one; the same files give the same digest.

    Raises BuildError, SourceError, HttpError, Refused.
    """
    with naming(module):
        blob = content(module)
        wasm.read(core_module(blob))
    beside, created_s = module.with_suffix(".toml"), source_date_s(environment)
    try:
        created_s = int(module.stat().st_mtime) if created_s is None else created_s
        description = beside.read_bytes() if beside.exists() else b""
    except OSError as error:
        raise BuildError(f"{error.filename}: {error.strerror}") from error
    if len(description) > oci.DESCRIPTION_LIMIT_BYTES:
        raise BuildError(f"{beside} has {len(description)} bytes, the limit is {oci.DESCRIPTION_LIMIT_BYTES}")
    parts = [(blob, _descriptor(blob, oci.WASM, module.with_suffix(".wasm").name))]
    parts += [(description, _descriptor(description, oci.DESCRIPTION, beside.name))] if description else []
    config = _json(
        {
            "created": datetime.fromtimestamp(created_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "architecture": "wasm",
            **_platform(blob),
            "layerDigests": [each.digest for _, each in parts],
        }
    )
    described = _descriptor(config, oci.CONFIG)
    layers = [each.to_json() for _, each in parts]
    manifest = _json({"schemaVersion": 2, "mediaType": oci.MANIFEST, "config": described.to_json(), "layers": layers})
    for data, _ in [*parts, (config, described)]:
        repository.put_blob(data)
    repository.put_manifest(manifest, repository.reference.tag)
    return repository.reference.pinned(oci.digest_of(manifest))


def _platform(blob: bytes) -> dict[str, Any]:
    """What an artifact's config says of a module, or of a component and its interfaces."""
    if not component.is_component(blob):
        return {"os": "wasip1"}
    found = component.read(blob)
    return {"os": "wasip2", "component": {"imports": list(found.imports), "exports": list(found.exports)}}


def _descriptor(data: bytes, media_type: str, title: str = "") -> Descriptor:
    return Descriptor(media_type, oci.digest_of(data), len(data), {oci.TITLE: title} if title else {})


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()

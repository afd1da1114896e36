"""Bills of materials: CycloneDX 1.6 of a module, made from its own bytes and the locks beside it: the same bytes each time.

An optional part, `pip install 'wamr-ota[sbom]'`; a bill that another tool made is taken as it is.
"""

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ota.author.locks import Part, beside, read
from ota.author.source import source_date_s
from ota.errors import OtaError
from ota.formats import wasm
from ota.formats.cbor import sha256

__all__ = ["AUTO", "SBOM_LIMIT_BYTES", "SbomError", "load", "make"]

AUTO = "auto"
SBOM_LIMIT_BYTES = 4 << 20


class SbomError(OtaError):
    """A bill of materials can't be made, or is none."""


def load(path: Path) -> bytes:
    """A bill that another tool made: CycloneDX or SPDX, as JSON. Raises SbomError."""
    try:
        with path.open("rb") as file:
            data = file.read(SBOM_LIMIT_BYTES + 1)
    except OSError as error:
        raise SbomError(f"{path}: {error.strerror}") from error
    check(data, str(path))
    return data


def check(data: bytes, what: str) -> None:
    """Raises SbomError for what is no bill of materials."""
    if len(data) > SBOM_LIMIT_BYTES:
        raise SbomError(f"{what} is larger than {SBOM_LIMIT_BYTES} bytes")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SbomError(f"{what} is not JSON: {error}") from None
    spdx = isinstance(value, dict) and ("spdxVersion" in value or "spdx.org" in str(value.get("@context", "")))
    if not spdx and not (isinstance(value, dict) and value.get("bomFormat") == "CycloneDX"):
        raise SbomError(f"{what} is neither CycloneDX nor SPDX")


def make(module: Path, blob: bytes, name: str, version: str) -> bytes:
    """The bill of a module: what its section "producers" and the locks in its folder say.

    Raises SbomError, LockError, SourceError, Refused.
    """
    try:
        from cyclonedx.model import HashAlgorithm, HashType, Property
        from cyclonedx.model.bom import Bom, BomMetaData
        from cyclonedx.model.component import Component, ComponentScope, ComponentType
        from cyclonedx.model.tool import ToolRepository
        from cyclonedx.output import make_outputter
        from cyclonedx.schema import OutputFormat, SchemaVersion
        from packageurl import PackageURL
    except ImportError:
        raise SbomError("bills of materials need cyclonedx-python-lib: pip install 'wamr-ota[sbom]'") from None

    def component(part: Part) -> Any:
        group, _, short = part.name.rpartition("/")
        qualifiers = {"download_url": part.url} if part.ecosystem == "generic" else None
        return Component(
            name=part.name,
            version=part.version,
            type=ComponentType.LIBRARY,
            bom_ref=f"{part.ecosystem}:{part.name}@{part.version}:{sha256(repr(part).encode()).hex()[:16]}",
            purl=PackageURL(part.ecosystem, group or None, short, part.version or None, qualifiers),
            hashes=[HashType(alg=HashAlgorithm(algorithm), content=digest) for algorithm, digest in part.digests],
            scope=ComponentScope.EXCLUDED if part.development else ComponentScope.REQUIRED,
        )

    producers = wasm.producers(blob)
    digest = sha256(blob).hex()
    root = Component(
        name=name,
        version=version,
        type=ComponentType.FIRMWARE,
        bom_ref="module",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
        properties=[
            Property(name=f"wasm:{field}", value=f"{what} {which}".strip())
            for field, what, which in producers
            if field != "processed-by"
        ],
    )
    tools = [
        Component(name=what, version=which, type=ComponentType.APPLICATION, bom_ref=f"tool:{number}")
        for number, (field, what, which) in enumerate(producers)
        if field == "processed-by"
    ]
    parts = [component(each) for each in _parts(module)]
    metadata = BomMetaData(component=root, tools=ToolRepository(components=tools), timestamp=_date())
    bill = Bom(components=parts, serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"urn:sha256:{digest}"), metadata=metadata)
    bill.register_dependency(root, parts)
    try:
        text: str = make_outputter(bill, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)
    except Exception as error:  # the library has no base of its own for what it refuses
        raise SbomError(f"{module}: no bill of materials: {error}") from error
    return text.encode()


def _parts(module: Path) -> Sequence[Part]:
    return sorted({part for path in beside(module) for part in read(path)})


def _date() -> datetime:
    """That of reproducible builds (SOURCE_DATE_EPOCH), or 1970: the bill must not change with the time it is made."""
    return datetime.fromtimestamp(source_date_s() or 0, UTC)

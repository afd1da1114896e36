"""From an agent's tarball (`make tarball`) to an update, to be signed like a module."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from ota.author.build import NOTHING_SAID, BuildError, Draft
from ota.author.sbom import load
from ota.formats import suit
from ota.formats.agent import ABI, AgentDescription, AgentManifest, Platform
from ota.formats.cbor import sha256
from ota.formats.chunks import BLOB_LIMIT_BYTES, DEFAULT_CHUNK_BYTES, ChunkIndex
from ota.formats.classes import ANY_BOARD, class_id, vendor_id
from ota.formats.fields import Fields, Unknown
from ota.formats.profile import MANIFEST_LIMIT_BYTES
from ota.formats.provenance import Kind, Provenance, text_digest
from ota.formats.reasons import Reason, Refused, naming
from ota.keyring import SigningKey

__all__ = ["prepare_agent", "read_tarball"]

ABOUT, ABOUT_LIMIT_BYTES = "agent.json", 64 << 10
_KEYS = ("version", "architecture", "python", "libc", "launcher", "schema", "reads", "readable_by")


def prepare_agent(
    tarball: Path,
    vendor: str,
    *,
    board: str = ANY_BOARD,
    security_epoch: int = 0,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    kind: Kind = Kind.UNSPECIFIED,
    provenance: Provenance = NOTHING_SAID,
    sbom: str = "",
) -> Draft:
    """Makes a manifest of a tarball for boards of class `board`. Raises BuildError, and Refused for what boards would refuse."""
    try:
        with tarball.open("rb") as file:
            content = file.read(BLOB_LIMIT_BYTES + 1)
        index = ChunkIndex.of(content, chunk_bytes)
    except OSError as error:
        raise BuildError(f"{tarball}: {error.strerror}") from error
    except ValueError as error:
        raise BuildError(f"{tarball}: {error}") from error
    with naming(tarball):
        agent = read_tarball(tarball, board, security_epoch)
    bill = load(Path(sbom)) if sbom else b""
    identifier, text = vendor_id(vendor), replace(provenance, sbom=sha256(bill) if bill else b"").to_bytes()
    manifest = AgentManifest(
        sequence=0,
        vendor=identifier,
        class_identifier=class_id(identifier, board, agent.platform.text, ABI),
        digest=index.digest,
        size=index.size,
        index_digest=sha256(index.to_bytes()),
        agent=replace(agent, kind=kind),
        text_digest=text_digest(text),
    )
    draft = Draft(manifest, content, index, text=text, sbom=bill)
    trial = draft.signed((1 << 63) - 1, SigningKey.generate())  # what boards would refuse is refused before it is signed
    AgentManifest.from_envelope(suit.Envelope.from_bytes(trial.envelope, MANIFEST_LIMIT_BYTES))
    return draft


def read_tarball(tarball: Path, board: str = "", security_epoch: int = 0) -> AgentDescription:
    """What a tarball says of itself. Raises Refused AGENT_INVALID, MALFORMED, CLASS_MISMATCH for one of another launcher."""
    about, size = _about(tarball)
    fields = Fields(about, ABOUT, _KEYS, Unknown.IGNORE)
    if (launcher := ABI.rpartition("@")[0] + f"@{fields.number('launcher')}") != ABI:
        raise Refused(Reason.CLASS_MISMATCH, f"the agent is for {launcher}, boards of this version have {ABI}: flash them")
    return AgentDescription(
        version=fields.text("version", 64),
        platform=Platform.parse((fields.text(key, 32) for key in ("architecture", "python", "libc")), ABOUT),
        schema=fields.number("schema"),
        reads=fields.number("reads"),
        readable_by=fields.number("readable_by"),
        unpacked_bytes=size,
        security_epoch=security_epoch,
        board="" if board == ANY_BOARD else board,
    )


def _about(tarball: Path) -> tuple[Any, int]:
    """Its file agent.json, and how many bytes it has unpacked. Boards check what else there is in it."""
    found, size = None, 0
    try:
        with tarfile.open(tarball, "r:gz") as archive:
            for member in archive:
                size += member.size
                content = archive.extractfile(member) if member.name == ABOUT and member.size <= ABOUT_LIMIT_BYTES else None
                if content is not None:
                    found = json.loads(content.read())
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise Refused(Reason.AGENT_INVALID, f"no tarball of an agent (`make tarball` makes one): {error}") from error
    if found is None:
        raise Refused(Reason.AGENT_INVALID, f"no tarball of an agent (`make tarball` makes one): it has no {ABOUT}")
    return found, size

"""Which module a board runs: the confirmed one, else the one before it, else the factory module. No network, no signature check:
a confirmed module boots even when keys were revoked or the clock is wrong; only disk damage and the board's policy prevent it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from device_agent.channel.workers import ModuleSpec
from device_agent.storage.store import Store, Version
from ota.errors import OtaError
from ota.formats import suit
from ota.formats.capabilities import Capabilities, check_granted
from ota.formats.cbor import sha256
from ota.formats.manifest import MANIFEST_LIMIT_BYTES, Manifest, image_name
from ota.formats.reasons import Reason, Refused
from ota.formats.report import Running

ORDER = ("confirmed", "previous", "factory")


@dataclass(frozen=True)
class Candidate:
    """A module that may be started, from one of the slots."""

    spec: ModuleSpec
    running: Running


class FactoryError(OtaError):
    """The factory module of the configuration can't be read."""


def candidate(
    name: str,
    store: Store,
    factory: Path | None,
    grants: Capabilities,
    config: dict[str, str],
    image_classes: Callable[[bytes], Sequence[bytes]] = lambda _: (),
) -> Candidate | None:
    """The module of a slot, None where the slot is empty. `image_classes`: those of this board, by vendor.

    Raises Refused when it is damaged or asks for more than the board's policy grants, FactoryError.
    """
    found = _factory(factory) if name == "factory" else _stored(name, store)
    if found is None:
        return None
    manifest, blob, digest = found
    check_granted(manifest.module.capabilities, grants)
    about = manifest.module
    running = Running(about.name, about.version, digest, manifest.sequence, name)
    spec = ModuleSpec(about, blob, manifest.digest, config, manifest=digest)
    folder = blob.parent if name == "factory" else None
    return Candidate(with_image(spec, manifest, store, image_classes(manifest.vendor), folder), running)


def with_image(
    spec: ModuleSpec, manifest: Manifest, store: Store, image_classes: Sequence[bytes], folder: Path | None = None
) -> ModuleSpec:
    """The same with the ahead-of-time image for the first of the board's classes that has one, if it is on disk.

    `folder`: where to look instead of in the store. The worker checks what it reads.
    """
    image = manifest.image_for(image_classes)
    if image is None:
        return spec
    path = folder / image_name(image.digest) if folder is not None else store.blob_path(image.digest)
    return replace(spec, image=path, image_digest=image.digest) if path.exists() else spec


def _stored(name: str, store: Store) -> tuple[Manifest, Path, bytes] | None:
    slot = store.slots().get(name)
    if slot is None:
        return None
    envelope = store.envelope(slot.envelope)
    if envelope is None:
        raise Refused(Reason.MANIFEST_MISSING, f"the manifest of the {name} module is not in the store")
    manifest = parse(envelope)
    store.blob(manifest.digest)
    return manifest, store.blob_path(manifest.digest), slot.envelope


def _factory(folder: Path | None) -> tuple[Manifest, Path, bytes] | None:
    if folder is None:
        return None
    try:
        envelope, blob = (folder / "manifest.suit").read_bytes(), (folder / "module.wasm").read_bytes()
    except OSError as error:
        raise FactoryError(f"factory module: {error.filename}: {error.strerror}") from error
    manifest = parse(envelope)
    if sha256(blob) != manifest.digest:
        raise Refused(Reason.BLOB_DIGEST_MISMATCH, f"{folder / 'module.wasm'} is not what its manifest names")
    return manifest, folder / "module.wasm", sha256(envelope)


def version(name: str, store: Store, factory: Path | None) -> Version | None:
    """The version of a module in a slot, None where the slot is empty or its manifest can't be read."""
    try:
        if name == "factory":
            found = _factory(factory)
            return Version(found[0].module.name, found[2]) if found is not None else None
        slot = store.slots().get(name)
        envelope = store.envelope(slot.envelope) if slot is not None else None
        return Version(parse(envelope).module.name, slot.envelope) if slot is not None and envelope is not None else None
    except (Refused, FactoryError):
        return None


def parse(envelope: bytes) -> Manifest:
    """The manifest of an envelope that was verified when it came. Raises Refused for a damaged one."""
    return Manifest.from_envelope(suit.Envelope.from_bytes(envelope, MANIFEST_LIMIT_BYTES))

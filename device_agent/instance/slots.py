"""Which module an instance runs: the confirmed one, else the one before it, else the factory module.

No network, no signature check: a confirmed module boots even when keys were revoked or the clock is wrong; only disk damage and the
board's policy prevent it.
"""

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from device_agent.channel.workers import ModuleSpec
from device_agent.instance.services import InstancePolicy
from device_agent.instance.snapshot import Needs
from device_agent.instance.updates import Update
from device_agent.storage.store import Store, Version
from ota.errors import OtaError
from ota.formats import suit
from ota.formats.capabilities import check_granted
from ota.formats.cbor import sha256
from ota.formats.deployment import config_digest, release_id
from ota.formats.manifest import MANIFEST_LIMIT_BYTES, AnyManifest, Manifest, image_name
from ota.formats.module import ModuleDescription
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
    name: str, instance: str, store: Store, policy: InstancePolicy, image_classes: Callable[[bytes], Sequence[bytes]] = lambda _: ()
) -> Candidate | None:
    """The module of a slot, None where the slot is empty. `image_classes`: those of this board, by vendor.

    Raises Refused when it is damaged or asks for more than the board's policy grants, FactoryError.
    """
    found = _factory(policy.factory) if name == "factory" else _stored(name, instance, store)
    if found is None:
        return None
    about = found.manifest.module
    check_policy(instance, about, policy)
    running = Running(about.name, about.version, found.digest, config_digest(found.config), found.manifest.sequence, name)
    spec = module_spec(instance, found.manifest, found.digest, found.config, policy, found.blob)
    folder = found.blob.parent if name == "factory" else None
    return Candidate(with_image(spec, found.manifest, store, image_classes(found.manifest.vendor), folder), running)


def check_policy(instance: str, module: ModuleDescription, policy: InstancePolicy) -> None:
    """Raises Refused CAPABILITY_DENIED, MEMORY_EXCEEDED for a module that asks for more than its instance gets."""
    check_granted(module.capabilities, policy.grants)
    pages = module.limits.memory_pages
    if 0 < policy.memory_pages < pages:
        why = f"the manifest asks for {pages} pages of memory, instance {instance} gets {policy.memory_pages} on this board"
        raise Refused(Reason.MEMORY_EXCEEDED, why)


def module_spec(
    instance: str, manifest: Manifest, digest: bytes, config: Mapping[str, str], policy: InstancePolicy, blob: Path
) -> ModuleSpec:
    """What a worker is to run. `digest`: of the envelope; `config`: of the deployment, which wins over the board's, key by key."""
    about = manifest.module
    for rate in ("messages_per_s", "log_lines_per_s"):
        most = getattr(policy, rate)
        if 0 < most < getattr(about.limits, rate):
            about = replace(about, limits=replace(about.limits, **{rate: most}))
    settings = {**policy.config, **config}
    release = release_id(digest, config)
    return ModuleSpec(about, blob, manifest.digest, settings, manifest=digest, instance=instance, release=release)


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


@dataclass(frozen=True)
class _Found:
    manifest: Manifest
    blob: Path
    digest: bytes  # of the envelope
    config: Mapping[str, str]


def _stored(name: str, instance: str, store: Store) -> _Found | None:
    slot = store.slots(instance).get(name)
    if slot is None:
        return None
    envelope = store.envelope(slot.envelope)
    if envelope is None:
        raise Refused(Reason.MANIFEST_MISSING, f"the manifest of the {name} module is not in the store")
    manifest = parse(envelope)
    store.blob(manifest.digest)
    return _Found(manifest, store.blob_path(manifest.digest), slot.envelope, slot.settings)


def _factory(folder: Path | None) -> _Found | None:
    if folder is None:
        return None
    try:
        envelope, blob = (folder / "manifest.suit").read_bytes(), (folder / "module.wasm").read_bytes()
    except OSError as error:
        raise FactoryError(f"factory module: {error.filename}: {error.strerror}") from error
    manifest = parse(envelope)
    if sha256(blob) != manifest.digest:
        raise Refused(Reason.BLOB_DIGEST_MISMATCH, f"{folder / 'module.wasm'} is not what its manifest names")
    return _Found(manifest, folder / "module.wasm", sha256(envelope), {})


def needs(
    instance: str,
    store: Store,
    factory: Path | None,
    image_classes: Callable[[bytes], Sequence[bytes]],
    update: Update,
    running: Collection[bytes],
    releases: Collection[bytes],
    *,
    crowded: bool = False,
) -> Needs:
    """What slots need, and the update under way or to be tried again, besides the manifests and releases of what runs.

    `crowded`: as `Update.keeps_parts` has it.
    """
    found = _Needed(image_classes, {*running}, {*releases, update.release})
    for slot in store.slots(instance).values():
        found.manifests.add(slot.envelope)
        found.releases.add(slot.release)
        with contextlib.suppress(Refused):  # a damaged one can't run: what it needed is of no use
            found.add_blobs(parse(store.envelope(slot.envelope) or b""))
    if update.keeps_parts(crowded=crowded):
        found.manifests.add(update.manifest)
        with contextlib.suppress(Refused):  # one that the journal had is not verified yet, and what it has fetched stays
            found.add_blobs(
                update.verified.manifest if update.verified is not None else parse(store.envelope(update.manifest) or b"")
            )
    from_factory = version("factory", instance, store, factory)
    if from_factory is not None:
        found.releases.add(from_factory.release)
    return Needs(frozenset(found.manifests), frozenset((instance, each) for each in found.releases), frozenset(found.blobs))


@dataclass
class _Needed:
    image_classes: Callable[[bytes], Sequence[bytes]]
    manifests: set[bytes]
    releases: set[bytes]
    blobs: set[bytes] = field(default_factory=set)

    def add_blobs(self, manifest: AnyManifest) -> None:
        self.blobs |= {manifest.digest, manifest.sent_digest}
        image = manifest.image_for(self.image_classes(manifest.vendor)) if isinstance(manifest, Manifest) else None
        if image is not None:
            self.blobs |= {image.digest, image.sent_digest}


def version(name: str, instance: str, store: Store, factory: Path | None) -> Version | None:
    """The version of a module in a slot, None where the slot is empty or its manifest can't be read."""
    try:
        if name == "factory":
            found = _factory(factory)
            return Version(instance, found.manifest.module.name, found.digest) if found is not None else None
        slot = store.slots(instance).get(name)
        envelope = store.envelope(slot.envelope) if slot is not None else None
        return Version(instance, parse(envelope).module.name, slot.release) if slot is not None and envelope is not None else None
    except (Refused, FactoryError):
        return None


def expected(instance: str, store: Store, factory: Path | None) -> ModuleDescription | None:
    """The module that will run, the first whose manifest can be read; nothing is checked. None where there is none."""
    known = store.slots(instance)
    for name in ORDER:
        with contextlib.suppress(Refused, FactoryError):
            if name in known and (envelope := store.envelope(known[name].envelope)) is not None:
                return parse(envelope).module
            if name == "factory" and (found := _factory(factory)) is not None:
                return found.manifest.module
    return None


def parse(envelope: bytes) -> Manifest:
    """The manifest of an envelope that was verified when it came. Raises Refused for a damaged one."""
    return Manifest.from_envelope(suit.Envelope.from_bytes(envelope, MANIFEST_LIMIT_BYTES))

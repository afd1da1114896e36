"""Keys, roots and updates for tests."""

from dataclasses import dataclass, field, replace

from ota.author.build import Update, sign
from ota.formats.capabilities import ABI, Capabilities
from ota.formats.cbor import sha256
from ota.formats.chunks import ChunkIndex
from ota.formats.deployment import DEPLOYMENT_TYPE, Deployment, Entry
from ota.formats.manifest import Acceptance, AotImage, Manifest, class_id, vendor_id
from ota.formats.module import Limits, ModuleDescription
from ota.formats.signed import Role
from ota.formats.trust import ROLES, ROOT_TYPE, Root
from ota.keyring import SigningKey, sign_document

VENDOR = "test.example"
NOW_S = 1_800_000_000
INSTANCE = "module"
"""The instance that a deployment is for where a test names none."""


@dataclass
class Signer:
    """An operator with one key a role."""

    keys: dict[str, SigningKey] = field(default_factory=lambda: {role: SigningKey.generate() for role in ROLES})
    sequence: int = 0
    epoch: int = 0
    now_s: int = NOW_S
    limits: Limits = field(default_factory=lambda: Limits(memory_pages=4, deadline_ms=2000))

    def root(self, number: int = 1, **changes) -> Root:
        roles = {role: Role({key.public.key_id: key.public}, 1) for role, key in self.keys.items()}
        return replace(Root(number, self.now_s - 1000, self.now_s + 10_000_000, VENDOR, roles), **changes)

    def root_document(self, **changes) -> bytes:
        return sign_document(self.root(**changes).to_payload(), ROOT_TYPE, [self.keys["root"]])

    def update(self, wasm: bytes, *, name="module", version="1.0.0", board="generic", chunk_bytes=1024, **changes) -> Update:
        self.sequence += 1
        vendor = vendor_id(VENDOR)
        index = ChunkIndex.of(wasm, chunk_bytes)
        capabilities = changes.pop(
            "capabilities", {"logging": {}, "messaging": {"subscribe": ["in/#", "sys/#"], "publish": ["out/#"]}}
        )
        limits = changes.pop("limits", self.limits)
        module = ModuleDescription(name, version, Capabilities.parse(capabilities, "test"), limits, changes.pop("epoch", 0))
        module = replace(module, kind=changes.pop("kind", module.kind))
        manifest = Manifest(
            sequence=changes.pop("sequence", self.sequence),
            vendor=vendor,
            class_identifier=class_id(vendor, board, "wasm", ABI),
            digest=index.digest,
            size=index.size,
            index_digest=sha256(index.to_bytes()),
            module=module,
        )
        images = changes.pop("aot", ())
        indexes = [ChunkIndex.of(image, chunk_bytes) for _, image in images]
        parts = tuple(
            AotImage(identifier, each.digest, each.size, sha256(each.to_bytes()))
            for (identifier, _), each in zip(images, indexes, strict=True)
        )
        update = sign(replace(manifest, images=parts, **changes), wasm, index, [self.keys["release"]])
        return replace(update, images=tuple((image, each) for (_, image), each in zip(images, indexes, strict=True)))

    def entry(self, digest: bytes, *, now_s=NOW_S, **changes) -> Entry:
        """An entry that is valid for a while, under a deployment of its own unless `deployment_id` says otherwise."""
        values = {"deployment_id": sha256(digest + (self.epoch + 1).to_bytes(4))[:16], "issued_s": now_s, "expires_s": now_s + 1000}
        return Entry(digest, **(values | changes))

    def document(self, entries: dict[str, Entry], *, group="lab", device="", keys=None, **changes) -> tuple[Deployment, bytes]:
        """A signed document of a group, or of a device, and what it says. `changes`: epoch, issued_s."""
        self.epoch += 1
        values = {"epoch": self.epoch, "issued_s": max((each.issued_s for each in entries.values()), default=self.now_s)} | changes
        deployment = Deployment(group="" if device else group, device=device, entries=entries, **values)
        return deployment, sign_document(deployment.to_payload(), DEPLOYMENT_TYPE, keys or [self.keys["deploy"]])

    def deployment(
        self, digest: bytes, instance=INSTANCE, *, group="lab", device="", now_s=NOW_S, keys=None, **changes
    ) -> tuple[Deployment, bytes]:
        """A signed document with one entry. `changes`: fields of the entry, and `epoch` of the document."""
        of_document = {name: changes.pop(name) for name in ("epoch",) if name in changes}
        entry = self.entry(digest, now_s=now_s, **changes)
        return self.document({instance: entry}, group=group, device=device, keys=keys, **of_document)


def acceptance(**changes) -> Acceptance:
    vendor = vendor_id(VENDOR)
    return replace(Acceptance(vendor, {class_id(vendor, "generic", "wasm", ABI)}, 0, 0), **changes)

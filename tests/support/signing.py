"""Keys, roots and updates for tests."""

from dataclasses import dataclass, field, replace

from ota.author.build import Update, sign
from ota.formats.capabilities import ABI, Capabilities
from ota.formats.cbor import sha256
from ota.formats.chunks import ChunkIndex
from ota.formats.deployment import DEPLOYMENT_TYPE, Deployment
from ota.formats.manifest import Acceptance, AotImage, Manifest, class_id, vendor_id
from ota.formats.module import Limits, ModuleDescription
from ota.formats.signed import Role
from ota.formats.trust import ROLES, ROOT_TYPE, Root
from ota.keyring import SigningKey, sign_document

VENDOR = "test.example"
NOW_S = 1_800_000_000


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

    def deployment(self, digest: bytes, *, group="lab", now_s=NOW_S, keys=None, **changes) -> tuple[Deployment, bytes]:
        self.epoch += 1
        values = {
            "deployment_id": sha256(digest + self.epoch.to_bytes(4))[:16],
            "epoch": self.epoch,
            "issued_s": now_s,
            "expires_s": now_s + 1000,
        }
        deployment = Deployment(group=group, manifest_digest=digest, **(values | changes))
        return deployment, sign_document(deployment.to_payload(), DEPLOYMENT_TYPE, keys or [self.keys["deploy"]])


def acceptance(**changes) -> Acceptance:
    vendor = vendor_id(VENDOR)
    return replace(Acceptance(vendor, {class_id(vendor, "generic", "wasm", ABI)}, 0, 0), **changes)

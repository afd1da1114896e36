"""From a .wasm and its description to a signed update.

<name>-<version>/manifest.suit  the SUIT envelope
                 module.wasm    the blob; agent.tar.gz where it is an agent (ota.author.agent)
                 index.cbor     its chunk index
                 sbom.json      its bill of materials, where it has one (ota.author.sbom)
                 <digest>.aot   an ahead-of-time image, and <digest>.cbor its chunk index

Of an encrypted update (ota.author.encryption) there are the ciphertexts alone: module.encrypted, <digest>.encrypted.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ota.author import sbom as sboms
from ota.author.aot import Compiled, compile_all
from ota.author.source import content
from ota.bounded import read_bounded
from ota.description import read_description
from ota.durable import write_durably
from ota.errors import OtaError
from ota.formats import cbor, suit, wasm
from ota.formats.capabilities import ABI, Capabilities, check_exports, check_imports, interfaces_of
from ota.formats.cbor import sha256
from ota.formats.chunks import BLOB_LIMIT_BYTES, DEFAULT_CHUNK_BYTES, INDEX_LIMIT_BYTES, ChunkIndex
from ota.formats.encryption import EncryptionInfo
from ota.formats.features import check_core
from ota.formats.fields import is_name
from ota.formats.loadable import core_module
from ota.formats.manifest import (
    ANY_BOARD,
    MANIFEST_LIMIT_BYTES,
    MAX_IMAGES,
    AgentManifest,
    AnyManifest,
    AotImage,
    Manifest,
    class_id,
    image_class_id,
    image_name,
    read_manifest,
    vendor_id,
)
from ota.formats.module import ModuleDescription, about_memory
from ota.formats.provenance import Kind, Provenance, text_digest
from ota.formats.reasons import Refused, naming
from ota.keyring import Signer, SigningKey

NOTHING_SAID = Provenance()
SBOM = "sbom.json"
ENCRYPTED = ".encrypted"


class BuildError(OtaError):
    """The module or its description can't become an update."""


@dataclass(frozen=True)
class Draft:
    """An update that is checked and complete, but for its sequence number and its signature."""

    manifest: AnyManifest  # its sequence is 0
    blob: bytes  # as it travels
    index: ChunkIndex
    images: tuple[tuple[bytes, ChunkIndex], ...] = ()  # as in the manifest
    text: bytes = b""  # that the manifest has the digest of
    sbom: bytes = b""  # that the text has the digest of

    @property
    def blobs(self) -> tuple[tuple[bytes, ChunkIndex], ...]:
        """Everything that boards may fetch: the .wasm, then the images."""
        return ((self.blob, self.index), *self.images)

    @property
    def content(self) -> bytes:
        """Identifies everything that a manifest says except the sequence number.

        Of an encrypted one the plaintext and for whom it is: encrypting it anew gives another ciphertext each time.
        """
        if not is_encrypted(self.manifest):
            return sha256(self.manifest.to_bytes())
        assert isinstance(self.manifest, Manifest)
        assert self.manifest.ciphertext is not None
        recipients = EncryptionInfo.from_bytes(self.manifest.ciphertext.info).recipients
        plain = without_transfer(self.manifest).to_bytes()
        return sha256(cbor.encode([plain, self.index.chunk_bytes, sorted(each.key_id for each in recipients)]))

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.manifest.name} {self.manifest.version}"

    @property
    def name(self) -> str:
        """Of the folder that `Update.save` makes."""
        return f"{self.manifest.name}-{self.manifest.version}"

    def signed(self, sequence: int, *keys: Signer) -> "Update":
        """The update with this sequence number, signed with release keys."""
        update = sign(replace(self.manifest, sequence=sequence), self.blob, self.index, keys, self.text)
        return replace(update, images=self.images, sbom=self.sbom)


@dataclass(frozen=True)
class Update:
    """A signed update, ready to be published."""

    envelope: bytes
    blob: bytes
    index: ChunkIndex
    manifest: AnyManifest
    images: tuple[tuple[bytes, ChunkIndex], ...] = ()  # as in the manifest
    sbom: bytes = b""  # the bill of materials that the text names

    @property
    def blobs(self) -> tuple[tuple[bytes, ChunkIndex], ...]:
        """Everything that boards may fetch: the .wasm, then the images."""
        return ((self.blob, self.index), *self.images)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the envelope: what deployments name."""
        return sha256(self.envelope)

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.manifest.name} {self.manifest.version}"

    @property
    def draft(self) -> Draft:
        """What it was before it was signed."""
        return Draft(replace(self.manifest, sequence=0), self.blob, self.index, self.images, self.text, self.sbom)

    @property
    def text(self) -> bytes:
        """What is said for people (ota.formats.provenance), empty where it was severed."""
        return suit.Envelope.from_bytes(self.envelope, MANIFEST_LIMIT_BYTES).severed.get(suit.TEXT, b"")

    def save(self, out: Path) -> Path:
        """Writes the update into a folder of its name and version below `out`; returns that folder."""
        folder = out / self.draft.name
        self.write(folder)
        return folder

    def write(self, folder: Path) -> None:
        """Writes the parts into a folder, the manifest last."""
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / _blob_name(self.manifest), self.blob)
        write_durably(folder / "index.cbor", self.index.to_bytes())
        for image, index in self.images:
            write_durably(folder / image_name(index.digest, _suffix(self.manifest)), image)
            write_durably(folder / image_name(index.digest, ".cbor"), index.to_bytes())
        if self.sbom:
            write_durably(folder / SBOM, self.sbom)
        write_durably(folder / "manifest.suit", self.envelope)

    @classmethod
    def load(cls, folder: Path, *, bill: bool = True) -> "Update":
        """What `save` wrote. Raises BuildError when the parts are missing or do not belong together, Refused.

        Without `bill` the bill of materials may be missing: it is in no bundle, and boards do not need it.
        """
        try:
            envelope = read_bounded(folder / "manifest.suit", MANIFEST_LIMIT_BYTES)
            with naming(folder / "manifest.suit"):
                manifest = read_manifest(suit.Envelope.from_bytes(envelope, MANIFEST_LIMIT_BYTES))
            blob = read_bounded(folder / _blob_name(manifest), BLOB_LIMIT_BYTES)
            index_bytes = read_bounded(folder / "index.cbor", INDEX_LIMIT_BYTES)
        except FileNotFoundError as error:
            lacks = f"{folder} is not a build: it has no {Path(error.filename).name}"
            found = sorted(each.name for each in folder.glob("*.wasm"))[:1]
            there = f"; there is {folder / found[0]}" if found else ""
            raise BuildError(f"{lacks}; name a .wasm, or a folder that `ota build` made{there}") from error
        except OSError as error:
            raise BuildError(f"{error.filename}: {error.strerror}") from error
        if sha256(blob) != manifest.sent_digest:
            raise BuildError(f"{folder / _blob_name(manifest)} is not what the manifest names")
        with naming(folder / "index.cbor"):
            index = ChunkIndex.from_bytes(index_bytes, manifest.index_digest, manifest.sent_digest, manifest.size)
        images = manifest.images if isinstance(manifest, Manifest) else ()
        update = cls(envelope, blob, index, manifest, tuple(_load_image(folder, image) for image in images))
        if not bill and not (folder / SBOM).exists():
            return update
        return replace(update, sbom=_load_sbom(folder, update.bill))

    @property
    def bill(self) -> bytes:
        """The SHA-256 of the bill of materials that the text names; empty where it names none, and where it is not one of ours."""
        with contextlib.suppress(Refused):
            return Provenance.from_bytes(self.text).sbom if self.text else b""
        return b""


def is_encrypted(manifest: AnyManifest) -> bool:
    """Whether ciphertexts travel in the place of its blobs."""
    return isinstance(manifest, Manifest) and manifest.ciphertext is not None


def without_transfer(manifest: Manifest) -> Manifest:
    """The same without what is said of how its blobs travel: encrypted or not, and in which chunks."""
    images = tuple(replace(each, ciphertext=None, index_digest=b"") for each in manifest.images)
    return replace(manifest, ciphertext=None, index_digest=b"", images=images)


def _blob_name(manifest: AnyManifest) -> str:
    if not isinstance(manifest, Manifest):
        return "agent.tar.gz"
    return "module.wasm" if manifest.ciphertext is None else f"module{ENCRYPTED}"


def _suffix(manifest: AnyManifest | AotImage) -> str:
    """Of the files of images."""
    return ".aot" if isinstance(manifest, AgentManifest) or manifest.ciphertext is None else ENCRYPTED


def _load_sbom(folder: Path, wanted: bytes) -> bytes:
    """The bill of materials with this digest; empty where there is none."""
    if not wanted:
        return b""
    bill = sboms.load(folder / SBOM)
    if sha256(bill) != wanted:
        raise BuildError(f"{folder / SBOM} is not the bill of materials that the manifest names")
    return bill


def _load_image(folder: Path, image: AotImage) -> tuple[bytes, ChunkIndex]:
    path = folder / image_name(image.sent_digest, _suffix(image))
    try:
        content = read_bounded(path, BLOB_LIMIT_BYTES)
        index_bytes = read_bounded(path.with_suffix(".cbor"), INDEX_LIMIT_BYTES)
    except OSError as error:
        raise BuildError(f"{error.filename}: {error.strerror}") from error
    if sha256(content) != image.sent_digest:
        raise BuildError(f"{path} is not the image that the manifest names")
    return content, ChunkIndex.from_bytes(index_bytes, image.index_digest, image.sent_digest, image.size)


def describe(module: Path, shape: wasm.ModuleShape) -> ModuleDescription:
    """The description in the .toml beside the module; without one, its name and just the capabilities that it imports.

    Raises as read_description.
    """
    path = module.with_suffix(".toml")
    if path.exists():
        return read_description(path)
    asked: dict[str, Any] = {name: {} for name in interfaces_of(shape.imports)}
    return ModuleDescription(module.stem, "0.0.0", Capabilities.parse(asked, str(module)))


def prepare(
    module: Path,
    vendor: str,
    *,
    board: str = ANY_BOARD,
    version: str | None = None,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    aot: Sequence[str] = (),
    kind: Kind = Kind.UNSPECIFIED,
    provenance: Provenance = NOTHING_SAID,
    sbom: str = "",
    progress: Callable[[str], None] = lambda _: None,
    anew: bool = False,
) -> Draft:
    """Checks a module against the contract and its own description, and makes a manifest for boards of class `board`.

    `aot` names the targets to compile images for, each as TARGET or TARGET:CPU, which features may follow
    (`aarch64:cortex-a53+crc`). `sbom` is the file of a bill of materials, or sboms.AUTO to make one. `progress` is told of what
    takes long, also from other threads. `anew` takes no image from the cache.

    Of a component, the core module in it is the update; of a script, the module that it becomes.

    Raises BuildError, DescriptionError, SourceError, ScriptError, EngineError, AotError, and
    Refused MODULE_INVALID, MALFORMED, TOO_LARGE, IMPORT_UNDECLARED, EXPORT_MISSING.
    """
    with naming(module):
        blob = core_module(content(module))
        check_core(blob)
        shape = wasm.read(blob)
    description = describe(module, shape)
    if version is not None:
        if not is_name(version):
            raise BuildError(f"{version!r} is no version: 1 to 64 letters, digits, - _ or .")
        description = replace(description, version=version)
    with naming(module):
        check_imports(shape.imports, description.capabilities)
        check_exports(shape.exports, is_filter="filter" in description.capabilities.items)
    if shape.memory_pages > description.limits.memory_pages:
        raise BuildError(about_memory(module, shape.memory_pages, description.limits))
    try:
        index = ChunkIndex.of(blob, chunk_bytes)
    except ValueError as error:
        raise BuildError(f"{module}: {error}") from error
    bill = _bill(sbom, module, blob, description)
    vendor_bytes, text = vendor_id(vendor), replace(provenance, sbom=sha256(bill) if bill else b"").to_bytes()
    if len(aot) > MAX_IMAGES:
        raise BuildError(f"{len(aot)} ahead-of-time images, a manifest has {MAX_IMAGES} at most")
    compiled = compile_all(blob, aot, name=module.name, progress=progress, anew=anew)
    images = [_indexed(made, each, module, vendor_bytes, board, chunk_bytes) for made, each in zip(compiled, aot, strict=True)]
    if len({image.class_identifier for image, _, _ in images}) < len(images):
        raise BuildError(f"two ahead-of-time images for the same boards: {', '.join(aot)}")
    manifest = Manifest(
        sequence=0,
        vendor=vendor_bytes,
        class_identifier=class_id(vendor_bytes, board, "wasm", ABI),
        digest=index.digest,
        size=index.size,
        index_digest=sha256(index.to_bytes()),
        module=replace(description, board="" if board == ANY_BOARD else board, kind=kind),
        images=tuple(image for image, _, _ in images),
        text_digest=text_digest(text),
    )
    draft = Draft(manifest, blob, index, tuple((content, index) for _, content, index in images), text, bill)
    check_readable(draft)
    return draft


def check_readable(draft: Draft) -> None:
    """What boards would refuse is refused before it is signed. Raises Refused."""
    trial = draft.signed((1 << 63) - 1, SigningKey.generate())
    Manifest.from_envelope(suit.Envelope.from_bytes(trial.envelope, MANIFEST_LIMIT_BYTES))


def _bill(wanted: str, module: Path, blob: bytes, description: ModuleDescription) -> bytes:
    if wanted == sboms.AUTO:
        return sboms.make(module, blob, description.name, description.version)
    return sboms.load(Path(wanted)) if wanted else b""


def _indexed(
    compiled: Compiled, wanted: str, module: Path, vendor: bytes, board: str, chunk_bytes: int
) -> tuple[AotImage, bytes, ChunkIndex]:
    try:
        index = ChunkIndex.of(compiled.image, chunk_bytes)
    except ValueError as error:
        raise BuildError(f"{module}: image for {wanted}: {error}") from error
    identifier = image_class_id(vendor, board, compiled.flags, wanted.partition(":")[2], ABI)
    return AotImage(identifier, index.digest, index.size, sha256(index.to_bytes())), compiled.image, index


def sign(manifest: AnyManifest, blob: bytes, index: ChunkIndex, keys: Sequence[Signer], text: bytes = b"") -> Update:
    """An update out of a manifest, signed by each of the keys. `text`: what the manifest has the digest of."""
    manifest_bytes = manifest.to_bytes()
    signed = suit.signed_digest(manifest_bytes)
    envelope = suit.encode_envelope(manifest_bytes, [key.sign1(signed) for key in keys], text)
    return Update(envelope, blob, index, manifest)

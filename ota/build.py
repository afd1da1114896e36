"""From a .wasm and its description to a signed update.

<name>-<version>/manifest.suit  the SUIT envelope
                 module.wasm    the blob
                 index.cbor     its chunk index
"""

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ota.errors import OtaError
from ota.formats import suit, wasm
from ota.formats.capabilities import ABI, FUNCTIONS, Capabilities, check_exports, check_imports, import_module
from ota.formats.cbor import sha256
from ota.formats.chunks import DEFAULT_CHUNK_BYTES, ChunkIndex
from ota.formats.fields import is_name
from ota.formats.manifest import Limits, Manifest, ModuleDescription, class_id, vendor_id
from ota.keyring import SigningKey
from ota.workspace import write_durably

DEFAULT_BOARD = "generic"


class BuildError(OtaError):
    """The module or its description can't become an update."""


@dataclass(frozen=True)
class Update:
    """A signed update, ready to be published."""

    envelope: bytes
    blob: bytes
    index: ChunkIndex
    manifest: Manifest

    @property
    def digest(self) -> bytes:
        """SHA-256 of the envelope: what deployments name."""
        return sha256(self.envelope)

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.manifest.module.name} {self.manifest.module.version}"

    def save(self, out: Path) -> Path:
        """Writes the update into a folder below `out`; returns that folder."""
        folder = out / f"{self.manifest.module.name}-{self.manifest.module.version}"
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / "module.wasm", self.blob)
        write_durably(folder / "index.cbor", self.index.to_bytes())
        write_durably(folder / "manifest.suit", self.envelope)
        return folder

    @classmethod
    def load(cls, folder: Path) -> "Update":
        """What `save` wrote. Raises BuildError when the parts are missing or do not belong together, Refused."""
        try:
            envelope = (folder / "manifest.suit").read_bytes()
            blob = (folder / "module.wasm").read_bytes()
            index_bytes = (folder / "index.cbor").read_bytes()
        except OSError as error:
            raise BuildError(f"{error.filename}: {error.strerror}") from error
        manifest = Manifest.from_envelope(suit.Envelope.from_bytes(envelope, 1 << 20))
        if sha256(blob) != manifest.digest:
            raise BuildError(f"{folder / 'module.wasm'} is not the module that the manifest names")
        index = ChunkIndex.from_bytes(index_bytes, manifest.index_digest, manifest.digest, manifest.size)
        return cls(envelope, blob, index, manifest)


def describe(module: Path, shape: wasm.ModuleShape) -> ModuleDescription:
    """The description in the .toml beside the module; without one, its name and just the capabilities that it imports.

    Raises BuildError naming the file and what is wrong, Refused MALFORMED for capabilities or limits.
    """
    path = module.with_suffix(".toml")
    if not path.exists():
        names = {name for name in FUNCTIONS if import_module(name) in {imported for imported, _ in shape.imports}}
        return ModuleDescription(module.stem, "0.0.0", Capabilities.parse({name: {} for name in names}, str(module)))
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BuildError(f"{path}: {error}") from error
    unknown = set(value) - {"module", "limits", "capabilities"}
    about: dict[str, Any] = value.get("module", {})
    unknown |= set(about) - {"name", "version", "security_epoch", "config", "source", "defines"}
    if unknown:
        raise BuildError(f"{path}: unknown keys {', '.join(sorted(unknown))}")
    name, version, epoch = about.get("name", module.stem), about.get("version"), about.get("security_epoch", 0)
    if not (isinstance(name, str) and is_name(name) and isinstance(version, str) and is_name(version)):
        raise BuildError(f"{path}: [module] needs a name and a version of letters, digits and -_.")
    if not isinstance(epoch, int) or epoch < 0 or not isinstance(about.get("config", ""), str):
        raise BuildError(f"{path}: security_epoch is a whole number, config is text")
    return ModuleDescription(
        name=name,
        version=version,
        capabilities=Capabilities.parse(value.get("capabilities", {}), str(path)),
        limits=Limits.parse(value.get("limits", {}), str(path)),
        security_epoch=epoch,
        config=about.get("config", "").encode(),
    )


def build(
    module: Path,
    key: SigningKey,
    vendor: str,
    sequence: int,
    *,
    board: str = DEFAULT_BOARD,
    version: str | None = None,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
) -> Update:
    """Checks a module against the contract and its own description, and signs a manifest for boards of class `board`.

    Raises BuildError, and Refused MALFORMED, IMPORT_UNDECLARED, EXPORT_MISSING.
    """
    try:
        blob = module.read_bytes()
    except OSError as error:
        raise BuildError(f"{module}: {error.strerror}") from error
    shape = wasm.read(blob)
    description = describe(module, shape)
    if version is not None:
        description = replace(description, version=version)
    check_imports(shape.imports, description.capabilities)
    check_exports(shape.exports)
    try:
        index = ChunkIndex.of(blob, chunk_bytes)
    except ValueError as error:
        raise BuildError(f"{module}: {error}") from error
    vendor_bytes = vendor_id(vendor)
    manifest = Manifest(
        sequence=sequence,
        vendor=vendor_bytes,
        class_identifier=class_id(vendor_bytes, board, "wasm", ABI),
        digest=index.digest,
        size=index.size,
        index_digest=sha256(index.to_bytes()),
        module=description,
    )
    return sign(manifest, blob, index, [key])


def sign(manifest: Manifest, blob: bytes, index: ChunkIndex, keys: list[SigningKey]) -> Update:
    """An update out of a manifest, signed by each of the keys."""
    manifest_bytes = manifest.to_bytes()
    signed = suit.signed_digest(manifest_bytes)
    envelope = suit.encode_envelope(manifest_bytes, [key.sign1(signed) for key in keys])
    return Update(envelope, blob, index, manifest)

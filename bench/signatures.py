"""Verifying what is signed, by algorithm, beside the bare verification of one signature by `cryptography`; and how large it is."""

from bench.measure import Row, alternate, per_call_ns
from ota.formats import manifest, suit
from ota.formats.algorithms import usable_names
from ota.formats.capabilities import ABI
from ota.formats.classes import class_id, vendor_id
from ota.formats.cose import sig_structure
from ota.formats.manifest import MANIFEST_LIMIT_BYTES, Acceptance
from ota.formats.module import Limits
from ota.formats.signed import Role
from ota.keyring import SigningKey
from tests.support.signing import VENDOR, Signer

CALLS, BATCHES = 10, 20  # of each round: short, so that some meet an idle processor
MONITOR = {"logging": {}, "messaging": {"subscribe": ["sys/#"], "publish": ["readings/#", "alerts/#"]}}  # of the examples


def measure(rounds: int) -> list[Row]:
    """A row for the time and a row for the size of each algorithm that the installed library has."""
    return [row for name in usable_names() for row in _of(name, rounds)]


def _of(name: str, rounds: int) -> list[Row]:
    """Of a manifest with a module and an image, as large as those of the module `monitor`, with one signature."""
    signer = Signer()
    key = signer.keys["release"] = SigningKey.generate(name)
    root = signer.root(roles=dict(signer.root().roles) | {"release": Role({key.public.key_id: key.public}, 1)})
    about = {"name": "monitor", "limits": Limits(memory_pages=4), "capabilities": MONITOR, "sequence": 1_800_000_000}
    envelope = signer.update(bytes(8993), **about, chunk_bytes=16 * 1024, aot=((b"c" * 16, bytes(14_787)),)).envelope
    vendor = vendor_id(VENDOR)
    acceptance = Acceptance(vendor, {class_id(vendor, "generic", "wasm", ABI)}, 0, 0)
    decoded = suit.Envelope.from_bytes(envelope, MANIFEST_LIMIT_BYTES)
    (signature,) = decoded.signatures
    message = sig_structure(signature.protected, decoded.digest)
    ours, bare = alternate(
        rounds * BATCHES,
        per_call_ns(lambda: manifest.verify(envelope, root, acceptance), CALLS),
        per_call_ns(lambda: key.public.verify(signature.signature, message), CALLS),
    )
    label = name.replace("-", "_")
    return [
        Row(f"verify_manifest_{label}_ms", min(ours) / 1e6, "ms", "the signature alone, by cryptography", min(bare) / 1e6),
        Row(f"size_manifest_{label}_bytes", len(envelope), "bytes", "its signature alone", len(signature.signature)),
    ]

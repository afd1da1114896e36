"""The attacks on update systems by their names in TUF and its clients' test suites: what each is refused with.

The same on a whole board, with real brokers, is in tests/agent/test_desired.py, tests/agent/test_transfer.py and tests/system; slow
retrieval in tests/system/test_slow_retrieval.py.
"""

import tracemalloc
from dataclasses import replace

import pytest
from cbor2 import CBORTag

from ota.author.build import sign
from ota.formats import cbor, deployment, manifest, suit, trust
from ota.formats.capabilities import ABI
from ota.formats.classes import class_id, vendor_id
from ota.formats.cose import ALGORITHM, KEY_ID, SIGN1_TAG, TYPE, sig_structure
from ota.formats.deployment import DEPLOYMENT_TYPE
from ota.formats.manifest import Acceptance
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import Role
from ota.formats.trust import ROOT_TYPE, next_root
from ota.keyring import SigningKey, sign_document
from tests.support.signing import NOW_S, VENDOR, Signer

BOUND_BYTES = 1 << 20
"""How much memory a refusal may take, whatever is claimed."""


@pytest.fixture
def signer():
    return Signer()


def reason(function, *values, **more):
    return refusal(function, *values, **more).reason


def refusal(function, *values, **more):
    tracemalloc.start()
    try:
        with pytest.raises(Refused) as caught:
            function(*values, **more)
        assert tracemalloc.get_traced_memory()[1] < BOUND_BYTES
    finally:
        tracemalloc.stop()
    return caught.value


def keys_of(*keys):
    return {key.public.key_id: key.public for key in keys}


def make(count):
    return [SigningKey.generate() for _ in range(count)]


def root_with(signer, number=2, **roles):
    return signer.root(number, roles=dict(signer.root().roles) | roles)


def signed_root(root, *keys):
    return sign_document(root.to_payload(), ROOT_TYPE, list(keys))


def acceptance(sequence=0, epoch=0):
    vendor = vendor_id(VENDOR)
    return Acceptance(vendor, {class_id(vendor, "generic", "wasm", ABI)}, sequence, epoch)


def deploy(document, root):
    return deployment.verify(document, root, group="lab")


# -- what is installed


def test_arbitrary_software(signer):
    stranger = Signer()
    update = sign(stranger.update(b"evil").manifest, b"evil", stranger.update(b"evil").index, [stranger.keys["release"]])
    assert reason(manifest.verify, update.envelope, signer.root(), acceptance()) is Reason.SIGNER_UNKNOWN
    assert reason(deploy, stranger.deployment(bytes(32))[1], signer.root()) is Reason.SIGNER_UNKNOWN


def test_rollback(signer):
    old, new = signer.update(b"one"), signer.update(b"two")
    committed = acceptance(new.manifest.sequence)
    assert reason(manifest.verify, old.envelope, signer.root(), committed) is Reason.SEQUENCE_TOO_OLD
    downgraded = signer.update(b"three", epoch=1)
    assert reason(manifest.verify, downgraded.envelope, signer.root(), acceptance(0, 2)) is Reason.EPOCH_TOO_OLD


def test_fast_forward_and_recovery(signer):
    """A stolen key signs the highest number; once a root takes the key away, what the new key signs counts by itself."""
    stolen, fresh = signer.keys["release"], SigningKey.generate()
    forward = signer.update(b"evil", sequence=(1 << 63) - 1)
    assert manifest.verify(forward.envelope, signer.root(), acceptance())
    after = root_with(signer, release=Role(keys_of(fresh), 1))
    honest = sign(signer.update(b"good").manifest, b"good", signer.update(b"good").index, [fresh])
    assert reason(manifest.verify, honest.envelope, signer.root(), acceptance()) is Reason.SIGNER_UNKNOWN
    verified = manifest.verify(
        honest.envelope, after, acceptance()
    )  # the floor of a key that is gone counts no more: storage.floors
    assert stolen.public.key_id not in verified.signers


def test_freeze(signer):
    entry = signer.entry(bytes(32))
    late = entry.expires_s
    assert reason(deployment.may_start, entry, NOW_S, signer.root(), late) is Reason.DEPLOYMENT_EXPIRED
    assert reason(deployment.may_start, entry, NOW_S, replace(signer.root(), expires_s=NOW_S), NOW_S) is Reason.ROOT_EXPIRED


def test_expiry_at_each_role(signer):
    """A root and a deployment expire, each on its own; a manifest has no expiry: it is stopped by what deploys it."""
    entry, root = signer.entry(bytes(32)), signer.root()
    assert root.expires_s > entry.expires_s
    deployment.may_start(entry, NOW_S, root, entry.expires_s - 1)
    assert reason(deployment.may_start, entry, NOW_S, root, entry.expires_s) is Reason.DEPLOYMENT_EXPIRED
    unending = replace(entry, expires_s=0)
    deployment.may_start(unending, NOW_S, root, root.expires_s - 1)
    assert reason(deployment.may_start, unending, NOW_S, root, root.expires_s) is Reason.ROOT_EXPIRED
    update = signer.update(b"module")
    assert reason(deployment.may_start, signer.entry(update.digest), NOW_S, root, entry.expires_s) is Reason.DEPLOYMENT_EXPIRED
    assert manifest.verify(update.envelope, root, acceptance())


def test_mix_and_match(signer):
    """The signature of one release beside the manifest of another, with either's digest; one group's deployment for another."""
    one, two = (suit.Envelope.from_bytes(signer.update(content).envelope, 1 << 16) for content in (b"one", b"two"))
    for digest, words in ((two.digest, "the signature does not match"), (one.digest, "the digest of the manifest is")):
        wrapper = cbor.encode([digest, *(_bytes(each) for each in one.signatures)])
        mixed = cbor.encode(CBORTag(suit.ENVELOPE_TAG, {suit.AUTHENTICATION: wrapper, suit.MANIFEST: two.manifest_bytes}))
        refused = refusal(manifest.verify, mixed, signer.root(), acceptance())
        assert refused.reason is Reason.SIGNATURE_INVALID
        assert words in refused.detail
    assert reason(deploy, signer.deployment(bytes(32), group="roof")[1], signer.root()) is Reason.GROUP_MISMATCH


def _bytes(message):
    return cbor.encode(CBORTag(SIGN1_TAG, [message.protected, message.unprotected, message.payload, message.signature]))


@pytest.mark.parametrize("read", [trust.first_root, lambda data: manifest.verify_any(data, Signer().root()), deployment.claimed])
def test_endless_data(read):
    data = bytes(8 << 20)
    tracemalloc.start()
    try:
        if read is deployment.claimed:
            assert read(data) is None
        else:
            with pytest.raises(Refused) as caught:
                read(data)
            assert caught.value.reason is Reason.TOO_LARGE
        assert tracemalloc.get_traced_memory()[1] < BOUND_BYTES
    finally:
        tracemalloc.stop()


# -- who signs


def test_wrong_threshold(signer):
    three = make(3)
    root = root_with(signer, 1, deploy=Role(keys_of(*three), 2))
    assert reason(deploy, signer.deployment(bytes(32), keys=three[:1])[1], root) is Reason.SIGNER_THRESHOLD
    assert deploy(signer.deployment(bytes(32), keys=three[:2])[1], root)


def test_one_signature_counted_twice(signer):
    key, other = make(2)
    root = root_with(signer, 1, deploy=Role(keys_of(key, other), 2))
    assert reason(deploy, signer.deployment(bytes(32), keys=[key, key])[1], root) is Reason.SIGNER_THRESHOLD


def test_one_key_under_two_identifiers(signer):
    key = SigningKey.generate()
    value = cbor.decode(signer.root().to_payload(), "test", 1 << 16)
    value[6] |= {key.public.key_id: key.public.to_cose_key(), b"another name": key.public.to_cose_key()}
    value[7]["deploy"] = [sorted([key.public.key_id, b"another name"]), 2]
    document = sign_document(cbor.encode(value), ROOT_TYPE, [signer.keys["root"]])
    assert reason(trust.first_root, document) is Reason.MALFORMED


def test_key_reuse_across_roles(signer):
    """No root gives a key two roles. If one did, what the key signed as one kind of document would pass for no other."""
    key = SigningKey.generate()
    for name in ("release", "deploy"):
        again = signed_root(root_with(signer, 2, **{name: Role(keys_of(signer.keys["root"]), 1)}), signer.keys["root"])
        assert reason(next_root, signer.root(), again) is Reason.KEY_REUSED
    shared = Role(keys_of(key), 1)
    root = root_with(signer, 1, root=shared, deploy=shared, release=shared)
    as_root = sign_document(signer.deployment(bytes(32))[0].to_payload(), ROOT_TYPE, [key])
    assert reason(deploy, as_root, root) is Reason.SIGNATURE_INVALID
    as_deployment = sign_document(replace(root, number=2).to_payload(), DEPLOYMENT_TYPE, [key])
    assert reason(next_root, root, as_deployment) is Reason.SIGNATURE_INVALID


@pytest.mark.parametrize("count", range(2, 6))
def test_rotation_of_1_of_3_to_5_of_5(signer, count):
    before, after = make(3), make(5)[:count]
    first = root_with(signer, 1, root=Role(keys_of(*before), 1))
    then = root_with(signer, 2, root=Role(keys_of(*after), count))
    assert next_root(first, signed_root(then, before[0], *after)) == then
    assert reason(next_root, first, signed_root(then, *after)) is Reason.SIGNER_UNKNOWN
    assert reason(next_root, first, signed_root(then, before[0], *after[:-1])) is Reason.SIGNER_THRESHOLD


@pytest.mark.parametrize(("number", "name"), [(3, "skipped"), (1, "replayed")])
def test_root_skipped_and_root_replayed(signer, number, name):
    assert reason(next_root, signer.root(), signed_root(root_with(signer, number), signer.keys["root"])) is Reason.ROOT_NOT_NEXT


def test_extraneous_keys(signer):
    """Signatures by keys that nobody names change nothing, and do not count."""
    extra = make(3)
    assert deploy(signer.deployment(bytes(32), keys=[*extra, signer.keys["deploy"]])[1], signer.root())
    assert reason(deploy, signer.deployment(bytes(32), keys=extra)[1], signer.root()) is Reason.SIGNER_UNKNOWN
    too_many = signer.deployment(bytes(32), keys=[signer.keys["deploy"], *make(16)])[1]
    assert reason(deploy, too_many, signer.root()) is Reason.MALFORMED


# -- how it is written


def _forged(signer, protected, unprotected):
    payload = signer.deployment(bytes(32))[0].to_payload()
    encoded = cbor.encode(protected)
    signature = signer.keys["deploy"]._raw(sig_structure(encoded, payload))
    return cbor.encode([payload, [cbor.encode(CBORTag(SIGN1_TAG, [encoded, unprotected, None, signature]))]])


def test_unknown_algorithm(signer):
    headers = {ALGORITHM: -257, KEY_ID: signer.keys["deploy"].public.key_id, TYPE: DEPLOYMENT_TYPE}
    assert reason(deploy, _forged(signer, headers, {}), signer.root()) is Reason.SIGNATURE_INVALID


def test_algorithm_confusion(signer):
    headers = {ALGORITHM: -7, KEY_ID: signer.keys["deploy"].public.key_id, TYPE: DEPLOYMENT_TYPE}
    assert reason(deploy, _forged(signer, headers, {}), signer.root()) is Reason.SIGNATURE_INVALID


def test_alg_unprotected(signer):
    headers = {KEY_ID: signer.keys["deploy"].public.key_id, TYPE: DEPLOYMENT_TYPE}
    assert reason(deploy, _forged(signer, headers, {ALGORITHM: -8}), signer.root()) is Reason.SIGNATURE_INVALID


def _document(payload, signer):
    return sign_document(payload, DEPLOYMENT_TYPE, [signer.keys["deploy"]])


@pytest.mark.parametrize(
    ("name", "payload", "words"),
    [
        ("non-canonical CBOR: a number in a longer form", bytes.fromhex("a1180101"), "not in its shortest form"),
        ("non-canonical CBOR: a map of indefinite length", bytes.fromhex("bf0101ff"), "an indefinite length"),
        ("keys of a map equal after conversion: 1 and true", bytes.fromhex("a20102f502"), "a key that is not a whole number"),
        ("keys of a map equal after conversion: 1 and 1.0", bytes.fromhex("a20102f93c0002"), "a key that is not a whole number"),
        ("the same key twice", bytes.fromhex("a201020103"), "a key that occurs twice"),
        ("deep nesting", b"\x81" * 2000 + b"\x01", "nested deeper than 16"),
        ("huge lengths: bytes", bytes.fromhex("5b7fffffffffffffff"), "CBOR: it ends too early"),
        ("huge lengths: a list", bytes.fromhex("9b7fffffffffffffff"), "CBOR: it ends too early"),
        ("huge lengths: a map", bytes.fromhex("baffffffff"), "CBOR: it ends too early"),
    ],
)
def test_cbor_that_two_decoders_could_read_differently(signer, name, payload, words):
    refused = refusal(deploy, _document(payload, signer), signer.root())
    assert refused.reason is Reason.MALFORMED
    assert words in refused.detail

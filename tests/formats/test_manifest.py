"""Manifests: what a device accepts, and each attack with its reason."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ota.author.build import sign
from ota.formats import cbor, suit
from ota.formats import manifest as manifests
from ota.formats.capabilities import FUNCTIONS, Capabilities
from ota.formats.chunks import ChunkIndex
from ota.formats.manifest import MANIFEST_LIMIT_BYTES, Manifest, vendor_id
from ota.formats.module import Limits, ModuleDescription
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import Role
from ota.keyring import SigningKey
from tests.support.signing import Signer, acceptance

WASM = b"\0asm\x01\0\0\0" + bytes(5000)


@pytest.fixture(scope="module")
def signer():
    return Signer()


def refusal(data: bytes, root, **changes) -> Refused:
    with pytest.raises(Refused) as caught:
        manifests.verify(data, root, acceptance(**changes))
    return caught.value


def test_a_signed_manifest_for_this_device_is_accepted(signer):
    update = signer.update(WASM, name="blink", version="1.2.3")
    verified = manifests.verify(update.envelope, signer.root(), acceptance())
    assert verified.manifest == update.manifest
    assert verified.envelope_digest == update.digest
    assert verified.label == "blink 1.2.3"


def test_an_es256_key_signs_as_well():
    signer = Signer()
    signer.keys["release"] = SigningKey.generate("es256")
    assert manifests.verify(signer.update(WASM).envelope, signer.root(), acceptance())


def test_every_flipped_bit_is_refused(signer):
    good = signer.update(WASM).envelope
    root = signer.root()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << (position % 8)
        assert refusal(bytes(bad), root).reason in (
            Reason.MALFORMED,
            Reason.SIGNATURE_INVALID,
            Reason.SIGNER_UNKNOWN,
            Reason.COMMAND_UNSUPPORTED,
        )


def test_every_truncation_is_refused(signer):
    good = signer.update(WASM).envelope
    for size in range(len(good)):
        assert refusal(good[:size], signer.root()).reason is Reason.MALFORMED


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_garbage_is_refused(data):
    assert refusal(data, Signer().root()).reason is Reason.MALFORMED


def test_an_oversized_manifest_is_refused_before_it_is_read(signer):
    error = refusal(bytes(MANIFEST_LIMIT_BYTES + 1), signer.root())
    assert error.reason is Reason.TOO_LARGE
    assert str(error) == f"too-large: SUIT envelope is {MANIFEST_LIMIT_BYTES + 1} bytes, the limit is {MANIFEST_LIMIT_BYTES}"


def test_an_unsigned_manifest_is_refused(signer):
    update = signer.update(WASM)
    error = refusal(sign(update.manifest, WASM, update.index, []).envelope, signer.root())
    assert error.reason is Reason.SIGNATURE_MISSING
    assert str(error) == "signature-missing: the manifest is not signed"


def test_a_manifest_by_a_strangers_key_is_refused(signer):
    update = signer.update(WASM)
    assert refusal(sign(update.manifest, WASM, update.index, [SigningKey.generate()]).envelope, signer.root()).reason is (
        Reason.SIGNER_UNKNOWN
    )


@pytest.mark.parametrize("role", ["root", "deploy"])
def test_a_key_of_another_role_cannot_sign_manifests(signer, role):
    update = signer.update(WASM)
    forged = sign(update.manifest, WASM, update.index, [signer.keys[role]]).envelope
    assert refusal(forged, signer.root()).reason is Reason.SIGNER_UNKNOWN


def test_a_strangers_signature_under_the_right_key_identifier_is_refused(signer):
    update = signer.update(WASM)
    stranger = SigningKey.generate()
    stranger.public = signer.keys["release"].public
    assert refusal(sign(update.manifest, WASM, update.index, [stranger]).envelope, signer.root()).reason is Reason.SIGNATURE_INVALID


def test_a_changed_manifest_with_a_new_digest_but_the_old_signature_is_refused(signer):
    envelope = suit.Envelope.from_bytes(signer.update(WASM).envelope, 1 << 20)
    changed = envelope.manifest_bytes.replace(b"module", b"mOdule", 1)
    forged = suit.encode_envelope(changed, [signer.keys["release"].sign1(envelope.digest)])
    assert refusal(forged, signer.root()).reason is Reason.SIGNATURE_INVALID


def test_a_signature_over_another_kind_of_document_does_not_count(signer):
    update = signer.update(WASM)
    manifest_bytes = update.manifest.to_bytes()
    signature = signer.keys["release"].sign1(suit.signed_digest(manifest_bytes), "application/other")
    assert refusal(suit.encode_envelope(manifest_bytes, [signature]), signer.root()).reason is Reason.SIGNATURE_INVALID


def test_a_threshold_counts_distinct_keys(signer):
    second = SigningKey.generate()
    first = signer.keys["release"]
    role = Role({first.public.key_id: first.public, second.public.key_id: second.public}, 2)
    root = replace(signer.root(), roles=dict(signer.root().roles) | {"release": role})
    update = signer.update(WASM)
    twice = sign(update.manifest, WASM, update.index, [first, first]).envelope
    assert refusal(twice, root).reason is Reason.SIGNER_THRESHOLD
    assert manifests.verify(sign(update.manifest, WASM, update.index, [first, second]).envelope, root, acceptance())


def test_another_vendors_manifest_is_refused(signer):
    update = signer.update(WASM, vendor=vendor_id("other.example"))
    error = refusal(update.envelope, signer.root())
    assert error.reason is Reason.VENDOR_MISMATCH
    assert error.detail.endswith("this board accepts test.example")


def test_a_manifest_for_another_class_of_boards_is_refused(signer):
    error = refusal(signer.update(WASM, board="toaster").envelope, signer.root())
    assert error.reason is Reason.CLASS_MISMATCH
    assert error.detail.startswith("the manifest is for boards of class ")


@pytest.mark.parametrize(("claimed", "named"), [("toaster", "toaster"), ("kettle", "class ")])
def test_the_refusal_of_another_class_names_both_and_believes_no_false_name(signer, claimed, named):
    update = signer.update(WASM, board="toaster")
    manifest = replace(update.manifest, module=replace(update.manifest.module, board=claimed))
    envelope = sign(manifest, WASM, update.index, [signer.keys["release"]]).envelope
    with pytest.raises(Refused) as caught:
        manifests.verify(envelope, signer.root(), acceptance(boards=("roof", "generic")))
    assert caught.value.detail.startswith(f"the manifest is for boards of {named}")
    assert caught.value.detail.endswith(", this board is of roof and generic")


@pytest.mark.parametrize("committed", [5, 6])
def test_an_older_or_equal_sequence_is_refused(signer, committed):
    update = signer.update(WASM, sequence=5)
    assert refusal(update.envelope, signer.root(), committed_sequence=committed).reason is Reason.SEQUENCE_TOO_OLD


def test_an_older_security_epoch_is_refused(signer):
    assert refusal(signer.update(WASM, epoch=1).envelope, signer.root(), committed_epoch=2).reason is Reason.EPOCH_TOO_OLD


def resigned(signer, change) -> bytes:
    """A rightly signed envelope whose manifest was changed before it was signed."""
    value = cbor.decode(signer.update(WASM).manifest.to_bytes(), "manifest", 1 << 20)
    change(value)
    data = cbor.encode(value)
    return suit.encode_envelope(data, [signer.keys["release"].sign1(suit.signed_digest(data))])


def put(key, value):
    return lambda manifest: manifest.__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put(suit.LOAD, cbor.encode([suit.IMAGE_MATCH, 15])), Reason.COMMAND_UNSUPPORTED),
        (put(suit.PAYLOAD_FETCH, cbor.encode([suit.FETCH, 2])), Reason.COMMAND_UNSUPPORTED),
        (put(suit.TEXT, cbor.encode({})), Reason.COMMAND_UNSUPPORTED),
        (put(suit.VALIDATE, cbor.encode([14, 15])), Reason.COMMAND_UNSUPPORTED),
        (put(suit.VALIDATE, cbor.encode([99, 15])), Reason.COMMAND_UNSUPPORTED),
        (put(suit.VALIDATE, cbor.encode([-1, 15])), Reason.COMMAND_UNSUPPORTED),
        (put(suit.VALIDATE, cbor.encode([suit.IMAGE_MATCH])), Reason.MALFORMED),
        (put(suit.VALIDATE, cbor.encode([suit.IMAGE_MATCH, 15, suit.IMAGE_MATCH, 15])), Reason.COMMAND_UNSUPPORTED),
        (put(suit.VALIDATE, cbor.encode([suit.IMAGE_MATCH, 0])), Reason.COMMAND_UNSUPPORTED),
        (put(suit.VALIDATE, cbor.encode([suit.IMAGE_MATCH, 15.0])), Reason.COMMAND_UNSUPPORTED),
        (put(suit.VERSION, 2), Reason.MALFORMED),
        (put(suit.SEQUENCE, "1"), Reason.MALFORMED),
        (put(suit.SEQUENCE, True), Reason.MALFORMED),
        (put(suit.SEQUENCE, -1), Reason.MALFORMED),
        (lambda manifest: manifest.pop(suit.INVOKE), Reason.MALFORMED),
        (
            put(suit.COMMON, cbor.encode({suit.COMPONENTS: [[b"a"], [b"b"]], suit.SHARED_SEQUENCE: b"\x80"})),
            Reason.COMMAND_UNSUPPORTED,
        ),
    ],
)
def test_what_the_profile_leaves_out_is_refused_even_when_signed(signer, change, reason):
    assert refusal(resigned(signer, change), signer.root()).reason is reason


MONITOR = {"logging": {}, "messaging": {"subscribe": ["sys/#"], "publish": ["readings/#", "alerts/#"]}}


def test_a_manifest_with_one_image_has_at_most_450_bytes(signer):
    """The module `monitor` of the examples, with an image for AArch64 of the size that it has."""
    limits, image = Limits(memory_pages=4), (b"c" * 16, bytes(14_787))
    changes = {"name": "monitor", "limits": limits, "capabilities": MONITOR, "sequence": 1_800_000_000, "chunk_bytes": 16 * 1024}
    update = signer.update(bytes(8993), **changes, aot=(image,))
    assert update.manifest.images
    assert manifests.verify(update.envelope, signer.root(), acceptance())
    assert len(update.envelope) <= 450


@settings(max_examples=50)
@given(
    st.builds(
        ModuleDescription,
        name=st.just("m"),
        version=st.just("1"),
        capabilities=st.sampled_from([Capabilities({}), Capabilities.parse(MONITOR, "test")]),
        limits=st.builds(Limits, memory_pages=st.sampled_from([4, 32]), trial_events=st.integers(0, 3), fuel=st.integers(0, 3)),
        security_epoch=st.integers(0, 2),
        config=st.sampled_from([b"", b"x"]),
        idempotent=st.booleans(),
        arguments=st.sampled_from([(), ("a",)]),
        environment=st.sampled_from([{}, {"A": ""}]),
        board=st.sampled_from(["", "roof"]),
    )
)
def test_what_a_description_leaves_out_is_read_back(description):
    assert ModuleDescription.from_bytes(description.to_bytes()) == description


def test_every_capability_and_limit_has_a_number_in_manifests():
    every = {
        "logging": {}, "messaging": {"publish": ["a"], "subscribe": ["b"]}, "keyvalue": {"quota_bytes": 1}, "clock": {},
        "config": {}, "random": {}, "gpio": {"inputs": ["gpiochip0:1"], "outputs": ["gpiochip0:2"]},
        "serial": {"ports": ["/dev/ttyS0:9600"]},
        "wasi": {"read": ["/a"], "write": ["/b"], "quota_bytes": 1},
        "filter": {},
    }  # fmt: skip
    assert every.keys() == FUNCTIONS.keys()
    found = Capabilities.parse(every, "test")
    assert Capabilities.from_numbers(found.to_numbers(), "test") == found
    limits = Limits(*range(4096, 4096 + len(Limits.FIELDS)))
    assert Limits.from_numbers(limits.to_numbers(), "test") == limits


@pytest.mark.parametrize("read", [Capabilities.from_numbers, Limits.from_numbers])
@pytest.mark.parametrize(
    ("value", "reason"), [({99: {}}, "MEMBER_UNKNOWN"), ({"new": {}}, "MEMBER_UNKNOWN"), ({"new": 1, 1: 1}, "MEMBER_UNKNOWN")]
)
def test_a_capability_or_limit_that_has_no_number_here_is_refused(read, value, reason):
    with pytest.raises(Refused) as caught:
        read(value, "manifest")
    assert caught.value.reason is Reason[reason]


def test_the_index_of_a_blob_of_one_chunk_goes_without_saying(signer):
    small, large = signer.update(WASM, chunk_bytes=16 * 1024), signer.update(WASM, chunk_bytes=1024)
    for update in (small, large):
        assert manifests.verify(update.envelope, signer.root(), acceptance()).manifest.index_digest == update.manifest.index_digest
        ChunkIndex.from_bytes(update.index.to_bytes(), update.manifest.index_digest, update.manifest.digest, update.manifest.size)
    assert len(large.envelope) - len(small.envelope) > 32


def fetched(change):
    def changed(manifest):
        install = cbor.decode(manifest[suit.INSTALL], "test", 1 << 16)
        change(install[1])
        manifest[suit.INSTALL] = cbor.encode(install)

    return changed


def test_two_encodings_of_one_manifest_are_refused(signer):
    index = signer.update(WASM, chunk_bytes=16 * 1024).manifest.index_digest
    blob = bytes(20_000)
    for wasm, change in ((WASM, put(suit.P_FETCH_ARGS, index)), (blob, lambda parameters: parameters.pop(suit.P_FETCH_ARGS))):
        value = cbor.decode(signer.update(wasm, chunk_bytes=16 * 1024).manifest.to_bytes(), "manifest", 1 << 20)
        fetched(change)(value)
        data = cbor.encode(value)
        envelope = suit.encode_envelope(data, [signer.keys["release"].sign1(suit.signed_digest(data))])
        assert refusal(envelope, signer.root()).reason is Reason.MALFORMED


def test_a_class_condition_cannot_be_left_out(signer):
    def change(manifest):
        common = cbor.decode(manifest[suit.COMMON], "common", 1 << 20)
        shared = cbor.decode(common[suit.SHARED_SEQUENCE], "shared", 1 << 20)
        common[suit.SHARED_SEQUENCE] = cbor.encode(shared[:4])
        manifest[suit.COMMON] = cbor.encode(common)

    assert refusal(resigned(signer, change), signer.root()).reason is Reason.COMMAND_UNSUPPORTED


def test_the_reasons_are_stable():
    """Part of the wire format: a value may be added, never changed."""
    assert {reason.value for reason in Reason} >= {
        "too-large", "malformed", "signature-missing", "signature-invalid", "signer-unknown", "signer-threshold",
        "manifest-digest-mismatch", "command-unsupported", "vendor-mismatch", "class-mismatch", "sequence-too-old",
        "epoch-too-old", "deployment-replayed", "deployment-expired", "clock-not-set", "chunk-digest-mismatch", "chunk-missing",
        "disk-full", "capability-denied", "module-invalid", "import-undeclared", "trapped", "crashed", "deadline-exceeded",
    }  # fmt: skip


def test_the_manifest_reads_back_as_it_was_written(signer):
    manifest = signer.update(WASM).manifest
    envelope = suit.Envelope.from_bytes(suit.encode_envelope(manifest.to_bytes(), []), 1 << 20)
    assert Manifest.from_envelope(envelope) == manifest


def test_signers_that_have_lost_their_role_since_do_not_count(signer):
    first, second, other = signer.keys["release"], SigningKey.generate(), SigningKey.generate()

    def root(threshold, *keys):
        roles = dict(signer.root().roles) | {"release": Role({key.public.key_id: key.public for key in keys}, threshold)}
        return signer.root(roles=roles)

    update = signer.update(WASM)
    envelope = sign(update.manifest, WASM, update.index, [first, second]).envelope
    verified = manifests.verify(envelope, root(2, first, second), acceptance())
    manifests.check_signers(verified, root(2, first, second, other))
    manifests.check_signers(verified, root(1, second, other))
    for later, reason in ((root(2, second, other), Reason.SIGNER_THRESHOLD), (root(1, other), Reason.SIGNER_UNKNOWN)):
        with pytest.raises(Refused) as caught:
            manifests.check_signers(verified, later)
        assert caught.value.reason is reason

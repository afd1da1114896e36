"""Signature algorithms side by side: classical ones and post-quantum ones, and boards that lack some."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ota.formats import algorithms, cbor, cose, suit, trust
from ota.formats.algorithms import ALGORITHMS, CLASSICAL, POST_QUANTUM
from ota.formats.cose import Sign1, UnusableKey, VerifyKey, read_key
from ota.formats.manifest import check_signers, verify_any
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import MAX_SIGNATURES, Role
from ota.formats.trust import MAX_KEYS, ROOT_LIMIT_BYTES, ROOT_TYPE, Root, first_root, next_root
from ota.keyring import SigningKey, sign_document
from tests.support.signing import NOW_S, VENDOR, Signer

NAMES = [each.name for each in ALGORITHMS]
POST_QUANTUM_NAMES = [each.name for each in ALGORITHMS if each.family == POST_QUANTUM]
needs_post_quantum = pytest.mark.skipif(
    not all(each.usable for each in ALGORITHMS), reason="the installed cryptography has no ML-DSA: it came with version 47"
)


def usable(name):
    return pytest.param(name, marks=needs_post_quantum) if name in POST_QUANTUM_NAMES else name


def role(*keys, threshold=1, mixed=False):
    return Role({key.public.key_id: key.public for key in keys}, threshold, mixed=mixed)


def root_of(number=1, **roles):
    root = Signer().root()
    return replace(root, number=number, roles=dict(root.roles) | roles)


def reason(function, *values, **more):
    with pytest.raises(Refused) as caught:
        function(*values, **more)
    return caught.value.reason


@pytest.mark.parametrize("name", [usable(name) for name in NAMES])
def test_a_key_of_each_algorithm_signs_is_listed_and_comes_from_its_file(name, tmp_path):
    key = SigningKey.generate(name)
    key.save(tmp_path / "key.pem")
    again = SigningKey.load(tmp_path / "key.pem")
    message = Sign1.from_bytes(again.sign1(b"payload", "a/type"))
    listed = read_key(key.public.key_id, key.public.to_cose_key())
    assert isinstance(listed, VerifyKey)
    assert message.verify(listed, b"payload") == b"payload"
    assert reason(message.verify, listed, b"payloae") is Reason.SIGNATURE_INVALID
    assert listed.algorithm.name == name
    assert len(message.signature) == listed.algorithm.signature_bytes


@pytest.mark.parametrize("name", ["ed25519", "es256"])
def test_the_same_content_signed_twice_is_the_same_bytes(name):
    key = SigningKey.generate(name)
    assert key.sign1(b"payload") == key.sign1(b"payload")


@pytest.mark.parametrize(
    ("name", "other"),
    [
        pytest.param(name, other, marks=needs_post_quantum if name in POST_QUANTUM_NAMES else ())
        for name in NAMES
        for other in NAMES
        if name != other
    ],
)
def test_algorithm_confusion_a_message_that_names_another_algorithm_than_its_keys_is_refused(name, other):
    key = SigningKey.generate(name)
    message = Sign1.from_bytes(key.sign1(b"payload"))
    number = next(each.numbers[0] for each in ALGORITHMS if each.name == other)
    forged = replace(message, headers=message.headers | {cose.ALGORITHM: number})
    assert reason(forged.verify, key.public, b"payload") is Reason.SIGNATURE_INVALID


@pytest.mark.parametrize("name", [usable(name) for name in NAMES])
def test_a_signature_of_another_length_is_refused(name):
    """A zero more in the middle of ES256's is the same two numbers: one signature would have many forms."""
    key = SigningKey.generate(name)
    found = Sign1.from_bytes(key.sign1(b"payload")).signature
    half = len(found) // 2
    for other in (found[:half] + b"\0" + found[half:], found + b"\0", found[:-1], found[:half], b""):
        message = replace(Sign1.from_bytes(key.sign1(b"payload")), signature=other)
        assert reason(message.verify, key.public, b"payload") is Reason.SIGNATURE_INVALID


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1()])
def test_a_key_on_another_curve_is_no_key(curve):
    public = ec.generate_private_key(curve).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert reason(VerifyKey.from_pem, pem) is Reason.MALFORMED


def test_a_classical_key_is_written_as_rfc_9053_has_it():
    """And its thumbprint is over the key alone (RFC 9679): the curve says what it is for."""
    edwards, curve = SigningKey.generate().public, SigningKey.generate("es256").public
    raw = edwards.key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert edwards.to_cose_key() == {1: 1, -1: 6, -2: raw, 3: -8}
    assert edwards.key_id == cbor.sha256(cbor.encode({1: 1, -1: 6, -2: raw}))
    numbers = curve.key.public_numbers()
    point = {1: 2, -1: 1, -2: numbers.x.to_bytes(32), -3: numbers.y.to_bytes(32)}
    assert curve.to_cose_key() == point | {3: -7}
    assert curve.key_id == cbor.sha256(cbor.encode(point))


def test_the_rows_have_the_names_numbers_and_sizes_of_their_standards():
    assert [(each.name, each.family, each.numbers, dict(each.sizes), each.signature_bytes) for each in ALGORITHMS] == [
        ("ed25519", "classical", (-8, -19), {-2: 32}, 64),
        ("es256", "classical", (-7, -9), {-2: 32, -3: 32}, 64),
        ("ml-dsa-44", "post-quantum", (-48,), {-1: 1312}, 2420),
        ("ml-dsa-65", "post-quantum", (-49,), {-1: 1952}, 3309),
    ]


@needs_post_quantum
@pytest.mark.parametrize(("name", "number", "size"), [("ml-dsa-44", -48, 1312), ("ml-dsa-65", -49, 1952)])
def test_a_post_quantum_key_is_written_as_rfc_9964_has_it(name, number, size):
    """Key type AKP, the algorithm's number, the public key; the thumbprint is over all three (section 6)."""
    public = SigningKey.generate(name).public
    value = public.to_cose_key()
    assert (list(value), value[1], value[3], len(value[-1])) == ([1, -1, 3], 7, number, size)
    assert public.key_id == cbor.sha256(cbor.encode({1: 7, 3: number, -1: value[-1]}))


@needs_post_quantum
@pytest.mark.parametrize("name", POST_QUANTUM_NAMES)
def test_a_key_under_the_number_of_another_parameter_set_is_no_usable_key(name):
    value = SigningKey.generate(name).public.to_cose_key()
    other = next(each.numbers[0] for each in ALGORITHMS if each.name in POST_QUANTUM_NAMES and each.name != name)
    assert reason(read_key, b"k" * 32, value | {3: other}) is Reason.MALFORMED  # its size is not that set's
    without = {label: each for label, each in value.items() if label != 3}
    assert isinstance(read_key(b"k" * 32, without), UnusableKey)  # RFC 9964: such a key names its algorithm


@needs_post_quantum
def test_a_release_needs_a_classical_and_a_post_quantum_signature():
    classical, other, quantum = SigningKey.generate(), SigningKey.generate("es256"), SigningKey.generate("ml-dsa-65")
    root = root_of(release=role(classical, other, quantum, threshold=2, mixed=True))
    signer = Signer()

    def signed(*keys):
        update = signer.update(b"module")
        envelope = suit.Envelope.from_bytes(update.envelope, 1 << 16)
        signatures = [key.sign1(suit.signed_digest(envelope.manifest_bytes)) for key in keys]
        return suit.encode_envelope(envelope.manifest_bytes, signatures)

    both = verify_any(signed(classical, quantum), root)
    assert both.signers == {classical.public.key_id, quantum.public.key_id}
    assert reason(verify_any, signed(classical, other), root) is Reason.SIGNER_THRESHOLD
    assert reason(verify_any, signed(quantum), root) is Reason.SIGNER_THRESHOLD
    assert reason(verify_any, signed(quantum, quantum), root) is Reason.SIGNER_THRESHOLD
    revoked = replace(root, roles=root.roles | {"release": role(classical, other, SigningKey.generate("ml-dsa-44"), mixed=True)})
    assert reason(check_signers, both, revoked) is Reason.SIGNER_THRESHOLD


@needs_post_quantum
def test_a_root_tells_whether_a_role_is_mixed():
    keys = [SigningKey.generate(), SigningKey.generate("ml-dsa-44")]
    root = root_of(root=role(*keys, threshold=2, mixed=True))
    read = first_root(sign_document(root.to_payload(), ROOT_TYPE, keys))
    assert read == root
    assert read.roles["root"].mixed
    assert reason(first_root, sign_document(root.to_payload(), ROOT_TYPE, keys[:1])) is Reason.SIGNER_THRESHOLD


@pytest.mark.parametrize("extra", [[1], [False], [None], ["x"], [True, True], [0]])
def test_a_role_with_something_else_in_the_place_of_mixed_is_malformed(extra):
    signer = Signer()
    value = trust.cbor.decode(signer.root().to_payload(), "test", 1 << 16)
    value[7]["deploy"] = [*value[7]["deploy"], *extra]
    assert reason(Root.from_payload, trust.cbor.encode(value)) is Reason.MALFORMED


@needs_post_quantum
def test_a_board_whose_library_lacks_an_algorithm_keeps_the_root_and_says_which_key_it_can_t_use(monkeypatch):
    """As with cryptography 43, of Debian 13."""
    quantum, classical = SigningKey.generate("ml-dsa-44"), SigningKey.generate()
    root = root_of(release=role(classical, quantum))
    document = sign_document(root.to_payload(), ROOT_TYPE, [SigningKey.generate()])
    mixed = replace(root, roles=root.roles | {"release": role(classical, quantum, threshold=2, mixed=True)})
    payload = mixed.to_payload()
    old = tuple(replace(each, key_type=None) if each.family == POST_QUANTUM else each for each in ALGORITHMS)
    monkeypatch.setattr(cose, "ALGORITHMS", old)
    monkeypatch.setattr(algorithms, "ALGORITHMS", old)
    read = Root.from_payload(trust.SignedDocument.from_bytes(document, "root", ROOT_LIMIT_BYTES).payload)
    assert list(read.roles["release"].keys) == [classical.public.key_id]
    assert "algorithm -48" in read.unusable[0]
    assert algorithms.usable_names() == ("ed25519", "es256")
    assert reason(Root.from_payload, payload) is Reason.THRESHOLD_UNREACHABLE


def test_a_mixed_role_of_one_family_can_t_be_reached():
    keys = [SigningKey.generate(), SigningKey.generate("es256")]
    root = root_of(2, deploy=role(*keys, threshold=2, mixed=True))
    with pytest.raises(Refused) as caught:
        Root.from_payload(root.to_payload())
    assert caught.value.reason is Reason.THRESHOLD_UNREACHABLE
    assert POST_QUANTUM in caught.value.detail
    assert CLASSICAL not in caught.value.detail


@needs_post_quantum
def test_the_largest_root_of_post_quantum_keys_fits():
    keys = [SigningKey.generate("ml-dsa-65") for _ in range(MAX_KEYS)]
    signers = keys[:MAX_SIGNATURES]
    others = {"release": role(keys[-2]), "deploy": role(keys[-1])}
    root = Root(1, NOW_S, NOW_S + 1, VENDOR, {"root": role(*keys[:-2], threshold=MAX_SIGNATURES)} | others)
    document = sign_document(root.to_payload(), ROOT_TYPE, signers)
    assert len(document) <= ROOT_LIMIT_BYTES
    assert first_root(document) == root


@needs_post_quantum
def test_a_chain_passes_from_classical_to_post_quantum_keys_and_back():
    keys = {role_name: SigningKey.generate() for role_name in trust.ROLES}
    first = root_of(1, **{name: role(key) for name, key in keys.items()})
    quantum = SigningKey.generate("ml-dsa-44")
    second = next_root(
        first,
        sign_document(
            replace(first, number=2, roles=dict(first.roles) | {"root": role(quantum)}).to_payload(),
            ROOT_TYPE,
            [keys["root"], quantum],
        ),
    )
    third = next_root(
        second,
        sign_document(replace(first, number=3).to_payload(), ROOT_TYPE, [quantum, keys["root"]]),
    )
    assert third.roles["root"].keys == first.roles["root"].keys

"""Public test vectors: the SUIT draft's examples, and cose-wg's COSE_Sign1 messages with ES256 and EdDSA."""

import base64
import json
import re

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from ota.formats import suit
from ota.formats.cose import Sign1, VerifyKey, sig_structure
from ota.formats.describe import describe_manifest
from ota.formats.diagnostic import diagnostic
from ota.formats.manifest import Manifest
from ota.formats.reasons import Reason, Refused

SUIT_EXAMPLES = range(6)
SIGN1_FOLDERS = ("sign1-tests", "ecdsa-examples", "eddsa-examples")


def hex_block(text: str, title: str) -> bytes:
    match = re.search(re.escape(title) + r":\s*~+\s*([0-9a-f\s]+?)~+", text)
    assert match, f"no block {title!r}"
    return bytes.fromhex("".join(match[1].split()))


@pytest.mark.parametrize("number", SUIT_EXAMPLES)
def test_suit_examples_decode_and_verify(vectors, number):
    text = (vectors / "suit" / f"example{number}.txt").read_text()
    key = VerifyKey.from_pem((vectors / "suit" / "public_key.pem").read_bytes())
    envelope = suit.Envelope.from_bytes(hex_block(text, "Envelope with COSE authentication object"), 1 << 20)
    assert len(envelope.signatures) == 1
    envelope.signatures[0].verify(key, envelope.digest)
    sequences = [envelope.sequence(member) for member in suit.SEQUENCES]
    assert any(sequences)
    assert describe_manifest(hex_block(text, "Envelope with COSE authentication object")).values["signed_by"]


@pytest.mark.parametrize("number", SUIT_EXAMPLES)
def test_suit_examples_without_severed_parts_decode(vectors, number):
    text = (vectors / "suit" / f"example{number}.txt").read_text()
    title = "Envelope" if "Envelope:\n" in text else "Envelope with COSE authentication object"
    assert suit.Envelope.from_bytes(hex_block(text, title), 1 << 20).manifest[suit.VERSION] == 1


@pytest.mark.parametrize("number", SUIT_EXAMPLES)
def test_suit_examples_with_one_bit_flipped_are_refused(vectors, number):
    text = (vectors / "suit" / f"example{number}.txt").read_text()
    key = VerifyKey.from_pem((vectors / "suit" / "public_key.pem").read_bytes())
    good = hex_block(text, "Envelope with COSE authentication object")
    for position in range(3, len(good)):
        bad = bytearray(good)
        bad[position] ^= 0x01
        with pytest.raises(Refused):
            envelope = suit.Envelope.from_bytes(bytes(bad), 1 << 20)
            if not envelope.signatures:
                raise Refused(Reason.SIGNATURE_MISSING, "none")
            envelope.signatures[0].verify(key, envelope.digest)


@pytest.mark.parametrize("number", SUIT_EXAMPLES)
def test_suit_examples_are_outside_our_profile_and_are_told_so(vectors, number):
    text = (vectors / "suit" / f"example{number}.txt").read_text()
    envelope = suit.Envelope.from_bytes(hex_block(text, "Envelope with COSE authentication object"), 1 << 20)
    with pytest.raises(Refused) as caught:
        Manifest.from_envelope(envelope)
    assert caught.value.reason is Reason.COMMAND_UNSUPPORTED


def test_diagnostic_notation_shows_nested_cbor(vectors):
    text = (vectors / "suit" / "example0.txt").read_text()
    shown = diagnostic(hex_block(text, "Envelope with COSE authentication object"))
    assert shown.startswith("107({")
    assert "<< {" in shown
    assert "h'6658ea560262696dd1f13b782239a064da7c6c5cbaf52fded428a6fc83c7e5af'" in shown


def public_key(key: dict[str, str]) -> VerifyKey:
    def number(name: str) -> bytes:
        if f"{name}_hex" in key:
            return bytes.fromhex(key[f"{name}_hex"])
        return base64.urlsafe_b64decode(key[name] + "==")

    if key["kty"] == "OKP":
        return VerifyKey(ed25519.Ed25519PublicKey.from_public_bytes(number("x")))
    point = ec.EllipticCurvePublicNumbers(int.from_bytes(number("x")), int.from_bytes(number("y")), ec.SECP256R1())
    return VerifyKey(point.public_key())


def sign1_vectors(folder):
    """COSE_Sign1 messages for P-256 or Ed25519: (name, vector)."""
    for sub in SIGN1_FOLDERS:
        for path in sorted((folder / "cose" / sub).glob("*.json")):
            vector = json.loads(path.read_text())
            signer = vector["input"].get("sign0")
            if signer and signer["key"].get("crv") in ("P-256", "Ed25519") and signer["alg"] in ("ES256", "EdDSA"):
                yield path.name, vector, signer


def test_all_sign1_vectors_pass_and_fail_as_they_should(vectors):
    seen = {"pass": [], "fail": []}
    for name, vector, signer in sign1_vectors(vectors):
        data = bytes.fromhex(vector["output"]["cbor"])
        external = bytes.fromhex(signer.get("external", "") or vector["input"].get("external", ""))
        if vector.get("fail"):
            with pytest.raises(Refused):
                Sign1.from_bytes(data).verify(public_key(signer["key"]), external_aad=external)
            seen["fail"].append(name)
        else:
            message = Sign1.from_bytes(data)
            payload = message.verify(public_key(signer["key"]), external_aad=external)
            assert payload == vector["input"]["plaintext"].encode(), name
            signed = sig_structure(message.protected, payload, external)
            assert signed.hex().upper() == vector["intermediates"]["ToBeSign_hex"].upper()
            seen["pass"].append(name)
    assert len(seen["pass"]) >= 5
    assert len(seen["fail"]) >= 6


def test_a_sign_message_is_not_taken_for_a_sign1(vectors):
    for path in sorted((vectors / "cose" / "sign-tests").glob("*.json")):
        with pytest.raises(Refused):
            Sign1.from_bytes(bytes.fromhex(json.loads(path.read_text())["output"]["cbor"]))

"""Signatures of cosign beside artifacts: made here in both forms, and by cosign itself where it is installed."""

import base64
import json
import os
import shutil
import ssl
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ota.author import artifact, cosign, cosign_bundles
from ota.author.registry import Repository
from ota.errors import OtaError
from ota.formats import oci
from ota.formats.oci import Reference
from ota.formats.reasons import Reason, Refused
from tests.support.lab import echo
from tests.support.operator import ota
from tests.support.registry import DockerRegistry, ScriptedRegistry, descriptor, plain_artifact

MODULE = echo(1)
TOML = b'[module]\nname = "echo"\nversion = "1.0.0"\n[capabilities.messaging]\nsubscribe = ["sys/#"]\npublish = ["out/#"]\n'
KEYS = {"p-256": lambda: ec.generate_private_key(ec.SECP256R1()), "ed25519": ed25519.Ed25519PrivateKey.generate}
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


@pytest.fixture(autouse=True)
def nobody(tmp_path, monkeypatch):
    """Whoever runs the tests may be logged in somewhere."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def scripted():
    opened = ScriptedRegistry()
    yield opened
    opened.close()


def fetch(scripted, private) -> bytes:
    """The module, if the key signed it."""
    repository = Repository(Reference.parse(f"oci://{scripted.host}/x:1"), ssl.create_default_context(), lambda host: None)
    return artifact.fetch(repository, private.public_key()).blob


def refusal(scripted, private) -> Refused:
    with pytest.raises(Refused) as caught:
        fetch(scripted, private)
    return caught.value


def sign(private, data: bytes) -> str:
    raw = private.sign(data, *([ec.ECDSA(SHA256())] if isinstance(private, ec.EllipticCurvePrivateKey) else []))
    return base64.b64encode(raw).decode()


# -- both forms, as cosign 2 and 3 make them


def simple(scripted, private, digest: str, about: str | None = None, payload: bytes | None = None) -> None:
    """A layer below the tag sha256-DIGEST.sig."""
    said = {"critical": {"identity": {"docker-reference": ""}, "image": {"docker-manifest-digest": about or digest}}}
    said["critical"]["type"] = "cosign container image signature"
    document = json.dumps(said | {"optional": None}).encode()
    signature = sign(private, document)
    document = payload or document
    layer = descriptor(document, cosign.PAYLOAD) | {"annotations": {cosign.SIGNATURE: signature}}
    scripted.serve("x", [document], plain_artifact(b"") | {"layers": [layer]}, tag=f"{digest.replace(':', '-')}.sig")


def bundle(private, digest: str, *, predicate: str = cosign_bundles.SIGNED, envelope=(), material=(), payload=None) -> bytes:
    """What cosign 3 signs: a statement about the digest."""
    statement = {"_type": "https://in-toto.io/Statement/v1", "subject": [{"digest": {"sha256": digest.removeprefix("sha256:")}}]}
    data = json.dumps(statement | {"predicateType": predicate, "predicate": {}}).encode() if payload is None else payload
    kind = "application/vnd.in-toto+json"
    signature = sign(private, f"DSSEv1 {len(kind)} {kind} {len(data)} ".encode() + data)
    made = {"payload": base64.b64encode(data).decode(), "payloadType": kind, "signatures": [{"sig": signature}]} | dict(envelope)
    about = {"publicKey": {"hint": "x"}} | dict(material)
    return json.dumps({"mediaType": BUNDLE, "verificationMaterial": about, "dsseEnvelope": made}).encode()


def refer(scripted, digest: str, *bundles: bytes, by_tag: bool = False) -> None:
    """Has bundles that refer to the artifact: as the registry lists them, or by tag where it lists nothing."""
    entries = []
    for each in bundles:
        manifest = json.dumps(plain_artifact(each, BUNDLE) | {"artifactType": BUNDLE}).encode()
        scripted.serve("x", [each], manifest, tag="none")
        entries.append(descriptor(manifest, oci.MANIFEST, artifactType=BUNDLE))
    index = json.dumps({"schemaVersion": 2, "mediaType": oci.INDEXES[0], "manifests": entries}).encode()
    path = f"manifests/{digest.replace(':', '-')}" if by_tag else f"referrers/{digest}"
    scripted.answers[f"/v2/x/{path}"] = (200, {}, index)


@pytest.fixture
def digest(scripted) -> str:
    return scripted.serve("x", [MODULE], plain_artifact(MODULE))


def with_safe_letters(made: bytes) -> bytes:
    """The same bundle in the other alphabet of base64."""
    found = json.loads(made)
    envelope = found["dsseEnvelope"]
    text = envelope["payload"] + envelope["signatures"][0]["sig"]
    assert "+" in text or "/" in text
    envelope["payload"] = envelope["payload"].translate(str.maketrans("+/", "-_"))
    envelope["signatures"][0]["sig"] = envelope["signatures"][0]["sig"].translate(str.maketrans("+/", "-_"))
    return json.dumps(found).encode()


FORMS = {
    "simple": simple,
    "bundle": lambda scripted, private, digest: refer(scripted, digest, bundle(private, digest)),
    "bundle in base64url": lambda scripted, private, digest: refer(scripted, digest, with_safe_letters(bundle(private, digest))),
    "bundle by tag": lambda scripted, private, digest: refer(scripted, digest, bundle(private, digest), by_tag=True),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KEYS)
def test_a_signature_of_cosign_is_checked(workspace, scripted, digest, tmp_path, kind, form, capsys):
    private = KEYS[kind]()
    key = tmp_path / "cosign.pub"
    key.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "echo.toml").write_bytes(TOML)
    words = ("build", f"oci://{scripted.host}/x:1", "-o", tmp_path / "dist", "--description", tmp_path / "echo.toml")
    assert ota(workspace, *words, "--cosign-key", key) == 1
    assert "signature-missing" in capsys.readouterr().err
    FORMS[form](scripted, KEYS[kind](), digest)
    assert ota(workspace, *words, "--cosign-key", key) == 1
    assert "signature-invalid" in (told := capsys.readouterr().err)
    assert "by another key (1)" in told
    FORMS[form](scripted, private, digest)
    assert ota(workspace, *words, "--cosign-key", key) == 0


def test_a_simple_signature_of_another_artifact_is_refused(scripted, digest):
    private = KEYS["p-256"]()
    for more in ({"about": oci.digest_of(b"other")}, {"payload": b'{"critical": {}}'}):
        simple(scripted, private, digest, **more)
        assert refusal(scripted, private).reason is Reason.SIGNATURE_INVALID


ATTACKS = {
    "a bundle copied from another artifact": (lambda key, own: bundle(key, oci.digest_of(b"other")), "for another artifact"),
    "an attestation by the same key": (
        lambda key, own: bundle(key, own, predicate="https://slsa.dev/provenance/v1"),
        "an attestation (https://slsa.dev/provenance/v1) and no signature",
    ),
    "a payload put under another signature": (
        lambda key, own: bundle(key, own, envelope={"payload": base64.b64encode(b"{}").decode()}),
        "by another key",
    ),
    "a payload of another type": (
        lambda key, own: bundle(key, own, envelope={"payloadType": "text/plain"}),
        "of another kind than a DSSE envelope",
    ),
    "a keyless signature": (lambda key, own: bundle(key, own, material={"certificate": {}}), "keyless, by a certificate"),
    "a payload that is no base64": (lambda key, own: bundle(key, own, envelope={"payload": "!"}), "damaged"),
    "a payload that is no text": (lambda key, own: bundle(key, own, envelope={"payload": 7}), "damaged"),
    "no signatures": (lambda key, own: bundle(key, own, envelope={"signatures": {}}), "by another key"),
    "a signed payload that is no JSON": (lambda key, own: bundle(key, own, payload=b"{"), "unreadable"),
    "no JSON": (lambda key, own: b"[[", "unreadable"),
    "a bundle that is too large": (lambda key, own: b" " * (cosign_bundles.BUNDLE_LIMIT_BYTES + 1), "unreadable"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_no_signature_by_the_key_is_refused_and_hides_no_good_one(scripted, digest, attack):
    private = KEYS["p-256"]()
    make, told = ATTACKS[attack]
    bad = make(private, digest)
    refer(scripted, digest, bad)
    error = refusal(scripted, private)
    assert error.reason is Reason.SIGNATURE_INVALID
    assert told in error.detail
    refer(scripted, digest, bad, bundle(private, digest))
    assert fetch(scripted, private) == MODULE


def test_of_very_many_bundles_not_all_are_asked_for(scripted, digest):
    other = KEYS["p-256"]()
    refer(scripted, digest, *(bundle(other, digest) for _ in range(cosign_bundles.MAX_BUNDLES + 5)))
    error = refusal(scripted, KEYS["p-256"]())
    assert error.reason is Reason.SIGNATURE_INVALID
    assert f"by another key ({cosign_bundles.MAX_BUNDLES})" in error.detail
    assert f"not looked at, behind {cosign_bundles.MAX_BUNDLES} others (5)" in error.detail


@pytest.mark.parametrize("by_tag", [False, True])
def test_an_artifact_with_more_referrers_than_are_looked_through_is_refused_for_that_reason(scripted, digest, by_tag):
    private = KEYS["p-256"]()
    refer(scripted, digest, *[bundle(private, digest)] * (oci.MAX_DESCRIPTORS + 1), by_tag=by_tag)
    error = refusal(scripted, private)
    assert error.reason is Reason.TOO_LARGE
    assert f"names {oci.MAX_DESCRIPTORS + 1} parts, at most {oci.MAX_DESCRIPTORS} are looked through" in error.detail
    simple(scripted, private, digest)  # a good signature by tag is looked at before
    assert fetch(scripted, private) == MODULE


def test_a_key_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "key.pub"
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    path.write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(OtaError, match="ECDSA P-256 or Ed25519 is expected"):
        cosign.load_key(path)


# -- cosign itself

PROGRAM = shutil.which("cosign")
MADE_BY = {
    "simple": ("sign", "--new-bundle-format=false", "--use-signing-config=false", "--tlog-upload=false"),
    "bundle": ("sign", "--signing-config", "none.json"),
    "attestation": ("attest", "--signing-config", "none.json", "--predicate", "none.json", "--type", "custom"),
}


@pytest.mark.full
@pytest.mark.skipif(PROGRAM is None, reason="cosign is not installed: go install github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3")
@pytest.mark.parametrize("form", MADE_BY)
def test_what_cosign_signs_is_taken_and_what_it_attests_is_not(tmp_path, form, capsys):
    def run(*words: str) -> None:
        environment = os.environ | {"COSIGN_PASSWORD": "x", "HOME": str(tmp_path)}
        command = [str(PROGRAM), *words]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=120)

    (tmp_path / "echo.wasm").write_bytes(MODULE)
    run("generate-key-pair")
    run("generate-key-pair", "--output-key-prefix", "other")
    run("signing-config", "create", "--out", "none.json")  # no transparency log
    registry = DockerRegistry(tmp_path)
    try:
        for key, number in (("cosign", 1), ("other", 2)):
            reference = f"oci://{registry.host}/echo:{number}"
            (tmp_path / "echo.wasm").write_bytes(echo(number))
            assert ota(tmp_path, "push", reference, tmp_path / "echo.wasm", "--json") == 0
            pinned = json.loads(capsys.readouterr().out)["pinned"].removeprefix("oci://")
            run(*MADE_BY[form], "--key", f"{key}.key", "--allow-http-registry", "--yes", pinned)
            good = key == "cosign" and form != "attestation"
            assert ota(tmp_path, "inspect", reference, "--cosign-key", tmp_path / "cosign.pub") == (0 if good else 1)
            said = capsys.readouterr().err
            expected = "signed" if good else "an attestation" if key == "cosign" else "by another key"
            assert expected in said
    finally:
        registry.close()

"""Another CBOR decoder and another COSE read what we write: fxamacker/cbor and go-cose, in Go; for ML-DSA circl; and python-cwt
decrypts it.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ota.author.build import sign
from ota.formats import cbor
from ota.formats.algorithms import ALGORITHMS
from ota.formats.deployment import DEPLOYMENT_TYPE
from ota.formats.encryption import GroupKey, board_key_id, coordinates
from ota.formats.key_delivery import DELIVERY_TYPE
from ota.formats.provenance import text_digest
from ota.formats.signed_report import INSTANCE_REPORT, LOG, REPORT, TELEMETRY
from ota.formats.trust import ROOT_TYPE
from ota.keyring import SigningKey, sign_document
from tests.conftest import ROOT
from tests.support.built import built, tool
from tests.support.documents import BOARD, GROUP_KEY, OWN_KEY, ROLE_KEYS, SEALED, SIGNER, UPDATE, WRITTEN, content

OPERATOR = [key.public for key in ROLE_KEYS.values()]
KINDS = {
    "root-document": ("document", OPERATOR, [ROOT_TYPE]),
    "deployment-document": ("document", OPERATOR, [DEPLOYMENT_TYPE]),
    "group-keys-document": ("document", OPERATOR, [DELIVERY_TYPE]),
    "envelope": ("envelope", OPERATOR, [""]),
    "encrypted-envelope": ("envelope", OPERATOR, [""]),
    "signed-report": ("statement", [BOARD.public], [REPORT]),
    "signed-instance-report": ("statement", [BOARD.public], [INSTANCE_REPORT]),
    "signed-logs": ("statement", [BOARD.public], [LOG]),
    "signed-telemetry": ("statement", [BOARD.public], [TELEMETRY]),
}
pytestmark = pytest.mark.full  # building the program takes longer than all of it
USABLE = [each.name for each in ALGORITHMS if each.usable]


@pytest.fixture(scope="module")
def reader():
    """Gives documents to the program in Go; returns its answers."""
    go = tool("go", "go-cose")
    program = built(ROOT / "tests" / "formats" / "cose", [[go, "build", "-o", "OUT/reader", "."]]) / "reader"

    def read(*documents):
        asked = [
            {"name": name, "kind": kind, "data": data.hex(), "keys": [cbor.encode(key.to_cose_key()).hex() for key in keys]}
            for name, kind, data, keys in documents
        ]
        lines = "".join(json.dumps(each) + "\n" for each in asked)
        done = subprocess.run([program], input=lines, capture_output=True, text=True, timeout=60, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    return read


def test_every_document_that_is_written_is_read_and_verified(reader):
    kinds = {name: KINDS.get(name, ("plain", [], [])) for name in WRITTEN}
    found = reader(*((name, kind, WRITTEN[name], keys) for name, (kind, keys, _) in kinds.items()))
    assert [(each["name"], each["error"]) for each in found] == [(name, "") for name in WRITTEN]
    assert {each["name"]: each["types"] or [] for each in found} == {name: types for name, (_, _, types) in kinds.items()}


@pytest.mark.parametrize("name", USABLE)
def test_signatures_of_each_algorithm_verify_beside_those_of_another(reader, name):
    keys = [SigningKey.generate(name), SigningKey.generate()]
    root = sign_document(content(WRITTEN["root-document"]), ROOT_TYPE, keys)
    update = sign(UPDATE.manifest, UPDATE.blob, UPDATE.index, keys)
    public = [key.public for key in keys]
    found = reader(("root", "document", root, public), ("update", "envelope", update.envelope, public))
    numbers = [key.public.algorithm.numbers[0] for key in keys]
    assert [(each["error"], each["algorithms"]) for each in found] == [("", numbers)] * 2


def test_what_is_changed_is_refused_there_as_well(reader):
    changed = []
    for name, (kind, keys, _) in KINDS.items():
        for at in range(0, len(WRITTEN[name]), 7):
            data = bytearray(WRITTEN[name])
            data[at] ^= 0x01
            changed.append((f"{name} {at}", kind, bytes(data), keys))
    taken = [each["name"] for each in reader(*changed) if not each["error"]]
    assert len(changed) > 100
    # No signature is over the copy of its key that a report has with it.
    assert {name.split()[0] for name in taken} <= {"signed-report"}


def test_a_document_by_strangers_is_refused_there_as_well(reader):
    stranger = [SigningKey.generate().public]
    found = reader(*((name, kind, WRITTEN[name], stranger) for name, (kind, _, _) in KINDS.items()))
    assert all("no key has the thumbprint" in each["error"] for each in found)


def test_an_update_with_images_and_a_text_is_read(reader):
    manifest = replace(UPDATE.manifest, text_digest=text_digest(WRITTEN["text-map"]))
    envelope = sign(manifest, UPDATE.blob, UPDATE.index, [SIGNER.keys["release"]], WRITTEN["text-map"]).envelope
    (answer,) = reader(("update", "envelope", envelope, OPERATOR))
    assert (answer["error"], answer["signatures"]) == ("", 1)


def _group(key: GroupKey) -> dict[int, int | str]:
    return {1: 4, 2: key.key_id.hex(), 3: -3, -1: key.secret.hex()}


def _own(key: ec.EllipticCurvePrivateKey) -> dict[int, int | str]:
    x, y = coordinates(key.public_key())
    secret = key.private_numbers().private_value.to_bytes(32)
    return {1: 2, 2: board_key_id(key.public_key()).hex(), 3: -29, -1: 1, -2: x.hex(), -3: y.hex(), -4: secret.hex()}


@pytest.mark.parametrize("key", [_group(GROUP_KEY), _own(OWN_KEY)], ids=["group", "board"])
def test_what_is_encrypted_is_decrypted_by_another_implementation(key):
    """The one that the examples of draft-ietf-suit-firmware-encryption are made with. It needs an older cbor2 than the newest."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", "OUT/packages", "cwt==3.3.0"]
    folder = built(ROOT / "tests" / "formats" / "cwt", [pip])
    blobs = [(SEALED.manifest, SEALED.blob, UPDATE.blob), (SEALED.manifest.images[0], SEALED.images[0][0], UPDATE.images[0][0])]
    for about, ciphertext, plain in blobs:
        asked = {"info": about.ciphertext.info.hex(), "ciphertext": ciphertext.hex(), "key": key}
        command = [sys.executable, folder / "reader.py"]
        environment = os.environ | {"PYTHONPATH": str(folder / "packages")}
        done = subprocess.run(
            command, input=json.dumps(asked), capture_output=True, text=True, timeout=60, check=True, env=environment
        )
        assert json.loads(done.stdout) == {"plain": plain.hex()}

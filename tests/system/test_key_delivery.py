"""Keys of a group come to a board over the air: used at once, kept, replaced, and refused where something is wrong with them."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ota.author.encryption import sealed_for
from ota.formats import cbor, key_delivery, topics
from ota.formats.encryption import read_public_key
from ota.formats.key_delivery import DELIVERY_TYPE, KeyDelivery
from ota.keyring import sign_document
from tests.support.lab import DEVICE, GROUP, echo, open_lab
from tests.support.sealing import KEY, OTHER_KEY, sealed

TOPIC = topics.group_keys(DEVICE)


@pytest.fixture
def lab(tmp_path):
    """A board that tries again rarely: what comes is used at once."""
    opened = open_lab(tmp_path)
    opened.start()
    yield opened
    opened.close()


def delivery(lab, *keys, epoch=10, to=None, **changes):
    own = to or read_public_key(lab.observer.board.encryption)
    found = {each.key_id: each for each in keys}
    info, content = sealed_for(key_delivery.plaintext(found), own)
    made = KeyDelivery(DEVICE, GROUP, epoch, 5, tuple(sorted(found)), info.to_bytes(), content)
    return replace(made, **changes)


def put(lab, made, role="deploy", kind=DELIVERY_TYPE):
    lab.put([(TOPIC, sign_document(made.to_payload(), kind, [lab.signer.keys[role]]))])


def confirmed(lab, *keys):
    wanted = tuple(sorted(each.key_id for each in keys))
    lab.observer.wait(lambda: lab.observer.board.group_keys == wanted, lab.patience_s, "the keys in the board's report")


def update(lab, version: int):
    return lab.signer.update(echo(version, padding=5000), name="echo", version=f"{version}.0.0")


def test_a_module_that_a_board_could_not_read_runs_as_soon_as_the_key_has_come(lab):
    deployment = lab.deploy(sealed(lab.signer, update(lab, 1)))
    assert lab.wait_state("failed", deployment=deployment).attempt.reason == "recipient-missing"
    put(lab, delivery(lab, KEY))
    lab.wait_state("confirmed", deployment=deployment)
    confirmed(lab, KEY)


def test_the_key_is_there_after_a_power_cut_though_the_broker_has_lost_it(lab):
    put(lab, delivery(lab, KEY))
    confirmed(lab, KEY)
    lab.put([(TOPIC, b"")])
    lab.kill()
    lab.start()
    confirmed(lab, KEY)
    lab.wait_state("confirmed", deployment=lab.deploy(sealed(lab.signer, update(lab, 1))))


def test_no_key_of_a_group_lies_on_the_disk_in_plaintext(lab):
    put(lab, delivery(lab, KEY))
    confirmed(lab, KEY)
    lab.kill()
    for file in lab.folder.rglob("*"):
        assert not file.is_file() or KEY.secret not in file.read_bytes(), file


def test_the_next_document_takes_the_place_of_the_one_before(lab):
    put(lab, delivery(lab, KEY))
    confirmed(lab, KEY)
    put(lab, delivery(lab, KEY, OTHER_KEY, epoch=11))
    confirmed(lab, KEY, OTHER_KEY)
    put(lab, delivery(lab, OTHER_KEY, epoch=12))
    confirmed(lab, OTHER_KEY)
    deployment = lab.deploy(sealed(lab.signer, update(lab, 1)))
    assert lab.wait_state("failed", deployment=deployment).attempt.reason == "recipient-missing"


def test_an_older_document_that_is_played_again_brings_no_key_back(lab):
    put(lab, delivery(lab, KEY))
    confirmed(lab, KEY)
    put(lab, delivery(lab, OTHER_KEY, epoch=11))
    confirmed(lab, OTHER_KEY)
    put(lab, delivery(lab, KEY))
    lab.wait_refusal("deployment-replayed", "keys")
    lab.kill()
    lab.start()
    lab.wait_refusal("deployment-replayed", "keys")
    confirmed(lab, OTHER_KEY)


def test_a_second_document_of_an_epoch_is_refused(lab):
    put(lab, delivery(lab, KEY))
    confirmed(lab, KEY)
    put(lab, delivery(lab, OTHER_KEY))
    lab.wait_refusal("deployment-conflict", "keys")
    confirmed(lab, KEY)


STRANGER = ec.derive_private_key(7, ec.SECP256R1())


@pytest.mark.parametrize(
    ("reason", "how"),
    [
        ("group-mismatch", {"device": "roof-9"}),
        ("group-mismatch", {"group": "others"}),
        ("recipient-missing", {"to": STRANGER.public_key()}),
        ("decryption-failed", {"sealed": bytes(60)}),
        ("malformed", {"key_ids": (OTHER_KEY.key_id,)}),
        ("malformed", {"key_ids": (b"short",)}),
        ("malformed", {"info": cbor.encode([])}),
    ],
)
def test_what_is_not_for_this_board_or_not_what_it_says_is_refused_and_named(lab, reason, how):
    put(lab, delivery(lab, KEY, **how))
    lab.wait_refusal(reason, "keys")
    put(lab, delivery(lab, KEY))  # and raises no floor
    confirmed(lab, KEY)


@pytest.mark.parametrize(
    ("reason", "how"),
    [
        ("signer-unknown", {"role": "release"}),
        ("signature-invalid", {"kind": "application/vnd.wamr-ota.deployment+cbor"}),
    ],
)
def test_keys_that_the_wrong_role_signed_or_as_another_document_are_refused(lab, reason, how):
    put(lab, delivery(lab, KEY), **how)
    lab.wait_refusal(reason, "keys")


def test_a_document_whose_signature_was_changed_is_refused(lab):
    made = sign_document(delivery(lab, KEY).to_payload(), DELIVERY_TYPE, [lab.signer.keys["deploy"]])
    lab.put([(TOPIC, made[:-1] + bytes([made[-1] ^ 1]))])
    lab.wait_refusal("signature-invalid", "keys")


def test_a_document_of_too_many_bytes_is_refused_before_it_is_read(lab):
    lab.put([(TOPIC, bytes(70_000))])
    lab.wait_refusal("too-large", "keys")

"""Ahead-of-time images in a manifest."""

from dataclasses import replace

import pytest

from ota.formats import cbor, suit
from ota.formats.capabilities import ABI
from ota.formats.manifest import Manifest, image_class_id, vendor_id, verify
from ota.formats.profile import BY_DIGEST
from ota.formats.reasons import Reason, Refused
from tests.support.signing import VENDOR, Signer, acceptance

FLAGS = "3 aarch64 bounds=hardware"


def identifier(flags: str = FLAGS, cpu: str = "", board: str = "generic", abi: str = ABI) -> bytes:
    return image_class_id(vendor_id(VENDOR), board, flags, cpu, abi)


def signed(*classes: bytes):
    signer = Signer()
    update = signer.update(b"module", aot=tuple((each, b"image of " + each) for each in classes))
    return signer, update


def test_a_board_gets_the_first_image_of_its_classes_and_none_else():
    signer, update = signed(identifier(), identifier(cpu="cortex-a72"))
    manifest = verify(update.envelope, signer.root(), acceptance()).manifest
    best = manifest.image_for([identifier(cpu="cortex-a72"), identifier()])
    assert best == manifest.images[1]
    assert manifest.image_for([identifier(cpu="cortex-a53"), identifier()]) == manifest.images[0]
    for other in (
        identifier("3 aarch64 bounds=software"),
        identifier("4 aarch64 bounds=hardware"),
        identifier("3 riscv64 bounds=hardware"),
        identifier(board="roof"),
        identifier(abi="device:module@0.2.0"),
    ):
        assert manifest.image_for([other]) is None


def test_the_same_class_is_never_meant_twice():
    names = [identifier(), identifier(cpu="least"), identifier(cpu="x"), identifier("3 armv7 bounds=software")]
    assert len({*names}) == 3  # "" is the least


def with_install(change) -> bytes:
    """A manifest with an image whose install sequence is changed, signed by the right key."""
    signer, update = signed(identifier())
    value = cbor.decode(update.manifest.to_bytes(), "test", 1 << 16)
    value[suit.INSTALL] = cbor.encode(change(cbor.decode(value[suit.INSTALL], "test", 1 << 16)))
    data = cbor.encode(value)
    envelope = suit.encode_envelope(data, [signer.keys["release"].sign1(suit.signed_digest(data))])
    try:
        verify(envelope, signer.root(), acceptance())
    except Refused as error:
        return error
    return None


IMAGE = Signer().update(b"m", aot=((identifier(), b"i"),)).manifest.images[0].to_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda commands: commands[:-2],
        lambda commands: [*commands[:-1], commands[-1][:-1]],
        lambda commands: [*commands[:-1], [None]],
        lambda commands: [*commands[:-1], [*[commands[-1][0]] * 17, None]],
        lambda commands: [*commands[:-1], [None, *commands[-1]]],
        lambda commands: [*commands[:-1], [commands[-1], None]],
        lambda commands: [*commands, *commands[-2:]],
        lambda commands: [*commands[:-1], [cbor.encode([suit.INVOKE_COMMAND, 2]), None]],
        lambda commands: [*commands[:-1], [IMAGE + IMAGE, None]],
        lambda commands: [*commands[:-1], 7],
    ],
)
def test_a_try_each_of_another_form_is_refused(change):
    error = with_install(change)
    assert isinstance(error, Refused)
    assert error.reason in (Reason.COMMAND_UNSUPPORTED, Reason.MALFORMED)


def test_an_unchanged_manifest_with_images_is_accepted():
    assert with_install(lambda commands: commands) is None


def test_an_image_that_is_not_fetched_by_its_digest_is_refused():
    signer, update = signed(identifier())
    image = update.manifest.images[0]
    swapped = image.to_bytes().replace(BY_DIGEST.encode(), b"x:")

    class Forged(type(image)):
        def to_bytes(self) -> bytes:
            return swapped

    forged = replace(update.manifest, images=(Forged(**vars(image)),)).to_bytes()
    envelope = suit.encode_envelope(forged, [signer.keys["release"].sign1(suit.signed_digest(forged))])
    with pytest.raises(Refused, match="blobs are fetched by their digest"):
        Manifest.from_envelope(suit.Envelope.from_bytes(envelope, 1 << 16))


def test_true_does_not_pass_for_component_one():
    def change(install):
        choices = install[-1]
        image = cbor.decode(choices[0], "test", 1 << 16)
        assert image[:2] == [suit.SET_COMPONENT_INDEX, 1]
        return [*install[:-1], [cbor.encode([suit.SET_COMPONENT_INDEX, True, *image[2:]]), None]]

    assert with_install(change).reason is Reason.COMMAND_UNSUPPORTED

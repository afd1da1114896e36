"""Our profile of SUIT: what a manifest may consist of, member by member, and manifests that boards have kept for long."""

from dataclasses import replace

import pytest

from ota.formats import cbor, profile, suit
from ota.formats.chunks import BLOB_LIMIT_BYTES, DEFAULT_CHUNK_BYTES, ChunkIndex
from ota.formats.encryption import INFO_LIMIT_BYTES, Ciphertext
from ota.formats.manifest import Manifest, image_name
from ota.formats.profile import CIPHERTEXT, MAX_IMAGES, Profile, read_source, sha256_of, source
from ota.formats.provenance import TEXT_LIMIT_BYTES, text_digest
from ota.formats.reasons import Reason, Refused
from ota.formats.suit import Envelope
from tests.support.documents import SEALED, UPDATE

MODULE, IMAGE = [b"m"], [b"i"]
ALLOWED = ([MODULE], [MODULE, IMAGE], [MODULE, CIPHERTEXT], [MODULE, IMAGE, CIPHERTEXT])
DIGEST, INDEX = bytes(range(32)), bytes(32)
INFO = SEALED.manifest.ciphertext.info
PLAIN = Profile(3, bytes(16), bytes([1]) * 16, DIGEST, 70_000, INDEX, b"arguments")
ENCRYPTED = replace(PLAIN, ciphertext=Ciphertext(bytes([7]) * 32, INFO))
CHOICE = cbor.encode([suit.IMAGE_MATCH, 15])


def refusal(function, *values) -> Refused:
    with pytest.raises(Refused) as caught:
        function(*values)
    return caught.value


def read(manifest: bytes, text: bytes = b"") -> Profile:
    return Profile.from_envelope(Envelope.from_bytes(suit.encode_envelope(manifest, [], text), 1 << 20), *ALLOWED)


def changed(found: Profile, member: int, change) -> bytes:
    """The manifest after a change of one member, decoded and encoded again where it is bytes."""
    value = cbor.decode(found.to_bytes(MODULE, IMAGE), "test", 1 << 20)
    if isinstance(value.get(member), bytes):
        value[member] = cbor.encode(change(cbor.decode(value[member], "test", 1 << 20)))
    else:
        value[member] = change(value.get(member))
    return cbor.encode(value)


@pytest.mark.parametrize("count", [0, 1, MAX_IMAGES])
@pytest.mark.parametrize("found", [PLAIN, ENCRYPTED])
def test_a_manifest_is_read_as_it_was_written(found, count):
    found = replace(found, choices=(CHOICE,) * count)
    assert read(found.to_bytes(MODULE, IMAGE)) == found


# -- members


@pytest.mark.parametrize(
    ("member", "value", "reason"),
    [
        (suit.VERSION, 0, Reason.MALFORMED),
        (suit.VERSION, 2, Reason.MALFORMED),
        (suit.SEQUENCE, -1, Reason.MALFORMED),
        (suit.SEQUENCE, 1 << 63, Reason.MALFORMED),
        (suit.LOAD, b"\x80", Reason.COMMAND_UNSUPPORTED),
        (suit.REFERENCE_URI, "https://example.com", Reason.COMMAND_UNSUPPORTED),
        (99, 1, Reason.COMMAND_UNSUPPORTED),
        (suit.TEXT, b"inside", Reason.COMMAND_UNSUPPORTED),
        (suit.TEXT, [-15, bytes(32)], Reason.COMMAND_UNSUPPORTED),
        (suit.TEXT, [suit.SHA_256, bytes(31)], Reason.COMMAND_UNSUPPORTED),
        (suit.TEXT, [suit.SHA_256, bytes(15)], Reason.MALFORMED),
    ],
)
def test_a_member_of_another_form_is_refused(member, value, reason):
    for sequence in (0, (1 << 63) - 1):
        assert read(changed(PLAIN, suit.SEQUENCE, lambda _, number=sequence: number)).sequence == sequence
    whole = cbor.decode(PLAIN.to_bytes(MODULE), "test", 1 << 20) | {member: value}
    assert refusal(read, cbor.encode(whole)).reason is reason


def test_a_text_may_be_as_large_as_its_limit_and_no_part_but_text_is_severed():
    for size, reason in ((TEXT_LIMIT_BYTES, None), (TEXT_LIMIT_BYTES + 1, Reason.TOO_LARGE)):
        text = bytes(size)
        manifest = replace(PLAIN, text_digest=text_digest(text)).to_bytes(MODULE)
        if reason is None:
            assert read(manifest, text).text_digest == text_digest(text)
        else:
            assert refusal(read, manifest, text).reason is reason
    integrated = cbor.decode(suit.encode_envelope(PLAIN.to_bytes(MODULE), []), "test", 1 << 20, (suit.ENVELOPE_TAG,))
    integrated.value["#payload"] = b"x"
    envelope = Envelope.from_bytes(cbor.encode(integrated), 1 << 20)
    assert refusal(Profile.from_envelope, envelope, *ALLOWED).reason is Reason.COMMAND_UNSUPPORTED


@pytest.mark.parametrize(
    ("components", "reason"),
    [
        ([], Reason.COMMAND_UNSUPPORTED),
        ([IMAGE], Reason.COMMAND_UNSUPPORTED),
        ([IMAGE, MODULE], Reason.COMMAND_UNSUPPORTED),
        ([MODULE, MODULE], Reason.COMMAND_UNSUPPORTED),
        ([b"m"], Reason.COMMAND_UNSUPPORTED),
        ([["m"]], Reason.COMMAND_UNSUPPORTED),
        ([MODULE] * 16, Reason.COMMAND_UNSUPPORTED),
        ([MODULE] * 17, Reason.MALFORMED),
        ("m", Reason.MALFORMED),
    ],
)
def test_components_are_those_of_the_profile(components, reason):
    manifest = changed(PLAIN, suit.COMMON, lambda common: common | {suit.COMPONENTS: components})
    assert refusal(read, manifest).reason is reason


@pytest.mark.parametrize(
    ("parameter", "good", "bad", "reason"),
    [
        (suit.P_VENDOR, [bytes(16)], [bytes(15), bytes(17), "text"], Reason.MALFORMED),
        (suit.P_CLASS, [bytes(16)], [bytes(15), bytes(17)], Reason.MALFORMED),
        (suit.P_SIZE, [DEFAULT_CHUNK_BYTES + 1, BLOB_LIMIT_BYTES], [0, -1, BLOB_LIMIT_BYTES + 1], Reason.MALFORMED),
        (suit.P_DIGEST, [], [b"x", suit.sha256_digest(bytes(15))], Reason.MALFORMED),
        (
            suit.P_DIGEST,
            [suit.sha256_digest(bytes(32))],
            [suit.sha256_digest(bytes(31)), suit.sha256_digest(bytes(33)), cbor.encode([-15, bytes(32)])],
            Reason.COMMAND_UNSUPPORTED,
        ),
        (suit.P_URI, [], ["b:"], Reason.MEMBER_UNKNOWN),
    ],
)
def test_each_parameter_is_read_up_to_its_limit(parameter, good, bad, reason):
    def manifest(content: object) -> bytes:
        def change(common):
            shared = cbor.decode(common[suit.SHARED_SEQUENCE], "test", 1 << 16)
            shared[1][parameter] = content
            return common | {suit.SHARED_SEQUENCE: cbor.encode(shared)}

        return changed(PLAIN, suit.COMMON, change)

    for content in good:
        assert read(manifest(content))
    for content in bad:
        assert refusal(read, manifest(content)).reason is reason


# -- what is fetched


def one_chunk(size: int) -> bytes:
    return cbor.sha256(ChunkIndex(DIGEST, size, DEFAULT_CHUNK_BYTES, (DIGEST,)).to_bytes())


def install(change, found: Profile = PLAIN) -> bytes:
    return changed(found, suit.INSTALL, change)


@pytest.mark.parametrize(
    ("size", "parameters", "index"),
    [
        (1, {suit.P_URI: "b:"}, one_chunk(1)),
        (DEFAULT_CHUNK_BYTES, {suit.P_URI: "b:"}, one_chunk(DEFAULT_CHUNK_BYTES)),
        (DEFAULT_CHUNK_BYTES, {suit.P_URI: "b:", suit.P_FETCH_ARGS: INDEX}, INDEX),
        (DEFAULT_CHUNK_BYTES + 1, {suit.P_URI: "b:", suit.P_FETCH_ARGS: INDEX}, INDEX),
        (1, {suit.P_URI: f"ota:blob/{DIGEST.hex()}", suit.P_FETCH_ARGS: INDEX}, INDEX),
    ],
)
def test_the_index_of_a_blob_of_one_chunk_goes_without_saying_and_others_are_named(size, parameters, index):
    found = read(install(lambda commands: [commands[0], parameters, *commands[2:]], replace(PLAIN, size=size)))
    assert (found.size, found.index_digest) == (size, index)
    if not parameters[suit.P_URI].startswith("ota:"):
        assert source(DIGEST, size, index) == parameters


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        (DEFAULT_CHUNK_BYTES + 1, {suit.P_URI: "b:"}),
        (1, {suit.P_URI: "b:", suit.P_FETCH_ARGS: one_chunk(1)}),
        (1, {suit.P_URI: "b:", suit.P_FETCH_ARGS: bytes(31)}),
        (1, {suit.P_URI: "b:", suit.P_FETCH_ARGS: bytes(33)}),
        (1, {suit.P_URI: "https://example.com", suit.P_FETCH_ARGS: INDEX}),
        (1, {suit.P_URI: f"ota:blob/{INDEX.hex()}", suit.P_FETCH_ARGS: INDEX}),
        (1, {suit.P_URI: f"ota:blob/{DIGEST.hex()}", suit.P_FETCH_ARGS: bytes(33)}),
        (1, {suit.P_URI: f"ota:blob/{DIGEST.hex()}"}),
        (1, {suit.P_FETCH_ARGS: INDEX}),
    ],
)
def test_a_blob_is_fetched_by_its_digest_with_an_index_of_32_bytes(size, parameters):
    manifest = install(lambda commands: [commands[0], parameters, *commands[2:]], replace(PLAIN, size=size))
    assert refusal(read, manifest).reason is Reason.MALFORMED


def test_a_manifest_that_a_board_has_kept_since_schema_1_is_read():
    """Components had longer names then, and the URI had the digest in it."""

    def named(common):
        return common | {suit.COMPONENTS: [[b"module"]]}

    value = cbor.decode(changed(PLAIN, suit.COMMON, named), "test", 1 << 20)
    commands = cbor.decode(value[suit.INSTALL], "test", 1 << 16)
    commands[1][suit.P_URI] = f"ota:blob/{DIGEST.hex()}"
    assert read(cbor.encode(value | {suit.INSTALL: cbor.encode(commands)})) == PLAIN


@pytest.mark.parametrize(
    ("where", "content", "reason"),
    [
        ((3, suit.P_SIZE), 69_999, Reason.MALFORMED),
        ((3, suit.P_SIZE), 70_001, Reason.MALFORMED),
        ((3, suit.P_DIGEST), cbor.encode([-15, bytes(32)]), Reason.COMMAND_UNSUPPORTED),
        ((11, suit.P_SOURCE), 0, Reason.MALFORMED),
        ((11, suit.P_SOURCE), 2, Reason.MALFORMED),
        ((11, suit.P_ENCRYPTION), b"none", Reason.MALFORMED),
        ((11, suit.P_ENCRYPTION), bytes(INFO_LIMIT_BYTES + 1), Reason.MALFORMED),
        ((1,), 0, Reason.COMMAND_UNSUPPORTED),
        ((9,), 1, Reason.COMMAND_UNSUPPORTED),
    ],
)
def test_what_is_decrypted_comes_from_the_ciphertext_and_has_its_size(where, content, reason):
    def change(commands):
        inner = commands
        for key in where[:-1]:
            inner = inner[key]
        inner[where[-1]] = content
        return commands

    assert read(install(lambda commands: commands, ENCRYPTED)) == ENCRYPTED
    assert refusal(read, install(change, ENCRYPTED)).reason is reason


@pytest.mark.parametrize(
    "choices",
    [
        [None],
        [CHOICE],
        [CHOICE, CHOICE],
        [CHOICE] * (MAX_IMAGES + 1) + [None],
        ["text", None],
        [None, None],
        [CHOICE, None, None],
        CHOICE,
    ],
)
def test_a_try_each_has_1_to_16_images_and_none_as_its_last_choice(choices):
    images = replace(PLAIN, choices=(CHOICE,))
    assert refusal(read, install(lambda commands: [*commands[:-1], choices], images)).reason is Reason.COMMAND_UNSUPPORTED


@pytest.mark.parametrize("commands", [[], [suit.IMAGE_MATCH, 15]])
def test_an_install_sequence_ends_in_the_choice_of_an_image_where_there_are_images(commands):
    assert refusal(read, install(lambda _: commands, replace(PLAIN, choices=(CHOICE,)))).reason is Reason.COMMAND_UNSUPPORTED


def test_an_image_of_one_byte_is_one_and_of_none_is_none():
    def sized(size: int) -> Manifest:
        image = replace(UPDATE.manifest.images[0], size=size)
        manifest = replace(UPDATE.manifest, images=(image,)).to_bytes()
        return Manifest.from_envelope(Envelope.from_bytes(suit.encode_envelope(manifest, []), 1 << 20))

    assert sized(1).images[0].size == 1
    assert sized(BLOB_LIMIT_BYTES).images[0].size == BLOB_LIMIT_BYTES
    for size in (0, BLOB_LIMIT_BYTES + 1):
        assert refusal(sized, size).reason is Reason.MALFORMED
    assert image_name(DIGEST) == "0001020304050607.aot"


def test_the_limits_of_a_manifest():
    assert (profile.MANIFEST_LIMIT_BYTES, profile.MAX_IMAGES, profile.REPORT, profile.REPORT_FAILURE) == (32_768, 16, 15, 2)
    assert sha256_of(suit.sha256_digest(DIGEST)) == DIGEST
    assert read_source.__name__ in profile.__all__

"""Manifests of agents: which boards take one, and what each attack is refused for."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.formats import cbor, suit
from ota.formats import manifest as manifests
from ota.formats.agent import ABI, AgentDescription, AgentManifest, Host, Platform, check_schema
from ota.formats.classes import ANY_BOARD, class_id, vendor_id
from ota.formats.describe import describe
from ota.formats.manifest import Acceptance
from ota.formats.provenance import Kind
from ota.formats.reasons import Reason, Refused
from ota.keyring import SigningKey
from tests.support.signing import VENDOR, Signer

PLATFORM = Platform("aarch64", "py311", "glibc-2.17")
ABOUT = AgentDescription("0.2.0+0123456789ab", PLATFORM, schema=4, reads=1, readable_by=3, unpacked_bytes=2_000_000)
VENDOR_ID = vendor_id(VENDOR)
HOST = Host("aarch64", 13, 41)


@pytest.fixture(scope="module")
def signer():
    return Signer()


def manifest(about=ABOUT, board=ANY_BOARD, **changes) -> AgentManifest:
    identifier = class_id(VENDOR_ID, board, about.platform.text, ABI)
    made = AgentManifest(7, VENDOR_ID, identifier, b"\1" * 32, 300_000, b"\2" * 32, replace(about, board=board))
    return replace(made, **changes)


def signed(signer, made: AgentManifest, key=None) -> bytes:
    encoded = made.to_bytes()
    return suit.encode_envelope(encoded, [(key or signer.keys["release"]).sign1(suit.signed_digest(encoded))])


def acceptance(host=HOST, sequence=0, epoch=0) -> Acceptance:
    return Acceptance(VENDOR_ID, host.classes(VENDOR_ID, ("roof", ANY_BOARD)), sequence, epoch, ("roof", ANY_BOARD))


def refusal(signer, made, **changes) -> Refused:
    with pytest.raises(Refused) as caught:
        manifests.verify_agent(signed(signer, made, changes.pop("key", None)), signer.root(), acceptance(**changes))
    return caught.value


@pytest.mark.parametrize("board", ["roof", ANY_BOARD])
def test_an_agent_for_this_board_is_accepted(signer, board):
    verified = manifests.verify_agent(signed(signer, manifest(board=board)), signer.root(), acceptance())
    assert verified.manifest == manifest(board=board)
    assert verified.label == "agent 0.2.0+0123456789ab"
    assert manifests.board_of(verified.manifest) == board


@pytest.mark.parametrize(
    ("platform", "host"),
    [
        (Platform("armv7", "py311", "glibc-2.17"), HOST),
        (Platform("aarch64", "cp312", "glibc-2.17"), HOST),
        (Platform("aarch64", "py314", "glibc-2.17"), HOST),
        (Platform("aarch64", "py311", "glibc-2.42"), HOST),
        (PLATFORM, Host("aarch64", 13, 0)),  # musl
        (PLATFORM, Host("riscv64", 13, 41)),
    ],
)
def test_an_agent_for_another_architecture_python_or_c_library_is_refused(signer, platform, host):
    error = refusal(signer, manifest(replace(ABOUT, platform=platform)), host=host)
    assert error.reason is Reason.CLASS_MISMATCH
    assert platform.text in error.detail


@pytest.mark.parametrize(("python", "libc"), [*itertools.product(("py311", "py313", "cp313"), ("glibc-2.17", "glibc-2.41"))])
def test_a_board_takes_agents_for_what_is_no_newer_than_its_own(signer, python, libc):
    made = manifest(replace(ABOUT, platform=Platform("aarch64", python, libc)))
    assert manifests.verify_agent(signed(signer, made), signer.root(), acceptance())


def test_an_older_agent_than_was_confirmed_is_refused(signer):
    assert refusal(signer, manifest(), sequence=7).reason is Reason.SEQUENCE_TOO_OLD
    assert refusal(signer, manifest(), epoch=1).reason is Reason.EPOCH_TOO_OLD


def test_an_agent_by_a_strangers_key_or_of_another_vendor_is_refused(signer):
    assert refusal(signer, manifest(), key=SigningKey.generate()).reason is Reason.SIGNER_UNKNOWN
    assert refusal(signer, manifest(), key=signer.keys["deploy"]).reason is Reason.SIGNER_UNKNOWN
    assert refusal(signer, manifest(vendor=b"\3" * 16)).reason is Reason.VENDOR_MISMATCH


def test_a_module_is_no_agent_and_an_agent_no_module(signer):
    module = signer.update(b"\0asm\x01\0\0\0").envelope
    with pytest.raises(Refused, match="components agent"):
        manifests.verify_agent(module, signer.root(), acceptance())
    with pytest.raises(Refused, match="components module or module and image"):
        manifests.verify_signed(signed(signer, manifest()), signer.root())
    assert isinstance(manifests.verify_any(module, signer.root()).manifest, manifests.Manifest)
    assert isinstance(manifests.verify_any(signed(signer, manifest()), signer.root()).manifest, AgentManifest)


def test_images_beside_an_agent_are_refused(signer):
    encoded = manifest().to_bytes()
    members = cbor.decode(encoded, "test", 1 << 16)
    common = cbor.decode(members[suit.COMMON], "test", 1 << 16)
    common[suit.COMPONENTS] = [AgentManifest.COMPONENT, manifests.IMAGE_COMPONENT]
    members[suit.COMMON] = cbor.encode(common)
    forged = cbor.encode(members)
    envelope = suit.encode_envelope(forged, [signer.keys["release"].sign1(suit.signed_digest(forged))])
    with pytest.raises(Refused, match="command-unsupported"):
        manifests.verify_agent(envelope, signer.root(), acceptance())


@pytest.mark.parametrize("version", ["", ".hidden", "../etc", "a/b", "a b", "x" * 65])
def test_a_version_that_is_no_name_of_a_folder_is_refused(version):
    with pytest.raises(Refused, match="malformed"):
        AgentDescription.from_bytes(replace(ABOUT, version=version).to_bytes())


@pytest.mark.parametrize(
    "changes",
    [
        {"platform": Platform("sparc", "py311", "glibc-2.17")},
        {"platform": Platform("aarch64", "py/311", "glibc-2.17")},
        {"unpacked_bytes": 1 << 40},
        {"unpacked_bytes": 0},
        {"reads": 5},
        {"readable_by": 5},
    ],
)
def test_what_no_agent_can_be_is_refused(changes):
    with pytest.raises(Refused, match="malformed"):
        AgentDescription.from_bytes(replace(ABOUT, **changes).to_bytes())


@given(st.binary(max_size=200))
def test_garbage_is_refused(data):
    with pytest.raises(Refused):
        AgentDescription.from_bytes(data)


def test_members_of_later_versions_are_refused_if_they_are_critical():
    members = cbor.decode(ABOUT.to_bytes(), "test", 1 << 16)
    assert AgentDescription.from_bytes(cbor.encode(members | {70: "later"})) == ABOUT
    with pytest.raises(Refused, match="member-unknown"):
        AgentDescription.from_bytes(cbor.encode(members | {8: "later"}))


def test_a_description_and_an_agent_are_as_large_as_allowed():
    members = cbor.decode(ABOUT.to_bytes(), "test", 1 << 16)
    room = 4096 - len(cbor.encode(members | {99: bytes(1000)}))
    largest = cbor.encode(members | {99: bytes(1000 + room)})
    assert len(largest) == 4096
    assert AgentDescription.from_bytes(largest) == ABOUT
    with pytest.raises(Refused, match="too-large"):
        AgentDescription.from_bytes(cbor.encode(members | {99: bytes(1001 + room)}))
    assert AgentDescription.from_bytes(replace(ABOUT, unpacked_bytes=256 << 20).to_bytes()).unpacked_bytes == 256 << 20
    with pytest.raises(Refused, match="malformed"):
        AgentDescription.from_bytes(replace(ABOUT, unpacked_bytes=(256 << 20) + 1).to_bytes())


def test_what_older_agents_do_not_know_has_numbers_that_they_ignore():
    said = replace(ABOUT, board="roof", kind=Kind.SECURITY)
    more, less = (cbor.decode(each.to_bytes(), "test", 1 << 16) for each in (said, ABOUT))
    assert more == less | {64: "roof", 65: Kind.SECURITY.value}


def test_an_agent_that_does_not_open_the_database_or_leaves_no_way_back_is_refused():
    check_schema(ABOUT, ours=3, readable_by=3)
    check_schema(replace(ABOUT, reads=3), ours=3, readable_by=3)  # each at its edge
    check_schema(ABOUT, ours=4, readable_by=4)
    with pytest.raises(Refused, match=r"schema-mismatch: .* from schema 4 on, this board's is 3"):
        check_schema(replace(ABOUT, reads=4), ours=3, readable_by=3)
    with pytest.raises(Refused, match=r"schema-mismatch: the agent knows schema 4, agents open this board's from schema 5 on"):
        check_schema(ABOUT, ours=6, readable_by=5)
    with pytest.raises(Refused, match=r"schema-mismatch: .* no way back"):
        check_schema(ABOUT, ours=2, readable_by=2)


def test_an_agents_manifest_is_described(signer):
    rows = dict(describe(signed(signer, manifest())).rows)
    assert rows["kind"] == "agent's manifest"
    assert rows["agent"] == "0.2.0+0123456789ab"
    assert rows["platform"] == "aarch64, py311, glibc-2.17"
    assert rows["database"] == "schema 4, opens 1 and later, is opened by 3 and later"


def test_the_smallest_description_and_the_longest_platform_are_read():
    first = replace(ABOUT, schema=1, reads=1, readable_by=1, unpacked_bytes=1, platform=Platform("x86_64", "3", "g"))
    assert AgentDescription.from_bytes(first.to_bytes()) == first
    assert Platform.parse(["x86_64", "p" * 32, "c" * 32], "test").python == "p" * 32
    for wrong in (["x86_64", "p" * 33, "c"], ["x86_64", "p", "c" * 33], ["x86_64", "", "c"]):
        with pytest.raises(Refused, match="malformed: test: the platform is not"):
            Platform.parse(wrong, "test")


@pytest.mark.parametrize("member", ["schema", "reads", "readable_by", "unpacked_bytes"])
def test_a_description_without_a_schema_or_a_size_is_refused(member):
    with pytest.raises(Refused, match="malformed"):
        AgentDescription.from_bytes(replace(ABOUT, **{member: 0}).to_bytes())

"""The chain of roots and deployment documents: TUF's attacks, by name."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.formats import deployment as deployments
from ota.formats import trust
from ota.formats.deployment import CLOCK_REASONS, DEPLOYMENT_TYPE, FRACTION_ALL, may_start
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import Role
from ota.formats.trust import ROOT_TYPE, first_root, next_root
from ota.keyring import SigningKey, sign_document
from tests.support.signing import NOW_S, Signer

MANIFEST = bytes(32)


@pytest.fixture
def signer():
    return Signer()


def reason(function, *values, **more) -> Reason:
    with pytest.raises(Refused) as caught:
        function(*values, **more)
    return caught.value.reason


def rotated(signer, number=2, *, signers=None, new=None):
    """Root `number` with a new root key, signed by old and new unless told otherwise."""
    new = new or SigningKey.generate()
    roles = dict(signer.root().roles) | {"root": Role({new.public.key_id: new.public}, 1)}
    payload = signer.root(number, roles=roles).to_payload()
    return sign_document(payload, ROOT_TYPE, signers if signers is not None else [signer.keys["root"], new])


def test_a_root_is_what_was_signed(signer):
    assert first_root(signer.root_document()) == signer.root()


def test_a_root_key_is_rotated_by_the_old_and_the_new(signer):
    root = next_root(first_root(signer.root_document()), rotated(signer))
    assert root.number == 2
    assert signer.keys["root"].public.key_id not in root.roles["root"].keys


def test_a_new_root_signed_by_the_old_key_only_is_refused(signer):
    assert reason(next_root, signer.root(), rotated(signer, signers=[signer.keys["root"]])) is Reason.SIGNER_UNKNOWN


def test_a_new_root_signed_by_itself_only_is_refused(signer):
    new = SigningKey.generate()
    assert reason(next_root, signer.root(), rotated(signer, signers=[new], new=new)) is Reason.SIGNER_UNKNOWN


@pytest.mark.parametrize("number", [1, 3])
def test_a_root_that_is_not_the_next_is_refused(signer, number):
    assert reason(next_root, signer.root(), rotated(signer, number)) is Reason.ROOT_NOT_NEXT


def test_a_root_without_its_own_signature_is_no_first_root(signer):
    document = sign_document(signer.root().to_payload(), ROOT_TYPE, [SigningKey.generate()])
    assert reason(first_root, document) is Reason.SIGNER_UNKNOWN


@pytest.mark.parametrize("threshold", [0, 2])
def test_a_root_with_an_impossible_threshold_is_refused(signer, threshold):
    roles = dict(signer.root().roles)
    roles["release"] = Role(roles["release"].keys, threshold)
    document = sign_document(signer.root(roles=roles).to_payload(), ROOT_TYPE, [signer.keys["root"]])
    assert reason(first_root, document) is Reason.MALFORMED


def test_a_deployment_signature_does_not_make_a_root(signer):
    document = sign_document(signer.root().to_payload(), DEPLOYMENT_TYPE, [signer.keys["root"]])
    assert reason(first_root, document) is Reason.SIGNATURE_INVALID


@given(st.binary(max_size=200))
def test_garbage_is_no_root(data):
    assert reason(first_root, data) in (Reason.MALFORMED, Reason.SIGNATURE_MISSING)


def test_an_oversized_root_is_refused_before_it_is_read():
    assert reason(first_root, bytes(trust.ROOT_LIMIT_BYTES + 1)) is Reason.TOO_LARGE


def test_a_deployment_for_this_group_is_accepted(signer):
    deployment, document = signer.deployment(MANIFEST)
    assert deployments.verify(document, signer.root(), group="lab") == deployment


def test_a_deployment_of_another_group_is_refused(signer):
    assert (
        reason(deployments.verify, signer.deployment(MANIFEST, group="other")[1], signer.root(), group="lab")
        is Reason.GROUP_MISMATCH
    )


@pytest.mark.parametrize("role", ["root", "release"])
def test_a_deployment_by_another_role_is_refused(signer, role):
    document = signer.deployment(MANIFEST, keys=[signer.keys[role]])[1]
    assert reason(deployments.verify, document, signer.root(), group="lab") is Reason.SIGNER_UNKNOWN


def test_a_revoked_deploy_key_is_refused(signer):
    document = signer.deployment(MANIFEST)[1]
    other = SigningKey.generate()
    roles = dict(signer.root().roles) | {"deploy": Role({other.public.key_id: other.public}, 1)}
    assert reason(deployments.verify, document, signer.root(roles=roles), group="lab") is Reason.SIGNER_UNKNOWN


def test_an_oversized_deployment_is_refused_before_it_is_read(signer):
    assert reason(deployments.verify, bytes(deployments.DEPLOYMENT_LIMIT_BYTES + 1), signer.root(), group="lab") is Reason.TOO_LARGE


def test_every_flipped_bit_of_a_deployment_is_refused(signer):
    good = signer.deployment(MANIFEST)[1]
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << (position % 8)
        assert reason(deployments.verify, bytes(bad), signer.root(), group="lab")


def test_expiry_and_clock_gate_the_start_only(signer):
    deployment, document = signer.deployment(MANIFEST)
    entry = deployment.entries["module"]
    root = signer.root()
    may_start(entry, NOW_S, root, NOW_S)
    assert reason(may_start, entry, NOW_S, root, NOW_S + 1000) is Reason.DEPLOYMENT_EXPIRED
    assert reason(may_start, entry, NOW_S, root, 86_400) is Reason.CLOCK_NOT_SET
    assert reason(may_start, entry, NOW_S + 1000, root, 86_400) is Reason.DEPLOYMENT_EXPIRED  # which the floor proves
    assert reason(may_start, entry, NOW_S, replace(root, expires_s=NOW_S - 1), NOW_S) is Reason.ROOT_EXPIRED
    assert reason(may_start, replace(entry, paused=True), NOW_S, root, NOW_S) is Reason.DEPLOYMENT_STOPPED
    assert deployments.verify(document, replace(root, expires_s=0), group="lab") == deployment


@pytest.mark.parametrize("years", [1, 9])
def test_a_deployment_without_expiry_may_start_at_any_time_after_it_was_issued(signer, years):
    _, document = signer.deployment(MANIFEST, expires_s=0)
    root = replace(signer.root(), expires_s=NOW_S + 10 * 365 * 86_400)
    entry = deployments.verify(document, root, group="lab").entries["module"]
    assert entry.expires_s == 0
    may_start(entry, NOW_S, root, NOW_S + years * 365 * 86_400)
    may_start(entry, NOW_S, root, 0)  # a clock in 1970 has nothing to say of what does not expire
    assert reason(may_start, entry, root.expires_s, root, 0) is Reason.ROOT_EXPIRED  # which the floor proves


def test_every_refusal_that_another_time_of_day_would_change_is_known_as_one(signer):
    entry = signer.entry(MANIFEST)
    found = {reason(may_start, entry, NOW_S, signer.root(), now_s) for now_s in (86_400, NOW_S + 1000)}
    found.add(reason(may_start, replace(entry, expires_s=0), NOW_S, signer.root(), NOW_S + 20_000_000))
    assert found == CLOCK_REASONS


def test_a_fraction_is_a_stable_draw_that_widens(signer):
    entry = signer.entry(MANIFEST)
    devices = [f"device-{number}" for number in range(2000)]

    def joined(ppm):
        return {device for device in devices if replace(entry, fraction_ppm=ppm).includes(device)}

    assert joined(0) == set()
    assert joined(FRACTION_ALL) == set(devices)
    assert joined(100_000) < joined(500_000)
    assert 100 < len(joined(100_000)) < 320

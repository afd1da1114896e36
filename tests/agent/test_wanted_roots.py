"""What a new root changes of what is wanted of instances."""

import asyncio
from dataclasses import replace

import pytest

from device_agent.instance import states
from device_agent.instance.states import Phase
from device_agent.instance.updates import step
from ota.formats import topics
from ota.formats.reasons import Reason
from ota.formats.trust import ROOT_REASONS, ROOT_TYPE
from ota.keyring import SigningKey, sign_document
from tests.support.desk import Desk, digest, id_of, offers, under_way
from tests.support.signing import INSTANCE, NOW_S, Signer

BEGUN = [Phase.OFFERED, Phase.FETCHING, Phase.STAGED]
OURS = topics.device_desired("board")


@pytest.fixture
def signer() -> Signer:
    """The clock says what its documents say."""
    return Signer(now_s=NOW_S)


def run(main) -> None:
    asyncio.run(main())


async def follow_next_root(desk: Desk, signer: Signer, number: int) -> None:
    root = sign_document(signer.root(number).to_payload(), ROOT_TYPE, [signer.keys["root"]])
    await desk.takes(root, topics.root(number))


@pytest.mark.parametrize("reason", sorted(ROOT_REASONS, key=str))
@pytest.mark.parametrize("meanwhile", [False, True])
def test_what_one_root_does_not_allow_is_offered_again_once_under_each_other_root(signer, reason, meanwhile, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        deployment, document = signer.deployment(bytes(32))
        await desk.takes(document)
        refused = replace(under_way(deployment, Phase.REJECTED), reason=reason)
        if meanwhile:
            desk.runner.update = under_way(deployment, Phase.OFFERED)  # it has been judged, and that is not written down yet
            await follow_next_root(desk, signer, 2)
            assert desk.posted == []
            desk.runner.update = refused
            desk.desired.consider_instance(INSTANCE)
        else:
            desk.runner.update = refused
            desk.desired.consider_instance(INSTANCE)
            assert await desk.takes(document) == []
            await follow_next_root(desk, signer, 2)
        assert [each.manifest for each in desk.posted] == [bytes(32)]
        desk.posted.clear()
        desk.desired.consider_instance(INSTANCE)
        assert await desk.takes(document) == []

    run(main)


@pytest.mark.parametrize("phase", BEGUN)
def test_a_deploy_key_that_is_revoked_ends_what_it_has_begun_and_the_new_one_begins_it_anew(signer, phase, tmp_path):
    """As a stolen key's, which waits for the night."""

    async def main():
        desk = Desk(signer, tmp_path)
        deployment, document = signer.deployment(bytes(32))
        await desk.takes(document)
        desk.runner.update = under_way(deployment, phase)
        signer.keys["deploy"] = SigningKey.generate()
        await follow_next_root(desk, signer, 2)
        assert [type(each) for each in desk.posted] == [states.Stopped]
        assert desk.desired.entry(INSTANCE) is None
        assert desk.refusal is Reason.SIGNER_UNKNOWN
        desk.runner.update, _ = step(desk.runner.update, desk.posted[0])
        again, document = signer.deployment(bytes(32))
        assert await desk.takes(document) == [states.Offered(id_of(again), bytes(32))]

    run(main)


def test_what_a_root_of_before_did_not_allow_is_offered_again_after_a_restart(signer, tmp_path):
    """The power may have gone between the adoption of the next root and the second try."""

    async def main():
        desk = Desk(signer, tmp_path)
        deployment, document = signer.deployment(bytes(32))
        await desk.takes(document)
        desk.store.close()
        desk = Desk(signer, tmp_path)
        desk.runner.update = replace(under_way(deployment, Phase.REJECTED), reason=Reason.SIGNER_UNKNOWN)
        desk.go.set()
        await desk.desired.restore()
        desk.desired.start()
        assert [each.manifest for each in desk.posted] == [bytes(32)]

    run(main)


def test_an_override_of_the_device_does_not_give_way_to_its_group_while_a_new_root_is_taken_up(signer, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        await desk.takes(signer.document({"a": signer.entry(digest("g"))})[1])
        await desk.takes(signer.document({"a": signer.entry(digest("d"))}, device="board")[1], OURS)
        for posted in desk.places.posted.values():
            posted.clear()
        root = signer.root(2, expires_s=NOW_S + 9_000_000)
        desk.desired.received(topics.root(2), sign_document(root.to_payload(), ROOT_TYPE, [signer.keys["root"]]))
        await desk.rest()
        assert desk.trust.root.number == 2
        assert set(offers(desk)["a"]) == {digest("d")}

    run(main)


@pytest.mark.parametrize("over", ["forged", "older"])
def test_what_was_accepted_stays_in_force_under_a_new_root_though_what_came_last_was_refused(signer, tmp_path, over):
    """After a restart it would be in force, too: the disk has it."""

    async def main():
        desk = Desk(signer, tmp_path)
        _, older = signer.document({"a": signer.entry(digest("o"))})
        _, good = signer.document({"a": signer.entry(digest("a"))})
        _, forged = signer.document({"a": signer.entry(digest("x"))}, keys=[SigningKey.generate()])
        await desk.takes(good)
        await desk.takes(forged if over == "forged" else older)
        refused = desk.refusal
        assert refused in (Reason.SIGNER_UNKNOWN, Reason.DEPLOYMENT_REPLAYED)
        root = signer.root(2, expires_s=NOW_S + 9_000_000)
        desk.desired.received(topics.root(2), sign_document(root.to_payload(), ROOT_TYPE, [signer.keys["root"]]))
        await desk.rest()
        assert desk.trust.root.number == 2
        assert desk.desired.entry("a").manifest_digest == digest("a")
        assert desk.refusal is refused

    run(main)

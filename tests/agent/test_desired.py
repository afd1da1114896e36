"""What the operator wants, as it reaches the board: documents that come while an earlier one is still looked at."""

import asyncio

import pytest

from device_agent.instance import states
from device_agent.storage import floors
from ota.formats import topics
from ota.formats.deployment import DEPLOYMENT_TYPE
from ota.formats.reasons import Reason
from ota.formats.signed import Role
from ota.formats.trust import ROOT_TYPE
from ota.keyring import SigningKey, sign_document
from tests.support.desk import Desk, id_of
from tests.support.signing import NOW_S, Signer


def test_a_refusal_stays_when_the_look_at_an_earlier_deployment_ends_later(tmp_path):
    async def main():
        signer = Signer(now_s=NOW_S)
        desk = Desk(signer, tmp_path)
        _, good = signer.deployment(bytes(32), fraction_ppm=0)
        _, forged = signer.deployment(bytes(32), keys=[SigningKey.generate()])
        desk.wants(good)
        desk.wants(forged)
        assert desk.refusal is Reason.SIGNER_UNKNOWN
        await desk.rest()
        assert desk.refusal is Reason.SIGNER_UNKNOWN

    asyncio.run(main())


def test_the_next_good_deployment_takes_a_refusal_away(tmp_path):
    async def main():
        signer = Signer(now_s=NOW_S)
        desk = Desk(signer, tmp_path)
        _, forged = signer.deployment(bytes(32), keys=[SigningKey.generate()])
        _, good = signer.deployment(bytes(32), fraction_ppm=0)
        desk.wants(forged)
        desk.wants(good)
        assert desk.desired.epochs == {}
        await desk.rest()
        assert desk.refusal is None
        assert desk.desired.epochs == {"group": signer.epoch}  # what the board reports that it has

    asyncio.run(main())


def test_what_is_wrong_with_an_earlier_deployment_is_not_told_of_a_later_one(tmp_path):
    async def main():
        signer = Signer(now_s=NOW_S)
        desk = Desk(signer, tmp_path)
        _, old = signer.deployment(bytes(32))
        signer.epoch = 9
        deployment, new = signer.deployment(bytes(32), now_s=2**33)
        keys = signer.root().roles["deploy"].keys
        desk.store.lift_floor("deployment.lab", keys, 5, b"")
        desk.wants(old)  # below what was seen
        desk.wants(new)
        await desk.rest()
        assert desk.refusal is Reason.CLOCK_NOT_SET  # of the new one, whose time has not come
        assert deployment.epoch == desk.store.floor("deployment.lab", keys).value
        assert not desk.posted

    asyncio.run(main())


class Operator:
    """An operator who rotates keys, and a thief who has some."""

    def __init__(self) -> None:
        self.signer = Signer(now_s=NOW_S)
        self.number = 1
        self.roles = dict(self.signer.root().roles)

    def rotates(self, desk: Desk, **changes) -> None:
        """The next root: a role's keys, or a threshold with them."""
        self.number += 1
        self.roles |= {name: Role({key.public.key_id: key.public for key in keys}, 1) for name, keys in changes.items()}
        payload = self.signer.root(self.number, roles=self.roles, expires_s=NOW_S + 9_000_000 + self.number).to_payload()
        desk.desired.received(topics.root(self.number), sign_document(payload, ROOT_TYPE, [self.signer.keys["root"]]))

    def document(self, epoch: int, *keys: SigningKey, manifest: bytes = bytes(32)) -> bytes:
        return self.signer.deployment(manifest, epoch=epoch, fraction_ppm=0, keys=list(keys) or None)[1]


async def outcome(desk: Desk, document: bytes) -> Reason | None:
    """What becomes of a deployment: a reason, or None where it is accepted."""
    desk.wants(document)
    await desk.rest()
    return desk.refusal


HIGHEST = (1 << 63) - 1


def test_a_board_recovers_from_a_fast_forward_by_a_stolen_deploy_key_once_the_key_is_rotated(tmp_path):
    async def main():
        operator = Operator()
        desk = Desk(operator.signer, tmp_path)
        stolen, new = operator.signer.keys["deploy"], SigningKey.generate()
        assert await outcome(desk, operator.document(7)) is None
        assert await outcome(desk, operator.document(HIGHEST)) is None  # the thief's
        assert await outcome(desk, operator.document(8)) is Reason.DEPLOYMENT_REPLAYED
        operator.rotates(desk, deploy=[new])
        await desk.rest()
        assert await outcome(desk, operator.document(HIGHEST, stolen)) is Reason.SIGNER_UNKNOWN
        assert await outcome(desk, operator.document(9, new)) is None
        assert await outcome(desk, operator.document(8, new)) is Reason.DEPLOYMENT_REPLAYED  # rollback after recovery

    asyncio.run(main())


def test_the_recovery_from_a_stolen_key_keeps_what_the_other_keys_of_the_role_signed(tmp_path):
    async def main():
        operator = Operator()
        desk = Desk(operator.signer, tmp_path)
        stolen, other = operator.signer.keys["deploy"], SigningKey.generate()
        operator.rotates(desk, deploy=[stolen, other])
        await desk.rest()
        assert await outcome(desk, operator.document(7, other)) is None
        assert await outcome(desk, operator.document(HIGHEST, stolen)) is None
        operator.rotates(desk, deploy=[other])
        await desk.rest()
        assert await outcome(desk, operator.document(6, other)) is Reason.DEPLOYMENT_REPLAYED
        assert await outcome(desk, operator.document(8, other)) is None

    asyncio.run(main())


def test_a_root_that_changes_no_key_of_a_role_lets_nothing_go_back(tmp_path):
    async def main():
        operator = Operator()
        desk = Desk(operator.signer, tmp_path)
        assert await outcome(desk, operator.document(7)) is None
        operator.rotates(desk)  # dates only
        await desk.rest()
        assert await outcome(desk, operator.document(6)) is Reason.DEPLOYMENT_REPLAYED
        operator.rotates(desk, release=[SigningKey.generate()])  # another role's key
        await desk.rest()
        assert await outcome(desk, operator.document(6)) is Reason.DEPLOYMENT_REPLAYED

    asyncio.run(main())


def test_a_second_deployment_of_one_epoch_is_refused_and_the_same_one_is_not(tmp_path):
    async def main():
        operator = Operator()
        desk = Desk(operator.signer, tmp_path)
        first, second = operator.document(7), operator.document(7, manifest=bytes(31) + b"1")
        assert await outcome(desk, first) is None
        assert await outcome(desk, second) is Reason.DEPLOYMENT_CONFLICT
        assert await outcome(desk, first) is None
        desk.store.close()
        desk = Desk(operator.signer, tmp_path)  # after a restart too
        assert await outcome(desk, second) is Reason.DEPLOYMENT_CONFLICT
        assert await outcome(desk, first) is None

    asyncio.run(main())


def test_the_same_deployment_signed_anew_after_a_rotation_is_no_conflict_and_raises_the_new_keys_floor(tmp_path):
    async def main():
        operator = Operator()
        desk = Desk(operator.signer, tmp_path)
        old, new = operator.signer.keys["deploy"], SigningKey.generate()
        deployment, document = operator.signer.deployment(bytes(32), epoch=7, fraction_ppm=0)
        assert await outcome(desk, document) is None
        operator.rotates(desk, deploy=[old, new])
        await desk.rest()
        assert await outcome(desk, sign_document(deployment.to_payload(), DEPLOYMENT_TYPE, [new])) is None
        operator.rotates(desk, deploy=[new])
        await desk.rest()
        assert await outcome(desk, operator.document(6, new)) is Reason.DEPLOYMENT_REPLAYED

    asyncio.run(main())


def test_a_key_that_is_revoked_and_named_again_begins_where_it_was(tmp_path):
    async def main():
        operator = Operator()
        desk = Desk(operator.signer, tmp_path)
        key, other = operator.signer.keys["deploy"], SigningKey.generate()
        assert await outcome(desk, operator.document(7, key)) is None
        operator.rotates(desk, deploy=[other])
        await desk.rest()
        operator.rotates(desk, deploy=[key, other])
        await desk.rest()
        assert await outcome(desk, operator.document(6, key)) is Reason.DEPLOYMENT_REPLAYED
        assert await outcome(desk, operator.document(8, key)) is None

    asyncio.run(main())


def test_messages_without_end_while_the_disk_is_slow_cost_one_task_and_the_newest_wins(signer, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        made = [signer.deployment(bytes(32), epoch=epoch) for epoch in range(7, 9)]
        for _ in range(50):
            for _, document in made:
                desk.wants(document)
                await asyncio.sleep(0)
        assert len(desk.tasks) == 1
        assert sum(len(each.due) for each in desk.desired._standing._scopes) <= 2
        await desk.rest()
        assert desk.refusal is None
        assert desk.posted == [states.Offered(id_of(made[-1][0]), bytes(32))]

    asyncio.run(main())


def test_documents_that_come_without_end_do_not_put_the_decision_off(signer, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        _, document = signer.deployment(bytes(32))
        wrote = []

        async def write(function, *values):
            wrote.append(function)
            if len(wrote) < 100:
                desk.wants(document)
            elif not desk.posted:
                raise AssertionError("nothing is decided")
            return function(*values)

        desk.desired._services.on_writer = write
        desk.wants(document)
        await desk.rest()
        assert len(wrote) == 100

    asyncio.run(main())


def test_what_removed_keys_signed_does_not_pile_up(tmp_path, monkeypatch):
    monkeypatch.setattr(floors, "KEYS_KEPT", 2)

    async def main():
        operator = Operator()
        desk = Desk(operator.signer, tmp_path)
        gone = []
        for epoch in range(7, 12):
            gone.append(SigningKey.generate())
            operator.rotates(desk, deploy=[gone[-1]])
            await desk.rest()
            assert await outcome(desk, operator.document(epoch, gone[-1])) is None
        ids = [key.public.key_id for key in gone]
        assert [desk.store.floor("deployment.lab", {each}).value for each in ids] == [0, 0, 9, 10, 11]

    asyncio.run(main())


@pytest.fixture
def signer() -> Signer:
    """The clock says what its documents say."""
    return Signer(now_s=NOW_S)

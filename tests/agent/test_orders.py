"""What the operator wants, as it reaches the board: documents that come while an earlier one is still looked at."""

import asyncio
import contextlib
from collections import Counter
from types import SimpleNamespace

import pytest

from device_agent.desired import clock, orders
from device_agent.desired.orders import Orders
from device_agent.desired.roots import Start
from device_agent.instance import states
from device_agent.instance.states import Phase
from device_agent.instance.updates import Update, step
from device_agent.storage.store import Store
from ota.formats import topics, trust
from ota.formats.deployment import DEPLOYMENT_TYPE
from ota.formats.reasons import Reason
from ota.formats.signed import Role
from ota.formats.trust import ROOT_TYPE
from ota.keyring import SigningKey, sign_document
from tests.support.signing import NOW_S, Signer


class Desk:
    """Orders whose writer waits until it is let go, and a runner that keeps what is posted to it."""

    def __init__(self, signer: Signer, folder) -> None:
        self.go, self.posted = asyncio.Event(), []
        self.store = Store(folder)
        self.runner = runner = SimpleNamespace(update=Update(), post=self.posted.append)
        config = SimpleNamespace(group="lab", device="board", retry_s=60)
        self.tasks = []
        root = trust.first_root(signer.root_document())
        self.orders = Orders(
            config, self.store, Start(root), None, runner, self.write, self.spawn_supervised, lambda: None, Counter()
        )

    async def write(self, function, *values):
        await self.go.wait()
        return function(*values)

    def spawn_supervised(self, work) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    def wants(self, document: bytes) -> None:
        self.orders.received(topics.desired("lab"), document)

    async def rest(self) -> None:
        self.go.set()
        while self.tasks:
            await self.tasks.pop()

    async def takes(self, document: bytes) -> list[object]:
        """What is posted to the runner for a document."""
        self.posted.clear()
        self.wants(document)
        await self.rest()
        return self.posted


def test_a_refusal_stays_when_the_look_at_an_earlier_deployment_ends_later(tmp_path):
    async def main():
        signer = Signer(now_s=NOW_S)
        desk = Desk(signer, tmp_path)
        _, good = signer.deployment(bytes(32), fraction_ppm=0)
        _, forged = signer.deployment(bytes(32), keys=[SigningKey.generate()])
        desk.wants(good)
        desk.wants(forged)
        assert desk.orders.refusal.reason is Reason.SIGNER_UNKNOWN
        await desk.rest()
        assert desk.orders.refusal.reason is Reason.SIGNER_UNKNOWN

    asyncio.run(main())


def test_the_next_good_deployment_takes_a_refusal_away(tmp_path):
    async def main():
        signer = Signer(now_s=NOW_S)
        desk = Desk(signer, tmp_path)
        _, forged = signer.deployment(bytes(32), keys=[SigningKey.generate()])
        _, good = signer.deployment(bytes(32), fraction_ppm=0)
        desk.wants(forged)
        desk.wants(good)
        await desk.rest()
        assert desk.orders.refusal is None

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
        assert desk.orders.refusal.reason is Reason.CLOCK_NOT_SET  # of the new one, whose time has not come
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
        desk.orders.received(topics.root(self.number), sign_document(payload, ROOT_TYPE, [self.signer.keys["root"]]))

    def document(self, epoch: int, *keys: SigningKey, manifest: bytes = bytes(32)) -> bytes:
        return self.signer.deployment(manifest, epoch=epoch, fraction_ppm=0, keys=list(keys) or None)[1]


async def outcome(desk: Desk, document: bytes) -> Reason | None:
    """What becomes of a deployment: a reason, or None where it is accepted."""
    desk.wants(document)
    await desk.rest()
    return desk.orders.refusal.reason if desk.orders.refusal else None


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


def test_what_removed_keys_signed_does_not_pile_up(tmp_path):
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
        assert [desk.store.floor("deployment.lab", {each}).value for each in ids] == [0, 0, 0, 0, 11]

    asyncio.run(main())


BEGUN = [Phase.OFFERED, Phase.FETCHING, Phase.STAGED]


def under_way(deployment, phase) -> Update:
    return Update(phase, deployment.deployment_id, deployment.manifest_digest, number=3)


@pytest.fixture
def signer(monkeypatch) -> Signer:
    """The clock says what its documents say."""
    monkeypatch.setattr(orders.time, "time", lambda: NOW_S)
    return Signer(now_s=NOW_S)


@pytest.mark.parametrize("phase", BEGUN)
def test_a_pause_stops_an_update_that_has_begun_and_the_way_on_is_open(signer, phase, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        first, document = signer.deployment(bytes(32))
        assert await desk.takes(document) == [states.Offered(first.deployment_id, bytes(32))]
        desk.runner.update = under_way(first, phase)
        _, paused = signer.deployment(bytes(32), deployment_id=first.deployment_id, paused=True)
        (stopped,) = await desk.takes(paused)
        assert stopped == states.Stopped(desk.runner.update.id, Reason.DEPLOYMENT_STOPPED, "the deployment is paused")
        desk.runner.update, _ = step(desk.runner.update, stopped)
        assert await desk.takes(paused) == []
        assert desk.orders.refusal is None  # the update that failed says why
        _, unpaused = signer.deployment(bytes(32), deployment_id=first.deployment_id)
        (offered,) = await desk.takes(unpaused)
        assert step(desk.runner.update, offered)[0].phase is Phase.OFFERED

    asyncio.run(main())


@pytest.mark.parametrize("phase", BEGUN)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"expires_s": NOW_S - 1}, Reason.DEPLOYMENT_EXPIRED),
        ({"fraction_ppm": 0}, Reason.DEPLOYMENT_STOPPED),
        ({"deployment_id": bytes(16), "paused": True}, Reason.DEPLOYMENT_STOPPED),
        ({"deployment_id": bytes(16), "fraction_ppm": 0}, Reason.DEPLOYMENT_STOPPED),
    ],
)
def test_a_document_that_ends_a_deployment_stops_its_update(signer, phase, change, reason, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        first, _ = signer.deployment(bytes(32))
        desk.runner.update = under_way(first, phase)
        _, document = signer.deployment(bytes(32), **({"deployment_id": first.deployment_id} | change))
        (stopped,) = await desk.takes(document)
        assert (stopped.of, stopped.reason) == (desk.runner.update.id, reason)

    asyncio.run(main())


def test_a_deployment_that_replaces_another_is_offered_in_its_place(signer, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        first, _ = signer.deployment(bytes(32))
        desk.runner.update = under_way(first, Phase.FETCHING)
        second, document = signer.deployment(b"2" * 32)
        assert await desk.takes(document) == [states.Offered(second.deployment_id, b"2" * 32)]

    asyncio.run(main())


@pytest.mark.parametrize("change", [{"paused": True}, {"expires_s": NOW_S - 1}, {"fraction_ppm": 0}])
def test_a_trial_under_way_is_not_stopped(signer, change, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        first, _ = signer.deployment(bytes(32))
        desk.runner.update = under_way(first, Phase.TRIAL)
        _, document = signer.deployment(bytes(32), deployment_id=first.deployment_id, **change)
        assert await desk.takes(document) == []

    asyncio.run(main())


@pytest.mark.parametrize("phase", [*BEGUN, Phase.TRIAL])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"paused": True}, Reason.DEPLOYMENT_STOPPED),
        ({"expires_s": NOW_S - 1}, Reason.DEPLOYMENT_EXPIRED),
        ({"issued_s": NOW_S + 10**6, "expires_s": NOW_S + 2 * 10**6}, None),  # the clock was lost: it was right at the start
        ({"deployment_id": bytes(16), "paused": True}, Reason.DEPLOYMENT_STOPPED),
    ],
)
def test_an_update_in_the_journal_is_not_resumed_under_a_deployment_that_was_stopped(signer, phase, change, reason, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        desk.go.set()
        first, _ = signer.deployment(bytes(32))
        _, kept = signer.deployment(bytes(32), **({"deployment_id": first.deployment_id} | change))
        desk.store.keep_document("deployment.lab", kept)
        desk.runner.update = under_way(first, phase)
        why = await desk.orders.restore()
        assert (why and why.reason) == reason
        if why is not None:
            moved, _ = step(desk.runner.update, states.Lapsed(desk.runner.update.id, why.reason, why.detail))
            assert (moved.phase, moved.is_news(first.deployment_id, bytes(32))) == (Phase.FAILED, True)

    asyncio.run(main())


def test_what_a_wrong_clock_refused_is_looked_at_again_when_the_clock_changes(signer, monkeypatch, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        deployment, document = signer.deployment(bytes(32))
        monkeypatch.setattr(orders.time, "time", lambda: NOW_S + 10**7)  # it will be called expired
        assert await desk.takes(document) == []
        assert desk.orders.refusal.reason is Reason.DEPLOYMENT_EXPIRED
        monkeypatch.setattr(orders.time, "time", lambda: NOW_S)
        desk.orders.consider()
        await desk.rest()
        assert desk.posted == [states.Offered(deployment.deployment_id, bytes(32))]
        assert desk.orders.refusal is None

    asyncio.run(main())


class Clocks:
    """A wall clock and a monotonic one; at each sleep one of `steps` is added to the wall clock."""

    def __init__(self, *steps: float) -> None:
        self.now, self.apart, self._steps = 0.0, 1000.0, list(steps)

    async def sleep(self, period_s: float) -> None:
        if not self._steps:
            raise asyncio.CancelledError
        self.now += period_s
        self.apart += self._steps.pop(0)


@pytest.mark.parametrize(
    ("steps", "changes"),
    [((0, 0, 0), 0), ((10**9,), 1), ((0, -(10**7), 0), 1), ((2, 2, 2, 2), 1), ((0.01,) * 50, 0), ((100, 0, -100), 2)],
)
def test_a_clock_that_is_set_is_noticed_and_one_that_runs_is_not(steps, changes):
    seen, clocks = [], Clocks(*steps)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(
            clock.watch(
                lambda: seen.append(1), wall=lambda: clocks.now + clocks.apart, monotonic=lambda: clocks.now, sleep=clocks.sleep
            )
        )
    assert len(seen) == changes

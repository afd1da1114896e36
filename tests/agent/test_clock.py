"""Clocks of boards: none at all, late, ahead, behind, jumping. Expiry gates the start of an installation and nothing else."""

import asyncio
from dataclasses import replace

import pytest

from device_agent.desired import clock
from device_agent.instance import states
from device_agent.node.board_clock import BoardClock
from device_agent.storage.store import Store
from ota.formats import topics
from ota.formats.deployment import CLOCK_SLACK_S
from ota.formats.reasons import Reason
from ota.formats.released import RELEASED_S
from ota.formats.trust import ROOT_TYPE
from ota.keyring import SigningKey, sign_document
from tests.support.desk import Desk
from tests.support.signing import NOW_S, Signer

YEAR_S = 365 * 86_400
DIGEST = bytes(32)


@pytest.fixture
def signer() -> Signer:
    return Signer(now_s=NOW_S)


def offered(desk: Desk) -> bool:
    return any(isinstance(each, states.Offered) for each in desk.posted)


def taken(signer: Signer, tmp_path, clock_s: int, floor_s: int = 0, **changes) -> tuple[bool, Reason | None]:
    """What a board makes of a deployment, when its clock says this."""

    async def main():
        desk = Desk(signer, tmp_path)
        desk.now_s, desk.floor_s = clock_s, floor_s
        _, document = signer.deployment(DIGEST, **changes)
        await desk.takes(document)
        desk.store.close()
        return offered(desk), desk.refusal

    return asyncio.run(main())


# -- what starts when


def test_a_board_that_slept_for_a_year_takes_what_is_current(signer, tmp_path):
    root = Signer(keys=signer.keys, now_s=NOW_S + YEAR_S)  # with a root that is valid then
    assert taken(root, tmp_path, NOW_S + YEAR_S, now_s=NOW_S, expires_s=0) == (True, None)


def test_a_battery_less_board_in_1970_takes_what_does_not_expire(signer, tmp_path):
    assert taken(signer, tmp_path, 5, expires_s=0) == (True, None)


def test_a_battery_less_board_in_1970_waits_with_what_may_have_expired_until_ntp_comes(signer, tmp_path):
    """NTP is late: nothing is refused for good."""

    async def main():
        desk = Desk(signer, tmp_path)
        desk.now_s = 5
        _, document = signer.deployment(DIGEST, expires_s=NOW_S + 1000)
        await desk.takes(document)
        assert (offered(desk), desk.refusal) == (False, Reason.CLOCK_NOT_SET)
        desk.now_s = NOW_S + 10  # NTP
        desk.desired.consider()
        await desk.rest()
        assert (offered(desk), desk.refusal) == (True, None)
        desk.store.close()

    asyncio.run(main())


def test_what_the_floor_proves_to_have_expired_does_not_start_in_1970(signer, tmp_path):
    """Freeze: an old document is replayed to a board whose clock was put back."""
    expired = {"now_s": NOW_S, "expires_s": NOW_S + 1000}
    assert taken(signer, tmp_path, 5, NOW_S + 1000, **expired) == (False, Reason.DEPLOYMENT_EXPIRED)
    assert taken(signer, tmp_path, NOW_S, NOW_S + 1000, **expired) == (False, Reason.DEPLOYMENT_EXPIRED)


def test_a_document_that_is_signed_daily_bounds_a_freeze(signer, tmp_path):
    """The operator signs it again each day, for two days: who keeps the newer ones back gains these."""

    async def main():
        desk = Desk(signer, tmp_path)
        day, last = 86_400, b""
        for number in range(5):
            desk.now_s = NOW_S + number * day
            _, last = signer.deployment(DIGEST, now_s=desk.now_s, expires_s=desk.now_s + 2 * day, deployment_id=bytes(16))
            await desk.takes(last)
            assert desk.refusal is None
        desk.now_s += 2 * day  # nothing came since
        desk.desired.consider()
        await desk.rest()
        assert desk.refusal is Reason.DEPLOYMENT_EXPIRED
        desk.store.close()

    asyncio.run(main())


def test_an_expired_root_starts_nothing_and_the_next_one_does(signer, tmp_path):
    """Expiry of the root; the clock of the board jumps ahead by it, too, and back."""

    async def main():
        desk = Desk(signer, tmp_path)
        root = signer.root()
        desk.now_s = root.expires_s
        _, document = signer.deployment(DIGEST, expires_s=0)
        await desk.takes(document)
        assert (offered(desk), desk.refusal) == (False, Reason.ROOT_EXPIRED)
        following = replace(root, number=2, expires_s=root.expires_s + YEAR_S)
        document = sign_document(following.to_payload(), ROOT_TYPE, [signer.keys["root"]])
        desk.desired.received(topics.root(2), document)
        await desk.rest()
        assert (offered(desk), desk.refusal) == (True, None)
        desk.store.close()

    asyncio.run(main())


def test_a_clock_that_jumped_ahead_and_back_ends_in_the_same_state(signer, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        _, document = signer.deployment(DIGEST, expires_s=NOW_S + 1000)
        desk.now_s = NOW_S + 40 * YEAR_S
        await desk.takes(document)
        assert desk.refusal is Reason.DEPLOYMENT_EXPIRED
        desk.now_s = NOW_S - 2 * CLOCK_SLACK_S
        desk.desired.consider()
        await desk.rest()
        assert desk.refusal is Reason.CLOCK_NOT_SET
        desk.now_s = NOW_S
        desk.desired.consider()
        await desk.rest()
        assert (offered(desk), desk.refusal) == (True, None)
        desk.store.close()

    asyncio.run(main())


# -- the floor


class Wall:
    """A wall clock that the test sets."""

    def __init__(self, tmp_path, now_s: float, **changes) -> None:
        self.now_s = now_s
        self.clock = BoardClock(
            lambda: NOW_S, time_s=lambda: self.now_s, rtc=tmp_path / "rtc", synchronised=tmp_path / "synchronized", **changes
        )


def test_the_floor_is_the_newest_of_build_time_signed_documents_and_what_was_kept(tmp_path):
    assert Wall(tmp_path, 0).clock.floor_s == NOW_S
    assert Wall(tmp_path, 0, kept_s=NOW_S + 5).clock.floor_s == NOW_S + 5
    assert BoardClock(lambda: 0, time_s=lambda: 0.0, kept_s=7, synchronised=tmp_path / "none").floor_s == RELEASED_S


def test_a_time_that_nobody_vouches_for_is_not_kept(tmp_path):
    wall = Wall(tmp_path, NOW_S + 100)
    assert wall.clock.to_keep() is None
    wall.clock.set()
    assert wall.clock.to_keep() == NOW_S + 100
    wall.now_s = 5  # the battery is taken out
    assert wall.clock.to_keep() is None
    assert wall.clock.floor_s == NOW_S + 100


def test_a_time_that_was_kept_while_the_clock_was_ahead_yields_to_a_clock_that_is_set(tmp_path):
    """Else a clock that was wrong once would keep the board from installing anything for years."""
    wall = Wall(tmp_path, NOW_S + 50 * YEAR_S)
    wall.clock.set()
    assert wall.clock.to_keep() == NOW_S + 50 * YEAR_S
    after = Wall(tmp_path, NOW_S + 10, kept_s=NOW_S + 50 * YEAR_S)  # after a restart
    assert not after.clock.now().trusted
    assert after.clock.floor_s == NOW_S + 50 * YEAR_S
    after.clock.set()  # NTP
    assert after.clock.now().trusted
    assert after.clock.floor_s == NOW_S
    assert after.clock.to_keep() == NOW_S + 10


def test_a_clock_that_stands_still_does_not_keep_a_certificate_from_being_renewed(tmp_path):
    """No battery, no NTP: what is signed says the year, and the time since the start counts on."""
    up_s = 10.0
    wall = Wall(tmp_path, 5, since_start_s=lambda: up_s)
    assert wall.clock.reached_s() == NOW_S
    up_s += 90 * 86_400
    assert wall.clock.reached_s() == NOW_S + 90 * 86_400
    assert not wall.clock.now().trusted
    assert wall.clock.floor_s == NOW_S
    wall.now_s = NOW_S + 30  # NTP
    wall.clock.set()
    assert wall.clock.reached_s() == NOW_S + 30
    ahead = Wall(tmp_path, NOW_S + YEAR_S, since_start_s=lambda: up_s)
    assert ahead.clock.reached_s() == NOW_S + YEAR_S


def test_a_clock_that_is_set_behind_signed_documents_moves_no_floor(tmp_path):
    wall = Wall(tmp_path, NOW_S - 2 * CLOCK_SLACK_S, kept_s=NOW_S + 100)
    wall.clock.set()
    assert not wall.clock.now().trusted
    assert wall.clock.floor_s == NOW_S + 100


def test_what_was_kept_of_the_time_survives_a_restart(tmp_path):
    store = Store(tmp_path)
    assert store.kept_time_s() == 0
    store.keep_time(NOW_S + 100)
    store.keep_time(NOW_S)
    store.close()
    store = Store(tmp_path)
    assert store.kept_time_s() == NOW_S
    store.close()


def test_a_signed_document_by_a_stranger_moves_no_floor(signer, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        before = desk.desired.issued_s
        _, document = signer.deployment(DIGEST, now_s=NOW_S + YEAR_S, keys=[SigningKey.generate()])
        await desk.takes(document)
        assert desk.desired.issued_s == before
        desk.store.close()

    asyncio.run(main())


# -- what counts as a clock that was set


@pytest.mark.parametrize(("step_s", "noticed"), [(4.9, 0), (5.0, 1), (-4.9, 0), (-5.0, 1), (1e9, 1)])
def test_a_clock_is_set_when_it_moves_five_seconds_against_the_time_since_the_start(step_s, noticed):
    changed, slept = [], []
    wall_s, since_start_s = [100.0], [50.0]

    async def sleep(seconds: float) -> None:
        if len(slept) == 3:
            raise asyncio.CancelledError
        slept.append(seconds)
        wall_s[0] += seconds + (step_s if len(slept) == 2 else 0)
        since_start_s[0] += seconds

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(clock.watch(lambda: changed.append(1), lambda: wall_s[0], lambda: since_start_s[0], sleep))
    assert (len(changed), slept) == (noticed, [10.0] * 3)

"""What is wanted of instances: what stops an update, what takes another's place, and two documents at once."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from device_agent.desired import clock
from device_agent.instance import states
from device_agent.instance.states import Phase
from device_agent.instance.updates import Update, step
from ota.formats import topics
from ota.formats.reasons import Reason
from ota.keyring import SigningKey
from tests.support.desk import Desk, digest, id_of, offers, under_way
from tests.support.signing import INSTANCE, NOW_S, Signer

BEGUN = [Phase.OFFERED, Phase.FETCHING, Phase.STAGED]


@pytest.fixture
def signer() -> Signer:
    """The clock says what its documents say."""
    return Signer(now_s=NOW_S)


@pytest.mark.parametrize("phase", BEGUN)
def test_a_pause_stops_an_update_that_has_begun_and_the_way_on_is_open(signer, phase, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        first, document = signer.deployment(bytes(32))
        assert await desk.takes(document) == [states.Offered(id_of(first), bytes(32))]
        desk.runner.update = under_way(first, phase)
        _, paused = signer.deployment(bytes(32), deployment_id=id_of(first), paused=True)
        (stopped,) = await desk.takes(paused)
        assert stopped == states.Stopped(desk.runner.update.id, Reason.DEPLOYMENT_STOPPED, "the deployment is paused")
        desk.runner.update, _ = step(desk.runner.update, stopped)
        assert await desk.takes(paused) == []
        assert desk.refusal is None  # the update that failed says why
        _, unpaused = signer.deployment(bytes(32), deployment_id=id_of(first))
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
        _, document = signer.deployment(bytes(32), **({"deployment_id": id_of(first)} | change))
        (stopped,) = await desk.takes(document)
        assert (stopped.of, stopped.reason) == (desk.runner.update.id, reason)

    asyncio.run(main())


def test_a_deployment_that_replaces_another_is_offered_in_its_place(signer, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        first, _ = signer.deployment(bytes(32))
        desk.runner.update = under_way(first, Phase.FETCHING)
        second, document = signer.deployment(b"2" * 32)
        assert await desk.takes(document) == [states.Offered(id_of(second), b"2" * 32)]

    asyncio.run(main())


@pytest.mark.parametrize("change", [{"paused": True}, {"expires_s": NOW_S - 1}, {"fraction_ppm": 0}])
def test_a_trial_under_way_is_not_stopped(signer, change, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        first, _ = signer.deployment(bytes(32))
        desk.runner.update = under_way(first, Phase.TRIAL)
        _, document = signer.deployment(bytes(32), deployment_id=id_of(first), **change)
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
        _, kept = signer.deployment(bytes(32), **({"deployment_id": id_of(first)} | change))
        desk.store.keep_document("deployment.lab", kept)
        desk.runner.update = under_way(first, phase)
        await desk.desired.restore()
        why = desk.desired.why_lapsed(INSTANCE, desk.runner.update)
        assert (why and why.reason) == reason
        if why is not None:
            moved, _ = step(desk.runner.update, states.Lapsed(desk.runner.update.id, why.reason, why.detail))
            assert (moved.phase, moved.is_news(states.Offered(id_of(first), bytes(32)))) == (Phase.FAILED, True)

    asyncio.run(main())


def test_what_a_wrong_clock_refused_is_looked_at_again_when_the_clock_changes(signer, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        deployment, document = signer.deployment(bytes(32))
        desk.now_s = NOW_S + 10**7  # it will be called expired
        assert await desk.takes(document) == []
        assert desk.refusal is Reason.DEPLOYMENT_EXPIRED
        desk.now_s = NOW_S
        desk.desired.consider()
        await desk.rest()
        assert desk.posted == [states.Offered(id_of(deployment), bytes(32))]
        assert desk.refusal is None

    asyncio.run(main())


# -- many instances, two documents

OURS = topics.device_desired("board")


def run(main) -> None:
    asyncio.run(main())


def test_each_entry_goes_to_its_instance(signer, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        _, document = signer.document({name: signer.entry(digest(name)) for name in ("a", "b")})
        await desk.takes(document)
        assert offers(desk) == {"a": [digest("a")], "b": [digest("b")]}
        assert desk.desired.entry("a").manifest_digest == digest("a")
        assert desk.desired.entry("c") is None

    run(main)


def test_the_device_s_document_overrides_the_group_s_entry_by_entry_in_any_order(signer, tmp_path):
    async def main():
        for number, order in enumerate((0, 1)):
            desk = Desk(signer, tmp_path / str(number))
            _, group = signer.document({name: signer.entry(digest(name)) for name in ("a", "b")})
            _, own = signer.document({"b": signer.entry(digest("o"))}, device="board")
            documents = [(group, topics.desired("lab")), (own, OURS)]
            for document, topic in documents if order else reversed(documents):
                await desk.takes(document, topic)
                for place in desk.places.there.values():
                    place.update = Update()
            assert desk.desired.entry("a").manifest_digest == digest("a")
            assert desk.desired.entry("b").manifest_digest == digest("o")

    run(main)


def test_an_entry_that_does_not_include_this_board_is_none(signer, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        _, own = signer.document({"a": signer.entry(digest("o"), boards=("other",), fraction_ppm=0)}, device="board")
        _, group = signer.document({"a": signer.entry(digest("a")), "b": signer.entry(digest("b"), fraction_ppm=0)})
        await desk.takes(own, OURS)
        await desk.takes(group)
        assert offers(desk) == {"a": [digest("a")]}

    run(main)


def test_documents_have_floors_of_their_own(signer, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        _, group = signer.document({"a": signer.entry(digest("a"))}, epoch=9)
        _, own = signer.document({"a": signer.entry(digest("o"))}, device="board", epoch=2)
        _, older = signer.document({"a": signer.entry(digest("x"))}, device="board", epoch=1)
        await desk.takes(group)
        await desk.takes(own, OURS)
        await desk.takes(older, OURS)
        assert {kind: (each.epoch, each.reason) for kind, each in desk.desired.refusals.items()} == {
            "device": (1, "deployment-replayed")
        }
        assert desk.desired.entry("a").manifest_digest == digest("o")

    run(main)


def test_a_refused_document_leaves_what_was_accepted_before_in_force(signer, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        _, good = signer.document({"a": signer.entry(digest("a"))})
        _, forged = signer.document({"a": signer.entry(digest("x"))}, keys=[SigningKey.generate()])
        await desk.takes(good)
        await desk.takes(forged)
        assert desk.refusal is Reason.SIGNER_UNKNOWN
        assert desk.desired.entry("a").manifest_digest == digest("a")
        assert desk.desired.why_not("a") is None

    run(main)


def test_after_an_error_in_a_look_the_next_document_is_looked_at_all_the_same(signer, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        _, old = signer.document({"a": signer.entry(digest("a"))})
        _, newer = signer.document({"a": signer.entry(digest("b"))})
        _, newest = signer.document({"a": signer.entry(digest("c"))})
        await desk.takes(newer)
        desk.counters = None  # so that counting the refusal fails
        with pytest.raises(TypeError):
            await desk.takes(old)
        desk.counters = Counter()
        await desk.takes(newest)
        assert desk.desired.entry("a").manifest_digest == digest("c")

    run(main)


def test_one_entry_that_may_not_start_keeps_no_other_from_it(signer, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        _, document = signer.document(
            {
                "a": signer.entry(digest("a"), expires_s=NOW_S - 1),
                "b": signer.entry(digest("b")),
                "agent": signer.entry(digest("c")),
            }
        )
        await desk.takes(document)
        assert offers(desk) == {"b": [digest("b")]}
        reasons = {name: each.refused.reason for name, each in desk.desired.refused.items()}
        assert reasons == {"a": Reason.DEPLOYMENT_EXPIRED, "agent": Reason.INSTANCE_RESERVED}
        assert desk.counters["refusals"] == 2

    run(main)


@pytest.mark.parametrize(("content", "change"), [(b"", {}), (digest("c"), {"config": {"a": "b"}})])
def test_an_entry_that_removes_or_configures_the_agent_is_refused(signer, tmp_path, content, change):
    async def main():
        desk = Desk(signer, tmp_path)
        _, document = signer.document({"agent": signer.entry(content, **change), "b": signer.entry(digest("b"))})
        await desk.takes(document)
        assert offers(desk) == {"b": [digest("b")]}
        refused = desk.desired.refused["agent"].refused
        assert refused.reason is Reason.INSTANCE_RESERVED
        assert "neither removed nor configured" in refused.detail

    run(main)


def test_a_set_of_which_the_device_s_document_takes_one_away_is_refused(signer, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        together = {"deployment_id": bytes(16), "together": ("a", "b")}
        _, group = signer.document({name: signer.entry(digest(name), **together) for name in ("a", "b")})
        _, own = signer.document({"b": signer.entry(digest("o"))}, device="board")
        await desk.takes(own, OURS)
        await desk.takes(group)
        assert "a" not in offers(desk)
        assert desk.desired.refused["a"].refused.reason is Reason.SET_INCOMPLETE

    run(main)


def test_what_was_refused_for_want_of_room_is_offered_again_once_there_may_be_some_and_not_before(signer, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        deployment, document = signer.deployment(bytes(32))
        await desk.takes(document)
        desk.runner.update = replace(under_way(deployment, Phase.REJECTED), reason=Reason.DEVICE_CLAIMED)
        desk.posted.clear()
        desk.desired.consider_instance(INSTANCE)
        assert await desk.takes(document) == []
        desk.desired.room_was_made()
        assert [each.manifest for each in desk.posted] == [bytes(32)]

    run(main)


@pytest.mark.parametrize("reason", [Reason.DEVICE_CLAIMED, Reason.MEMORY_EXCEEDED, Reason.INSTANCES_EXCEEDED])
def test_room_that_is_made_while_a_refusal_for_want_of_it_is_written_down_is_not_missed(signer, reason, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        deployment, document = signer.deployment(bytes(32))
        await desk.takes(document)
        desk.runner.update = under_way(deployment, Phase.OFFERED)  # it has asked for room, and there was none
        desk.posted.clear()
        desk.desired.room_was_made()
        desk.desired.consider_instance(INSTANCE)  # as when an update begins
        assert desk.posted == []
        desk.runner.update = replace(under_way(deployment, Phase.REJECTED), reason=reason)
        desk.desired.consider_instance(INSTANCE)
        assert [each.manifest for each in desk.posted] == [bytes(32)]
        desk.posted.clear()
        desk.desired.consider_instance(INSTANCE)  # refused again, with no room made meanwhile
        assert desk.posted == []

    run(main)


def test_an_update_that_fails_without_end_is_tried_again_ever_later_until_something_new_comes(signer, tmp_path):
    """Each try is written to flash."""

    async def main():
        desk = Desk(signer, tmp_path)
        looks = []
        desk.desired._loop = SimpleNamespace(call_later=lambda delay_s, look: looks.append((delay_s, look)) or Timer())
        deployment, document = signer.deployment(bytes(32))
        await desk.takes(document)
        failed = replace(under_way(deployment, Phase.FAILED), reason=Reason.CHUNK_MISSING)
        for _ in range(9):
            desk.runner.update = failed
            desk.posted.clear()
            desk.desired.consider_instance(INSTANCE)
            looks[-1][1]()
            await desk.rest()
            assert [each.manifest for each in desk.posted] == [bytes(32)]
        assert [delay_s for delay_s, _ in looks] == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
        await desk.takes(document)  # the broker is back, say
        desk.desired.consider_instance(INSTANCE)
        assert looks[-1][0] == 60

    run(main)


class Timer:
    def cancel(self) -> None:
        pass


def test_both_documents_are_taken_up_again_after_a_restart(signer, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        _, group = signer.document({"a": signer.entry(digest("a"))})
        _, own = signer.document({"b": signer.entry(digest("b"))}, device="board")
        await desk.takes(group)
        await desk.takes(own, OURS)
        desk.store.close()
        desk = Desk(signer, tmp_path)
        desk.go.set()
        await desk.desired.restore()
        desk.desired.start()
        assert offers(desk) == {"a": [digest("a")], "b": [digest("b")]}
        assert desk.desired.issued_s == NOW_S

    run(main)


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


@pytest.mark.parametrize("other", ["set failed", "trapped"])
def test_a_set_that_the_board_went_down_with_is_offered_again_unless_a_member_failed_by_itself(tmp_path, signer, other):
    """Once the board has been up for `failures.forget_s`."""

    async def main():
        desk = Desk(signer, tmp_path)
        looks = []
        desk.desired._loop = SimpleNamespace(call_later=lambda delay_s, look: looks.append((delay_s, look)) or Timer())
        together = {"deployment_id": bytes(16), "together": ("a", "b")}
        entries = {name: signer.entry(bytes(32), **together) for name in ("a", "b")}
        _, document = signer.document(entries)
        await desk.takes(document)
        ended = {"set failed": (Phase.ROLLED_BACK, Reason.SET_FAILED), "trapped": (Phase.ROLLED_BACK, Reason.TRAPPED)}[other]
        for name, (phase, reason) in (("a", (Phase.ROLLED_BACK, Reason.TRIAL_INTERRUPTED)), ("b", ended)):
            found = Update(phase, bytes(16), bytes(32), reason=reason, together=("a", "b"))
            desk.places.open(name).update = found
            desk.places.posted[name].clear()
        desk.desired.consider_instance("a")
        assert not desk.places.posted["a"]
        delay_s, look = looks[-1]
        assert delay_s == 3600
        look()
        await desk.rest()
        return [name for name in ("a", "b") for each in desk.places.posted[name] if each.again]

    assert asyncio.run(main()) == (["a", "b"] if other == "set failed" else [])


def test_a_document_that_came_on_a_stick_is_not_refused_for_a_newer_one_of_the_broker(signer, tmp_path):
    async def main():
        desk = Desk(signer, tmp_path)
        desk.go.set()
        _, packed = signer.document({"a": signer.entry(digest("p"))})
        _, newer = signer.document({"a": signer.entry(digest("n"))})
        await desk.desired.take(topics.desired("lab"), packed)
        assert desk.desired.entry("a").manifest_digest == digest("p")
        await desk.takes(newer)
        assert desk.desired.entry("a").manifest_digest == digest("n")
        assert desk.refusal is None
        assert not desk.counters["refusals"]

    run(main)

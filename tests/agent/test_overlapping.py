"""Filters of modules that overlap, and neither covers the other: each message is taken once, and none is lost."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.broker.identifiers import Identifiers
from device_agent.broker.link import Kind, Link
from device_agent.broker.packets import Arrived
from device_agent.broker.settings import BrokerConfig
from ota.formats import topics
from ota.formats.broker_url import BrokerUrl
from tests.support.lab import PATIENCE_S, Mosquitto
from tests.support.rumqttd import Rumqttd

ANY, FIRST, SECOND = "cmd/+/x", "cmd/1/+", "cmd/+/+/deep"
LEVELS = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=3)


@pytest.fixture(params=[Rumqttd, Mosquitto], ids=["rumqttd", "mosquitto"])
def broker(request, tmp_path):
    if request.param is Mosquitto and Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    started = request.param(tmp_path)
    started.start()
    yield started
    started.stop()


class Side:
    """A link, and what it has taken."""

    def __init__(self, broker, device: str) -> None:
        self.got: list[bytes] = []
        self.online = asyncio.Event()
        config = BrokerConfig(BrokerUrl.parse(broker.url))
        self.link = Link(
            config,
            device,
            lambda *_: None,
            self.online.set,
            lambda: None,
            on_input=lambda arrived: self.got.append(arrived.payload),
        )
        self.task = asyncio.ensure_future(self.link.run())

    async def has(self, payload: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while payload not in self.got:
                await asyncio.sleep(0.02)


def test_a_message_that_two_filters_match_comes_once(broker):
    async def main() -> None:
        board, other = Side(broker, "board"), Side(broker, "other")
        await asyncio.gather(board.online.wait(), other.online.wait())
        number = 0

        async def say(topic: str) -> bytes:
            nonlocal number
            number += 1
            await other.link.publish(topic, b"%d" % number)
            return b"%d" % number

        async def all_come(said: list[bytes]) -> None:
            for each in [*said, await say("end")]:
                await board.has(each)

        for each in (ANY, "end"):
            board.link.subscribe(each, Kind.INPUT)
        await other.link.publish("cmd/1/x", b"kept", retain=True)
        await board.has(b"kept")
        board.link.subscribe(FIRST, Kind.INPUT)  # overlaps from now on
        said = [await say("cmd/1/x") for _ in range(5)]
        while not any(each in board.got for each in [await say("cmd/1/y")]):
            await asyncio.sleep(0.05)
        await all_come(said)
        begun = len(board.got)
        said = [await say(topic) for _ in range(20) for topic in ("cmd/1/x", "cmd/1/y", "cmd/2/x")]
        await all_come(said)
        assert len(board.got[begun:]) == len(set(board.got[begun:]))
        board.link.unsubscribe(ANY)
        await all_come([await say("cmd/1/x") for _ in range(5)])
        for each in (board, other):
            each.task.cancel()
        await asyncio.gather(board.task, other.task, return_exceptions=True)

    asyncio.run(main())


def numbered(*filters: str) -> tuple[Identifiers, list[int]]:
    identifiers = Identifiers()
    identifiers.arrange(dict.fromkeys(filters, Kind.INPUT), ())
    return identifiers, list(identifiers.needed(filters, ()).values())


def test_the_copy_of_the_subscription_that_was_made_first_is_taken_and_no_other():
    identifiers, (first, second) = numbered(ANY, FIRST)
    both = Arrived("cmd/1/x", b"")
    assert [identifiers.takes(both._replace(subscriptions=each)) for each in ((first,), (second,), (first, second), ())] == [
        True,
        False,
        True,
        True,
    ]
    assert identifiers.takes(Arrived("cmd/1/y", b"", subscriptions=(second,)))
    assert identifiers.takes(both._replace(retained=True, subscriptions=(second,)))  # of a subscription that is new


def test_what_waits_at_the_broker_when_a_subscription_is_ended_is_taken():
    identifiers, (first, second) = numbered(ANY, FIRST)
    identifiers.drop(ANY)
    assert identifiers.takes(Arrived("cmd/1/x", b"", subscriptions=(first,)))
    assert identifiers.takes(Arrived("cmd/1/x", b"", subscriptions=(second,)))
    assert identifiers.needed([ANY], [FIRST])[ANY] > second  # made again, it is a later one


def test_what_waited_for_the_agent_that_was_restarted_is_taken():
    """The new one subscribes in another order, and to the broker its subscriptions are the old ones with other numbers."""
    _, (old, _) = numbered(FIRST, ANY)
    identifiers, new = numbered(ANY, FIRST)
    assert old not in new
    assert identifiers.takes(Arrived("cmd/1/y", b"", subscriptions=(old,)))


def test_one_that_was_asked_for_without_an_identifier_gets_one_before_what_overlaps_it():
    identifiers = Identifiers()
    identifiers.arrange(dict.fromkeys((ANY, FIRST, "end"), Kind.INPUT), ())
    assert list(identifiers.needed([FIRST], [ANY, "end"])) == [ANY, FIRST]


@given(LEVELS, LEVELS, st.data())
def test_filters_meet_where_a_topic_matches_both(one, other, data):
    wild = st.sampled_from(["", "+", "#"])

    def filtered(levels: list[str]) -> str:
        made = []
        for each in levels:
            chosen = data.draw(wild)
            made.append(chosen or each)
            if chosen == "#":
                break
        return "/".join(made)

    first, second = filtered(one), filtered(other)
    alphabet = ["a", "b"]
    every = [[a] for a in alphabet] + [[a, b] for a in alphabet for b in alphabet]
    every += [[*two, c] for two in every if len(two) == 2 for c in alphabet] + [[*three, "a"] for three in every if len(three) == 3]
    names = ["/".join(each) for each in every]
    assert topics.meet(first, second) == any(topics.covers(first, each) and topics.covers(second, each) for each in names)

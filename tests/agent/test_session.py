"""A session that an agent leaves at the broker, and the next agent takes up."""

import asyncio
import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.broker.link import Link
from device_agent.broker.session import KeptSession
from device_agent.broker.subscription import Kind
from device_agent.storage.store import Store
from ota.formats import cbor
from tests.support.scripted_broker import CONNECT, SUBSCRIBE, UNSUBSCRIBE, ScriptedBroker

LEFT = KeptSession("mqtt://127.0.0.1:1883", "wamr-ota-board", {"in/#": Kind.INPUT, "doc": Kind.DOCUMENT}, {"in/#": 7}, 9)


def resuming(connection: int) -> bytes:
    """CONNACK: there is a session, but on the first connection."""
    return bytes((connection > 1, 0, 0))


@contextlib.asynccontextmanager
async def linked(broker: ScriptedBroker, left: KeptSession | None = None, wanted: dict[str, Kind] | None = None):
    """An agent's link, online."""
    online = asyncio.Event()
    link = Link(broker.config, "board", lambda *_: None, online.set, online.clear)
    if left is not None:
        link.go_on(left)
    for topic, kind in (wanted or {}).items():
        link.subscribe(topic, kind)
    running = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(60):
            await online.wait()
        yield link
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def is_clean(broker: ScriptedBroker, connection: int) -> bool:
    return bool(broker.of(CONNECT, connection)[0].body[7] & 2)


async def left_by_first(broker: ScriptedBroker) -> KeptSession:
    """What an agent leaves that had one subscription of each kind, and has ended one with no answer yet."""
    async with linked(broker) as link:
        link.subscribe("in/#", Kind.INPUT)
        link.subscribe("doc")
        link.subscribe("part/1", Kind.PART)
        link.subscribe("old")
        await broker.until(lambda: broker.of(SUBSCRIBE, 1))
        link.unsubscribe("old")
        await broker.until(lambda: broker.of(UNSUBSCRIBE, 1))
    assert link.session is not None
    return link.session


def test_the_next_agent_goes_on_with_the_session_and_ends_all_but_the_inputs_that_it_wants():
    async def inside():
        async with ScriptedBroker(connack=resuming, unsuback=lambda connection: connection > 1) as broker:
            left = KeptSession.read((await left_by_first(broker)).to_bytes())
            async with linked(broker, left, {"in/#": Kind.INPUT}):
                await broker.until(lambda: broker.of(SUBSCRIBE, 2) and broker.of(UNSUBSCRIBE, 2))
            assert not is_clean(broker, 2)
            assert {topic for each in broker.of(UNSUBSCRIBE, 2) for topic in each.topics} == {"doc", "part/1", "old"}
            assert [each.topics for each in broker.of(SUBSCRIBE, 2)] == [("in/#",)]

    asyncio.run(inside())


def test_a_session_with_another_broker_or_for_another_name_is_left_alone():
    async def inside():
        async with ScriptedBroker(connack=resuming) as broker:
            left = await left_by_first(broker)
            for connection, other in enumerate((replace(left, broker="mqtt://other:1883"), replace(left, client_id="other")), 2):
                async with linked(broker, other):
                    assert is_clean(broker, connection)

    asyncio.run(inside())


def test_an_agent_that_was_never_connected_leaves_nothing():
    async def inside():
        assert Link(ScriptedBroker().config, "board", *[lambda *_: None] * 3).session is None

    asyncio.run(inside())


@given(st.dictionaries(st.text(), st.sampled_from(Kind)), st.dictionaries(st.text(), st.integers(1, (1 << 28) - 1)), st.text())
def test_a_session_is_read_as_it_was_written(subscriptions, identifiers, name):
    kept = KeptSession(name, name, subscriptions, identifiers, 5)
    assert KeptSession.read(kept.to_bytes()) == kept


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        b"",
        b"\xff",
        cbor.encode(["mqtt://b:1", "name", {}, {}]),
        cbor.encode(["mqtt://b:1", "name", {"doc": "LATER"}, {}, 1]),
        cbor.encode(["mqtt://b:1", "name", {"doc": ["INPUT"]}, {}, 1]),
        cbor.encode(["mqtt://b:1", "name", {"doc": "INPUT"}, {"doc": "7"}, 1]),
        cbor.encode(["mqtt://b:1", "name", {7: "INPUT"}, {}, 1]),
        cbor.encode(["mqtt://b:1", "name", {}, {7: 7}, 1]),
        cbor.encode(["mqtt://b:1", "name", {"in": "INPUT"}, {"in": 0}, 1]),
        cbor.encode(["mqtt://b:1", "name", {"in": "INPUT"}, {"in": 1 << 28}, 1]),
        cbor.encode(["mqtt://b:1", "name", {}, {}, -1]),
    ],
)
def test_what_is_no_session_is_no_use(wrong):
    assert KeptSession.read(wrong) is None


def test_a_session_is_taken_up_once_and_by_the_next_start_alone(tmp_path):
    store = Store(tmp_path)
    store.next_start(1)
    store.keep_session(LEFT.to_bytes())
    assert KeptSession.read(store.take_session()) == LEFT
    assert store.take_session() is None
    store.keep_session(LEFT.to_bytes())
    store.next_start(1)  # of an agent that knows nothing of it, before this version say
    assert store.take_session() is None
    store.close()


def test_a_session_that_can_t_be_taken_off_the_disk_is_not_taken_up(tmp_path, monkeypatch):
    """Each start would go on with it, though what the broker has changes in each."""
    store = Store(tmp_path)
    store.next_start(1)
    store.keep_session(LEFT.to_bytes())
    monkeypatch.setattr(store.home, "in_memory", True)  # as on a disk that is read-only by now
    assert store.take_session() is None
    monkeypatch.setattr(store.home, "in_memory", False)
    assert KeptSession.read(store.take_session()) == LEFT
    store.close()

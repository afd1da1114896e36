"""Who hears what: instances, the broker and the bus between instances."""

import asyncio
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.broker.link import Kind, Link
from device_agent.broker.outcomes import Outcomes
from device_agent.broker.packets import Arrived
from device_agent.broker.retained import Handled
from device_agent.broker.router import Router, Routes
from device_agent.channel.frames import Done, KeyWrite
from device_agent.channel.workers import ModuleSpec
from device_agent.instance.event_queue import Pending
from device_agent.instance.supervisor import Supervisor
from device_agent.storage.messages import Bounds, BusMessage
from device_agent.storage.store import Store
from ota.formats import topics
from ota.formats.capabilities import Capabilities
from ota.formats.module import ModuleDescription
from ota.formats.reasons import Reason, Refused
from ota.formats.topics import Template
from tests.support.scripted_broker import SUBSCRIBE, ScriptedBroker, publish

NAMES = {"device": "roof-1", "group": "lab", "board": "generic"}
OWN, GROUP = Template("devices/{device}/{topic}"), Template("groups/{group}/{topic}")
SPEC = ModuleSpec(ModuleDescription("m", "1.0.0", Capabilities({})), Path("m.wasm"), b"", {}, release=b"r")


@dataclass
class Box:
    """An instance's inbox."""

    name: str
    filters: tuple[str, ...] = ()
    got: list[tuple[str, bytes]] = field(default_factory=list)
    causes: list[tuple[int, int]] = field(default_factory=list)
    senders: list[str] = field(default_factory=list)
    replies: list[str] = field(default_factory=list)

    def offer(self, topic: str, payload: bytes, hops=0, bus_number=0, sender="", reply_to="") -> None:
        if bus_number or any(topics.covers(each, topic) for each in self.filters):
            self.got.append((topic, payload))
            self.causes.append((hops, bus_number))
            self.senders.append(sender)
            self.replies.append(reply_to)


class Asked:
    """A link that notes what it is asked for."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.repeated: list[str] = []

    def subscribe(self, topic: str, kind: Kind) -> None:
        assert kind is Kind.INPUT
        if topic not in self.held:
            self.held.append(topic)

    def unsubscribe(self, topic: str) -> None:
        self.held.remove(topic)

    def repeat(self, filter_: str) -> None:
        self.repeated.append(filter_)


async def on_writer(function, *values):
    await asyncio.sleep(0)
    return function(*values)


class Rig:
    """A router with a store of its own."""

    def __init__(self, folder: Path, *boxes: Box, link=None, **routes) -> None:
        self.counters: Counter[str] = Counter()
        self.store = Store(folder)
        self.link = link
        self.outcomes = Outcomes(self.store, on_writer, Bounds(), self.counters)
        wanted = {"publish": OWN, "subscribe": (OWN, GROUP)} | routes
        self.router = Router(Routes(NAMES, **wanted), link, self.outcomes, self.counters)
        self.boxes = boxes
        for each in boxes:
            self.router.add(each)

    async def say(self, name: str, *said, writes=(), hops: int = 0, number: int = 0, flush: bool = True, reply_to=None):
        self.router.deliver(name, SPEC, Done(said, tuple(writes), reply_to=reply_to or {}), hops, number)
        if flush:
            assert await self.outcomes.flush()

    async def restore(self) -> None:
        await self.router.restore(lambda after, count: on_writer(self.store.bus, after, count))


def sent(store: Store) -> list[tuple[str, bytes]]:
    return [(each.topic, each.payload) for each in store.outbox(0, 100)]


# -- between the broker and instances


def test_each_filter_is_asked_for_once_below_each_template_as_long_as_anybody_wants_it(tmp_path):
    first, second, link = Box("a", ("cmd/#", "local/x", "sys/#")), Box("b", ("cmd/#", "other")), Asked()
    rig = Rig(tmp_path, first, second, link=link)
    assert sorted(link.held) == ["devices/roof-1/cmd/#", "devices/roof-1/other", "groups/lab/cmd/#", "groups/lab/other"]
    second.filters = ()
    rig.router.follow("b")
    assert sorted(link.held) == ["devices/roof-1/cmd/#", "groups/lab/cmd/#"]
    rig.router.remove("a")
    rig.router.remove("a")
    assert link.held == []


def test_a_message_goes_to_the_instances_that_want_it_under_the_topic_that_they_know(tmp_path):
    boxes = Box("a", ("cmd/#",)), Box("b", ("cmd/+/x", "#")), Box("c", ("other",))
    rig = Rig(tmp_path, *boxes)
    rig.router.received(Arrived("devices/roof-1/cmd/1/x", b"one"))
    rig.router.received(Arrived("groups/lab/cmd/2", b"all"))
    rig.router.received(Arrived("devices/roof-2/cmd/3", b"another board's"))
    rig.router.received(Arrived("groups/lab/local/4", b"not from outside"))
    rig.router.received(Arrived("devices/roof-1/sys/5", b"not from outside"))
    assert boxes[0].got == [("cmd/1/x", b"one"), ("cmd/2", b"all")]
    assert boxes[1].got == [("cmd/1/x", b"one"), ("cmd/2", b"all")]
    assert boxes[2].got == []


@pytest.mark.parametrize(
    ("response", "told"),
    [
        ("devices/roof-1/replies/7", "replies/7"), ("", ""), ("replies/7", ""), ("devices/roof-2/replies/7", ""),
        ("devices/roof-1/local/7", ""), ("devices/roof-1/sys/7", ""), ("devices/roof-1/", ""), ("devices/roof-1/#", ""),
        ("ota/v1/group/lab/desired", ""), ("devices/roof-1/" + "x" * 300, ""),
    ],
)  # fmt: skip
def test_a_response_topic_is_told_where_the_instance_may_publish_there(tmp_path, response, told):
    box = Box("a", ("cmd/#",))
    rig = Rig(tmp_path, box)
    rig.router.received(Arrived("devices/roof-1/cmd/1", b"question", response_topic=response))
    assert (box.got, box.replies) == ([("cmd/1", b"question")], [told])


@pytest.mark.parametrize("durable", [True, False])
def test_a_module_of_the_board_is_told_where_another_one_waits_for_an_answer(tmp_path, durable):
    boxes = Box("a", ("cmd/#",)), Box("b")

    async def main():
        rig = Rig(tmp_path, *boxes, durable=durable)
        await rig.say("b", ("cmd/1", b""), ("cmd/2", b"question"), ("cmd/3", b"far"), reply_to={1: "local/here", 2: "answers/b"})
        assert [each.reply_to for each in rig.store.outbox(0, 10)] == ["", "local/here", "answers/b"]
        assert rig.router.response_topic("b", "answers/b") == "devices/roof-1/answers/b"
        assert rig.router.response_topic("b", "local/here") == rig.router.response_topic("b", "") == ""

    asyncio.run(main())
    assert boxes[0].got == [("cmd/1", b""), ("cmd/2", b"question"), ("cmd/3", b"far")]
    assert boxes[0].replies == ["", "local/here", "answers/b"]


def test_where_an_answer_is_waited_for_is_known_after_a_restart(tmp_path):
    box = Box("a", ("local/#",))

    async def main():
        await Rig(tmp_path, box, Box("b")).say("b", ("local/q", b"question"), reply_to={0: "local/here"})
        box.got.clear()
        box.replies.clear()
        again = Rig(tmp_path, box)
        await again.restore()

    asyncio.run(main())
    assert (box.got, box.replies) == ([("local/q", b"question")], ["local/here"])


def test_an_inbox_is_told_who_sent_an_event(tmp_path):
    box = Box("a", ("#",))

    async def main():
        rig = Rig(tmp_path, box, Box("b"))
        rig.router.received(Arrived("devices/roof-1/cmd", b""))
        rig.router.offer("sys/cpu", b"")
        await rig.say("b", ("local/x", b""))

    asyncio.run(main())
    assert box.senders == ["", "sys/cpu", "b"]


def test_of_two_templates_that_fit_a_message_comes_once_under_the_first_topic_that_is_wanted(tmp_path):
    boxes = Box("a", ("#",)), Box("b", ("roof-1/cmd", "other")), Box("c", ("other", "cmd"))
    rig = Rig(tmp_path, *boxes, subscribe=(Template("x/{device}/{topic}"), Template("x/{topic}")))
    rig.router.received(Arrived("x/roof-1/cmd", b"1"))
    rig.router.received(Arrived("x/other", b"2"))
    assert boxes[0].got == [("cmd", b"1"), ("other", b"2")]
    assert boxes[1].got == [("roof-1/cmd", b"1"), ("other", b"2")]
    assert boxes[2].got == [("cmd", b"1"), ("other", b"2")]


def test_a_template_with_the_instance_keeps_instances_apart(tmp_path):
    template = Template("x/{device}/{instance}/{topic}")
    boxes, link = (Box("a", ("cmd",)), Box("b", ("cmd",))), Asked()
    rig = Rig(tmp_path, *boxes, link=link, publish=template, subscribe=(template,))
    assert sorted(link.held) == ["x/roof-1/a/cmd", "x/roof-1/b/cmd"]
    rig.router.received(Arrived("x/roof-1/b/cmd", b"1"))
    assert [each.got for each in boxes] == [[], [("cmd", b"1")]]
    assert rig.router.broker_topic("a", "out") == "x/roof-1/a/out"


@pytest.mark.parametrize("topic", ["ota/v1/device/roof-2/report", "$SYS/x", "sys/x", "local/x"])
def test_with_the_barest_template_modules_still_reach_none_of_our_topics(tmp_path, topic):
    async def inside():
        bare = Template("{topic}")
        box, link = Box("a", (topic, "#")), Asked()
        rig = Rig(tmp_path, box, link=link, publish=bare, subscribe=(bare,))
        assert link.held == ["#"]
        rig.router.received(Arrived(topic, b"x"))
        await rig.say("a", (topic, b"x"))
        return box.got, sent(rig.store), rig.counters["messages_reserved"]

    assert asyncio.run(inside()) == ([], [], 0 if topic.startswith("local/") else 1)


def test_what_this_board_has_sent_does_not_come_back_from_a_broker_without_no_local(tmp_path):
    box = Box("a", ("x",))
    rig = Rig(tmp_path, box)
    rig.router.received(Arrived("devices/roof-1/x", b"ours", board="roof-1"))
    rig.router.received(Arrived("devices/roof-1/x", b"another's", board="roof-2"))
    assert box.got == [("x", b"another's")]
    assert rig.counters["messages_echoed"] == 1


def test_a_retained_input_is_handled_once_by_each_instance_and_again_when_it_has_changed(tmp_path):
    first, second = Box("a", ("x",)), Box("b", ())
    rig = Rig(tmp_path, first, second, link=Asked())
    topic = "devices/roof-1/x"
    rig.router.received(Arrived(topic, b"1", retained=True))
    second.filters = ("x",)
    rig.router.follow("b")
    assert Counter(rig.link.repeated) == {topic: 2, "groups/lab/x": 2}  # also for the one that is new to it
    rig.router.received(Arrived(topic, b"1", retained=True))  # because of the new one
    rig.router.received(Arrived(topic, b"1"))  # said once more
    rig.router.received(Arrived(topic, b"2", retained=True))
    assert first.got == [("x", b"1"), ("x", b"1"), ("x", b"2")]
    assert second.got == [("x", b"1"), ("x", b"1"), ("x", b"2")]
    assert rig.counters["retained_repeats"] == 1


def test_topics_that_no_module_has_are_not_remembered():
    """A neighbour may write on topics of 64 KiB each, which `in/#` covers."""
    handled = Handled()
    for number in range(10):
        assert not handled.repeats(Arrived(f"groups/lab/in/{number}{'x' * 60_000}", b"", retained=True), b"digest")
    assert sum(map(len, handled._digests)) == 0
    assert not handled.repeats(Arrived("groups/lab/in/x", b"", retained=True), b"digest")
    assert handled.repeats(Arrived("groups/lab/in/x", b"", retained=True), b"digest")


def test_retained_inputs_are_told_apart_over_real_reconnections(tmp_path):
    async def inside():
        bare = Template("{topic}")
        broker, box = ScriptedBroker(retained={"in/a": b"1"}), Box("a", ("in/a",))
        async with broker:
            link = Link(
                broker.config, "b", lambda *_: None, lambda: None, lambda: None, on_input=lambda each: rig.router.received(each)
            )
            rig = Rig(tmp_path, box, link=link, publish=bare, subscribe=(bare,))
            running = asyncio.create_task(link.run())
            for connection in (1, 2):
                await broker.until(lambda connection=connection: broker.of(SUBSCRIBE, connection))
                await asyncio.sleep(0.1)
                await broker.drop()
            broker.retained["in/a"] = b"2"
            await broker.until(lambda: broker.of(SUBSCRIBE, 3))
            await asyncio.sleep(0.1)
            broker.send(publish("in/a", b"2"))  # not for the subscription: it is new
            async with asyncio.timeout(60):
                while len(box.got) < 3:
                    await asyncio.sleep(0.02)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert [payload for _, payload in box.got] == [b"1", b"2", b"2"]
        assert rig.counters["retained_repeats"] == 1

    asyncio.run(inside())


# -- between instances


def test_local_topics_stay_and_others_go_out_and_to_those_who_want_them_here_at_once(tmp_path):
    async def inside():
        boxes = Box("a", ("#",)), Box("b", ("local/#",)), Box("c", ("out/+",))
        rig = Rig(tmp_path, *boxes)
        await rig.say("a", ("local/x", b"1"), ("out/y", b"2"), ("other", b"3"))
        return [each.got for each in boxes], sent(rig.store), rig.store.bus(0, 10)

    got, out, bus = asyncio.run(inside())
    assert got == [[], [("local/x", b"1")], [("out/y", b"2")]]  # nobody hears himself
    assert out == [("out/y", b"2"), ("other", b"3")]
    assert [(each.source, each.target, each.topic, each.hops) for each in bus] == [("a", "b", "local/x", 1), ("a", "c", "out/y", 1)]


def test_a_message_leaves_the_disk_in_the_transaction_of_the_outcome_that_it_caused(tmp_path):
    async def inside():
        boxes = Box("a"), Box("b", ("local/x",))
        rig = Rig(tmp_path, *boxes)
        await rig.say("a", ("local/x", b"1"))
        ((hops, number),) = boxes[1].causes
        assert hops == 1
        await rig.say("b", ("y", b"2"), writes=[KeyWrite("k", b"v")], hops=hops, number=number, flush=False)
        assert len(rig.store.bus(0, 10)) == 1
        assert not sent(rig.store)
        await rig.outcomes.flush()
        return rig.store.bus(0, 10), sent(rig.store)

    assert asyncio.run(inside()) == ([], [("y", b"2")])


def test_after_a_power_cut_what_was_not_handled_comes_again_in_order_before_anything_else(tmp_path):
    async def first():
        boxes = Box("a"), Box("b", ("local/#",))
        rig = Rig(tmp_path, *boxes)
        for number in range(1200):
            await rig.say("a", (f"local/{number}", b""), flush=number % 100 == 99)
        handled = boxes[1].causes[:700]
        for _, number in handled:
            await rig.say("b", number=number, flush=False)
        rig.router.consumed(boxes[1].causes[700][1])
        await rig.outcomes.flush()
        rig.store.close()

    async def second():
        boxes = Box("a"), Box("b")  # nothing runs yet: nobody subscribes to anything
        rig = Rig(tmp_path, *boxes)
        await rig.restore()
        return boxes[1].got

    asyncio.run(first())
    assert asyncio.run(second()) == [(f"local/{number}", b"") for number in range(701, 1200)]


def test_what_was_said_before_and_after_a_full_disk_comes_in_order_after_the_agent_has_stopped(tmp_path):
    def full(*_):
        raise Refused(Reason.DISK_FULL, "no room")

    async def first():
        told = Box("b", ("local/#",))
        rig = Rig(tmp_path, Box("a"), told)
        await rig.say("a", ("local/1", b""))
        room, rig.store.add_outcomes = rig.store.add_outcomes, full
        await rig.say("a", ("local/2", b""), flush=False)
        assert not await rig.outcomes.flush()
        rig.store.add_outcomes = room
        await rig.say("a", ("local/3", b""))
        assert [bool(number) for _, number in told.causes] == [True, False, True]
        supervisor = Supervisor(None, None)
        for (topic, payload), (hops, number), sender in zip(told.got, told.causes, told.senders, strict=True):
            supervisor._queue.append(Pending(topic, payload, hops, number, sender=sender))
        waiting = [(each.bus_number, 1.0, each.sender, "b", each.topic, each.payload, each.hops) for each in supervisor.unsaved]
        await rig.outcomes.keep([BusMessage(*each) for each in waiting])
        rig.store.close()

    async def second():
        told = Box("b")
        rig = Rig(tmp_path, Box("a"), told)
        await rig.restore()
        return [topic for topic, _ in told.got], told.senders

    asyncio.run(first())
    assert asyncio.run(second()) == (["local/1", "local/2", "local/3"], ["a"] * 3)


def test_what_waits_for_an_instance_that_is_gone_is_forgotten(tmp_path):
    async def inside():
        rig = Rig(tmp_path, Box("a"), Box("b", ("local/#",)))
        await rig.say("a", ("local/x", b"1"))
        rig.router.remove("b")
        await rig.say("a", ("local/x", b"2"))
        await rig.restore()
        await rig.outcomes.flush()
        return rig.store.bus(0, 10)

    assert asyncio.run(inside()) == []


@pytest.mark.parametrize("durable", [True, False])
def test_two_modules_that_answer_each_other_for_ever_are_stopped_by_the_hops(tmp_path, durable):
    async def inside():
        boxes = Box("a", ("local/to-a",)), Box("b", ("local/to-b",))
        rig = Rig(tmp_path, *boxes, hops=5, durable=durable)
        await rig.say("a", ("local/to-b", b""))
        for turn in range(20):
            box, other = boxes[(turn + 1) % 2], boxes[turn % 2]
            if len(box.got) <= turn // 2:
                break
            hops, number = box.causes[turn // 2]
            await rig.say(box.name, (f"local/to-{other.name}", b""), ("out", b""), hops=hops, number=number)
        return len(boxes[0].got) + len(boxes[1].got), rig.counters["bus_hops_exceeded"], len(sent(rig.store))

    assert asyncio.run(inside()) == (5, 1, 5)  # what goes to the broker goes there all the same


def test_a_bus_in_memory_hands_over_at_once_and_writes_nothing(tmp_path):
    async def inside():
        boxes = Box("a"), Box("b", ("local/x",))
        rig = Rig(tmp_path, *boxes, durable=False)
        await rig.say("a", ("local/x", b"1"), flush=False)
        return boxes[1].got, boxes[1].causes, await rig.outcomes.flush(), rig.store.bus(0, 10)

    assert asyncio.run(inside()) == ([("local/x", b"1")], [(1, 0)], True, [])


def test_what_a_flood_leaves_on_disk_for_one_instance_is_bounded_and_counted(tmp_path):
    async def inside():
        boxes = Box("a"), Box("b", ("local/#",)), Box("c", ("local/quiet",))
        rig = Rig(tmp_path, *boxes)
        rig.outcomes._bounds = Bounds(bus=50, bus_bytes=1 << 20)
        await rig.say("a", ("local/quiet", b"first"))
        for number in range(200):
            await rig.say("a", (f"local/{number}", b""), flush=number % 20 == 19)
        return rig.store.bus(0, 1000), rig.counters["bus_dropped"]

    rows, dropped = asyncio.run(inside())
    assert [each.topic for each in rows if each.target == "b"] == [f"local/{number}" for number in range(150, 200)]
    assert [each.topic for each in rows if each.target == "c"] == ["local/quiet"]
    assert dropped == 151


FILTERS = st.sampled_from(["#", "local/#", "local/+", "local/a", "out/#", "out/a", "sys/#", "+/a"])
TOPICS = st.sampled_from(["local/a", "local/b", "out/a", "out/b", "sys/a", "x/a"])


@given(
    st.lists(st.lists(FILTERS, max_size=3, unique=True), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), TOPICS, st.booleans()), max_size=12),
    st.booleans(),
)
def test_everybody_else_who_wants_it_gets_what_is_said_once_and_in_order(filters, said, durable):
    async def inside(folder):
        boxes = [Box(f"i{index}", tuple(each)) for index, each in enumerate(filters)]
        rig = Rig(Path(folder), *boxes, durable=durable)
        for number, (who, topic, flush) in enumerate(said):
            await rig.say(f"i{who % len(boxes)}", (topic, bytes((number,))), flush=flush)
        await rig.outcomes.flush()
        for index, box in enumerate(boxes):
            expected = [
                (topic, bytes((number,)))
                for number, (who, topic, _) in enumerate(said)
                if who % len(boxes) != index and not topic.startswith("sys/") and any(topics.covers(f, topic) for f in box.filters)
            ]
            assert box.got == expected
        assert [topic for topic, _ in sent(rig.store)] == [t for _, t, _ in said if t.startswith(("out/", "x/"))]
        rig.store.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(inside(folder))

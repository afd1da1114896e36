"""Messages on their way to the broker: in order, several at a time, and what is dropped when nothing helps."""

import asyncio
from collections import Counter

import pytest

from device_agent.broker import outbox, packets
from device_agent.broker.connection import Sent
from device_agent.broker.outbox import SMALL_TRIES, Batches, Outbox
from device_agent.broker.outcomes import Outcomes
from device_agent.broker.packets import UserProperties
from device_agent.storage.messages import Bounds, Outcome, Version
from device_agent.storage.store import Store
from ota.formats.report import BATCH_LIMIT_BYTES, Message
from tests.support.outbox import of, on_writer
from tests.support.reports import messages as in_batch
from tests.support.reports import signed_messages


class Rows:
    """The outbox's table, in memory."""

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages

    def outbox(self, after: int, count: int) -> list[Message]:
        return [each for each in self.messages if each.number > after][:count]

    def outbox_by_turns(self, after: dict[str, int], count: int) -> list[Message]:
        return [each for each in self.messages if each.number > after.get(each.instance, 0)][:count]

    def forget(self, delivered: dict[str, int]) -> None:
        self.messages = [each for each in self.messages if each.number > delivered.get(each.instance, 0)]


class Line:
    """A link that does as a test says."""

    def __init__(self, send, room: int = BATCH_LIMIT_BYTES, window: int = 20) -> None:
        self._send, self._room, self.window = send, room, window
        self.online = True
        self.unanswered = self.most = 0

    def room(self, topic: str) -> int:
        return self._room

    def publish(self, topic, payload, *, retain=False, properties: UserProperties | None = None):
        self.unanswered += 1
        self.most = max(self.most, self.unanswered)

        async def answered() -> Sent:
            try:
                return await self._send(topic, payload, properties)
            finally:
                self.unanswered -= 1

        return asyncio.ensure_future(answered())

    def post(self, topic, payload, properties, settle):
        self.publish(topic, payload, properties=properties).add_done_callback(lambda sent: settle(sent.result()))


def messages(sizes: list[int], topic: str = "out/x") -> list[Message]:
    return [Message(number, 0.5, "m", "m 1.0.0", topic, bytes(size)) for number, size in enumerate(sizes, 1)]


async def deliver_all(rows: Rows, sending: outbox.Delivery) -> None:
    """Runs the delivery until nothing waits."""
    task = asyncio.create_task(sending.deliver())
    async with asyncio.timeout(60):
        while rows.messages:
            await asyncio.sleep(0.005)
            sending.poke()
            if task.done():
                break
    task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(result, asyncio.CancelledError), result


async def batched(sizes: list[int], send, room: int) -> Counter:
    rows, counters = Rows(messages(sizes)), Counter()

    async def sent(_, batch, __):
        return await send(batch)

    async def encoded(records):
        return signed_messages("board", records)

    await deliver_all(rows, Batches(rows, on_writer, Line(sent, room), rows.forget, counters, "telemetry", encoded))
    return counters


async def single(sent: list[Message], send, *, window: int = 20) -> tuple[Counter, Line]:
    rows, counters = Rows(sent), Counter()
    line = Line(send, window=window)
    sending = Outbox(rows, on_writer, line, rows.forget, counters, "roof-1", lambda message: f"devices/roof-1/{message.topic}")
    await deliver_all(rows, sending)
    return counters, line


def number_of(properties: UserProperties) -> int:
    """The user property "number" that is on the wire."""
    return int(properties.packed.split(b"\0\x06number\0")[1][1:].split(b"&")[0])


def test_each_message_is_sent_with_what_it_is_and_where_it_is_from():
    got = []

    async def send(topic, payload, properties):
        got.append((topic, payload, properties.packed))
        return Sent.ACKNOWLEDGED

    counters, _ = asyncio.run(single([Message(7, 1234.5, "eye", "cam 1.0.0", "seen", b"cat")], send))
    packed = b"".join(
        b"&" + len(each).to_bytes(2) + each + len(value).to_bytes(2) + value
        for each, value in [
            (b"board", b"roof-1"),
            (b"instance", b"eye"),
            (b"module", b"cam 1.0.0"),
            (b"number", b"7"),
            (b"time", b"1234.500"),
        ]
    )
    assert got == [("devices/roof-1/seen", b"cat", bytes((len(packed),)) + packed)]
    assert counters == {"messages_delivered": 1}


@pytest.mark.parametrize("window", [1, 2, 10, 100])
def test_as_many_are_in_flight_as_the_broker_takes_and_they_are_sent_in_order(window):
    got = []

    async def send(topic, payload, properties):
        got.append(number_of(properties))
        await asyncio.sleep(0.002)
        return Sent.ACKNOWLEDGED

    counters, line = asyncio.run(single(messages([10] * 300), send, window=window))
    assert got == list(range(1, 301))
    assert line.most == min(window, 100)
    assert counters["messages_delivered"] == 300


def test_large_messages_in_flight_are_bounded_in_bytes():
    async def send(*_):
        await asyncio.sleep(0.002)
        return Sent.ACKNOWLEDGED

    _, line = asyncio.run(single(messages([60_000] * 30), send, window=100))
    assert line.most == outbox.WINDOW_BYTES // 60_000 + 1


def test_what_was_lost_with_the_link_is_sent_again_and_what_was_acknowledged_is_not():
    got, tries = [], 0

    async def send(topic, payload, properties):
        nonlocal tries
        tries += 1
        number = number_of(properties)
        await asyncio.sleep(0)
        if tries <= 10 and number % 2:
            return Sent.LOST
        got.append(number)
        return Sent.ACKNOWLEDGED

    counters, _ = asyncio.run(single(messages([10] * 50), send, window=10))
    assert sorted(got) == list(range(1, 51))
    assert counters["messages_delivered"] == 50
    assert counters["messages_dropped"] == 0


def test_a_message_that_is_too_large_is_dropped_and_those_behind_it_are_not_sent_twice(caplog):
    got = []

    async def send(topic, payload, properties):
        if len(payload) > 10_000:
            return Sent.TOO_LARGE
        got.append(number_of(properties))
        return Sent.ACKNOWLEDGED

    counters, _ = asyncio.run(single(messages([10, 20_000, 10, 30_000, 10]), send))
    assert got == [1, 3, 5]
    assert counters["messages_too_large"] == counters["messages_dropped"] == 2
    assert caplog.text.count("is too large and dropped") == 1


@pytest.mark.parametrize(("size", "tries"), [(20_000, outbox.ALONE_TRIES), (20, SMALL_TRIES)])
def test_the_message_at_which_the_broker_always_closes_is_found_among_those_in_flight(size, tries):
    got, closed = [], []

    async def send(topic, payload, properties):
        number = number_of(properties)
        await asyncio.sleep(0)
        if number == 4:
            closed.append(number)
        if closed and line_broken(number):
            return Sent.CLOSED
        got.append(number)
        return Sent.ACKNOWLEDGED

    def line_broken(number: int) -> bool:
        """What is sent with the message that ends the connection, or behind it, is lost with that."""
        return number == 4 or (len(closed) == 1 and number > 4)

    counters, _ = asyncio.run(single(messages([10, 10, 10, size, 10, 10]), send))
    assert got == [1, 2, 3, 5, 6]
    assert counters["messages_dropped"] == 1
    assert len(closed) == 1 + tries


def test_a_topic_that_the_board_may_not_write_holds_up_the_others_for_a_while_only(monkeypatch, caplog):
    monkeypatch.setattr(outbox, "RETRY_S", 0.001)
    got, tries = [], Counter()

    async def send(topic, payload, properties):
        tries[number_of(properties)] += 1
        if topic.endswith("secret"):
            return Sent.DENIED
        got.append(number_of(properties))
        return Sent.ACKNOWLEDGED

    waiting = [Message(number, 0.5, "m", "m 1", "secret" if number in (2, 3) else "open", b"x") for number in range(1, 6)]
    counters, _ = asyncio.run(single(waiting, send))
    assert got == [1, 4, 5]
    assert tries[2] == outbox.DENIED_TRIES  # a rule may be on its way
    assert tries[4] == tries[5] == 1
    assert counters["messages_denied"] == counters["messages_dropped"] == 2
    assert caplog.text.count("this board may not write there") == 1


def test_a_broker_that_refuses_for_a_while_drops_nothing(monkeypatch):
    monkeypatch.setattr(outbox, "RETRY_S", 0.001)
    got, tries = [], 0

    async def send(topic, payload, properties):
        nonlocal tries
        tries += 1
        if tries <= 30:
            return Sent.REFUSED
        got.append(number_of(properties))
        return Sent.ACKNOWLEDGED

    counters, _ = asyncio.run(single(messages([10] * 5), send))
    assert got == [1, 2, 3, 4, 5]
    assert counters["messages_dropped"] == 0


def test_nothing_is_sent_while_there_is_no_link_and_all_of_it_then():
    async def inside():
        got = []

        async def send(topic, payload, properties):
            got.append(number_of(properties))
            return Sent.ACKNOWLEDGED

        rows, line = Rows(messages([10] * 5)), Line(send)
        line.online = False
        sending = Outbox(rows, on_writer, line, rows.forget, Counter(), "b", lambda message: message.topic)
        task = asyncio.create_task(sending.deliver())
        for _ in range(20):
            sending.written()
            await asyncio.sleep(0)
        assert got == []
        line.online = True
        sending.poke()
        async with asyncio.timeout(60):
            while rows.messages:
                await asyncio.sleep(0.005)
        task.cancel()
        return got

    assert asyncio.run(inside()) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("at_once", [1, 3, 64, 300])
def test_what_was_just_written_is_sent_in_order_and_not_read_again_while_there_is_room(at_once):
    async def inside():
        got, reads = [], []

        async def send(topic, payload, properties):
            got.append(number_of(properties))
            return Sent.ACKNOWLEDGED

        class Watched(Rows):
            def outbox_by_turns(self, after: dict[str, int], count: int) -> list[Message]:
                reads.append(after)
                return super().outbox_by_turns(after, count)

        rows, every = Watched([]), messages([10] * 900)
        sending = Outbox(rows, on_writer, Line(send), rows.forget, Counter(), "b", lambda message: message.topic)
        task = asyncio.create_task(sending.deliver())
        async with asyncio.timeout(60):
            while not reads:
                await asyncio.sleep(0)
            for start in range(0, 900, at_once):
                rows.messages += every[start : start + at_once]
                sending.written(every[start : start + at_once])
                while rows.messages:
                    await asyncio.sleep(0)
        task.cancel()
        return got, reads

    got, reads = asyncio.run(inside())
    assert got == list(range(1, 901))
    assert reads == [{}] if at_once <= outbox.AHEAD else len(reads) > 3


def test_messages_that_were_written_while_others_were_read_are_sent_once_and_in_order():
    async def inside():
        got = []

        async def send(topic, payload, properties):
            got.append(number_of(properties))
            return Sent.ACKNOWLEDGED

        every = messages([10] * 40)
        rows = Rows(every[:20])

        async def slow_disk(function, *values):
            found = function(*values)
            if len(rows.messages) == 20:
                rows.messages += every[20:]
                sending.written(every[20:])
            await asyncio.sleep(0)
            return found

        sending = Outbox(rows, slow_disk, Line(send), rows.forget, Counter(), "b", lambda message: message.topic)
        task = asyncio.create_task(sending.deliver())
        async with asyncio.timeout(60):
            while rows.messages:
                await asyncio.sleep(0)
        task.cancel()
        return got

    assert asyncio.run(inside()) == list(range(1, 41))


def test_written_messages_reach_who_sends_them_with_their_numbers_unless_some_were_dropped(tmp_path):
    async def inside():
        store, told = Store(tmp_path), []
        waiting = Outcomes(store, on_writer, Bounds(messages=5), Counter())
        waiting.on_messages = told.append
        for count in (1, 40, 2):  # the second drops what has no room
            for number in range(count):
                waiting.add(of(number))
            assert await waiting.flush()
        kept = store.outbox(0, 100)
        store.close()
        return told, kept

    told, kept = asyncio.run(inside())
    assert [[each.number for each in batch] for batch in told] == [[1], [], []]
    assert [each.number for each in kept] == [39, 40, 41, 42, 43]


@pytest.mark.parametrize("room", [BATCH_LIMIT_BYTES, 100_000, 5000])
def test_batches_fit_the_brokers_packets_and_the_readers_limit(room):
    got, sizes = [], []

    async def send(batch: bytes) -> Sent:
        sizes.append(len(batch))
        got.extend(in_batch(batch))
        return Sent.ACKNOWLEDGED

    asyncio.run(batched([4000] * 400, send, room))
    assert [each.number for each in got] == list(range(1, 401))
    assert max(sizes) <= room


def test_one_message_that_fits_no_packet_is_dropped_counted_and_said_once(caplog):
    got = []

    async def send(batch: bytes) -> Sent:
        if len(batch) > 10_000:
            return Sent.TOO_LARGE
        got.extend(in_batch(batch))
        return Sent.ACKNOWLEDGED

    counters = asyncio.run(batched([10, 20_000, 10, 30_000, 10], send, 10_000))
    assert [each.number for each in got] == [1, 3, 5]
    assert counters["messages_too_large"] == counters["messages_dropped"] == 2
    assert caplog.text.count("is too large and dropped") == 1


def test_one_message_at_which_the_broker_always_closes_does_not_stop_the_others():
    got = []

    async def send(batch: bytes) -> Sent:
        if any(len(each.payload) == 20_000 for each in in_batch(batch)):
            return Sent.CLOSED
        got.extend(in_batch(batch))
        return Sent.ACKNOWLEDGED

    asyncio.run(batched([10, 20_000, 10], send, 5000))
    assert [each.number for each in got] == [1, 3]


def test_a_link_that_breaks_drops_nothing():
    got, tries = [], 0

    async def send(batch: bytes) -> Sent:
        nonlocal tries
        tries += 1
        if tries % 10:
            return Sent.LOST
        got.extend(in_batch(batch))
        return Sent.ACKNOWLEDGED

    counters = asyncio.run(batched([20_000] * 3, send, 5000))
    assert len(got) == 3
    assert not counters["messages_dropped"]


def test_a_message_names_the_topic_on_which_its_module_waits_for_an_answer():
    told = UserProperties(UserProperties.encoded(("board", "roof")), "devices/roof/answers")
    packet = packets.publish("t", b"?", 7, told)
    start, end = packets.bounds(bytearray(packet), 0)
    arrived, _, _ = packets.read_publish(packet[0], packet[start:end])
    assert (arrived.response_topic, arrived.board, arrived.payload) == ("devices/roof/answers", "roof", b"?")


@pytest.mark.parametrize("fails", [False, True])
def test_an_instance_that_floods_keeps_no_other_waiting_and_each_is_in_order(tmp_path, monkeypatch, fails):
    monkeypatch.setattr(outbox, "RETRY_S", 0.001)

    async def inside():
        store, got, sent = Store(tmp_path), [], 0

        async def send(topic, payload, properties):
            nonlocal sent
            sent += 1
            if fails and sent % 50 == 0:
                return Sent.LOST
            got.append((topic, int(payload)))
            return Sent.ACKNOWLEDGED

        counters = Counter()
        outcomes = Outcomes(store, on_writer, Bounds(), counters)
        sending = Outbox(store, on_writer, Line(send), outcomes.forget, counters, "b", lambda message: message.instance)
        outcomes.on_messages = sending.written
        said = Counter()

        async def say(instance: str, count: int) -> None:
            now = [Message(0, 0.5, instance, "m 1", "t", b"%d" % (said[instance] + each)) for each in range(count)]
            said[instance] += count
            outcomes.add(Outcome(Version(instance, "m", b"1"), messages=now))
            await outcomes.flush()

        await say("floods", 2000)
        task = asyncio.create_task(sending.deliver())
        waited = []
        async with asyncio.timeout(60):
            for number in range(5):
                before = len(got)
                await say("quiet", 1)
                while ("quiet", number) not in got:
                    await asyncio.sleep(0.001)
                waited.append(len(got) - before)
            assert len(got) < 1900, "there was no flood any more"
            while counters["messages_delivered"] < 2005:
                await asyncio.sleep(0.005)
        await outcomes.flush()
        task.cancel()
        left = store.outbox_size()
        store.close()
        return got, waited, left

    got, waited, left = asyncio.run(inside())
    assert left == 0
    assert max(waited) <= 4 * outbox.READ_AHEAD
    for instance, count in (("floods", 2000), ("quiet", 5)):
        numbers = list(dict.fromkeys(number for topic, number in got if topic == instance))
        assert sorted(numbers) == list(range(count))
        assert fails or numbers == list(range(count))

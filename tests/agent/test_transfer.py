"""Transfers over real brokers, through a proxy that counts what is asked for and what is sent; and over one that stalls."""

import asyncio
import contextlib
import hashlib
import os
from collections import Counter
from functools import partial
from types import SimpleNamespace

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from device_agent.broker.link import Kind, Link
from device_agent.broker.packets import Arrived
from device_agent.desired import transfer
from device_agent.desired.bundles import Bundles, OpenBundle
from device_agent.desired.fetch import Transfers
from ota.formats import bundle, topics
from ota.formats.broker_url import BrokerUrl
from ota.formats.chunks import ChunkIndex
from ota.formats.reasons import Reason, Refused
from ota.operator.broker import Broker
from ota.operator.workspace import Settings
from tests.support.lab import GROUP, Mosquitto
from tests.support.recording_proxy import RecordingProxy
from tests.support.rumqttd import Rumqttd
from tests.support.scripted_broker import PUBLISH, SUBSCRIBE, ScriptedBroker
from tests.support.signing import VENDOR

DEVICE = "board"
CHUNK = 4096
NO_KEYS = SimpleNamespace(content_key=lambda wanted: None)


class Disk:
    """What the fetcher needs of a store, in memory."""

    def __init__(self) -> None:
        self.chunks: dict[int, bytes] = {}
        self.taken: Counter[int] = Counter()

    def blob(self, digest: bytes) -> bytes:
        raise Refused(Reason.BLOB_DIGEST_MISMATCH, "it is not here")

    def begin_blob(self, index: ChunkIndex) -> set[int]:
        return set(range(len(index.digests))) - set(self.chunks)

    def add_chunk(self, index: ChunkIndex, number: int, chunk: bytes) -> None:
        self.chunks[number] = chunk
        self.taken[number] += 1

    def finish_blob(self, index: ChunkIndex) -> None:
        assert b"".join(self.chunks[number] for number in sorted(self.chunks)) != b""

    def envelope(self, digest: bytes) -> None:
        return None


class Blob:
    """A blob as the broker holds it."""

    def __init__(self, chunks: int, chunk_bytes: int = CHUNK) -> None:
        self.index = ChunkIndex.of(os.urandom(chunks * chunk_bytes), chunk_bytes)
        content = os.urandom(chunks * chunk_bytes)
        self.index = ChunkIndex.of(content, chunk_bytes)
        encoded = self.index.to_bytes()
        digest, size = self.index.digest, self.index.size
        self.wanted = SimpleNamespace(digest=digest, sent_digest=digest, index_digest=hashlib.sha256(encoded).digest(), size=size)
        pieces = [content[at : at + chunk_bytes] for at in range(0, len(content), chunk_bytes)]
        self.chunk_topics = [topics.blob_chunk(self.index.digest, number) for number in range(chunks)]
        self.messages = dict(zip(self.chunk_topics, pieces, strict=True)) | {topics.blob_index(self.index.digest): encoded}


@contextlib.asynccontextmanager
async def board(config, timeout_s: float = 60.0, marker: str = topics.marker(DEVICE)):
    """A fetcher with a link of its own, and its disk."""
    disk, other, inputs = Disk(), [], []

    def received(topic: str, payload: bytes) -> None:
        if not transfers.received(topic, payload):
            other.append((topic, payload))

    async def on_writer(function, *values):
        return function(*values)

    link = Link(config, DEVICE, received, lambda: None, lambda: None, on_input=inputs.append, marker=marker)
    bundles = Bundles()
    transfers = Transfers(link, bundles, disk, on_writer, timeout_s, NO_KEYS)
    fetcher = transfers.fetcher()
    running = asyncio.create_task(link.run())
    try:
        yield SimpleNamespace(link=link, fetcher=fetcher, disk=disk, other=other, inputs=inputs, bundles=bundles)
    finally:
        bundles.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture(params=[pytest.param(Rumqttd, id="rumqttd", marks=pytest.mark.full), pytest.param(Mosquitto, id="mosquitto")])
def broker(request, tmp_path):
    if request.param is Mosquitto and Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    made = request.param(tmp_path)
    made.start()
    yield made
    made.stop()


def put(broker, messages: dict[str, bytes]) -> None:
    with Broker(Settings(VENDOR, BrokerUrl.parse(broker.url), GROUP)) as operator:
        operator.publish_all(list(messages.items()))


def sent_times(proxy: RecordingProxy, blob: Blob) -> list[int]:
    """How often each chunk was sent to the board, whole."""
    counts = Counter(each.topics[0] for each in proxy.to_board if each.kind == PUBLISH)
    return [counts[topic] for topic in blob.chunk_topics]


def asked_times(proxy: RecordingProxy, blob: Blob) -> list[int]:
    counts = Counter(topic for each in proxy.to_broker if each.kind == SUBSCRIBE for topic in each.topics)
    return [counts[topic] for topic in blob.chunk_topics]


def test_on_a_slow_link_each_chunk_is_asked_for_once_and_sent_once(broker):
    blob = Blob(40)

    async def inside():
        async with RecordingProxy(broker.port, bytes_per_s=40_000) as proxy, board(proxy.config) as made:
            await made.fetcher.blob(blob.wanted)
            assert asked_times(proxy, blob) == sent_times(proxy, blob) == [1] * 40
            assert proxy.connections == 1
            subscribes = [each for each in proxy.to_broker if each.kind == SUBSCRIBE]
            assert len(subscribes) < 12  # windows share a packet

    put(broker, blob.messages)
    asyncio.run(inside())


def test_what_is_damaged_on_a_stick_comes_from_the_broker(broker, tmp_path):
    """The stick stays plugged in, and answers before the broker does."""
    blob = Blob(4)
    stick = dict(sorted(blob.messages.items(), key=lambda each: bundle.order(each[0])))
    stick[blob.chunk_topics[2]] = bytes(CHUNK)

    async def inside():
        async with RecordingProxy(broker.port) as proxy, board(proxy.config) as made:
            await made.bundles.add(OpenBundle(tmp_path / "a.bundle"))
            await made.fetcher.blob(blob.wanted)
            assert made.disk.chunks[2] == blob.messages[blob.chunk_topics[2]]
            assert asked_times(proxy, blob) == [0, 0, 1, 0]

    with (tmp_path / "a.bundle").open("wb") as file:
        bundle.pack([(topic, partial(bytes, payload)) for topic, payload in stick.items()], file.write)
    put(broker, blob.messages)
    asyncio.run(inside())


def test_after_each_of_twenty_breaks_only_what_is_missing_is_fetched(broker):
    blob = Blob(60, 8192)

    async def inside():
        def cut(sent) -> bool:
            nonlocal since, cuts
            since += sent.kind == PUBLISH and sent.topics[0] in blob.messages
            if since < 2 or cuts == 20:
                return False
            since, cuts = 0, cuts + 1
            return True

        since = cuts = 0
        async with RecordingProxy(broker.port, bytes_per_s=400_000, cut_after=cut) as proxy, board(proxy.config) as made:
            await made.fetcher.blob(blob.wanted)
            assert proxy.connections in (21, 22)  # rumqttd does not answer UNSUBSCRIBE on a kept session: one more, once
            assert sent_times(proxy, blob) == [1] * 60
            assert made.disk.taken == Counter(range(60))

    put(broker, blob.messages)
    asyncio.run(inside())


@pytest.mark.parametrize("broker", [Mosquitto], indirect=True)  # rumqttd keeps no session that began clean
def test_a_command_that_is_sent_during_a_break_arrives(broker):
    async def inside():
        sender = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        sender.connect("127.0.0.1", broker.port)
        sender.loop_start()
        async with RecordingProxy(broker.port) as proxy, board(proxy.config) as made:
            made.link.subscribe("in/#", Kind.INPUT)
            async with asyncio.timeout(60):
                while not any(each.kind == 9 for each in proxy.to_board):  # SUBACK
                    await asyncio.sleep(0.02)
                proxy.drop()
                while made.link.online:
                    await asyncio.sleep(0.001)
                sender.publish("in/command", b"open", qos=1).wait_for_publish(60)
                while not made.inputs:
                    await asyncio.sleep(0.02)
        sender.disconnect()
        sender.loop_stop()
        return made.inputs

    assert asyncio.run(inside()) == [Arrived("in/command", b"open")]


def test_an_old_window_is_not_sent_again_on_a_resumed_session(broker):
    blob = Blob(6)

    async def inside():
        def cut(sent) -> bool:
            return proxy.connections == 1 and sent.kind == PUBLISH and sent.topics[0] == blob.chunk_topics[1]

        proxy = RecordingProxy(broker.port, bytes_per_s=40_000, cut_after=cut)
        async with proxy, board(proxy.config) as made:
            await made.fetcher.blob(blob.wanted)
            await asyncio.sleep(0.5)
            assert sent_times(proxy, blob) == [1] * 6

    put(broker, blob.messages)
    asyncio.run(inside())


class Stalling(ScriptedBroker):
    """Hands out a number of retained messages to a connection, and then sends nothing more at all on it."""

    def _answer(self, taken, writer):
        if taken.kind == 1:
            self.left = 5
        kept, self.retained = self.retained, {}
        if taken.kind == SUBSCRIBE:
            here = [topic for topic in taken.topics if topic in kept][: max(0, self.left)]
            self.retained = {topic: kept[topic] for topic in here}
            self.left -= len(here)
        self.echoes = self.left > 0
        super()._answer(taken, writer)
        self.retained = kept


def test_a_connection_that_stalls_is_made_anew_and_only_what_is_missing_asked_for(monkeypatch):
    monkeypatch.setattr(transfer, "STALL_S", 0.5)
    blob = Blob(16)

    async def inside():
        async with Stalling(retained=blob.messages) as broker, board(broker.config, timeout_s=6) as made:
            await made.fetcher.blob(blob.wanted)
            assert broker.connections >= 4
            assert made.disk.taken == Counter(range(16))

    asyncio.run(inside())


def test_what_the_broker_does_not_have_is_missing_and_the_connection_stays(monkeypatch):
    monkeypatch.setattr(transfer, "STALL_S", 0.2)
    blob = Blob(8)
    lost = blob.chunk_topics[3]

    async def inside():
        kept = {topic: payload for topic, payload in blob.messages.items() if topic != lost}
        async with ScriptedBroker(retained=kept) as broker, board(broker.config, timeout_s=2) as made:
            with pytest.raises(Refused, match=f"{lost} did not arrive in 2 s") as refused:
                await made.fetcher.blob(blob.wanted)
            assert refused.value.reason is Reason.CHUNK_MISSING
            assert broker.connections == 1
            assert len(made.disk.chunks) == 7

    asyncio.run(inside())


def test_a_chunk_that_the_broker_denies_is_named_at_once():
    blob = Blob(4)

    async def inside():
        denied = blob.chunk_topics[2]
        broker = ScriptedBroker(retained=blob.messages, suback=lambda topic: 0x87 if topic == denied else 1)
        broker.retained = {topic: payload for topic, payload in blob.messages.items() if topic != denied}
        async with broker, board(broker.config) as made:
            with pytest.raises(Refused, match=f"the broker denies the subscription to {denied}: Not authorized"):
                await made.fetcher.blob(blob.wanted)

    asyncio.run(inside())


def test_a_slow_chunk_is_no_silence(monkeypatch):
    """A single chunk that takes longer than any silence may last: its bytes are counted as they arrive."""
    monkeypatch.setattr(transfer, "STALL_S", 0.3)

    async def inside():
        blob = Blob(1, 65536)
        async with ScriptedBroker(retained=blob.messages) as broker:
            proxy = RecordingProxy(broker.config.url.port, bytes_per_s=16_000)
            async with proxy, board(proxy.config, timeout_s=1) as made:
                await made.fetcher.blob(blob.wanted)
                assert asked_times(proxy, blob) == [1]
                assert proxy.connections == 1

    asyncio.run(inside())


def test_counts_belong_to_the_update_that_is_fetched():
    blob = Blob(4)

    async def inside():
        envelope = b"an envelope"
        first, second = hashlib.sha256(envelope).digest(), bytes(32)
        retained = blob.messages | {topics.manifest(first): envelope}
        async with ScriptedBroker(retained=retained) as broker, board(broker.config) as made:
            await made.fetcher.manifest(first)
            await made.fetcher.blob(blob.wanted)
            assert made.fetcher.progress(first) == (4, 4)
            assert made.fetcher.progress(second) == (0, 0)
            fetching = asyncio.create_task(made.fetcher.manifest(second))
            await broker.until(lambda: any(topics.manifest(second) in each.topics for each in broker.of(SUBSCRIBE)))
            assert made.fetcher.progress(second) == made.fetcher.progress(first) == (0, 0)
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)

    asyncio.run(inside())


@pytest.mark.parametrize(("part", "most"), [(transfer.Part("a", 100), 101), (transfer.Part("a", 100, 5000), 5001)])
def test_a_broker_that_sends_megabytes_for_a_small_part_fills_no_memory_with_them(part, most):
    async def main():
        source = SimpleNamespace(begin=lambda topic: None, end=lambda topic: None, sessions=1, part_bytes=0)
        reading = transfer.Transfer(source, transfer.Pace(), 1.0, Reason.CHUNK_MISSING)
        sizes: list[int] = []

        async def take(arrived) -> None:
            ((_, payload),) = arrived
            sizes.append(len(payload))

        task = asyncio.ensure_future(reading.run([part], take))
        await asyncio.sleep(0)
        reading.arrived("a", bytes(1 << 20))
        assert [len(payload) for _, payload in reading._arrived] == [most]
        await task
        assert sizes == [most]

    asyncio.run(main())

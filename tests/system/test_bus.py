"""Modules that talk to each other: over their workers' deaths, over power cuts, without a link and with one that comes and goes."""

import asyncio
import contextlib
import json
import random
import sqlite3
import threading
import time

import pytest

from tests.support.lab import Mosquitto
from tests.support.recording_proxy import RecordingProxy
from tests.support.relay import Board, relay
from tests.support.wasmcloud_wat import QUESTION, TOLD, answerer, asker

SAID, DONE = "readings/said", "readings/done"


@pytest.fixture
def board(tmp_path):
    if Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    broker = Mosquitto(tmp_path)
    broker.start()
    opened = Board(tmp_path, broker, proc=0)
    yield opened
    opened.close()


def talk(board: Board, second: bytes) -> None:
    """The first module tells the world and the second what it hears; the second tells the world."""
    board.start()
    board.run("first", relay(SAID, "local/step"), ["cmd"], ["readings/#", "local/#"])
    board.run("second", second, ["local/+"], ["readings/#"])


def payloads(board: Board, topic: str) -> list[bytes]:
    """What came to the broker on a topic, in order, each once."""
    found = [each.payload for _, each in sorted(board.observer.messages.items()) if each.topic == board.topic(topic)]
    return list(dict.fromkeys(found))


def publish_until(board: Board, payload: bytes, topic: str) -> None:
    """Publishes an event again and again until it has come through: an agent that was just started may not have subscribed yet."""
    end = time.monotonic() + board.patience_s
    while payload not in payloads(board, topic):
        assert time.monotonic() < end, f"{payload!r} does not come on {topic}"
        board.observer.publish(board.topic("cmd"), payload)
        time.sleep(0.2)


def test_a_worker_that_dies_loses_no_message_of_another_module(board):
    trap = "(global.set $n (i32.add (global.get $n) (i32.const 1))) (if (i32.eq (global.get $n) (i32.const 3)) (then unreachable))"
    second = relay(DONE, before=trap, more="(global $n (mut i32) (i32.const 0))")
    talk(board, second)
    for number in range(5):
        board.observer.publish(board.topic("cmd"), bytes((number,)))
    board.observer.wait(lambda: len(payloads(board, DONE)) == 5, board.patience_s, "all five")
    assert payloads(board, DONE) == [bytes((number,)) for number in range(5)]
    board.observer.wait(lambda: board.of("second").counters.get("module_traps") == 2, board.patience_s, "two deaths in the report")


def test_what_a_module_has_said_before_a_power_cut_is_handled_by_the_other_after_it(board):
    """What the first says to the world and to the second is on disk in one transaction: the second must handle whatever the world
    has seen, in the same order.
    """
    talk(board, relay(DONE))
    chance = random.Random(7)
    for round_ in range(4):
        publish_until(board, round_.to_bytes(), SAID)
        for number in range(100):
            board.observer.publish(board.topic("cmd"), round_.to_bytes() + number.to_bytes())
        count = len(payloads(board, SAID)) + chance.randrange(10, 60)
        board.observer.wait(
            lambda count=count: len(payloads(board, SAID)) >= count, board.patience_s, "some of what the first says"
        )
        board.kill()
        board.start()
    publish_until(board, b"last", DONE)
    # Instances take turns at sending: what the second said of the last may come before the first's own message.
    board.observer.wait(lambda: b"last" in payloads(board, SAID), board.patience_s, "the last of what the first says")
    said = payloads(board, SAID)
    assert payloads(board, DONE) == said
    assert said == [*sorted(said[:-1]), b"last"]


def test_modules_talk_without_a_link_and_the_world_hears_of_it_later(board):
    board.settings["proc"] = 0.05
    board.start()
    board.run("first", relay("local/step"), ["sys/loadavg"], ["local/#"])
    board.run("second", relay(DONE), ["local/step"], ["readings/#"])
    board.observer.wait(lambda: payloads(board, DONE), board.patience_s, "a first message")
    board.broker.stop()
    from_s = time.time()
    end = time.monotonic() + board.patience_s
    while len(said := kept(board, "second", from_s)) < 5:
        assert time.monotonic() < end, f"without a broker the second says only {said}"
        time.sleep(0.05)
    to_s = time.time()
    board.broker.start()

    def later() -> bool:
        return any(each.time_s > to_s for each in board.observer.messages.values())

    board.observer.wait(
        lambda: said <= board.observer.messages.keys() and later(), board.patience_s, "what was said without a broker"
    )


def kept(board: Board, instance: str, from_s: float) -> set[int]:
    """Numbers of what an instance has said from a time on and the broker does not have yet, as they are on disk."""
    with contextlib.closing(sqlite3.connect(f"file:{board.folder}/store/agent.sqlite?mode=ro", uri=True)) as database:
        found = database.execute("select number from outbox where instance = ? and time_s > ?", (instance, from_s)).fetchall()
    return {number for (number,) in found}


class Flapping:
    """A wire between board and broker, on a thread, that can be cut."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._proxy = RecordingProxy(port)
        self._ended = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._thread.start()
        assert self._started.wait(60)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self._proxy.config.url.port}"

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._proxy.drop)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(60)
        self._loop.close()

    async def _run(self) -> None:
        async with self._proxy:
            self._started.set()
            await self._ended.wait()


def test_questions_get_their_answers_with_the_link_up_down_and_flapping(board, modules):
    """The example of docs/reference/topics.md."""
    wire = Flapping(board.broker.port)
    usual = board.config
    board.config = lambda _, store: usual(wire.url, store)
    board.settings["proc"] = 0.05
    try:
        board.start()
        board.run("memory", (modules / "memory.wasm").read_bytes(), ["sys/meminfo", "local/memory/ask"], ["local/#"])
        says = ["local/memory/ask", "readings/#", "advice/#"]
        board.run("advisor", (modules / "advisor.wasm").read_bytes(), ["sys/loadavg", "local/advisor/answer"], says)
        advised(board, 10)
        for _ in range(3):  # flapping: whatever is on its way is lost with the connection, and sent again
            wire.cut()
            advised(board, advised(board) + 10)
        for _ in range(30):  # down
            wire.cut()
            time.sleep(0.05)
        last = advised(board, advised(board) + 30)
    finally:
        board.close()
        wire.close()
    questions = [json.loads(each.payload)["question"] for _, each in sorted(board.observer.messages.items()) if _is_advice(each)]
    assert questions == list(range(questions[0], questions[0] + len(questions)))  # none lost, none answered twice
    assert len(questions) >= last


def _is_advice(message) -> bool:
    return message.topic.endswith("/advice/load")


def advised(board: Board, count: int = 0) -> int:
    """How much advice has come; waits until it is so much."""

    def come() -> int:
        return sum(map(_is_advice, list(board.observer.messages.values())))

    board.observer.wait(lambda: come() >= count, board.patience_s, f"{count} pieces of advice")
    return come()


@pytest.mark.parametrize("durable", [True, False])
def test_a_module_asks_another_one_and_hears_the_answer(board, durable):
    board.settings["extra"] = f"[bus]\ndurable = {str(durable).lower()}\n"
    board.start()
    board.run("answerer", answerer(), [QUESTION], ["local/answers/#"])
    board.run("asker", asker(), ["in/#", "local/answers/#"], [QUESTION, "readings/#"])
    board.observer.publish(board.topic("in/door"), b"open?")
    board.observer.wait(lambda: b"open?" in payloads(board, TOLD), board.patience_s, "the answer")

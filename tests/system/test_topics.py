"""A board's topics as the rest of the world sees them: with mosquitto's own tools."""

import re
import shlex
import shutil
import subprocess

import pytest

from tests.conftest import ROOT
from tests.support.lab import DEVICE, Mosquitto
from tests.support.relay import Board, relay


@pytest.fixture
def board(tmp_path):
    if Mosquitto.command() is None or shutil.which("mosquitto_sub") is None:
        pytest.skip("mosquitto or its tools (mosquitto-clients) are not installed")
    broker = Mosquitto(tmp_path)
    broker.start()
    opened = Board(tmp_path, broker, proc=0)
    yield opened
    opened.close()


def shown() -> tuple[list[str], list[list[str]]]:
    """The command on the page that listens, and those that send, for this board and its group."""
    page = (ROOT / "docs/reference/topics.md").read_text()
    text = re.search(r"<!-- mosquitto's tools[^\n]*\n```sh\n(.*?)```", page, re.DOTALL)[1].replace("roof-1", DEVICE)
    listens, *sends = (shlex.split(line, comments=True) for line in text.splitlines())
    assert listens[0] == "mosquitto_sub"
    assert [each[0] for each in sends] == ["mosquitto_pub", "mosquitto_pub"]
    return listens, sends


def said_until(board: Board, count: int) -> list[list[str]]:
    """What mosquitto_sub prints of `count` messages, in words, while mosquitto_pub sends the page's commands again and again."""
    where = ["-h", "127.0.0.1", "-p", str(board.broker.port)]
    listens, sends = shown()
    elsewhere = ["mosquitto_pub", "-V", "mqttv5", "-t", "devices/other/cmd/valve", "-m", "not-ours"]
    command = [each for each in listens if each != "-v"] + ["-C", str(count), "-W", "30", "-F", "%t %p %P"]
    with subprocess.Popen([*command, *where], stdout=subprocess.PIPE, text=True) as listening:
        while listening.poll() is None:
            for each in (*sends, elsewhere):
                subprocess.run([*each, *where], check=True)
        assert listening.stdout is not None
        return [line.split() for line in listening.stdout]


def test_mosquittos_tools_read_what_modules_say_and_send_them_commands(board):
    board.start()
    board.run("valve", relay("readings/valve/position"), ["cmd/valve"], ["readings/#"])
    said = said_until(board, 6)
    assert {words[0] for words in said} == {f"devices/{DEVICE}/readings/valve/position"}
    assert {words[1] for words in said} == {"open", "shut"}
    properties = [dict(each.split(":", 1) for each in words[2:] if ":" in each) for words in said]
    assert {(each["board"], each["instance"]) for each in properties} == {(DEVICE, "valve")}
    numbers = [int(each["number"]) for each in properties]
    assert numbers == list(range(numbers[0], numbers[0] + 6))


def test_what_a_module_says_reaches_another_on_the_board_once_and_not_again_from_the_broker(board):
    """On mosquitto, which has No Local. The second module subscribes to what the first says, and to commands."""
    board.start()
    board.run("first", relay("readings/first"), ["cmd/first"], ["readings/#"])
    board.run("second", relay("readings/second"), ["readings/first", "cmd/second"], ["readings/#"])
    for number in range(20):
        board.observer.publish(board.topic("cmd/first"), str(number).encode())
    board.observer.publish(board.topic("readings/first"), b"from outside")  # by another client: this one is heard

    def heard() -> list[bytes]:
        said = [each for _, each in sorted(board.observer.messages.items()) if each.instance == "second"]
        return [each.payload for each in said]

    board.observer.wait(lambda: len(heard()) >= 21, board.patience_s, "what the second module heard")
    board.observer.publish(board.topic("cmd/second"), b"last")
    board.observer.wait(lambda: b"last" in heard(), board.patience_s, "an answer to the last")
    assert sorted(heard()) == sorted([*(str(number).encode() for number in range(20)), b"from outside", b"last"])
    assert [each for each in heard() if each.isdigit()] == [str(number).encode() for number in range(20)]

"""What the world sends while an agent restarts in good order, and what its modules had not handled yet."""

import pytest

from tests.support.lab import Mosquitto
from tests.support.relay import Board, relay

SLOW = """(i32.store (i32.const 400) (i32.const 1000000))
  (loop $wait (i32.store (i32.const 400) (i32.sub (i32.load (i32.const 400)) (i32.const 1)))
    (br_if $wait (i32.load (i32.const 400))))"""


@pytest.fixture
def board(tmp_path):
    if Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    broker = Mosquitto(tmp_path)
    broker.start()
    opened = Board(tmp_path, broker, proc=0)
    yield opened
    opened.close()


def send(board: Board, numbers: range) -> None:
    """Commands at QoS 1, each acknowledged by the broker."""
    for number in numbers:
        board.observer.publish(board.topic("cmd/valve"), str(number).encode())


def heard(board: Board) -> list[int]:
    """What the module has said of them, in order; what it was told twice, once."""
    return list(dict.fromkeys(int(each.payload) for _, each in sorted(board.observer.messages.items())))


def test_commands_sent_while_the_agent_restarts_wait_at_the_broker(board):
    board.start()
    board.run("valve", relay("readings/valve"), ["cmd/valve"], ["readings/#"])
    for start in (0, 30):  # the session is handed on more than once
        send(board, range(start, start + 10))
        board.stop()
        send(board, range(start + 10, start + 20))
        board.start()
        send(board, range(start + 20, start + 30))
    board.observer.wait(lambda: len(heard(board)) >= 60, board.patience_s, "an answer to each command")
    assert heard(board) == list(range(60))


def test_events_that_wait_when_the_agent_stops_are_handled_when_it_starts_again(board):
    board.start()
    board.run("valve", relay("readings/valve", before=SLOW), ["cmd/valve"], ["readings/#"])
    send(board, range(60))
    board.observer.wait(lambda: heard(board), board.patience_s, "an answer to the first command")
    board.stop()
    assert len(heard(board)) < 60, "the module is too quick for this test"
    board.start()
    board.observer.wait(lambda: len(heard(board)) >= 60, board.patience_s, "an answer to each command")
    assert heard(board) == list(range(60))

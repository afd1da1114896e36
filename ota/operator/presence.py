"""Reads back what was published, under exact topics, and checks that the broker keeps it."""

from collections.abc import Callable, Iterable, Sequence

from ota.operator.broker import Broker, BrokerError

__all__ = ["NotKeptError", "missing", "put", "read"]

Messages = Sequence[tuple[str, bytes]]


class NotKeptError(BrokerError):
    """The broker acknowledged messages and does not have them."""


def read(broker: Broker, wanted: Iterable[str], each_bytes: int) -> dict[str, bytes | None]:
    """What is retained under exact topics, each of about `each_bytes`. Raises BrokerError when one can't be known."""
    found = {}
    for answer in broker.retained(wanted, each_bytes=each_bytes):
        if answer.unknown:
            raise BrokerError(f"what is retained under {answer.topic} can't be known: {answer.unknown}")
        found[answer.topic] = answer.payload
    return found


def missing(broker: Broker, messages: Messages, progress: Callable[[int], None] = lambda _: None) -> list[tuple[str, bytes]]:
    """Those that the broker does not have, or has otherwise; in the same order. Raises BrokerError when one can't be known."""
    wanted = dict(messages)
    each_bytes = max((len(payload) for payload in wanted.values()), default=0)
    there = set()
    for answer in broker.retained(wanted, each_bytes=each_bytes):
        if answer.unknown:
            raise BrokerError(f"what is retained under {answer.topic} can't be known: {answer.unknown}")
        progress(len(wanted[answer.topic]))
        if answer.payload == wanted[answer.topic]:
            there.add(answer.topic)
    return [(topic, payload) for topic, payload in messages if topic not in there]


def put(broker: Broker, messages: Messages, progress: Callable[[int, int], None] = lambda _, __: None) -> None:
    """Publishes retained messages, in order, and reads them back; `progress` gets how many bytes of how many are done, of both.

    Raises NotKeptError when the broker does not keep them, BrokerError.
    """
    done, total = 0, 2 * sum(len(payload) for _, payload in messages)

    def advance(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    broker.publish_all(messages, advance)
    lost = missing(broker, messages, advance)
    if lost:
        raise NotKeptError(
            f"the broker acknowledged {len(messages)} retained messages and does not keep {len(lost)} of them, such as"
            f" {lost[0][0]}: `ota broker check` shows what it keeps"
        )

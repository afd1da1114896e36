"""Who takes events: the one thing that the broker's side knows of an instance."""

from typing import Protocol


class Inbox(Protocol):
    """An instance, as far as delivery is concerned."""

    @property
    def name(self) -> str:
        """The instance's name."""

    @property
    def filters(self) -> tuple[str, ...]:
        """What its module subscribes to now, or will again when it is started once more."""

    def offer(self, topic: str, payload: bytes, hops: int = 0, bus_number: int = 0, sender: str = "", reply_to: str = "") -> None:
        """Queues an event, if the module wants it. `bus_number`: its row in the durable bus, 0 for none. `sender`: whose it is.
        `reply_to`: the topic on which an answer is waited for, "" for none.
        """

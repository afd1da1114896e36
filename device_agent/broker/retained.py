"""Which retained messages were handled before: a broker sends them again after each reconnection."""

from collections import OrderedDict

from device_agent.broker.packets import Arrived
from ota.formats import topics

TOPICS_KEPT = 1024
TOPIC_CHARACTERS = 512  # of a topic that is remembered: those of modules have 256, and stand behind a template's prefix


class Handled:
    """The digest of the last message of each topic, for the topics that were used last."""

    def __init__(self) -> None:
        self._digests: OrderedDict[str, bytes] = OrderedDict()

    def repeats(self, arrived: Arrived, digest: bytes) -> bool:
        """Whether a message is a retained one, sent because of a subscription, whose content was the topic's last already."""
        if len(arrived.topic) > TOPIC_CHARACTERS:
            return False
        known = self._digests.get(arrived.topic)
        self._digests[arrived.topic] = digest
        self._digests.move_to_end(arrived.topic)
        if len(self._digests) > TOPICS_KEPT:
            self._digests.popitem(last=False)
        return arrived.retained and known == digest

    def forget(self, filter_: str) -> None:
        """A new subscription begins: what is retained below it is to be handled."""
        for topic in [each for each in self._digests if topics.covers(filter_, each)]:
            del self._digests[topic]

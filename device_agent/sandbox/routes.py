"""Where messages that pass a filter go, and where its answers go: "raw/#=clean/#, in/door=out/door"."""

from dataclasses import dataclass

from ota.errors import OtaError
from ota.formats import topics

ROUTES = 32


class RoutesError(OtaError):
    """Routes that can't be read."""


@dataclass(frozen=True)
class Routes:
    """Pairs of topics, or of filters that end with /#: what # stood for is carried over. The first that fits counts."""

    passes: tuple[tuple[str, str], ...] = ()
    answers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, passes: str, answers: str) -> "Routes":
        """From a filter's configuration. Raises RoutesError."""
        return cls(_pairs(passes, "routes"), _pairs(answers, "answers"))

    def target(self, topic: str) -> str:
        """Where a message on a topic goes; empty where nothing says so."""
        return _mapped(self.passes, topic)

    def answer(self, topic: str) -> str:
        """Where an answer to a message on a topic goes; empty where nothing says so."""
        return _mapped(self.answers, topic)

    def lead_to(self, topic: str) -> bool:
        """Whether messages that pass may go there."""
        return any(topics.covers(target, topic) for _, target in self.passes)


def _pairs(text: str, what: str) -> tuple[tuple[str, str], ...]:
    parts = [each.strip() for each in text.split(",") if each.strip()]
    if len(parts) > ROUTES:
        raise RoutesError(f"{what}: {len(parts)} routes, the limit is {ROUTES}")
    return tuple(_pair(each, what) for each in parts)


def _pair(text: str, what: str) -> tuple[str, str]:
    source, equals, target = (each.strip() for each in text.partition("="))
    plain = topics.is_topic(source) and topics.is_topic(target)
    wide = [each.endswith("/#") and topics.is_topic(each.removesuffix("/#")) for each in (source, target)]
    if not equals or not (plain or all(wide)):
        raise RoutesError(f"{what}: {text[:100]!r} is no route such as in/door=out/door or raw/#=clean/#")
    if topics.meet(source, target):
        raise RoutesError(f"{what}: {text[:100]!r} would come back to the filter for ever")
    return source, target


def _mapped(pairs: tuple[tuple[str, str], ...], topic: str) -> str:
    for source, target in pairs:
        if source == topic:
            return target
        if source.endswith("/#") and (topic + "/").startswith(source[:-1]):  # MQTT: # stands for nothing, too
            return target[:-2] + topic.removeprefix(source[:-2])
    return ""

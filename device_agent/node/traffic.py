"""What instances say and hear: the router, what it writes down, and what sends it to the broker."""

import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from device_agent.broker.link import Link
from device_agent.broker.outbox import Batches, Delivery, Outbox
from device_agent.broker.outcomes import Outcomes
from device_agent.broker.router import Router, Routes
from device_agent.broker.statements import Statements
from device_agent.node.config import Config
from device_agent.storage.store import Bounds, Store
from ota.formats import signed_report, topics
from ota.formats.report import Message, encode_messages

__all__ = ["Traffic"]


@dataclass(frozen=True)
class Traffic:
    """One for a board. `outbox` is None on a board that works alone."""

    store: Store
    outcomes: Outcomes
    router: Router
    outbox: Delivery | None

    @classmethod
    def of(
        cls,
        config: Config,
        store: Store,
        on_writer: Callable[..., Awaitable[Any]],
        link: Link | None,
        counters: Counter[str],
        statements: Statements,
    ) -> "Traffic":
        """As the configuration says."""
        bus_of = {name: (each.event_queue, each.event_queue_bytes) for name in config.instances for each in [config.policy(name)]}
        bounds = Bounds(config.outbox_messages, config.outbox_bytes, config.event_queue, config.event_queue_bytes, bus_of)
        outcomes = Outcomes(store, on_writer, bounds, counters)
        names = {"device": config.device, "group": config.group, "board": config.board}
        routes = Routes(names, config.topics.publish, config.topics.subscribe, config.bus.hops, config.bus.durable)
        router = Router(routes, link, outcomes, counters)
        outbox: Delivery | None = None
        if link is not None and config.topics.batches:

            async def signed(messages: list[Message]) -> bytes:
                encode = functools.partial(encode_messages, config.device, messages=messages)
                return await statements.sign(signed_report.TELEMETRY, encode)

            outbox = Batches(store, on_writer, link, outcomes.forget, counters, topics.telemetry(config.device), signed)
        elif link is not None:
            outbox = Outbox(
                store,
                on_writer,
                link,
                outcomes.forget,
                counters,
                config.device,
                lambda message: router.broker_topic(message.instance, message.topic),
                lambda message: router.response_topic(message.instance, message.reply_to),
            )
        if outbox is not None:
            outcomes.on_messages = outbox.written
        return cls(store, outcomes, router, outbox)

    async def restore(self, on_writer: Callable[..., Awaitable[Any]]) -> None:
        """Hands over what instances had said to each other before a restart. Before any of them runs."""
        await self.router.restore(lambda after, count: on_writer(self.store.bus, after, count))

    def work(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """What is to be done as long as the agent runs."""
        return (self.outcomes.write(), *([self.outbox.deliver()] if self.outbox is not None else []))

    def online(self) -> None:
        """The link is up again."""
        if self.outbox is not None:
            self.outbox.poke()

"""Edges of a GPIO line, from the kernel's character device (its second interface, Linux 5.10 and later), by libgpiod."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from device_agent.sources.records import readable
from device_agent.sources.settings import Settings
from device_agent.sources.source import Sink
from ota.formats.capabilities import Capabilities, split_line
from ota.formats.reasons import Refused

BUFFERED = 256  # edges that the kernel keeps for us; those beyond are lost, which their numbers show
AT_ONCE = 64
QUIET_S = 60.0


@dataclass(frozen=True)
class GpioEdges:
    """One event for each edge: the level after it, a space, and the kernel's monotonic time of it in nanoseconds."""

    line: str  # chip and offset, as in grants
    topic: str
    edge: str = "both"
    bias: str = "as-is"
    debounce_ms: float = 0.0

    @property
    def devices(self) -> frozenset[str]:
        """The line."""
        return frozenset({f"/dev/{self.line}"})

    async def run(self, sink: Sink) -> None:
        """Raises OSError when the line cannot be had, or its chip has gone."""
        gpiod, request = await asyncio.to_thread(self._request)  # an expander is asked over a slow bus
        rising, number = gpiod.EdgeEvent.Type.RISING_EDGE, 0
        try:
            while True:
                if await readable(request.fd, QUIET_S):
                    for event in request.read_edge_events(AT_ONCE):
                        sink.drop(event.line_seqno - number - 1)
                        number = event.line_seqno
                        await sink.put(self.topic, b"%d %d" % (event.event_type == rising, event.timestamp_ns))
        finally:
            request.release()

    def _request(self) -> tuple[Any, Any]:
        try:
            import gpiod
        except ImportError:
            why = "libgpiod's Python package (gpiod 2) is not installed on this board"
            raise OSError(f"GPIO line {self.line}: {why}") from None
        chip, offset = split_line(self.line)
        try:
            settings = gpiod.LineSettings(
                direction=gpiod.line.Direction.INPUT,
                edge_detection=gpiod.line.Edge[self.edge.upper()],
                bias=gpiod.line.Bias[self.bias.upper().replace("-", "_")],
                debounce_period=timedelta(milliseconds=self.debounce_ms),
            )
            request = gpiod.request_lines(
                f"/dev/{chip}", consumer="wamr-ota", config={offset: settings}, event_buffer_size=BUFFERED
            )
        except (OSError, ValueError, AttributeError) as error:
            raise OSError(f"GPIO line {self.line}: {error}") from error
        return gpiod, request


def parse(settings: Settings) -> GpioEdges:
    """From `[sources.NAME]`."""
    line = settings.text("line", expected="a line such as gpiochip0:17")
    try:
        Capabilities.parse({"gpio": {"inputs": [line]}}, "")
    except Refused:
        raise settings.wrong("line", "a line such as gpiochip0:17") from None
    return GpioEdges(
        line,
        settings.topic(),
        settings.text("edge", "both", pattern="both|rising|falling", expected='"both", "rising" or "falling"'),
        settings.text(
            "bias",
            "as-is",
            pattern="as-is|disabled|pull-up|pull-down",
            expected='"as-is", "disabled", "pull-up" or "pull-down"',
        ),
        settings.number("debounce_ms", 0.0, 0.0, 10_000.0),
    )

"""The kinds of sources, and `[sources]` of agent.toml read with them."""

from collections.abc import Callable, Mapping
from typing import Any

from device_agent.sources import datagram, file, gpio, proc, serial_line
from device_agent.sources.settings import Settings
from device_agent.sources.source import Source, SourceError
from ota.formats.fields import is_name

__all__ = ["KINDS", "SOURCES", "parse", "parse_all"]

SOURCES = 32  # of one board, at most
KINDS: dict[str, Callable[[Settings], Source]] = {
    "proc": proc.parse,
    "serial": serial_line.parse,
    "gpio": gpio.parse,
    "file": file.parse,
    "datagram": datagram.parse,
}


def parse(name: str, table: Any) -> Source:
    """One source, from its table `[sources.NAME]`. Raises SourceError naming the setting."""
    if not is_name(name) or not isinstance(table, Mapping):
        raise SourceError(
            f"sources.{name} must be a section [sources.NAME] with a kind; a name has 1 to 64 letters, digits, - _ or ."
        )
    settings = Settings(name, table)
    kind = settings.text("kind", pattern="|".join(KINDS), expected=f"one of {', '.join(KINDS)}")
    source = KINDS[kind](settings)
    settings.finish()
    return source


def parse_all(tables: Any) -> dict[str, Source]:
    """All sources by name. Raises SourceError, also for a device that two of them would hold."""
    if not isinstance(tables, Mapping):
        raise SourceError("sources must be sections [sources.NAME]")
    if len(tables) > SOURCES:
        raise SourceError(f"sources has {len(tables)} sections, the limit is {SOURCES}")
    found = {name: parse(name, table) for name, table in tables.items()}
    holders: dict[str, str] = {}
    for name, source in found.items():
        for device in source.devices:
            if (other := holders.setdefault(device, name)) != name:
                raise SourceError(f"sources.{name} and sources.{other} both hold {device}")
    return found

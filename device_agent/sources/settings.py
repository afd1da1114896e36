"""The settings of one source: a table of agent.toml, read field by field, each error naming the setting."""

import re
from collections.abc import Mapping
from typing import Any

from device_agent.sources.source import SourceError
from ota.formats import topics
from ota.formats.text import nearest

__all__ = ["Settings"]

PREFIX = "sys/"  # what modules may not publish: an event below it is always the board's own
RECORD_BYTES, RECORD_LIMIT_BYTES = 4096, 65536
DELIMITER_CHARACTERS = 16


class Settings:
    """One table. Every getter raises SourceError; `finish` does for a setting that no getter asked for."""

    def __init__(self, name: str, table: Mapping[str, Any]) -> None:
        self._name, self._table = name, table
        self._known: set[str] = set()

    def wrong(self, key: str, expected: str) -> SourceError:
        """The error for a setting that is not what it must be."""
        return SourceError(f"sources.{self._name}.{key} must be {expected}")

    def text(self, key: str, default: str | None = None, *, pattern: str = "(?s:.+)", expected: str = "text") -> str:
        """Text that the pattern matches as a whole; without a default it must be there."""
        self._known.add(key)
        if key not in self._table:
            if default is None:
                raise SourceError(f"sources.{self._name}.{key} is missing: it must be {expected}")
            return default
        value = self._table[key]
        if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
            raise self.wrong(key, expected)
        return value

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """A number from low to high."""
        self._known.add(key)
        value = self._table.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise self.wrong(key, f"a number from {low:g} to {high:g}")
        return float(value)

    def topic(self) -> str:
        """The topic of its events: below sys/, its name by default."""
        value = self.text("topic", PREFIX + self._name)
        if not topics.is_topic(value) or not value.startswith(PREFIX) or value == PREFIX:
            raise self.wrong("topic", "a topic below sys/ without wildcards")
        return value

    def path(self, key: str) -> str:
        """An absolute path."""
        return self.text(key, pattern=r"/[^\0\n]{1,200}", expected="an absolute path")

    def delimiter(self, *, may_be_empty: bool) -> bytes:
        """What stands between two records; each character is the byte of its number (ISO 8859-1)."""
        least = 0 if may_be_empty else 1
        value = self.text(
            "delimiter",
            "\n",
            pattern=rf"[\x00-\xff]{{{least},{DELIMITER_CHARACTERS}}}",
            expected=f"{least} to {DELIMITER_CHARACTERS} characters up to U+00FF",
        )
        return value.encode("latin-1")

    def record_bytes(self) -> int:
        """The longest record."""
        return int(self.number("record_bytes", RECORD_BYTES, 1, RECORD_LIMIT_BYTES))

    def finish(self) -> None:
        """Raises SourceError for a setting that this kind does not have."""
        for key in self._table:
            if key not in self._known:
                where = f"sources.{self._name}.{key}"
                raise SourceError(f"there is no setting {where} for a source of this kind{nearest(key, self._known)}")

"""What the library and brokers say of what went wrong: as text, and as reason codes."""

import contextlib
import logging
from collections.abc import Callable

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

__all__ = ["FAILURE", "errors_of", "reason_of", "why"]

FAILURE = 0x80  # the lowest reason code that is a failure (MQTT 5, section 2.4)


def errors_of(take: Callable[[str], None]) -> logging.Logger:
    """A logger for errors alone: paho would write a line for each packet to whoever listens to its log."""

    class Errors(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            take(record.getMessage())

    logger = logging.Logger("paho", logging.ERROR)  # of one connection, and gone with it
    logger.addHandler(Errors())
    return logger


def why(properties: Properties | None) -> str:
    """The reason string among a packet's properties, behind a space."""
    text = str(getattr(properties, "ReasonString", ""))[:200]
    return f" ({text})" if text else ""


def reason_of(code: int) -> ReasonCode:
    """A PUBACK's failure. Brokers use codes of DISCONNECT there too; one that has no name is an unspecified error."""
    for kind in (PacketTypes.PUBACK, PacketTypes.DISCONNECT):
        with contextlib.suppress(KeyError, ValueError):
            return ReasonCode(kind, identifier=code)
    return ReasonCode(PacketTypes.PUBACK, identifier=FAILURE)

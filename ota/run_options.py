"""Options of running one module in this process: those of `ota run` are those of `device-agent run`, to which it hands over."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ota.formats.capabilities import FUNCTIONS
from ota.formats.text import nearest
from ota.formats.topics import is_topic

__all__ = ["add_run_options"]

MOST_TICKS = 1_000_000


def add_run_options(run: argparse.ArgumentParser) -> None:
    """Adds them, with what their values may be."""
    _add_values(run, "--event", "TOPIC=PAYLOAD", "an event; may be repeated; @FILE stands for what a file holds", _event)
    _add_values(run, "--config", "KEY=VALUE", "its configuration; may be repeated", _assignment)
    run.add_argument(
        "--ticks", type=_ticks, default=0, metavar="N", help="after the events, call its timer N times: each is told tick_ms more"
    )
    run.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="begin with the state and the keys in FILE, if it is there, and leave in it what there is at the end: for the next "
        "run, or the next version",
    )
    run.add_argument("--trace", action="store_true", help="show each call of a capability")
    _add_values(run, "--deny", "CAPABILITY", "do not grant this; may be repeated", _capability)
    run.add_argument(
        "--simulate", action="store_true", help="GPIO lines and serial ports that are not there: shows what is written"
    )
    _add_values(run, "--device", "NAME=VALUE", "likewise, with a line's level or what arrives at a port", _assignment)
    _add_values(run, "--arg", "TEXT", "of a WASI command: an argument; may be repeated", str)
    _add_values(run, "--env", "NAME=VALUE", "of a WASI command: a variable; may be repeated", _assignment)
    _add_values(run, "--dir", "HOST[::GUEST]", "of a WASI command: a folder it may use; may be repeated", str)
    run.add_argument("--json", action="store_true", help="machine-readable results")


def _add_values(run: argparse.ArgumentParser, option: str, metavar: str, about: str, kind: Callable[[str], str]) -> None:
    run.add_argument(option, type=kind, action="append", default=[], metavar=metavar, help=about)


def _event(text: str) -> str:
    topic, equals, _ = text.partition("=")
    if not equals or not is_topic(topic.encode(errors="surrogateescape").decode(errors="replace")):
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is not TOPIC=PAYLOAD or TOPIC=@FILE, with a topic without + and #")
    return text


def _assignment(text: str) -> str:
    name, equals, _ = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return text


def _capability(text: str) -> str:
    if text not in FUNCTIONS:
        raise argparse.ArgumentTypeError(f"there is no capability {text}{nearest(text, FUNCTIONS)}: {', '.join(FUNCTIONS)}")
    return text


def _ticks(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:8]) <= MOST_TICKS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MOST_TICKS}")
    return int(text)

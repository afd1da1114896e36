"""Formats calls of capabilities for people: texts instead of addresses, and the result that the module got."""

from collections.abc import Callable
from typing import Any

from device_agent.sandbox.signatures import Failure
from ota.errors import OtaError
from ota.formats.interfaces import LEVELS

SHOWN_BYTES, SHOWN_ITEMS = 200, 16
_PUBLISH, _DEVICE = ("denied", "too-large", "queue-full"), ("denied", "failed")
Read = Callable[[int, int], bytes]


def described(name: str, values: tuple[Any, ...], result: Any, read: Read) -> tuple[list[Any], Any]:
    """Arguments and answer of a call that has returned, as its WIT has them; those of preview 1 and of filters stay numbers."""
    shape = _SHAPES.get(name)
    if shape is None:
        return [_shown(each) for each in values], _shown(result)
    kinds, answer = shape
    shown: list[Any] = []
    rest = [value & 0xFFFFFFFF for value in values]
    for kind in kinds:
        first = rest.pop(0)
        shown.append(_text(read, first, rest.pop(0)) if kind == "text" else LEVELS[first] if kind == "level" else first)
    try:
        return shown, answer(read, rest[0]) if answer is not None else None
    except OtaError as error:  # it pointed outside its memory
        return shown, str(error)


def _shown(value: Any) -> Any:
    """Without bytes and objects."""
    if isinstance(value, bytes):
        return value[:SHOWN_BYTES].decode("utf-8", "backslashreplace") + ("…" if len(value) > SHOWN_BYTES else "")
    if isinstance(value, list | tuple):
        return [_shown(each) for each in value[:SHOWN_ITEMS]]
    if isinstance(value, Failure):
        return f"error {_shown(value.payload)}"
    return value if value is None or isinstance(value, int | str) else getattr(value, "resource", "")


def _text(read: Read, at: int, size: int) -> str:
    try:
        content = read(at, min(size, SHOWN_BYTES))
    except OtaError:
        return f"{size} bytes at {at}"
    return content.decode("utf-8", "backslashreplace") + ("…" if size > SHOWN_BYTES else "")


def _pair(read: Read, at: int) -> str:
    raw = read(at, 8)
    return _text(read, int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:], "little"))


def _either(errors: tuple[str, ...], offset: int, value: Callable[[Read, int], Any]) -> Callable[[Read, int], Any]:
    def answer(read: Read, out: int) -> Any:
        failed = read(out, 1)[0]
        return f"error {errors[read(out + offset, 1)[0]]}" if failed else value(read, out + offset)

    return answer


def _ok(*_: Any) -> str:
    return "ok"


def _flag(read: Read, at: int) -> bool:
    return bool(read(at, 1)[0])


def _told(read: Read, out: int) -> str:
    return f"error {_pair(read, out + 4)}" if read(out, 1)[0] else "ok"


def _option(read: Read, out: int) -> str | None:
    return _pair(read, out + 4) if read(out, 1)[0] else "none"


_SHAPES: dict[str, tuple[tuple[str, ...], Callable[[Read, int], Any] | None]] = {
    "logging.log": (("level", "text"), None),
    "messaging.publish": (("text", "text"), _either(_PUBLISH, 1, _ok)),
    "keyvalue.get": (("text",), _option),
    "keyvalue.set": (("text", "text"), _told),
    "keyvalue.delete": (("text",), _told),
    "config.get": (("text",), _option),
    "random.get": (("number",), _pair),
    "gpio.read": (("text",), _either(_DEVICE, 1, _flag)),
    "gpio.write": (("text", "number"), _either(_DEVICE, 1, _ok)),
    "serial.read": (("text", "number"), _either(_DEVICE, 4, _pair)),
    "serial.write": (("text", "text"), _either(_DEVICE, 1, _ok)),
}

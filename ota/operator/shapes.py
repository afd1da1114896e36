"""What the JSON files of a workspace must look like, so that a damaged one is an error that names the file and the member."""

import re
from typing import Any

__all__ = ["fault"]

_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_INT, _TEXT, _FLAG, _DIGITS = "a whole number", "text", "true or false", "hexadecimal digits"
_INT_OR_NULL = "a whole number or null"
_SIGHTING = {
    **dict.fromkeys(("board_time_s?", "uptime_s?", "after_s?", "before_s?", "read_s?"), _INT),
    **dict.fromkeys(("group?", "home?"), _TEXT),
    "encryption?": _DIGITS,
    "forgotten?": _FLAG,
    "ahead_s?": _INT_OR_NULL,
}
_SIGNER = {
    "key": _DIGITS,
    **dict.fromkeys(("certified_s?", "expires_s?", "counter?", "time_s?", "read_s?"), _INT),
    **dict.fromkeys(("leaf?", "digest?"), _DIGITS),
    "heads?": [(_INT, _DIGITS, _INT)],
    "changed?": (_INT, _DIGITS),
}
_SHAPES: dict[str, Any] = {
    "state.json": {"sequence?": _INT, "signed_s?": _INT, "epochs?": {"*": _INT}},
    "ledger.json": {
        "scopes?": {"*": {"document": _DIGITS, "releases": {"*": [(_DIGITS, {"*": _TEXT})]}, "aborted": [_DIGITS]}},
        "brokers?": {"*": {"scopes?": [_TEXT], "updates?": {"#": [(_DIGITS, _INT)]}}},
    },
    "roster.json": {"boards?": {"*": _SIGHTING}},
    "tokens.json": {
        "#": {
            "secret": _DIGITS,
            "names": _TEXT,
            "count": _INT,
            "expires_s": _INT,
            "group?": _TEXT,
            "made": {"*": {"mark": _DIGITS, "address": _TEXT, "certificate?": _TEXT}},
        }
    },
    "devices/*.json": {
        "certificates?": [
            {
                **dict.fromkeys(("serial", "key", "mark", "parent"), _DIGITS),
                **dict.fromkeys(("from_s", "until_s"), _INT),
                "certificate": _TEXT,
            }
        ]
    },
    "retired.json": {"devices?": {"*": _INT}, "serials?": {"#": (_TEXT, _INT, _INT)}},
    "clones.json": {"*": {"keys": [_DIGITS], "seen_s": _INT}},
    "signers.json": {"boards?": {"*": _SIGNER}},
    "published/index.json": {
        "#": {"module": _TEXT, "version": _TEXT, "sequence": _INT, "content": _DIGITS, "signed_s": _INT},
    },
}
"""By file: a map of members (`?`: may be missing; `*`: any name; `#`: any name in hexadecimal digits), a list of one kind, a
tuple for a list of a fixed length, or a kind of value.

Members that are not named here are not looked at.
"""


def fault(file: str, value: Any) -> str:
    """What is wrong with the content of a file, "" when nothing is. Those of a folder, one for each device, are alike."""
    folder, _, _ = file.rpartition("/")
    return _fault(value, _SHAPES.get(file) or _SHAPES[f"{folder}/*.json"])


def _fault(value: Any, shape: Any, name: str | None = None, items: int = 0) -> str:
    """Of the member of that name, None for the whole; `items` deep in its lists. Words are for a fault only: boards are many."""
    if isinstance(shape, str):
        return "" if _is(value, shape) else f"{_where(name, items)} is not {shape}"
    if isinstance(shape, dict):
        return _map_fault(value, shape, name, items) if isinstance(value, dict) else f"{_where(name, items)} is not an object"
    if not isinstance(value, list) or (isinstance(shape, tuple) and len(value) != len(shape)):
        return f"{_where(name, items)} is not a list" + (f" of {len(shape)}" if isinstance(shape, tuple) else "")
    shapes = shape if isinstance(shape, tuple) else shape * len(value)
    return next((found for each, one in zip(value, shapes, strict=True) if (found := _fault(each, one, name, items + 1))), "")


def _where(name: str | None, items: int) -> str:
    return "an item of " * items + ("its content" if name is None else repr(name))


def _map_fault(value: dict[str, Any], shape: dict[str, Any], name: str | None, items: int) -> str:
    if "#" in shape and (wrong := [each for each in value if not _is(each, _DIGITS)]):
        return f"the name {wrong[0]!r} in {_where(name, items)} is not {_DIGITS}"
    if each_shape := shape.get("#") or shape.get("*"):
        return next((found for key, each in value.items() if (found := _fault(each, each_shape, key))), "")
    for member, one in shape.items():
        key = member.removesuffix("?")
        if key in value:
            if found := _fault(value[key], one, key):
                return found
        elif key == member:
            return f"{_where(name, items)} has no {key!r}"
    return ""


def _is(value: Any, kind: str) -> bool:
    if kind in (_INT, _INT_OR_NULL):
        return type(value) is int or (value is None and kind == _INT_OR_NULL)
    if kind == _FLAG:
        return isinstance(value, bool)
    return isinstance(value, str) and (kind == _TEXT or _HEX.fullmatch(value) is not None)

"""What a module is made of, by locks of package managers: Cargo.lock, package-lock.json, build.zig.zon. Bounded, not trusted."""

import base64
import binascii
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ota.errors import OtaError

__all__ = ["NAMES", "LockError", "Part", "beside", "read"]

LOCK_LIMIT_BYTES, PARTS_LIMIT = 16 << 20, 10_000
NAMES = ("Cargo.lock", "package-lock.json", "build.zig.zon")
_ZIG_TOKEN = re.compile(
    r'\s+|//[^\n]*|(?P<text>"(?:[^"\\\n]|\\.)*")|(?P<name>\.(?:@"[^"\n]*"|\w+))|(?P<sign>[{}=,.])|(?P<word>\w+)'
)


class LockError(OtaError):
    """A lock is missing, too large or not what its name says."""


@dataclass(frozen=True, order=True)
class Part:
    """A package that a module was built with."""

    ecosystem: str  # as package URLs (purl) have it: "cargo", "npm", "generic"
    name: str
    version: str
    digests: tuple[tuple[str, str], ...] = ()  # algorithm as CycloneDX has it, and hexadecimal
    url: str = ""  # where it came from
    development: bool = False  # it was there to build, and is not in the module


def beside(module: Path) -> tuple[Path, ...]:
    """The locks in a module's folder."""
    return tuple(path for name in NAMES if (path := module.parent / name).is_file())


def read(path: Path) -> tuple[Part, ...]:
    """The packages of a lock, in order. Raises LockError."""
    try:
        with path.open("rb") as file:
            data = file.read(LOCK_LIMIT_BYTES + 1)
        if len(data) > LOCK_LIMIT_BYTES:
            raise LockError(f"{path} is larger than {LOCK_LIMIT_BYTES} bytes")
        parts = sorted(set(_READERS[path.name](data.decode())))
    except OSError as error:
        raise LockError(f"{path}: {error.strerror}") from error
    except KeyError:
        raise LockError(f"{path} is none of {', '.join(NAMES)}") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise LockError(f"{path} can't be read: {error}") from None
    if len(parts) > PARTS_LIMIT:
        raise LockError(f"{path} has {len(parts)} packages, the limit is {PARTS_LIMIT}")
    return tuple(parts)


def _cargo(text: str) -> Iterator[Part]:
    for each in tomllib.loads(text).get("package", []):
        source = str(each.get("source", ""))
        if source:  # else it is a package of the workspace: the module itself
            digest = each.get("checksum")
            digests = (("SHA-256", str(digest)),) if digest else ()
            yield Part("cargo", str(each["name"]), str(each["version"]), digests, source)


def _npm(text: str) -> Iterator[Part]:
    for place, each in _table(json.loads(text).get("packages", {})):
        name = str(each.get("name") or place.rpartition("node_modules/")[2])
        if not place or each.get("link"):  # the module itself, or a name for a folder of it
            continue
        digests = tuple(_integrity(word) for word in str(each.get("integrity", "")).split())
        yield Part("npm", name, str(each.get("version", "")), digests, str(each.get("resolved", "")), bool(each.get("dev")))


def _integrity(word: str) -> tuple[str, str]:
    """From the form of subresource integrity, "sha512-<base64>"."""
    algorithm, _, digest = word.partition("-")
    known = {"sha1": "SHA-1", "sha256": "SHA-256", "sha384": "SHA-384", "sha512": "SHA-512"}
    try:
        return known[algorithm], base64.b64decode(digest, validate=True).hex()
    except (KeyError, binascii.Error):
        raise ValueError(f"integrity {word[:40]!r} is not known") from None


def _zig(text: str) -> Iterator[Part]:
    tokens = list(_zig_tokens(text))
    tokens.reverse()
    found = _zig_value(tokens)
    for name, each in _table(found.get("dependencies", {}) if isinstance(found, dict) else {}):
        if "url" in each:
            yield Part("generic", name, str(each.get("hash", "")), url=str(each["url"]))


def _zig_tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        found = _ZIG_TOKEN.match(text, at)
        if found is None:
            raise ValueError(f"{text[at : at + 20]!r} has no place in it")
        at = found.end()
        if found.lastgroup is not None:
            yield found.lastgroup, found[0]


def _zig_value(tokens: list[tuple[str, str]]) -> Any:
    """Takes one value off the end: text, a word, or `.{ … }` as a dictionary (an item without a name has its number)."""
    if not tokens:
        raise ValueError("it ends too early")
    kind, text = tokens.pop()
    if kind == "text":
        return json.loads(text)
    if (kind, text) != ("sign", "."):
        return text
    if not tokens or tokens.pop() != ("sign", "{"):
        raise ValueError("a dot without a bracket")
    items: dict[str, Any] = {}
    while tokens and tokens[-1] != ("sign", "}"):
        name = str(len(items))
        if len(tokens) > 1 and tokens[-1][0] == "name" and tokens[-2] == ("sign", "="):
            name = tokens.pop()[1][1:].removeprefix("@").strip('"')
            tokens.pop()
        items[name] = _zig_value(tokens)
        if tokens and tokens[-1] == ("sign", ","):
            tokens.pop()
    if not tokens:
        raise ValueError("it ends too early")
    tokens.pop()
    return items


def _table(value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, each in value.items():
        if isinstance(each, dict):
            yield str(name), each


_READERS = {"Cargo.lock": _cargo, "package-lock.json": _npm, "build.zig.zon": _zig}

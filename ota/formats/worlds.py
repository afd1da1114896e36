"""Names of interfaces and functions as core modules have them: the Component Model's (BuildTargets.md), in both ways of writing.

    imports   "wasi:io/poll@0.2.3" "poll"           "cm32p2|wasi:io/poll@0.2" "poll"
              "…" "[resource-drop]pollable"         "…" "pollable_drop"
    exports   "wasmcloud:messaging/handler@0.2.0#handle-message"
              "cm32p2|wasmcloud:messaging/handler@0.2|handle-message"

Versions: released ones are compatible as in SemVer (0.2.0 and 0.2.9 may stand side by side), drafts and candidates are themselves.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ota.formats.interfaces import HANDLER, HANDLER_FUNCTION, HANDLER_TYPE, INTERFACES, Interface

__all__ = ["ALLOCATORS", "INITIALISERS", "MEMORIES", "Name", "Plain", "interface_of", "is_known"]
__all__ += ["other_exports", "parse", "plain_exports", "refusal", "run_exports"]

CANONICAL = "cm32p2|"
RUN = "wasi:cli/run"
ALLOCATORS, MEMORIES = ("cabi_realloc", "cm32p2_realloc"), ("memory", "cm32p2_memory")
INITIALISERS = ("_initialize", "cm32p2_initialize", "__wasm_call_ctors")
"""What is called once before anything else, the first that is there: a reactor's; the same by its new name; a bare C program's."""
_NAME = re.compile(r"(?P<name>[a-z][a-z0-9-]*:[a-z0-9-]+/[a-z0-9-]+)(?:@(?P<version>[0-9A-Za-z.+-]+))?")
_NUMBERS = re.compile(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?")
_LATER = re.compile(r"0\.[3-9]|[1-9]")
_ELSEWHERE = {
    "wasi:sockets": "modules have no sockets: they exchange messages (device:module/messaging, wasmcloud:messaging)",
    "wasi:http": "modules have no HTTP: they exchange messages (device:module/messaging, wasmcloud:messaging)",
    "wasi:messaging": "use wasmcloud:messaging@0.2.0 or device:module/messaging",
    "wasi:blobstore": "use wasi:keyvalue, or files by wasi:filesystem",
    "wasmcloud:bus": "a board has no lattice",
    "wasmcloud:secrets": "use wasi:config",
}
"""Why a package is not there and what to do, where there is more to say than that."""


@dataclass(frozen=True)
class Name:
    """The name of an interface in a module."""

    name: str  # "wasi:io/streams"
    version: str  # "" for none
    canonical: bool  # written with "cm32p2|"

    @property
    def package(self) -> str:
        """Such as "wasi:io"."""
        return self.name.partition("/")[0]

    def has(self, version: str) -> bool:
        """Whether it is compatible with a version that boards have."""
        return _track(self.version) == _track(version)


def parse(text: str) -> Name | None:
    """A name of the Component Model; None for any other, such as wasi_snapshot_preview1."""
    canonical = text.startswith(CANONICAL)
    found = _NAME.fullmatch(text.removeprefix(CANONICAL))
    return Name(found["name"], found["version"] or "", canonical) if found else None


def _track(version: str) -> str:
    """What compatible versions share, as "cm32p2" writes it: 1, 0.2, 0.0.3; a draft or candidate has itself."""
    version = version.partition("+")[0]
    found = _NUMBERS.fullmatch(version)
    if found is None:
        return version
    major, minor, patch = (each or "0" for each in found.groups())
    return major if major != "0" else f"0.{minor}" if minor != "0" else f"0.0.{patch}"


@functools.lru_cache(maxsize=256)
def interface_of(module: str) -> Interface | None:
    """The interface that a module imports by this name, None where boards have none, or not this version of it."""
    name = parse(module)
    if name is None:
        return None
    known = (each for each in INTERFACES if each.name == name.name)
    return next((each for each in known if any(name.has(version) for version in each.versions)), None)


def function_of(module: str, function: str) -> str:
    """A function by its name without "cm32p2": there, dropping a resource is written "pollable_drop"."""
    if module.startswith(CANONICAL) and function.endswith("_drop"):
        return f"[resource-drop]{function.removesuffix('_drop')}"
    return function


def is_known(module: str, function: str) -> bool:
    """Whether boards have this function of an interface of this module's."""
    found = interface_of(module)
    return found is not None and function_of(module, function) in found.names


def refusal(module: str, function: str) -> str:
    """Why boards do not have what is imported by this name, and what to do; "" where there is nothing to say."""
    name = parse(module)
    if module.startswith(("[export]", f"{CANONICAL}_ex_")):
        return "a board takes no resources of a module"
    if name is None or is_known(module, function):
        return ""
    if name.package.startswith("wasi:") and _LATER.match(name.version):
        return "boards have WASI 0.2, and no WASI 0.3 (asynchronous): build for wasm32-wasip2"
    versions = [version for each in INTERFACES if each.name == name.name for version in each.versions]
    if versions and interface_of(module) is None:
        return f"boards have it in version {', '.join(each or '(none)' for each in versions)}"
    if versions:
        return "boards do not have this function of it"
    return _ELSEWHERE.get(name.package, "no board has this interface")


@dataclass(frozen=True)
class Plain:
    """What a module exports, by plain names ("events.handle"), each with the name that it has there."""

    functions: dict[str, str]
    posts: dict[str, str]  # what is called once a result has been read
    allocator: str  # "" where there is none
    memory: str
    initialiser: str
    is_handler: bool  # wasmCloud's, instead of ours


def plain_exports(exports: Iterable[str], package: str, version: str) -> Plain:
    """Sorts exports out. `package` and `version` are our contract's; its interfaces are known by their last name."""
    names = list(exports)
    functions: dict[str, str] = {}
    posts: dict[str, str] = {}
    handler, handler_post = "", ""
    for each in names:
        is_post, interface, function = _split(each)
        name = parse(interface)
        if name is None:
            continue
        if name.package == package and name.has(version):
            (posts if is_post else functions)[f"{name.name.removeprefix(f'{package}/')}.{function}"] = each
        elif name.name == HANDLER and function == HANDLER_FUNCTION and any(name.has(one) for one in HANDLER_TYPE.versions):
            handler, handler_post = (handler, each) if is_post else (each, handler_post)
    is_handler = bool(handler) and "events.handle" not in functions
    if is_handler:
        functions["events.handle"] = handler
        posts |= {"events.handle": handler_post} if handler_post else {}
    allocator, memory, initialiser = (
        next((one for one in wanted if one in names), "") for wanted in (ALLOCATORS, MEMORIES, INITIALISERS)
    )
    return Plain(functions, posts, allocator, memory, initialiser, is_handler)


def run_exports(exports: Iterable[str]) -> list[tuple[str, str]]:
    """`wasi:cli/run` of WASI 0.2: the interface as it is written, without "cm32p2|", and the export that is its function."""
    found = ((each, *_split(each)) for each in exports)
    named = (
        (each, interface, parse(interface)) for each, is_post, interface, function in found if function == "run" and not is_post
    )
    return [
        (interface.removeprefix(CANONICAL), each)
        for each, interface, name in named
        if name is not None and name.name == RUN and name.has("0.2.0")
    ]


def other_exports(exports: Iterable[str], package: str) -> list[str]:
    """Interfaces that a module exports and boards do not call: not of our contract's package, nor wasmCloud's handler."""
    named = {interface.removeprefix(CANONICAL): parse(interface) for _, interface, _ in map(_split, exports)}
    return sorted(text for text, name in named.items() if name is not None and name.package != package)


def _split(export: str) -> tuple[bool, str, str]:
    """Whether it is called after a result was read; the interface as it is written; the function."""
    if export.startswith(CANONICAL):
        interface, _, function = export.removeprefix(CANONICAL).partition("|")
        is_post = function.endswith("_post")
        return is_post, CANONICAL + interface, function.removesuffix("_post") if is_post else function
    is_post = export.startswith("cabi_post_")
    interface, _, function = export.removeprefix("cabi_post_").partition("#")
    return is_post, interface, function

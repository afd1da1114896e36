"""The interfaces that modules may import by the Component Model's names, beside our own: WASI 0.2, and what wasmCloud has.

Facts of the public WIT packages, as data: which capability covers an interface, in which versions boards have it, its functions
with their types. A function is written as its parameters, an arrow and its result, in WIT's words.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["ERROR_CODES", "HANDLER", "HANDLER_FUNCTION", "HANDLER_TYPE", "INTERFACES", "LEVELS", "Interface"]

LEVELS = ("trace", "debug", "info", "warn", "error")
"""Of what a module logs, by their numbers in the interface of logging."""


@dataclass(frozen=True)
class Interface:
    """One interface. A released version stands for all that are compatible with it, a draft or candidate for itself alone."""

    name: str  # "wasi:io/streams"
    versions: tuple[str, ...]  # "" for an interface without a version
    capability: str  # that covers it; "" where it has nothing but types
    functions: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)  # that its functions name
    resources: tuple[str, ...] = ()  # that it defines

    @property
    def names(self) -> frozenset[str]:
        """Its functions as core modules import them, dropping its resources included."""
        return frozenset((*self.functions, *(f"[resource-drop]{each}" for each in self.resources)))


def _wasi(name: str, functions: Mapping[str, str], *resources: str, types: Mapping[str, str] | None = None) -> Interface:
    return Interface(f"wasi:{name}", ("0.2.0",), "wasi", functions, types or {}, resources)


def _terminal(stream: str, resource: str) -> tuple[Interface, ...]:
    get = f"get-terminal-{stream}"
    return (_wasi(f"cli/{stream}", {f"get-{stream}": f" -> own<{'input' if stream == 'stdin' else 'output'}-stream>"}),
            _wasi(f"cli/terminal-{stream}", {get: f" -> option<own<{resource}>>"}))  # fmt: skip


_STREAM_ERROR = {"stream-error": "variant{last-operation-failed: own<error>, closed}"}
_DATETIME = {"datetime": "record{seconds: u64, nanoseconds: u32}"}
_READ, _COUNT, _DONE = "result<list<u8>, stream-error>", "result<u64, stream-error>", "result<_, stream-error>"
_IN, _OUT = "borrow<input-stream>", "borrow<output-stream>"

_COMMON = (
    _wasi("cli/environment", {
        "get-environment": " -> list<tuple<string, string>>",
        "get-arguments": " -> list<string>",
        "initial-cwd": " -> option<string>",
    }),
    _wasi("cli/exit", {"exit": "result -> ", "exit-with-code": "u8 -> "}),
    *_terminal("stdin", "terminal-input"),
    *_terminal("stdout", "terminal-output"),
    *_terminal("stderr", "terminal-output"),
    _wasi("cli/terminal-input", {}, "terminal-input"),
    _wasi("cli/terminal-output", {}, "terminal-output"),
    _wasi("clocks/monotonic-clock", {
        "now": " -> u64",
        "resolution": " -> u64",
        "subscribe-instant": "u64 -> own<pollable>",
        "subscribe-duration": "u64 -> own<pollable>",
    }),
    _wasi("clocks/wall-clock", {"now": " -> datetime", "resolution": " -> datetime"}, types=_DATETIME),
    _wasi("random/random", {"get-random-bytes": "u64 -> list<u8>", "get-random-u64": " -> u64"}),
    _wasi("random/insecure", {"get-insecure-random-bytes": "u64 -> list<u8>", "get-insecure-random-u64": " -> u64"}),
    _wasi("random/insecure-seed", {"insecure-seed": " -> tuple<u64, u64>"}),
    _wasi("io/error", {"[method]error.to-debug-string": "borrow<error> -> string"}, "error"),
    _wasi("io/poll", {
        "[method]pollable.ready": "borrow<pollable> -> bool",
        "[method]pollable.block": "borrow<pollable> -> ",
        "poll": "list<borrow<pollable>> -> list<u32>",
    }, "pollable"),
    _wasi("io/streams", {
        "[method]input-stream.read": f"{_IN}, u64 -> {_READ}",
        "[method]input-stream.blocking-read": f"{_IN}, u64 -> {_READ}",
        "[method]input-stream.skip": f"{_IN}, u64 -> {_COUNT}",
        "[method]input-stream.blocking-skip": f"{_IN}, u64 -> {_COUNT}",
        "[method]input-stream.subscribe": f"{_IN} -> own<pollable>",
        "[method]output-stream.check-write": f"{_OUT} -> {_COUNT}",
        "[method]output-stream.write": f"{_OUT}, list<u8> -> {_DONE}",
        "[method]output-stream.blocking-write-and-flush": f"{_OUT}, list<u8> -> {_DONE}",
        "[method]output-stream.flush": f"{_OUT} -> {_DONE}",
        "[method]output-stream.blocking-flush": f"{_OUT} -> {_DONE}",
        "[method]output-stream.subscribe": f"{_OUT} -> own<pollable>",
        "[method]output-stream.write-zeroes": f"{_OUT}, u64 -> {_DONE}",
        "[method]output-stream.blocking-write-zeroes-and-flush": f"{_OUT}, u64 -> {_DONE}",
        "[method]output-stream.splice": f"{_OUT}, {_IN}, u64 -> {_COUNT}",
        "[method]output-stream.blocking-splice": f"{_OUT}, {_IN}, u64 -> {_COUNT}",
    }, "input-stream", "output-stream", types=_STREAM_ERROR),
)  # fmt: skip

ERROR_CODES = (
    "access", "would-block", "already", "bad-descriptor", "busy", "deadlock", "quota", "exist", "file-too-large",
    "illegal-byte-sequence", "in-progress", "interrupted", "invalid", "io", "is-directory", "loop", "too-many-links",
    "message-size", "name-too-long", "no-device", "no-entry", "no-lock", "insufficient-memory", "insufficient-space",
    "not-directory", "not-empty", "not-recoverable", "unsupported", "no-tty", "no-such-device", "overflow", "not-permitted",
    "pipe", "read-only", "invalid-seek", "text-file-busy", "cross-device",
)  # fmt: skip
"""wasi:filesystem's, in their order."""
_FILE, _AT = "borrow<descriptor>", "borrow<descriptor>, string"
_TIMES = "new-timestamp, new-timestamp"


def _or_code(result: str) -> str:
    return f"result<{result}, error-code>"


_FILES = (
    _wasi("filesystem/preopens", {"get-directories": " -> list<tuple<own<descriptor>, string>>"}),
    _wasi("filesystem/types", {
        "[method]descriptor.read-via-stream": f"{_FILE}, u64 -> {_or_code('own<input-stream>')}",
        "[method]descriptor.write-via-stream": f"{_FILE}, u64 -> {_or_code('own<output-stream>')}",
        "[method]descriptor.append-via-stream": f"{_FILE} -> {_or_code('own<output-stream>')}",
        "[method]descriptor.advise": f"{_FILE}, u64, u64, advice -> {_or_code('_')}",
        "[method]descriptor.sync-data": f"{_FILE} -> {_or_code('_')}",
        "[method]descriptor.get-flags": f"{_FILE} -> {_or_code('descriptor-flags')}",
        "[method]descriptor.get-type": f"{_FILE} -> {_or_code('descriptor-type')}",
        "[method]descriptor.set-size": f"{_FILE}, u64 -> {_or_code('_')}",
        "[method]descriptor.set-times": f"{_FILE}, {_TIMES} -> {_or_code('_')}",
        "[method]descriptor.read": f"{_FILE}, u64, u64 -> {_or_code('tuple<list<u8>, bool>')}",
        "[method]descriptor.write": f"{_FILE}, list<u8>, u64 -> {_or_code('u64')}",
        "[method]descriptor.read-directory": f"{_FILE} -> {_or_code('own<directory-entry-stream>')}",
        "[method]descriptor.sync": f"{_FILE} -> {_or_code('_')}",
        "[method]descriptor.create-directory-at": f"{_AT} -> {_or_code('_')}",
        "[method]descriptor.stat": f"{_FILE} -> {_or_code('descriptor-stat')}",
        "[method]descriptor.stat-at": f"{_FILE}, path-flags, string -> {_or_code('descriptor-stat')}",
        "[method]descriptor.set-times-at": f"{_FILE}, path-flags, string, {_TIMES} -> {_or_code('_')}",
        "[method]descriptor.link-at": f"{_FILE}, path-flags, string, {_AT} -> {_or_code('_')}",
        "[method]descriptor.open-at":
            f"{_FILE}, path-flags, string, open-flags, descriptor-flags -> {_or_code('own<descriptor>')}",
        "[method]descriptor.readlink-at": f"{_AT} -> {_or_code('string')}",
        "[method]descriptor.remove-directory-at": f"{_AT} -> {_or_code('_')}",
        "[method]descriptor.rename-at": f"{_AT}, {_AT} -> {_or_code('_')}",
        "[method]descriptor.symlink-at": f"{_AT}, string -> {_or_code('_')}",
        "[method]descriptor.unlink-file-at": f"{_AT} -> {_or_code('_')}",
        "[method]descriptor.is-same-object": f"{_FILE}, {_FILE} -> bool",
        "[method]descriptor.metadata-hash": f"{_FILE} -> {_or_code('metadata-hash-value')}",
        "[method]descriptor.metadata-hash-at": f"{_FILE}, path-flags, string -> {_or_code('metadata-hash-value')}",
        "[method]directory-entry-stream.read-directory-entry":
            f"borrow<directory-entry-stream> -> {_or_code('option<directory-entry>')}",
        "filesystem-error-code": "borrow<error> -> option<error-code>",
    }, "descriptor", "directory-entry-stream", types=_DATETIME | {
        "advice": "enum{normal, sequential, random, will-need, dont-need, no-reuse}",
        "descriptor-flags": "flags{read, write, file-integrity-sync, data-integrity-sync, requested-write-sync, mutate-directory}",
        "descriptor-type":
            "enum{unknown, block-device, character-device, directory, fifo, symbolic-link, regular-file, socket}",
        "descriptor-stat":
            "record{type: descriptor-type, link-count: u64, size: u64, data-access-timestamp: option<datetime>, "
            "data-modification-timestamp: option<datetime>, status-change-timestamp: option<datetime>}",
        "directory-entry": "record{type: descriptor-type, name: string}",
        "error-code": f"enum{{{', '.join(ERROR_CODES)}}}",
        "metadata-hash-value": "record{lower: u64, upper: u64}",
        "new-timestamp": "variant{no-change, now, timestamp: datetime}",
        "open-flags": "flags{create, directory, exclusive, truncate}",
        "path-flags": "flags{symlink-follow}",
    }),
)  # fmt: skip


def _keyvalue(version: str, cursor: str, number: str) -> tuple[Interface, ...]:
    """The drafts differ in the type of a cursor and of what is counted; the second has compare-and-swap."""
    bucket, versions = "borrow<bucket>", (version,)
    types = {"error": "variant{no-such-store, access-denied, other: string}"}
    store = {"key-response": f"record{{keys: list<string>, cursor: option<{cursor}>}}"}
    swap = {"cas-error": "variant{store-error: error, cas-failed: own<cas>}"} if version == "0.2.0-draft2" else {}
    swapping = {
        "[static]cas.new": f"{bucket}, string -> result<own<cas>, error>",
        "[method]cas.current": "borrow<cas> -> result<option<list<u8>>, error>",
        "swap": "own<cas>, list<u8> -> result<_, cas-error>",
    }
    return (
        Interface("wasi:keyvalue/store", versions, "keyvalue", {
            "open": "string -> result<own<bucket>, error>",
            "[method]bucket.get": f"{bucket}, string -> result<option<list<u8>>, error>",
            "[method]bucket.set": f"{bucket}, string, list<u8> -> result<_, error>",
            "[method]bucket.delete": f"{bucket}, string -> result<_, error>",
            "[method]bucket.exists": f"{bucket}, string -> result<bool, error>",
            "[method]bucket.list-keys": f"{bucket}, option<{cursor}> -> result<key-response, error>",
        }, types | store, ("bucket",)),
        Interface("wasi:keyvalue/atomics", versions, "keyvalue", {
            "increment": f"{bucket}, string, {number} -> result<{number}, error>",
        } | (swapping if swap else {}), types | swap, ("cas",) if swap else ()),
        Interface("wasi:keyvalue/batch", versions, "keyvalue", {
            "get-many": f"{bucket}, list<string> -> result<list<option<tuple<string, list<u8>>>>, error>",
            "set-many": f"{bucket}, list<tuple<string, list<u8>>> -> result<_, error>",
            "delete-many": f"{bucket}, list<string> -> result<_, error>",
        }, types),
    )  # fmt: skip


_CONFIG = {"get": "string -> result<option<string>, error>", "get-all": " -> result<list<tuple<string, string>>, error>"}
_CONFIG_ERROR = {"error": "variant{upstream: string, io: string}"}
_MESSAGE = {"broker-message": "record{subject: string, body: list<u8>, reply-to: option<string>}"}
_CLOUD = (
    Interface("wasi:logging/logging", ("", "0.1.0-draft"), "logging", {"log": "level, string, string -> "},
              {"level": "enum{trace, debug, info, warn, error, critical}"}),
    *_keyvalue("0.2.0-draft", "u64", "u64"),
    *_keyvalue("0.2.0-draft2", "string", "s64"),
    Interface("wasi:config/runtime", ("0.2.0-draft",), "config", {
        name: text.replace("error", "config-error") for name, text in _CONFIG.items()
    }, {"config-error": _CONFIG_ERROR["error"]}),
    Interface("wasi:config/store", ("0.2.0-draft", "0.2.0-rc.1"), "config", _CONFIG, _CONFIG_ERROR),
    Interface("wasmcloud:messaging/types", ("0.2.0",), ""),
    Interface("wasmcloud:messaging/consumer", ("0.2.0",), "messaging", {
        "request": "string, list<u8>, u32 -> result<broker-message, string>",
        "publish": "broker-message -> result<_, string>",
    }, _MESSAGE),
)  # fmt: skip
HANDLER, HANDLER_FUNCTION = "wasmcloud:messaging/handler", "handle-message"
"""What wasmCloud's components export where ours export `events`."""
HANDLER_TYPE = Interface(HANDLER, ("0.2.0",), "", {HANDLER_FUNCTION: "broker-message -> result<_, string>"}, _MESSAGE)

INTERFACES = (*_COMMON, *_FILES, *_CLOUD)

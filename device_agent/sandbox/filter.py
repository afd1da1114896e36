"""Filters of Envoy and other proxies (proxy-wasm, ABI 0.2.0 and 0.2.1) as filters of messages.

A message is presented as a request. The filter lets it pass, changes it, answers it or drops it. docs/how-to/filter-messages.md has
what of the ABI is there; a host function that is not there answers "unimplemented".
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from device_agent.channel.frames import KEY_LIMIT_BYTES, PAYLOAD_LIMIT_BYTES, TEXT_LIMIT
from device_agent.sandbox.contract import PUBLISH_DENIED, PUBLISH_TOO_LARGE, ModuleHost, Outcome
from device_agent.sandbox.errors import ContractError, ModuleError
from device_agent.sandbox.http_text import (
    HEADERS_BYTES,
    Headers,
    HeadersError,
    Request,
    answer_text,
    checked,
    first,
    packed,
    request_of,
    request_text,
    text_of,
    unpacked,
)
from device_agent.sandbox.metrics import Metrics
from device_agent.sandbox.proxy_abi import (
    BAD_ARGUMENT,
    CAS_MISMATCH,
    CONTINUE,
    HEADER_MAPS,
    INTERNAL_FAILURE,
    LOG_LEVELS,
    MAP_BYTES,
    MASK_32,
    MASK_64,
    METRIC_NAME_BYTES,
    NOT_FOUND,
    OK,
    PLUGIN_CONFIGURATION,
    PROPERTY_PATH_BYTES,
    REQUEST,
    REQUEST_BODY,
    REQUEST_HEADERS,
    UNIMPLEMENTED,
    VM_CONFIGURATION,
)
from device_agent.sandbox.routes import Routes, RoutesError
from ota.formats import topics
from ota.formats.capabilities import FILTER_ALLOCATORS, FUNCTIONS

ROOT = 1  # the context of the filter itself; each message has one of its own


def open_host(code: bytes, description: Any, *values: Any, **options: Any) -> ModuleHost:
    """The host of a module, or of a filter where it asks for that capability. Raises as ModuleHost."""
    kind = FilterHost if "filter" in description.capabilities.items else ModuleHost
    return kind(code, description, *values, **options)


@dataclass
class _Answer:
    """What the filter says instead of letting a message pass."""

    status: int
    body: bytes
    headers: Headers


class FilterHost(ModuleHost):
    """One filter. Messages that pass are published; the configuration "routes" says where."""

    def __init__(self, code: bytes, description: Any, config: Mapping[str, str], *values: Any, **options: Any) -> None:
        """Raises as ModuleHost."""
        self._name: str = description.name
        self._plugin = config.get("configuration", "").encode()
        self._request: Request | None = None
        self._answer: _Answer | None = None
        self._decided = self._continued = self._closed = False
        self._context = ROOT
        self._tick_ms, self._ticked_ns = 0, 0
        self._ticks = bool(description.limits.tick_ms)
        self._versions: dict[str, int] = {}  # of shared data
        self._new_versions: dict[str, int] = {}  # of what the event in hand wrote
        self._version = 1  # the last one given: none is given twice
        self._metrics = Metrics()
        super().__init__(code, description, config, *values, **options)

    # -- what the agent asks for

    def begin(self, state: bytes, keys: Mapping[str, bytes]) -> Outcome:
        """Starts the filter and hands its configuration over. Raises ModuleError when it does not take it, Trap, ContractError."""
        self._keys = dict(keys)
        try:
            self._routes = Routes.parse(self._config.get("routes", ""), self._config.get("answers", ""))
        except RoutesError as error:
            raise ModuleError(str(error)) from None
        self._begin_call()
        self._enter("proxy_on_context_create", ROOT, 0)
        if not self._enter("proxy_on_vm_start", ROOT, 0, default=1):
            raise ModuleError("the filter does not start: proxy_on_vm_start answered false")
        if not self._enter("proxy_on_configure", ROOT, len(self._plugin), default=1):
            raise ModuleError("the filter does not take its configuration: proxy_on_configure answered false")
        return self._take()

    def handle(self, topic: str, payload: bytes, reply_to: str = "") -> Outcome:
        """Presents a message. Raises ModuleError for one that passes and has nowhere to go, Trap, ContractError."""
        self._begin_call()
        try:
            given = request_of(topic, payload, self._name)
            path, wanted = first(given.headers, b":path"), first(given.headers, b"reply-to")
            if given.is_http and self._routes.lead_to(wanted.decode()):
                raise HeadersError("its reply-to names a topic that is for messages that passed the filter")
        except HeadersError as error:
            raise self._refused(f"a message on {topic} is refused, unseen by the filter: {error}") from None
        self._context = self._context + 1 if self._context < 0x7FFFFFFF else ROOT + 1
        context, self._answer, self._request, self._decided = self._context, None, given, False
        self._closed = False
        try:
            self._enter("proxy_on_context_create", context, ROOT)
            passes = self._present(context)
            self._decided = True
            for name in ("proxy_on_done", "proxy_on_log", "proxy_on_delete"):
                self._enter(name, context)
            if self._answer is not None and not self._closed:
                self._reply(topic, given, self._answer)
            elif passes:
                self._pass(topic, given, path)
        except HeadersError as error:
            raise self._refused(f"what the filter made of a message on {topic} is refused: {error}") from None
        finally:
            self._request, self._answer = None, None
        return self._take()

    def tick(self, now_ns: int) -> Outcome:
        """Calls `proxy_on_tick` when the period that the filter asked for is over."""
        now_ns = time.monotonic_ns()
        if "timer" not in self.interfaces or not self._tick_ms or now_ns - self._ticked_ns < self._tick_ms * 1_000_000:
            return Outcome()
        self._ticked_ns = now_ns
        self._begin_call()
        self._enter("proxy_on_tick", ROOT)
        return self._take()

    def check(self) -> Outcome:
        """A filter is well as long as it answers."""
        return Outcome()

    def save(self) -> bytes | None:
        """None: what a filter keeps is its shared data, which are keys."""
        return None

    # -- a message

    def _present(self, context: int) -> bool:
        """Whether headers, and then the body, are let go. A body that is held stays so, whatever was said of the headers."""
        assert self._request is not None
        ends = not self._request.body
        held = self._holds("proxy_on_request_headers", context, len(self._request.headers), int(ends))
        if self._answer is None and not ends and not self._closed:
            held = self._holds("proxy_on_request_body", context, len(self._request.body), 1, default=int(held))
        return not held and not self._closed

    def _holds(self, name: str, *values: int, default: int = CONTINUE) -> bool:
        """Whether a filter holds what it is shown: it says so, and does not let it go on meanwhile."""
        self._continued = False
        return self._enter(name, *values, default=default) != CONTINUE and not self._continued

    def _pass(self, topic: str, request: Request, path: bytes) -> None:
        """Publishes what a filter made of a message."""
        now = first(request.headers, b":path")
        moved = not request.is_http and now != path
        target = text_of(now.partition(b"?")[0]).removeprefix("/") if moved else self._routes.target(topic)
        if not target or not topics.is_topic(target):
            raise self._refused(f"no route says where messages on {topic} go, and the filter gave them no other path")
        self._deliver(target, request_text(request) if request.is_http else request.body)

    def _reply(self, topic: str, request: Request, answer: _Answer) -> None:
        """Publishes an answer where who asked waits for it; without such a place the message is dropped."""
        target = text_of(first(request.headers, b"reply-to")) if request.is_http else ""
        if target:
            self._check_place(target)
        else:
            target = self._routes.answer(topic)
        if not target:
            self._log("debug", f"the filter answered a message on {topic} with status {answer.status}: dropped")
            return
        self._deliver(target, answer_text(answer.status, answer.headers, answer.body))

    def _check_place(self, topic: str) -> None:
        """Raises HeadersError where a message may not ask for its answer: it would look as if it had passed, or come back."""
        if self._routes.lead_to(topic):
            raise HeadersError("its reply-to names a topic that is for messages that passed the filter")
        if any(topics.covers(each, topic) for each in self._capabilities.filters("subscribe")):
            raise HeadersError("its reply-to names a topic that the filter itself subscribes to")

    def _deliver(self, topic: str, payload: bytes) -> None:
        error = self._send(topic, len(payload), lambda: payload)
        if error is not None:
            why = {PUBLISH_DENIED: "its manifest does not let it publish there", PUBLISH_TOO_LARGE: "it is too large"}
            raise self._refused(f"the message for {topic} can't be published: {why.get(error, 'the queue is full')}")

    def _refused(self, why: str) -> ModuleError:
        self._drop()
        return ModuleError(why)

    def _drop(self) -> None:
        super()._drop()
        self._new_versions = {}

    def _take(self) -> Outcome:
        self._versions |= self._new_versions
        return super()._take()

    # -- into the filter

    def _begin_call(self) -> None:
        self._drop()
        self._refuel()

    def _enter(self, name: str, *values: int, default: int = 0) -> int:
        """Calls an export; one that is not there, or has no result, answers with the default."""
        if name not in self._exported:
            return default
        answer = self._run(self._live().function(name), *values)
        return int(answer) if answer is not None else default

    def _initialise(self, exports: Collection[str]) -> None:
        """As the ABI has it: of a reactor, and its `main`; or of a program."""
        if "_start" in exports and "_initialize" not in exports:
            self._enter("_start")
            return
        super()._initialise(exports)
        if "_initialize" in exports:
            self._enter("main", 0, 0)

    def _allocator(self, exports: Collection[str]) -> Callable[[int], int]:
        self._exported = frozenset(exports)
        function = self._live().function(next(each for each in FILTER_ALLOCATORS if each in self._exported))

        def allocate(size: int) -> int:
            pointer: int = function(size)
            if not pointer:
                raise ContractError(f"the filter's allocator has no room for {size} bytes")
            return pointer

        return allocate

    # -- out of the filter

    def _filter_functions(self) -> dict[str, Callable[..., Any]]:
        known = {name: getattr(self, f"_{name}", None) for name in FUNCTIONS["filter"]}
        return {name: function or (lambda *_: UNIMPLEMENTED) for name, function in known.items()}

    def _give(self, content: bytes, at: int, size_at: int) -> int:
        pointer = self._lower(content)[0] if content else 0
        self._write(at, pointer.to_bytes(4, "little"))
        self._write(size_at, len(content).to_bytes(4, "little"))
        return OK

    def _take_bytes(self, pointer: int, size: int, limit: int = HEADERS_BYTES) -> bytes:
        """What the filter hands over. Raises HeadersError for more than the limit, before it is copied."""
        size &= MASK_32
        if size > limit:
            raise HeadersError(f"{size} bytes, the limit is {limit}")
        return self._read(pointer, size) if size else b""

    def _headers(self, kind: int) -> Headers | None:
        return self._request.headers if self._request is not None and kind == REQUEST_HEADERS else None

    def _proxy_log(self, level: int, pointer: int, size: int) -> int:
        if not 0 <= level < len(LOG_LEVELS):
            return BAD_ARGUMENT
        text = self._read(pointer, min(size & MASK_32, 4 * TEXT_LIMIT)).decode("utf-8", "replace")
        self._log(LOG_LEVELS[level], text[:TEXT_LIMIT])
        return OK

    def _proxy_get_log_level(self, out: int) -> int:
        self._write(out, bytes(4))  # all of them: the board's limits drop what is too much
        return OK

    def _proxy_get_current_time_nanoseconds(self, out: int) -> int:
        self._write(out, (self._clock_ns() & MASK_64).to_bytes(8, "little"))
        return OK

    def _proxy_set_tick_period_milliseconds(self, period_ms: int) -> int:
        self._tick_ms, self._ticked_ns = period_ms & MASK_32, time.monotonic_ns()
        if self._tick_ms and not self._ticks:
            self._log("warn", f"the filter asks for a tick each {self._tick_ms} ms: its manifest has no tick_ms among its limits")
        return OK

    def _proxy_get_property(self, path_at: int, path_size: int, at: int, size_at: int) -> int:
        try:
            path = self._take_bytes(path_at, path_size, PROPERTY_PATH_BYTES)
        except HeadersError:
            return BAD_ARGUMENT
        value = self._property(tuple(path.rstrip(b"\0").split(b"\0")))
        return NOT_FOUND if value is None else self._give(value, at, size_at)

    def _property(self, path: tuple[bytes, ...]) -> bytes | None:
        known = {b"plugin_name": self._name, b"plugin_root_id": self._config.get("root_id", ""), b"plugin_vm_id": ""}
        if len(path) == 1 and path[0] in known:
            return known[path[0]].encode()
        if self._request is None or path[0] != b"request":
            return None
        headers = self._request.headers
        if len(path) == 3 and path[1] == b"headers":
            return first(headers, path[2].lower()) or None
        names = {b"path": b":path", b"method": b":method", b"host": b":authority", b"scheme": b":scheme"}
        if path[1:] == (b"url_path",):
            return first(headers, b":path").partition(b"?")[0]
        if path[1:] == (b"size",):
            return len(self._request.body).to_bytes(8, "little")
        return first(headers, names[path[1]]) if len(path) == 2 and path[1] in names else None

    def _proxy_get_buffer_bytes(self, kind: int, start: int, size: int, at: int, size_at: int) -> int:
        content = self._buffer(kind)
        if content is None:
            return NOT_FOUND
        start, size = start & MASK_32, size & MASK_32
        return self._give(content[start : start + size], at, size_at)

    def _proxy_get_buffer_status(self, kind: int, size_at: int, flags_at: int) -> int:
        content = self._buffer(kind)
        if content is None:
            return NOT_FOUND
        self._write(size_at, len(content).to_bytes(4, "little"))
        self._write(flags_at, bytes(4))
        return OK

    def _buffer(self, kind: int) -> bytes | None:
        if kind in (VM_CONFIGURATION, PLUGIN_CONFIGURATION):
            return self._plugin if kind == PLUGIN_CONFIGURATION else b""
        return self._request.body if kind == REQUEST_BODY and self._request is not None else None

    def _proxy_set_buffer_bytes(self, kind: int, start: int, size: int, pointer: int, new_size: int) -> int:
        """Replaces a part of the body. It may become no larger than a message, or than it is."""
        if kind != REQUEST_BODY or self._request is None or self._decided:
            return NOT_FOUND
        body, (start, size, new_size) = self._request.body, (each & MASK_32 for each in (start, size, new_size))
        kept = len(body[:start]) + len(body[start + size :])
        if kept + new_size > max(PAYLOAD_LIMIT_BYTES, len(body)):
            return BAD_ARGUMENT
        self._request.body = body[:start] + (self._read(pointer, new_size) if new_size else b"") + body[start + size :]
        return OK

    def _proxy_get_header_map_pairs(self, kind: int, at: int, size_at: int) -> int:
        if not 0 <= kind < HEADER_MAPS:
            return BAD_ARGUMENT
        return self._give(packed(self._headers(kind) or []), at, size_at)

    def _proxy_set_header_map_pairs(self, kind: int, pointer: int, size: int) -> int:
        return self._change(kind, lambda _: unpacked(self._take_bytes(pointer, size, MAP_BYTES)))

    def _proxy_get_header_map_size(self, kind: int, out: int) -> int:
        if not 0 <= kind < HEADER_MAPS:
            return BAD_ARGUMENT
        self._write(out, len(packed(self._headers(kind) or [])).to_bytes(4, "little"))
        return OK

    def _proxy_get_header_map_value(self, kind: int, key_at: int, key_size: int, at: int, size_at: int) -> int:
        try:
            name = self._take_bytes(key_at, key_size).lower()
        except HeadersError:
            return BAD_ARGUMENT
        found = [value for key, value in self._headers(kind) or () if key == name]
        return self._give(b",".join(found), at, size_at) if found else NOT_FOUND

    def _proxy_add_header_map_value(self, kind: int, key_at: int, key_size: int, value_at: int, value_size: int) -> int:
        def add(headers: Headers) -> Headers:
            return [*headers, (self._take_bytes(key_at, key_size).lower(), self._take_bytes(value_at, value_size))]

        return self._change(kind, add)

    def _proxy_replace_header_map_value(self, kind: int, key_at: int, key_size: int, value_at: int, value_size: int) -> int:
        def replace(headers: Headers) -> Headers:
            name, value = self._take_bytes(key_at, key_size).lower(), self._take_bytes(value_at, value_size)
            at = next((number for number, (key, _) in enumerate(headers) if key == name), len(headers))
            kept = [each for each in headers[at:] if each[0] != name]
            return [*headers[:at], (name, value), *kept]

        return self._change(kind, replace)

    def _proxy_remove_header_map_value(self, kind: int, key_at: int, key_size: int) -> int:
        def remove(headers: Headers) -> Headers:
            name = self._take_bytes(key_at, key_size).lower()
            return [each for each in headers if each[0] != name]

        return self._change(kind, remove)

    def _change(self, kind: int, changed: Callable[[Headers], Headers]) -> int:
        if not 0 <= kind < HEADER_MAPS:
            return BAD_ARGUMENT
        headers = self._headers(kind)
        if headers is None or self._request is None or self._decided:
            return NOT_FOUND
        try:
            self._request.headers = checked(changed(headers))
        except HeadersError:
            return BAD_ARGUMENT
        return OK

    def _proxy_continue_stream(self, kind: int) -> int:
        if kind != REQUEST:
            return UNIMPLEMENTED
        self._continued = True
        return OK

    def _proxy_close_stream(self, kind: int) -> int:
        """The message goes no further, and is not answered."""
        if kind != REQUEST:
            return UNIMPLEMENTED
        if self._request is None or self._decided:
            return BAD_ARGUMENT
        self._closed = True
        return OK

    def _proxy_send_local_response(
        self, status: int, text_at: int, text_size: int, body_at: int, body_size: int, map_at: int, map_size: int, grpc: int
    ) -> int:
        if self._request is None or self._decided or self._answer is not None or not 200 <= status <= 599:
            return BAD_ARGUMENT
        try:
            headers = unpacked(self._take_bytes(map_at, map_size, MAP_BYTES))
            self._answer = _Answer(status, self._take_bytes(body_at, body_size, PAYLOAD_LIMIT_BYTES), headers)
        except HeadersError:
            return BAD_ARGUMENT
        return OK

    # -- what it keeps: keys, where the manifest has them

    def _proxy_get_shared_data(self, key_at: int, key_size: int, at: int, size_at: int, version_at: int) -> int:
        if "keyvalue" not in self._capabilities.items:
            return UNIMPLEMENTED
        key = self._key(key_at, key_size)
        value = None if key is None else self.kept(key)
        if key is None or value is None:
            return NOT_FOUND
        self._write(version_at, self._version_of(key).to_bytes(4, "little"))
        return self._give(value, at, size_at)

    def _proxy_set_shared_data(self, key_at: int, key_size: int, value_at: int, value_size: int, version: int) -> int:
        if "keyvalue" not in self._capabilities.items:
            return UNIMPLEMENTED
        key, size = self._key(key_at, key_size), value_size & MASK_32
        if key is None:
            return BAD_ARGUMENT
        if version & MASK_32 not in (0, self._version_of(key)):
            return CAS_MISMATCH
        if self._wrong_write(key) or self._over_quota(key, size):
            return INTERNAL_FAILURE
        self._writes[key] = self._read(value_at, size) if size else b""
        self._version = self._version % MASK_32 + 1
        self._new_versions[key] = self._version
        return OK

    def _key(self, pointer: int, size: int) -> str | None:
        """None for what is no key."""
        try:
            return self._take_bytes(pointer, size, KEY_LIMIT_BYTES).decode() or None
        except (HeadersError, UnicodeDecodeError):
            return None

    def _version_of(self, key: str) -> int:
        """Of what is there now: an event that is refused, whose writes are dropped, leaves no version behind. 0 for no key."""
        return 0 if self.kept(key) is None else self._new_versions.get(key) or self._versions.get(key, 1)

    # -- metrics, which the filter alone can read

    def _proxy_define_metric(self, kind: int, name_at: int, name_size: int, out: int) -> int:
        try:
            result, number = self._metrics.define(kind, self._take_bytes(name_at, name_size, METRIC_NAME_BYTES))
        except HeadersError:
            return BAD_ARGUMENT
        if result == OK:
            self._write(out, number.to_bytes(4, "little"))
        return result

    def _proxy_increment_metric(self, number: int, offset: int) -> int:
        return self._metrics.increment(number, offset)

    def _proxy_record_metric(self, number: int, value: int) -> int:
        return self._metrics.record(number, value)

    def _proxy_get_metric(self, number: int, out: int) -> int:
        value = self._metrics.value(number)
        if value is None:
            return NOT_FOUND
        self._write(out, value.to_bytes(8, "little"))
        return OK

    def _proxy_set_effective_context(self, context: int) -> int:
        return OK if context in (ROOT, self._context) else BAD_ARGUMENT

    def _proxy_done(self) -> int:
        return OK

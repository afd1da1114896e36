"""The host's side of the module contract (sdk/wit/module.wit), in the Component Model's canonical ABI over core WebAssembly.

What a module sends and writes is held back until the event in hand has been handled, and dropped if it is not: an event's effects
happen together or not at all. Reads see the module's own writes.
"""

import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from device_agent.channel.frames import (
    KEY_LIMIT_BYTES,
    MESSAGE_BYTES_PER_EVENT,
    MESSAGES_PER_EVENT,
    PAYLOAD_LIMIT_BYTES,
    STATE_LIMIT_BYTES,
    TEXT_LIMIT,
    WRITES_PER_EVENT,
    KeyWrite,
)
from device_agent.sandbox import wasi2_cli, wasi2_files, wasi2_io, wasmcloud
from device_agent.sandbox.device_calls import DeviceCalls
from device_agent.sandbox.devices import Devices
from device_agent.sandbox.errors import ContractError, Exited, ModuleError, StateRefusedError
from device_agent.sandbox.export_types import wrong_type
from device_agent.sandbox.guest import ModuleGuest
from device_agent.sandbox.interfaces import bound
from device_agent.sandbox.rates import Rate, limited
from device_agent.sandbox.signatures import Failure
from device_agent.sandbox.wasi import Wasi
from ota.formats.capabilities import TopicGrants, check_exports, check_imports, own_interface, plain_exports
from ota.formats.interfaces import LEVELS
from ota.formats.module import ModuleDescription
from pywamr import Function, Import, Instance, MemoryRangeError, Runtime, Trap

PUBLISH_DENIED, PUBLISH_TOO_LARGE, PUBLISH_QUEUE_FULL = 0, 1, 2


@dataclass(frozen=True)
class Outcome:
    """What a handled event asks for."""

    messages: tuple[tuple[str, bytes], ...] = ()
    writes: tuple[KeyWrite, ...] = ()
    reply_to: Mapping[int, str] = field(default_factory=dict)  # by place of a message: the topic where its answer is waited for


class ModuleHost:
    """One module, loaded and instantiated in this process."""

    def __init__(
        self,
        wasm: bytes,
        description: ModuleDescription,
        config: Mapping[str, str],
        log: Callable[[str, str], None],
        clock_ns: Callable[[], int] = time.time_ns,
        observe: Callable[[str, list[Any], Any, int], None] | None = None,
        devices: Devices | None = None,
        *,
        record_offsets: bool = False,
        initialise: bool = True,
    ) -> None:
        """Raises Refused IMPORT_UNDECLARED or EXPORT_MISSING, ContractError, and pywamr's LoadError, UnsupportedError, Trap.

        Imports are checked against the description before any guest code runs. `observe` sees each call of a host function once it
        has returned: name, arguments and answer for people, nanoseconds. `record_offsets`: see `Runtime.load`. A module that is not
        initialised is only there to see that it loads.
        """
        self._capabilities, limits = description.capabilities, description.limits
        self._publish_grants = TopicGrants(self._capabilities.filters("publish"))
        self._hears = TopicGrants(self._capabilities.filters("subscribe"))
        self._message_rate = Rate(limits.messages_per_s)
        self._keys: dict[str, bytes] = {}
        self._text_of_manifest, self._config = description.config, config
        self._log = limited(log, limits.log_lines_per_s)
        self._clock_ns = clock_ns
        self._messages: list[tuple[str, bytes]] = []
        self._reply_to: dict[int, str] = {}
        self._message_bytes = 0
        self._writes: dict[str, bytes | None] = {}
        self._observe = observe
        self._devices = devices or Devices()
        self._wasi = self._new_wasi(description) if "wasi" in self._capabilities.items else None
        self._guest = ModuleGuest(self._read, self._write, self._reallocate)
        self._interfaces = self._new_interfaces(description)
        self._instance: Instance | None = None
        self._known: dict[tuple[str, str], tuple[Function, Function | None]] = {}
        self._fuel = limits.fuel
        self.host_calls = 0  # since the start
        self._runtime = Runtime()
        try:
            module = self._runtime.load(wasm, record_offsets=record_offsets)
            check_imports([(each.module, each.name) for each in module.imports], self._capabilities)
            is_filter = "filter" in self._capabilities.items
            self.interfaces = check_exports((each.name for each in module.exports), is_filter=is_filter)
            self._plain = plain_exports(each.name for each in module.exports)
            if wrong := wrong_type(module.exports, self._plain, is_filter=is_filter):
                raise ContractError(wrong)
            self._instance = module.instantiate(
                self._hosts(module.imports), stack_bytes=limits.stack_bytes, max_pages=limits.memory_pages, fuel=limits.fuel or None
            )
            exports = {each.name for each in module.exports}
            self._allocate = self._allocator(exports)
            if initialise:
                self._initialise(exports)
        except BaseException:
            self._runtime.close()
            raise

    def terminate_on(self, signal_number: int) -> None:
        """Lets a signal end the call in progress, which raises TerminatedError, if the module is interpreted."""
        self._live().terminate_on(signal_number)

    def terminate(self) -> None:
        """From any thread: ends the call in progress, which raises TerminatedError, if the module is interpreted."""
        self._live().terminate()

    def close(self) -> None:
        """Frees module and runtime."""
        self._runtime.close()

    @property
    def memory_bytes(self) -> int:
        """The module's memory; it never shrinks."""
        return len(self._live().memory)

    @property
    def keys(self) -> Mapping[str, bytes]:
        """What it keeps, as of the last event that it handled."""
        return self._keys

    def begin(self, state: bytes, keys: Mapping[str, bytes]) -> Outcome:
        """Restores a state, where the module has `state` and there is one, then initialises it with the keys that it kept.

        Raises as `handle` does.
        """
        self._keys = dict(keys)
        if "state" in self.interfaces and state:
            self._call("state", "restore", state)
        return (
            self._call("startup", "init", _settings(self._text_of_manifest, self._config))
            if "startup" in self.interfaces
            else self._take()
        )

    def handle(self, topic: str, payload: bytes, reply_to: str = "") -> Outcome:
        """Hands over an event. `reply_to`: the topic on which its sender waits for an answer; a handler of wasmCloud's is told.

        Raises ModuleError when the module answers with an error, Trap, ContractError.
        """
        event: tuple[bytes | int, ...] = topic.encode(), payload
        if self._plain.is_handler:  # a broker-message, flattened
            event += (1, reply_to.encode()) if reply_to else (0, 0, 0)
        return self._call("events", "handle", *event)

    def tick(self, now_ns: int) -> Outcome:
        """Calls `timer.tick`, where the module has it."""
        return self._call("timer", "tick", now_ns) if "timer" in self.interfaces else Outcome()

    def check(self) -> Outcome:
        """Calls `health.check`, where the module has it; one without it is well as long as it answers."""
        return self._call("health", "check") if "health" in self.interfaces else Outcome()

    def save(self) -> bytes | None:
        """The module's state, None where it has none. Raises ContractError for one of more than 64 KiB."""
        if "state" not in self.interfaces:
            return None
        save, post = self._functions("state", "save")
        self._refuel()
        area = self._run(save)
        state = self._read_list(area, STATE_LIMIT_BYTES, "the state")
        if post is not None:
            post(area)
        return state

    def _new_wasi(self, description: ModuleDescription) -> Wasi:
        return Wasi(
            self._read,
            self._write,
            self._log,
            self._devices.folders,
            arguments=(description.name, *description.arguments),
            environment=description.environment,
            quota_bytes=self._capabilities.number("wasi", "quota_bytes"),
        )

    def _new_interfaces(self, description: ModuleDescription) -> dict[str, Any]:
        """What answers for each interface of others; which of them are imported was checked before."""
        cloud = wasmcloud.hosts(self, self._send_text, self._log, self._config)
        if self._wasi is None:
            return cloud
        given = (description.name, *description.arguments), description.environment
        files = wasi2_files.hosts(self._wasi.folders, self._devices.folders)
        return {**cloud, **wasi2_io.hosts(), **wasi2_cli.hosts(*self._wasi.lines, *given), **files}

    # -- into the module

    def _allocator(self, exports: Collection[str]) -> Callable[[int], int]:
        """Gives room for so many bytes in the module's memory."""
        return lambda size: self._reallocate(1, size)

    def _reallocate(self, alignment: int, size: int) -> int:
        known = self._known.get(("", ""))
        if known is None:
            known = self._known["", ""] = self._live().function(self._plain.allocator), None
        pointer: int = known[0](0, 0, alignment, size)
        return pointer

    def _initialise(self, exports: Collection[str]) -> None:
        """Before anything else, and once."""
        if self._plain.initialiser:
            self._run(self._live().function(self._plain.initialiser))

    def _run(self, function: Function, *values: int) -> Any:
        try:
            return function(*values)
        except (Trap, Exited) as error:
            if pages := self._live().memory.refused_pages:
                beyond = f"it asked for {pages} more pages of memory, beyond its limit (memory_pages in [limits])"
                error.args = (f"{error}: {beyond}",)
            raise
        finally:
            if self._wasi is not None:
                self._wasi.end_lines()

    def _refuel(self) -> None:
        if self._fuel:
            self._live().limit_fuel(self._fuel)

    def _call(self, interface: str, function: str, *content: bytes | int) -> Outcome:
        self._drop()
        self._refuel()
        export, post = self._functions(interface, function)
        values: list[int] = []
        for each in content:
            values += self._lower(each) if isinstance(each, bytes) else (each,)
        area = self._run(export, *values)
        try:
            failed = self._read(area, 1)[0]
            if failed > 1:
                raise ContractError(f"{interface}.{function} returned a result that is neither ok nor an error")
            text = self._text(*self._pair(area + 4)) if failed else ""
        except ContractError:
            self._drop()
            raise
        if post is not None:
            post(area)
        if failed:
            self._drop()
            raise (StateRefusedError if function == "restore" else ModuleError)(text)
        return self._take()

    def _drop(self) -> None:
        self._messages, self._message_bytes, self._writes, self._reply_to = [], 0, {}, {}

    def _take(self) -> Outcome:
        writes = tuple(KeyWrite(key, value) for key, value in self._writes.items())
        outcome = Outcome(tuple(self._messages), writes, self._reply_to)
        for key, value in self._writes.items():
            if value is None:
                self._keys.pop(key, None)
            else:
                self._keys[key] = value
        self._drop()
        return outcome

    def _live(self) -> Instance:
        if self._instance is None:
            raise ContractError("the module's start function calls a capability: only its exports may")
        return self._instance

    def _functions(self, interface: str, function: str) -> tuple[Function, Function | None]:
        """An export, and what is to be called once its result was read, where the module has that."""
        known = self._known.get((interface, function))
        if known is None:
            name, post = (table.get(f"{interface}.{function}", "") for table in (self._plain.functions, self._plain.posts))
            known = self._live().function(name), self._live().function(post) if post else None
            self._known[interface, function] = known
        return known

    def _lower(self, content: bytes) -> tuple[int, int]:
        """Copies bytes into the module's memory, where its own allocator says."""
        pointer = self._allocate(len(content)) & 0xFFFFFFFF
        try:
            self._live().memory.write(pointer, content)
        except MemoryRangeError as error:
            raise ContractError(f"the module's allocator returned a pointer outside the memory: {error}") from error
        return pointer, len(content)

    def _read(self, pointer: int, size: int) -> bytes:
        try:
            return self._live().memory.read(pointer & 0xFFFFFFFF, size)
        except MemoryRangeError as error:
            raise ContractError(str(error)) from error

    def _write(self, pointer: int, content: bytes) -> None:
        try:
            self._live().memory.write(pointer & 0xFFFFFFFF, content)
        except MemoryRangeError as error:
            raise ContractError(str(error)) from error

    def _pair(self, pointer: int) -> tuple[int, int]:
        raw = self._read(pointer, 8)
        return int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:], "little")

    def _read_list(self, area: int, limit: int, what: str) -> bytes:
        pointer, size = self._pair(area)
        if size > limit:
            raise ContractError(f"{what} is {size} bytes, the limit is {limit}")
        return self._read(pointer, size)

    def _text(self, pointer: int, size: int) -> str:
        raw = self._read(pointer, size & 0xFFFFFFFF)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise ContractError("text from the module is not UTF-8") from None

    # -- out of the module: each takes and returns flat core values

    def _hosts(self, imports: tuple[Import, ...]) -> dict[str, dict[str, Callable[..., Any]]]:
        hosts: dict[str, dict[str, Callable[..., Any]]] = {
            "logging": {"log": self._log_call},
            "messaging": {"publish": self._publish},
            "keyvalue": {"get": self._key_get, "set": self._key_set, "delete": self._key_delete},
            "clock": {"now": self._clock_ns, "monotonic": time.monotonic_ns},
            "config": {"get": self._config_get},
            "random": {"get": self._random_get},
            **DeviceCalls(self._devices, self._log).functions(self._guest),
            "wasi": self._wasi.functions() if self._wasi is not None else {},
            "filter": self._filter_functions(),
        }
        found: dict[str, dict[str, Callable[..., Any]]] = {}
        for module in {each.module for each in imports}:
            if (name := own_interface(module)) in self._capabilities.items:
                found[module] = {each: self._watched(f"{name}.{each}", call) for each, call in hosts[name].items()}
        for (module, name), call in bound(imports, self._interfaces, self._guest, self._watched).items():
            found.setdefault(module, {})[name] = call
        return found

    def _filter_functions(self) -> dict[str, Callable[..., Any]]:
        return {}

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        observe = self._observe

        def counted(*values: Any) -> Any:
            self.host_calls += 1
            return function(*values)

        if observe is None:
            return counted
        from device_agent.sandbox.tracing import described  # nothing that workers need

        def call(*values: Any) -> Any:
            started = time.perf_counter_ns()
            result = failure = None
            try:
                result = counted(*values)
            except Failure as error:
                failure = error
            took_ns = time.perf_counter_ns() - started
            observe(name, *described(name, values, failure or result, self._read), took_ns)
            if failure is not None:
                raise failure
            return result

        return call

    def _log_call(self, level: int, pointer: int, size: int) -> None:
        if not 0 <= level < len(LEVELS):
            raise ContractError(f"log level {level} is not one of {len(LEVELS)}")
        self._log(LEVELS[level], self._text(pointer, size)[:TEXT_LIMIT])

    def _publish(self, topic_at: int, topic_size: int, payload_at: int, payload_size: int, out: int) -> None:
        topic, size = self._text(topic_at, topic_size), payload_size & 0xFFFFFFFF
        error = self._send(topic, size, lambda: self._read(payload_at, size))
        self._write(out, b"\0\0" if error is None else bytes((1, error)))

    def _send(self, topic: str, size: int, payload: Callable[[], bytes], reply_to: str = "") -> int | None:
        """Holds a message back until the event has been handled; its error where it may not be published."""
        whole = len(topic.encode()) + len(reply_to.encode()) + size
        if not self._publish_grants.allow(topic):
            return PUBLISH_DENIED
        if size > PAYLOAD_LIMIT_BYTES:
            return PUBLISH_TOO_LARGE
        if not self._has_room(whole) or not self._message_rate.take():
            return PUBLISH_QUEUE_FULL
        if reply_to:
            self._reply_to[len(self._messages)] = reply_to
        self._messages.append((topic, payload()))
        self._message_bytes += whole
        return None

    def _send_text(self, topic: str, payload: bytes, reply_to: str | None) -> str:
        """As `_send`, with words.

        An answer goes where the module hears it, and nowhere else: who answers may write where the one who asks may not.
        """
        if reply_to is not None and not self._hears.allow(reply_to):
            return "the module does not subscribe to the topic of the answer"
        words = {None: "", PUBLISH_DENIED: "the topic is not granted", PUBLISH_TOO_LARGE: "the message is too large"}
        return words.get(self._send(topic, len(payload), lambda: payload, reply_to or ""), "the queue is full")

    def _has_room(self, size: int) -> bool:
        return len(self._messages) < MESSAGES_PER_EVENT and self._message_bytes + size <= MESSAGE_BYTES_PER_EVENT

    def kept(self, key: str) -> bytes | None:
        """A value of the module's store, with what the event in hand has written."""
        return self._writes[key] if key in self._writes else self._keys.get(key)

    def put(self, key: str, value: bytes | None) -> str:
        """Writes it once the event in hand has been handled, None deletes it; why not, "" where it will."""
        wrong = self._wrong_write(key) or (self._over_quota(key, len(value)) if value is not None else "")
        if not wrong:
            self._writes[key] = value
        return wrong

    def names(self) -> list[str]:
        """Of all keys of the store."""
        return [key for key, value in (self._keys | self._writes).items() if value is not None]

    def _key_get(self, key_at: int, key_size: int, out: int) -> None:
        key = self._text(key_at, key_size)
        self._return_option(out, self.kept(key))

    def _key_set(self, key_at: int, key_size: int, value_at: int, value_size: int, out: int) -> None:
        key, size = self._text(key_at, key_size), value_size & 0xFFFFFFFF
        wrong = self._wrong_write(key) or self._over_quota(key, size)
        if not wrong:
            self._writes[key] = self._read(value_at, size)
        self._return_result(out, wrong)

    def _key_delete(self, key_at: int, key_size: int, out: int) -> None:
        self._return_result(out, self.put(self._text(key_at, key_size), None))

    def _wrong_write(self, key: str) -> str:
        if not 0 < len(key.encode()) <= KEY_LIMIT_BYTES:
            return f"a key has 1 to {KEY_LIMIT_BYTES} bytes"
        if len(self._writes) >= WRITES_PER_EVENT and key not in self._writes:
            return f"an event changes at most {WRITES_PER_EVENT} keys"
        return ""

    def _over_quota(self, key: str, size: int) -> str:
        others = {k: v for k, v in (self._keys | self._writes).items() if k != key and v is not None}
        used = sum(len(k.encode()) + len(v) for k, v in others.items())
        quota = self._capabilities.quota_bytes
        return f"the quota of {quota} bytes is used up" if used + len(key.encode()) + size > quota else ""

    def _config_get(self, key_at: int, key_size: int, out: int) -> None:
        value = self._config.get(self._text(key_at, key_size))
        self._return_option(out, None if value is None else value.encode())

    def _random_get(self, size: int, out: int) -> None:
        size &= 0xFFFFFFFF
        self._return_list(out, os.urandom(size) if size <= PAYLOAD_LIMIT_BYTES else b"")

    def _return_list(self, out: int, content: bytes) -> None:
        """list<u8>: pointer and length."""
        pointer, size = self._lower(content)
        self._write(out, pointer.to_bytes(4, "little") + size.to_bytes(4, "little"))

    def _return_option(self, out: int, value: bytes | None) -> None:
        """option<list<u8>> or option<string>: a byte, then at 4 pointer and length."""
        if value is None:
            self._write(out, b"\0")
            return
        pointer, size = self._lower(value)
        self._write(out, b"\1\0\0\0" + pointer.to_bytes(4, "little") + size.to_bytes(4, "little"))

    def _return_result(self, out: int, error: str) -> None:
        """result<_, string>: a byte, then at 4 pointer and length of the error."""
        if not error:
            self._write(out, b"\0")
            return
        pointer, size = self._lower(error.encode())
        self._write(out, b"\1\0\0\0" + pointer.to_bytes(4, "little") + size.to_bytes(4, "little"))


def _settings(text: bytes, config: Mapping[str, str]) -> bytes:
    """The manifest's text, and a line for each setting, for `startup.init`. A line break in a value is followed by a space."""
    lines = ("\n ".join(f"{key}={value}".split("\n")).encode() for key, value in sorted(config.items()))
    return b"\n".join(filter(None, (text, *lines)))

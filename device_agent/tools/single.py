"""Runs one module in this process, for its author: no agent, no broker, no signature. What `ota run` calls."""

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_agent.channel import frames
from device_agent.sandbox.contract import ModuleHost
from device_agent.sandbox.devices import Devices, open_devices
from device_agent.sandbox.errors import ContractError, ModuleError
from device_agent.sandbox.filter import open_host
from device_agent.tools.command import Given, entry_of, run_command
from device_agent.tools.errors import RunError
from device_agent.tools.kept import Kept
from device_agent.tools.simulated import simulated_devices
from device_agent.tools.source_lines import SourceLines
from ota.description import read_description
from ota.formats import component, topics
from ota.formats.capabilities import Capabilities, check_allowed, interfaces_of
from ota.formats.deployment import checked_config
from ota.formats.features import check_core
from ota.formats.loadable import core_module
from ota.formats.module import (
    Limits,
    ModuleDescription,
    about_memory,
    pages_with_room,
)
from ota.formats.reasons import Reason, Refused, naming
from ota.formats.text import printable
from ota.formats.wasm import ModuleShape, read
from pywamr import PywamrError, TerminatedError, Trap


@dataclass(frozen=True)
class Options:
    """How a module is run."""

    events: list[str]  # "topic=payload", or "topic=@file"
    config: Mapping[str, str] = field(default_factory=dict)  # as a deployment gives it
    trace: bool = False  # show each call of a capability
    deny: tuple[str, ...] = ()  # capabilities that are not granted
    image: Path | None = None  # compiled ahead of time for this machine by its author
    as_json: bool = False
    given: Given = field(default_factory=Given)  # for a WASI command
    ticks: int = 0  # of its timer, after the events
    kept: Path | None = None  # a file that state and keys are taken from, where it is there, and left in
    devices: tuple[str, ...] | None = None  # "name=value" of GPIO lines and serial ports that are only simulated; None: real ones


def given(arguments: argparse.Namespace) -> Given:
    """What the command line gives to a WASI command."""
    return Given(tuple(arguments.arg), _assigned(arguments.env) or None, tuple(arguments.dir))


def configuration(texts: Sequence[str]) -> dict[str, str]:
    """The values of "key=value", by key. Raises Refused MALFORMED, CONFIG_TOO_LARGE."""
    return checked_config(_assigned(texts), "--config")


def _assigned(texts: Sequence[str]) -> dict[str, str]:
    return {name: value for name, _, value in (each.partition("=") for each in texts)}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}") from error


def _payload(raw: bytes) -> bytes:
    """What is written behind a topic, or what the file holds that is named there after an @. Raises RunError."""
    if not raw.startswith(b"@"):
        content, what = raw, "the payload of an event"
    else:
        what = os.fsdecode(raw[1:])
        try:
            with Path(what).open("rb") as file:
                content = file.read(frames.PAYLOAD_LIMIT_BYTES + 1)
        except (OSError, ValueError) as error:
            raise RunError(f"{what or 'the file behind @'}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > frames.PAYLOAD_LIMIT_BYTES:
        raise RunError(f"{what}: more than {frames.PAYLOAD_LIMIT_BYTES} bytes, which is the limit")
    return content


def run_module(module: Path, options: Options) -> int:
    """Starts the module, gives it each event, and prints the results; returns the exit code.

    A WASI command is run to its end instead, and the exit code is its own.

    Of a component, the core module in it runs.

    Raises RunError, Refused: MODULE_INVALID, TOO_LARGE, CAPABILITY_DENIED for what `options` denies, as ModuleHost, and as
    open_devices.
    """
    with naming(module):
        file = _read(module)
        wasm = core_module(file)
        check_core(wasm)
        shape = read(wasm)
    code = _read(options.image) if options.image is not None else wasm
    if entry := entry_of(shape, component.read(file).exports if component.is_component(file) else None):
        return _command(module, wasm, code, shape, entry, options)
    if options.given != Given():
        raise RunError(f"{module} is no WASI command: arguments, environment and folders stand in its .toml")
    pairs = [os.fsencode(event).partition(b"=") for event in options.events]
    events = [(topic.decode("utf-8", "replace"), _payload(payload)) for topic, _, payload in pairs]
    show = _Printer(options.as_json)
    started = time.perf_counter()

    def observe(name: str, values: list[Any], result: Any, took_ns: int) -> None:
        at_ms = round((time.perf_counter() - started) * 1000, 3)
        about = {} if result is None else {"result": result}
        show("call", function=name, arguments=values, **about, at_ms=at_ms, took_us=round(took_ns / 1000, 1))

    deadline = _Deadline(show)
    kept = Kept.read(options.kept) if options.kept is not None else Kept()
    with _ended_by_ctrl_c():
        host, description = _start(module, wasm, code, options, show, deadline, observe)
        try:
            if options.ticks:
                _check_timer(module, host, description)
            with deadline.of(frames.BEGIN_DEADLINE_S):
                begun = host.begin(kept.state, kept.keys)
            _show_outcome(show, "started", begun)
            limit = deadline.of(description.limits.deadline_ms / 1000)
            handled = [_deliver(host, description, limit, show, topic, payload) for topic, payload in events]
            begun_ns, period_ns = time.time_ns(), description.limits.tick_ms * 1_000_000
            handled += [_tick(host, limit, show, begun_ns + number * period_ns) for number in range(options.ticks)]
            if options.kept is not None:
                with limit:
                    state = host.save()
                _keep(Kept(kept.state if state is None else state, host.keys), options.kept, show)
            return 0 if all(handled) else 1
        except (Trap, ContractError, TerminatedError) as error:
            if isinstance(error, TerminatedError) and not deadline.passed:
                raise KeyboardInterrupt from error
            _show_trap(show, error, SourceLines(wasm))
            return 1
        finally:
            host.close()


def _command(module: Path, wasm: bytes, code: bytes, shape: ModuleShape, entry: str, options: Options) -> int:
    of_modules = options.events, options.config, options.deny, options.trace, options.ticks, options.kept
    if any(of_modules) or options.devices is not None:
        raise RunError(f"{module} is a WASI command (it exports {entry}): it takes --arg, --env and --dir, and no events")
    with _ended_by_ctrl_c():
        try:
            return run_command(module.stem, code, shape, entry, options.given, interpreted=options.image is None)
        except Trap as error:
            _show_trap(_Printer(options.as_json), error, SourceLines(wasm))
            return 1


def _start(
    module: Path, wasm: bytes, code: bytes, options: Options, show: "_Printer", deadline: "_Deadline", observe: Callable[..., None]
) -> tuple[ModuleHost, ModuleDescription]:
    """The module, instantiated. An interpreted one can be terminated."""
    try:
        description = _describe(module, wasm)
        begins = read(wasm).memory_pages
        if begins > description.limits.memory_pages:
            raise RunError(about_memory(module, begins, description.limits))
        kept = {name: each for name, each in description.capabilities.items.items() if name not in options.deny}
        with naming(module):
            check_allowed(read(wasm).imports, description.capabilities, Capabilities(kept))
        devices = _devices(description.capabilities, options, show)

        def log(level: str, message: str) -> None:
            show("log", level=level, message=message)

        with naming(module), deadline.of(frames.START_DEADLINE_S):
            trace = observe if options.trace else None
            host = open_host(code, description, options.config, log, observe=trace, devices=devices, record_offsets=True)
    except (PywamrError, ContractError) as error:
        raise RunError(f"{options.image or module}: {error}") from error
    if options.image is None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        host.terminate_on(signal.SIGINT)
        deadline.host = host
    return host, description


def _devices(capabilities: Capabilities, options: Options, show: "_Printer") -> Devices:
    if options.devices is None:
        try:
            return open_devices(capabilities)
        except Refused as error:
            if not {"gpio", "serial"} & capabilities.items.keys():
                raise
            raise Refused(error.reason, f"{error.detail}; --simulate runs it without lines and ports") from error
    return simulated_devices(capabilities, _assigned(options.devices), lambda name, value: show("device", name=name, value=value))


@contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Ctrl-C ends the process at once, until there is an instance that can be terminated."""
    before, hook = signal.signal(signal.SIGINT, signal.SIG_DFL), sys.unraisablehook

    def quiet(about: Any) -> None:
        """Ignores a KeyboardInterrupt raised while a host function is entered: the call ends anyway."""
        if not isinstance(about.exc_value, KeyboardInterrupt):
            hook(about)

    sys.unraisablehook = quiet
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = hook


class _Deadline:
    """The deadline of a call, as on a board: terminates the instance, then the process if that does not help."""

    def __init__(self, show: "_Printer") -> None:
        self.passed = False
        self.host: ModuleHost | None = None
        self._show, self._limit_s = show, 0.0

    def of(self, limit_s: float) -> "_Deadline":
        """For calls within so many seconds, by `with`."""
        self._limit_s = limit_s
        return self

    def __enter__(self) -> None:
        self._timer = self._after(self._limit_s, self._expire)

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    @staticmethod
    def _after(seconds: float, what: Callable[[], None]) -> threading.Timer:
        timer = threading.Timer(seconds, what)
        timer.daemon = True
        timer.start()
        return timer

    def _expire(self) -> None:
        self.passed = True
        if self.host is None:
            self._end()
            return
        self._timer = self._after(frames.TERMINATE_S, self._end)
        self.host.terminate()

    def _end(self) -> None:
        self._show("trap", code=Reason.DEADLINE_EXCEEDED.value, message=f"no answer in {self._limit_s} s", stack=[])
        os._exit(1)


def _deliver(
    host: ModuleHost, description: ModuleDescription, deadline: _Deadline, show: "_Printer", topic: str, payload: bytes
) -> bool:
    started = time.perf_counter()
    wanted = description.capabilities.filters("subscribe")
    if not any(topics.covers(each, topic) for each in wanted):
        told = f"a board would not deliver {topic}: the module subscribes to {', '.join(wanted) or 'nothing'}"
        sys.stderr.write(printable(told) + "\n")
    try:
        with deadline:
            outcome = host.handle(topic, payload)
    except ModuleError as error:
        show("refused", topic=topic, error=str(error))
        return False
    _show_outcome(show, "handled", outcome, topic=topic, took_us=round((time.perf_counter() - started) * 1e6))
    return True


def _check_timer(module: Path, host: ModuleHost, description: ModuleDescription) -> None:
    """Raises RunError for a module that no tick reaches, and says it of one that a board would not tick."""
    if "timer" not in host.interfaces and "filter" not in description.capabilities.items:
        raise RunError(f"{module} exports no timer.tick: there is nothing to call with --ticks")
    if not description.limits.tick_ms:
        sys.stderr.write("a board would not tick: tick_ms in [limits] of the .toml is 0\n")


def _tick(host: ModuleHost, deadline: _Deadline, show: "_Printer", now_ns: int) -> bool:
    started = time.perf_counter()
    try:
        with deadline:
            outcome = host.tick(now_ns)
    except ModuleError as error:
        show("refused", tick=now_ns, error=str(error))
        return False
    _show_outcome(show, "ticked", outcome, now_ns=now_ns, took_us=round((time.perf_counter() - started) * 1e6))
    return True


def _keep(kept: Kept, path: Path, show: "_Printer") -> None:
    kept.write(path)
    show("kept", state_bytes=len(kept.state), keys=len(kept.keys), file=str(path))


def _show_outcome(show: "_Printer", what: str, outcome: Any, **about: Any) -> None:
    show(what, **about)
    for place, (topic, payload) in enumerate(outcome.messages):
        answer = {"reply_to": outcome.reply_to[place]} if place in outcome.reply_to else {}
        show("publish", topic=topic, payload=payload.decode("utf-8", "backslashreplace"), **answer)
    for write in outcome.writes:
        value = None if write.value is None else write.value.decode("utf-8", "backslashreplace")
        show("keep", key=write.key, value=value)


def _show_trap(show: "_Printer", error: Exception, lines: SourceLines) -> None:
    if lines.unread:
        sys.stderr.write("source lines are in the module, and need pyelftools: pip install pyelftools\n")
    if isinstance(error, TerminatedError):
        why = "no answer within the module's deadline_ms"
        show("trap", code=Reason.DEADLINE_EXCEEDED.value, message=why, stack=lines.stack(error.stack))
    elif isinstance(error, Trap):
        show("trap", code=error.code.value, message=str(error), stack=lines.stack(error.stack))
    else:
        show("trap", code="contract", message=str(error), stack=[])


def _describe(module: Path, wasm: bytes) -> ModuleDescription:
    """The description beside the module; without one, all that it imports and begins with is granted: its author is there."""
    path = module.with_suffix(".toml")
    if not path.exists():
        shape = read(wasm)
        everything: dict[str, Any] = {name: {} for name in interfaces_of(shape.imports)}
        everything["messaging"] = {"publish": ["#"], "subscribe": ["#"]}
        limits = Limits(memory_pages=pages_with_room(shape.memory_pages))
        return ModuleDescription(module.stem, "0.0.0", Capabilities.parse(everything, str(module)), limits)
    described = read_description(path, version="0.0.0")
    return ModuleDescription.from_bytes(described.to_bytes())  # as a board reads it: its limits are the same


class _Printer:
    """One line for each thing that happens: for people, or JSON."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def __call__(self, what: str, **about: Any) -> None:
        if self._as_json:
            line = json.dumps({"what": what, **about}, ensure_ascii=False)
            if not line.isprintable():
                line = json.dumps({"what": what, **about})
        else:
            line = printable(f"{what:8} " + "  ".join(f"{key}={value}" for key, value in about.items()))
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

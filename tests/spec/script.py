"""Runs one script: modules are loaded, linked to each other and to `spectest`, and every assertion is checked."""

import subprocess
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ota.author.aot import host_target
from pywamr import (
    FunctionType,
    GlobalType,
    Instance,
    LoadError,
    MissingImportError,
    PywamrError,
    Runtime,
    Trap,
    TrapCode,
    UnsupportedError,
    ValueType,
)
from tests.spec.own import own
from tests.support.aot import WITH_VECTORS, compiled
from tests.support.tools import wasm_tools

STACK_BYTES = 256 * 1024
_I32, _I64, _F32, _F64 = ValueType.I32, ValueType.I64, ValueType.F32, ValueType.F64
_SPECTEST = {
    name: FunctionType(params, ())
    for name, params in {
        "print": (),
        "print_i32": (_I32,),
        "print_i64": (_I64,),
        "print_f32": (_F32,),
        "print_f64": (_F64,),
        "print_i32_f32": (_I32, _F32),
        "print_f64_f64": (_F64, _F64),
    }.items()
}
_SPECTEST_OWN = {
    "memory": ("memory", "1 2"),
    "table": ("table", "10 20 funcref"),
    **{f"global_{kind}": ("global", f"{kind} {kind}.const 666") for kind in ("i32", "i64")},
    **{f"global_{kind}": ("global", f"{kind} {kind}.const 666.6") for kind in ("f32", "f64")},
}
_CONSTANTS = (_I32, _I64, _F32, _F64)
_REFERENCES = (ValueType.EXTERNREF, ValueType.FUNCREF)
_LANE_BITS = {"i8": 8, "i16": 16, "i32": 32, "i64": 64, "f32": 32, "f64": 64}
_MASKS = {"i8": 2**8 - 1, "i16": 2**16 - 1, "i32": 2**32 - 1, "f32": 2**32 - 1, "i64": 2**64 - 1, "f64": 2**64 - 1}
_QUIET = {"f32": 0x7FC00000, "f64": 0x7FF8000000000000}


@dataclass
class Outcome:
    """What became of a script's assertions."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


class Skip(Exception):
    """The assertion is about something that is left out by design; the text is the reason."""


class Script:
    """One script in one mode."""

    def __init__(self, mode: str, folder: Path) -> None:
        self._compiles = mode == "aot"
        self._folder = folder
        self._runtime = Runtime()
        self._current: Instance | str = "no module was loaded"
        self._named: dict[str, Instance | str] = {}
        self._registered: dict[str, Instance | str] = {}
        self._exports: dict[Instance, dict[str, Any]] = {}
        self.outcome = Outcome()

    def run(self, commands: list[dict[str, Any]]) -> Outcome:
        for command in commands:
            try:
                done = getattr(self, "_" + command["type"])(command)
            except Skip as reason:
                self.outcome.skipped[str(reason)] += 1
            except Exception as error:
                self.outcome.failed.append(f"line {command['line']} {command['type']}: {type(error).__name__}: {error}"[:200])
            else:
                self.outcome.passed += bool(done)
        return self.outcome

    # -- modules

    def _load(self, command: dict[str, Any]) -> Instance:
        path = self._folder / command["filename"]
        wasm = read(path)
        try:
            module = self._runtime.load(wasm)
        except (UnsupportedError, LoadError):
            if (wasm := own(path, self._provide)) is None:
                raise
            module = self._runtime.load(wasm)
        if self._compiles:
            module = self._runtime.load(_image(wasm))
        hosts: dict[str, dict[str, Any]] = {}
        for wanted in module.imports:
            hosts.setdefault(wanted.module, {})[wanted.name] = self._host(wanted.module, wanted.name, wanted.type)
        instance = module.instantiate(hosts, stack_bytes=STACK_BYTES)
        self._exports[instance] = {each.name: each.type for each in module.exports}
        return instance

    def _provide(self, module: str, name: str, kind: str, wanted: str) -> str:
        """What a module gets for its own in place of an import; see `own`."""
        if module == "spectest" and name in _SPECTEST_OWN:
            there, given = _SPECTEST_OWN[name]
        else:
            there, given = self._exported(module, name)
        if there != kind or not (given.startswith(f"{wanted} ") if kind == "global" else _fits(given, wanted)):
            raise PywamrError(f"{module}.{name} is ({there} {given}), wanted is ({kind} {wanted})")
        return given

    def _exported(self, module: str, name: str) -> tuple[str, str]:
        """A constant of another instance, as text."""
        exporter = self._exporter(module, name)
        kind = self._exports[exporter].get(name)
        if kind is None:
            raise MissingImportError(((module, name),))
        if not isinstance(kind, GlobalType) or kind.mutable or kind.value not in _CONSTANTS:
            raise Skip("shares a memory, a table or a variable with another module")
        value = exporter.get_global(name)
        return "global", f"{kind.value!r} {kind.value!r}.const {value.hex() if isinstance(value, float) else value}"

    def _exporter(self, module: str, name: str) -> Instance:
        exporter = self._registered.get(module)
        if isinstance(exporter, str):
            raise Skip(exporter)
        if exporter is None:
            raise MissingImportError(((module, name),))
        return exporter

    def _host(self, module: str, name: str, kind: Any) -> Any:
        if module == "spectest":
            if _SPECTEST.get(name) != kind and isinstance(kind, FunctionType):
                raise PywamrError(f"spectest.{name} is not {kind}")
            return lambda *values: None
        function = self._exporter(module, name).function(name)
        if function.type != kind:
            raise PywamrError(f"{module}.{name} is {function.type}, wanted is {kind}")
        return function

    def _module(self, command: dict[str, Any]) -> bool:
        try:
            self._current = self._load(command)
        except UnsupportedError:
            self._current = "imports a function of several results: refused by design"
        except Skip as reason:
            self._current = str(reason)
        except Exception:
            self._current = "its module does not load"
            raise
        if "name" in command:
            self._named[command["name"]] = self._current
        if isinstance(self._current, str):
            raise Skip(self._current)
        return True

    def _module_definition(self, command: dict[str, Any]) -> bool:
        raise Skip("a module definition without an instance")

    _module_instance = _module_definition

    def _register(self, command: dict[str, Any]) -> bool:
        self._registered[command["as"]] = self._named[command["name"]] if "name" in command else self._current
        return False

    def _instance(self, command: dict[str, Any]) -> Instance:
        found = self._named[command["module"]] if "module" in command else self._current
        if isinstance(found, str):
            raise Skip(found)
        return found

    # -- actions

    def _perform(self, action: dict[str, Any]) -> list[Any]:
        instance = self._instance(action)
        if action["type"] == "get":
            return [instance.get_global(action["field"])]
        function = instance.function(action["field"])
        kinds: FunctionType = function.type
        if any(kind in _REFERENCES for kind in (*kinds.params, *kinds.results)):
            result = function(*(self._argument(each) for each in action["args"]))
            return [] if not kinds.results else list(result) if len(kinds.results) > 1 else [result]
        row = array("Q", [slot for each in action["args"] for slot in _slots(each)] + [0] * function.width)[: function.width]
        function.call_each(memoryview(row))
        found = iter(row)
        return [_two_slots(found) if kind is ValueType.V128 else Bits(next(found)) for kind in kinds.results]

    @staticmethod
    def _argument(argument: dict[str, Any]) -> Any:
        if argument["type"] in ("externref", "funcref", "refnull"):
            return None if argument.get("value", "null") == "null" else Reference(argument["value"])
        return int(argument["value"])

    def _action(self, command: dict[str, Any]) -> bool:
        self._perform(command["action"])
        return True

    # -- assertions

    def _assert_return(self, command: dict[str, Any]) -> bool:
        found, expected = self._perform(command["action"]), command["expected"]
        good = len(found) == len(expected) and all(map(_matches, found, expected))
        if not good:
            raise AssertionError(f"{found} instead of {expected}")
        return True

    def _assert_trap(self, command: dict[str, Any]) -> bool:
        try:
            found = self._perform(command["action"]) if "action" in command else [self._load(command)]
        except Trap as trap:
            if trap.code is TrapCode.OTHER:
                raise AssertionError(f"trapped with {trap} instead of {command['text']}") from None
            return True
        except UnsupportedError as error:
            raise Skip("imports a function of several results: refused by design") from error
        raise AssertionError(f"{found} instead of the trap {command['text']}")

    _assert_uninstantiable = _assert_trap

    def _assert_exhaustion(self, command: dict[str, Any]) -> bool:
        try:
            found = self._perform(command["action"])
        except Trap as trap:
            if trap.code is TrapCode.STACK_OVERFLOW:
                return True
            raise
        raise AssertionError(f"{found} instead of an exhausted stack")

    def _assert_invalid(self, command: dict[str, Any]) -> bool:
        if command.get("module_type") == "text":
            raise Skip("about the text format")
        try:
            self._runtime.load((self._folder / command["filename"]).read_bytes())
        except (LoadError, UnsupportedError):
            return True
        raise AssertionError(f"was accepted: {command['text']}")

    _assert_malformed = _assert_invalid

    def _assert_unlinkable(self, command: dict[str, Any]) -> bool:
        try:
            self._load(command)
        except PywamrError:
            return True
        raise AssertionError(f"was linked: {command['text']}")


def _image(wasm: bytes) -> bytes:
    try:
        return compiled(wasm, cpu=WITH_VECTORS.get(host_target(), ""))
    except subprocess.CalledProcessError as error:
        if "vectors can't be compiled" in error.stderr:
            raise Skip(f"WAMR's compiler has no vectors for {host_target()}") from error
        raise


def read(path: Path) -> bytes:
    """A module's bytes; one that a script quotes as text is translated."""
    if path.suffix != ".wat":
        return path.read_bytes()
    return wasm_tools("parse", path)


def _fits(given: str, wanted: str) -> bool:
    """Whether limits, and the type of a table's elements, are within those that are wanted (core 2.0, section 4.5.3)."""
    (least, most, *kind), limits = given.split(), wanted.split()
    if kind and limits.pop() != kind[0]:
        return False
    return int(least) >= int(limits[0]) and (len(limits) == 1 or int(most) <= int(limits[1]))


def _slots(value: dict[str, Any]) -> list[int]:
    """A number, or the two halves of a vector."""
    if value["type"] != "v128":
        return [int(value["value"]) & 2**64 - 1]
    bits = _LANE_BITS[value["lane_type"]]
    whole = sum((int(lane) & (1 << bits) - 1) << bits * place for place, lane in enumerate(value["value"]))
    return [whole & 2**64 - 1, whole >> 64]


def _two_slots(slots: Iterator[int]) -> bytes:
    return next(slots).to_bytes(8, "little") + next(slots).to_bytes(8, "little")


@dataclass(frozen=True)
class Reference:
    """A host object, by its number in the script."""

    number: str


class Bits(int):
    """A number as its bits."""


def _matches(found: Any, expected: dict[str, Any]) -> bool:
    kind, value = expected["type"], expected.get("value", "null")
    if kind == "v128":
        return _lanes_match(found, expected["lane_type"], value)
    if kind in ("externref", "funcref", "refnull", "nullref"):
        if value == "null":
            return found is None
        return found == Reference(value) if kind == "externref" else found is not None
    return _bits_match(kind, found if isinstance(found, Bits) else _bits(kind, found), value)


def _lanes_match(found: bytes, lane: str, values: list[str]) -> bool:
    size = _LANE_BITS[lane] // 8
    lanes = [int.from_bytes(found[at : at + size], "little") for at in range(0, len(found), size)]
    return len(lanes) == len(values) and all(_bits_match(lane, bits, value) for bits, value in zip(lanes, values, strict=True))


def _bits_match(kind: str, number: int, value: str) -> bool:
    bits = number & _MASKS[kind]
    if value == "nan:canonical":
        return bits & (_MASKS[kind] >> 1) == _QUIET[kind]
    if value == "nan:arithmetic":
        return bits & _QUIET[kind] == _QUIET[kind]
    return bits == int(value) & _MASKS[kind]


def _bits(kind: str, value: Any) -> int:
    if kind in ("i32", "i64"):
        return int(value)
    return int.from_bytes(array("f" if kind == "f32" else "d", [value]).tobytes(), "little")

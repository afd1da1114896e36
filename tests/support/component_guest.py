"""A guest whose exports are the functions that it imports by the Component Model's names, to be called from Python."""

import struct

from device_agent.sandbox.contract import ModuleHost
from device_agent.sandbox.signatures import Signature
from ota.formats import worlds
from ota.formats.capabilities import Capabilities
from ota.formats.module import Limits, ModuleDescription
from pywamr import FunctionType, ValueType
from tests.support.wat import wat

_DROP = FunctionType((ValueType.I32,), ())
MODULE = """
(module
  {imports}
  (memory (export "{memory}") 2)
  (global $bump (mut i32) (i32.const 8192))
  (func (export "{allocator}") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $bump) (i32.sub (local.get 2) (i32.const 1)))
                            (i32.sub (i32.const 0) (local.get 2))))
    (global.set $bump (i32.add (local.get $at) (local.get 3)))
    (local.get $at))
  (func (export "{handle}") (param i32 i32 i32 i32) (result i32) (i32.const 0))
  {more})
"""
AREA = 1024  # where results are returned to


def core_type(module: str, function: str) -> FunctionType:
    """What the interface says."""
    interface, plain = worlds.interface_of(module), worlds.function_of(module, function)
    if interface is None or plain.startswith("[resource-drop]"):
        return _DROP
    return Signature(interface.functions[plain], interface.types).imported


def declared(name: str, module: str, function: str, kind: FunctionType | None = None) -> str:
    """An import in text form."""
    kind = kind or core_type(module, function)
    params = " ".join(str(each.name).lower() for each in kind.params)
    results = " ".join(str(each.name).lower() for each in kind.results)
    return f'(import "{module}" "{function}" (func ${name} (param {params}) (result {results})))'


class Guest:
    """One module of our contract that imports `functions`, pairs of module and name, with `capabilities`."""

    def __init__(self, functions, capabilities=None, *, devices=None, config=None, canonical=False, more="", **about) -> None:
        self._numbers = {each: number for number, each in enumerate(functions)}
        imports, exports = [], []
        for (module, function), number in self._numbers.items():
            kind = core_type(module, function)
            imports.append(declared(f"i{number}", module, function))
            params = " ".join(str(each.name).lower() for each in kind.params)
            results = " ".join(str(each.name).lower() for each in kind.results)
            values = " ".join(f"(local.get {at})" for at in range(len(kind.params)))
            exports.append(f'(func (export "f{number}") (param {params}) (result {results}) (call $i{number} {values}))')
        names = {"memory": "memory", "allocator": "cabi_realloc", "handle": "device:module/events@0.1.0#handle"}
        if canonical:
            names = {"memory": "cm32p2_memory", "allocator": "cm32p2_realloc", "handle": "cm32p2|device:module/events@0.1|handle"}
        text = MODULE.format(imports="\n".join(imports), more="\n".join((*exports, more)), **names)
        self.logged = []
        wanted = Capabilities.parse({"wasi": {}} if capabilities is None else capabilities, "test")
        limits = about.pop("limits", Limits())
        description = ModuleDescription("guest", "1", wanted, limits, **about)
        log = lambda *each: self.logged.append(each)  # noqa: E731
        self.host = ModuleHost(wat(text), description, config or {}, log, devices=devices)
        self.host.begin(b"", {})
        self._at = 4096
        self.memory = self.host._live().memory

    def text(self, content) -> tuple[int, int]:
        """Pointer and length of bytes, put into memory."""
        raw = content.encode() if isinstance(content, str) else content
        at, self._at = self._at, self._at + len(raw)
        self.memory.write(at, raw)
        return at, len(raw)

    def call(self, module: str, function: str, *values):
        """Texts and bytes become pointer and length; a place for the result is added where the function takes one."""
        self._at = 4096
        flat = []
        for each in values:
            flat += self.text(each) if isinstance(each, str | bytes) else (int(each),)
        kind = core_type(module, function)
        if len(kind.params) == len(flat) + 1:
            flat.append(AREA)
        return self.host._live().function(f"f{self._numbers[module, function]}")(*flat)

    def unpack(self, shape: str, at: int = AREA):
        """Values of the result in memory."""
        return struct.unpack(shape, self.memory.read(at, struct.calcsize(shape)))

    def bytes_of(self, at: int = AREA) -> bytes:
        """The bytes of a list or string whose pointer and length lie there."""
        pointer, size = self.unpack("<II", at)
        return self.memory.read(pointer, size)

    def lines(self) -> list:
        """What was logged; the call that wrote it has ended."""
        self.host._wasi.end_lines()
        return self.logged

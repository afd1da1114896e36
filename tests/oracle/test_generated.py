"""Generated modules do the same in Wasmtime and here, interpreted and compiled ahead of time: results, traps, memory, globals."""

import random
import struct
import tempfile
from array import array
from pathlib import Path

import pytest
import wasmtime
from hypothesis import assume
from hypothesis import strategies as st

from ota.author.aot import host_target
from pywamr import FunctionType, GlobalType, Instance, LoadError, MemoryType, Runtime, Trap, TrapCode, ValueType
from tests.support.aot import WITH_VECTORS, aotc, compiled_now
from tests.support.sampling import check, few_and_many
from tests.support.tools import wasm_tools

PROPOSALS = {
    **dict.fromkeys(
        ("relaxed-simd", "tail-call", "gc", "exceptions", "threads", "memory64", "wide-arithmetic", "extended-const",
         "custom-page-sizes", "shared-everything-threads", "custom-descriptors", "compact-imports"),
        "false",
    ),
    "multi-value": "true",
    "simd": "true",
}  # fmt: skip
SHAPE = {
    "max-imports": 0, "export-everything": "true", "canonicalize-nans": "true", "max-memories": 1, "max-memory32-bytes": 1 << 20,
    "max-table-elements": 512, "min-funcs": 3, "max-funcs": 20, "allow-start-export": "true",
}  # fmt: skip
NUMBERS = (ValueType.I32, ValueType.I64, ValueType.F32, ValueType.F64)
FUEL = 3000
TABLE_ELEMENTS = 1024  # to which a table of that shape may grow here
MEMORY_COMPARED = 1 << 22  # a module may grow to 4 GiB


def generated(seed: int) -> bytes:
    """A module that ends by itself; equal for equal seeds."""
    flags = [f"--{name}-enabled={value}" for name, value in PROPOSALS.items()] + [
        f"--{name}={value}" for name, value in SHAPE.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "seed"
        source.write_bytes(random.Random(seed).randbytes(4000))
        return wasm_tools("smith", source, "--ensure-termination", "-f", FUEL, *flags)


def arguments(seed: int, kinds: tuple[ValueType, ...]) -> list[int]:
    """Bits for parameters: often the numbers at which things change."""
    source = random.Random(seed)
    edges = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, 0x3F800000, 0x3FF0000000000000, 0x7F800000)
    bits = [source.choice((source.getrandbits(64), source.choice(edges))) for _ in kinds]
    return [
        value & 0xFFFFFFFF if kind in (ValueType.I32, ValueType.F32) else value for kind, value in zip(kinds, bits, strict=True)
    ]


def functions(instance: Instance, exports) -> list[tuple[str, FunctionType]]:
    """The exported functions that take and give numbers."""
    found = [(each.name, each.type) for each in exports if isinstance(each.type, FunctionType)]
    return [(name, kind) for name, kind in found if all(each in NUMBERS for each in (*kind.params, *kind.results))]


def ours(code: bytes, seed: int) -> list[object]:
    """Everything that can be seen from outside after each call; None where it trapped. Stack exhaustion is each runtime's own."""
    seen: list[object] = []
    with Runtime() as runtime:
        module = runtime.load(code)
        try:
            instance = module.instantiate(stack_bytes=1 << 20)
        except Trap:
            return [None]
        for name, kind in functions(instance, module.exports):
            function = instance.function(name)
            row = array("Q", [*arguments(seed, kind.params), *[0] * function.width][: function.width])
            try:
                function.call_each(memoryview(row))
                seen.append((name, [_masked(each, row[i]) for i, each in enumerate(kind.results)]))
            except Trap as trap:
                seen.append((name, "exhausted" if trap.code is TrapCode.STACK_OVERFLOW else "trapped"))
        for each in module.exports:
            if isinstance(each.type, GlobalType) and each.type.value in (ValueType.I32, ValueType.I64):
                seen.append((each.name, instance.get_global(each.name)))
            if isinstance(each.type, MemoryType):
                size = len(instance.memory)
                seen.append((size, hash(instance.memory.read(0, min(size, MEMORY_COMPARED)))))
    return seen


def _masked(kind: ValueType, bits: int) -> int:
    """As Python's float, through which the other's results come, has it: without signalling NaNs of 32 bits."""
    if kind is ValueType.F32 and bits & 0x7F800000 == 0x7F800000 and bits & 0x7FFFFF:
        bits |= 0x400000
    return bits & 0xFFFFFFFF if kind in (ValueType.I32, ValueType.F32) else bits


def theirs(wasm: bytes, seed: int, exports) -> list[object]:
    store = wasmtime.Store()
    store.set_limits(table_elements=TABLE_ELEMENTS)
    module = wasmtime.Module(store.engine, wasm)
    seen: list[object] = []
    try:
        instance = wasmtime.Instance(store, module, [])
    except wasmtime.Trap:
        return [None]
    found = instance.exports(store)
    for name, kind in functions(None, exports):
        values = [_value(each, bits) for each, bits in zip(kind.params, arguments(seed, kind.params), strict=True)]
        try:
            result = found[name](store, *values)
            results = result if isinstance(result, list) else [] if result is None else [result]
            seen.append((name, [_bits(each, value) for each, value in zip(kind.results, results, strict=True)]))
        except wasmtime.Trap as trap:
            seen.append((name, "exhausted" if trap.trap_code is wasmtime.TrapCode.STACK_OVERFLOW else "trapped"))
    for each in exports:
        if isinstance(each.type, GlobalType) and each.type.value in (ValueType.I32, ValueType.I64):
            seen.append((each.name, found[each.name].value(store)))
        if isinstance(each.type, MemoryType):
            memory = found[each.name]
            size = memory.data_len(store)
            seen.append((size, hash(bytes(memory.read(store, 0, min(size, MEMORY_COMPARED))))))
    return seen


def _value(kind: ValueType, bits: int) -> int | float:
    if kind is ValueType.I32:
        return struct.unpack("<i", struct.pack("<I", bits))[0]
    if kind is ValueType.I64:
        return struct.unpack("<q", struct.pack("<Q", bits))[0]
    if kind is ValueType.F32:
        return struct.unpack("<f", struct.pack("<I", bits))[0]
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


def _bits(kind: ValueType, value: int | float) -> int:
    if kind in (ValueType.I32, ValueType.I64):
        return value & (0xFFFFFFFF if kind is ValueType.I32 else 2**64 - 1)
    pair = ("<f", "<I") if kind is ValueType.F32 else ("<d", "<Q")
    return struct.unpack(pair[1], struct.pack(pair[0], value))[0]


def _comparable(first: list[object], second: list[object]) -> bool:
    """Equal up to the first exhausted stack: from there on each runtime is right in its own way."""
    for left, right in zip(first, second, strict=True):
        if "exhausted" in (left[1:] if left else ()) or "exhausted" in (right[1:] if right else ()):
            return True
        if left != right:
            return False
    return True


def agrees(seed):
    wasm = generated(seed)
    with Runtime() as runtime:
        try:
            exports = runtime.load(wasm).exports
        except LoadError as error:
            assume("UTF-8" not in str(error))  # a name with a NUL character, which WAMR does not take
            raise
    expected = theirs(wasm, seed, exports)
    found = ours(wasm, seed)
    assert _comparable(found, expected), (found, expected)
    if aotc() is not None:
        image = compiled_now(wasm, cpu=WITH_VECTORS.get(host_target(), ""))
        found = ours(image, seed)
        assert _comparable(found, expected), (found, expected)


@pytest.mark.timeout(900)
@few_and_many(15, 150)
def test_a_generated_module_does_what_it_does_in_wasmtime(examples):
    check(examples, agrees, st.integers(0, 2**64 - 1))

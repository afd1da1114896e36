"""Every instruction that computes and cannot trap, over operands at which things change: modules whose exports each do one of them.

`python -m tests.support.operations FILE…` prints a digest of each export's results as JSON, with WAMR; `results` takes any runtime.
"""

import hashlib
import json
import random
import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

from pywamr import Runtime

TURNS = 256
WIDTH = {"i32": 4, "i64": 8, "f32": 4, "f64": 8, "v128": 16}
OPERANDS_AT = 0
RESULTS_AT = 3 * 16 * TURNS
Operation = tuple[str, tuple[str, ...], str]


def _each(prefixes: str, names: str, takes: tuple[str, ...], gives: str) -> Iterator[Operation]:
    for prefix in prefixes.split():
        for name in names.split():
            yield f"{prefix}.{name}", takes, gives


def scalars() -> list[Operation]:
    """Of the four number types."""
    found: list[Operation] = []
    for kind in ("i32", "i64"):
        found += _each(kind, "add sub mul and or xor shl shr_s shr_u rotl rotr", (kind, kind), kind)
        found += _each(kind, "eq ne lt_s lt_u gt_s gt_u le_s le_u ge_s ge_u", (kind, kind), "i32")
        found += _each(kind, "clz ctz popcnt extend8_s extend16_s", (kind,), kind)
        found += _each(kind, "eqz", (kind,), "i32")
        for source in ("f32", "f64"):
            found += _each(kind, f"trunc_sat_{source}_s trunc_sat_{source}_u", (source,), kind)
            found += _each(source, f"convert_{kind}_s convert_{kind}_u", (kind,), source)
    for kind in ("f32", "f64"):
        found += _each(kind, "add sub mul div min max copysign", (kind, kind), kind)
        found += _each(kind, "eq ne lt gt le ge", (kind, kind), "i32")
        found += _each(kind, "abs neg sqrt ceil floor trunc nearest", (kind,), kind)
    found += [("i64.extend32_s", ("i64",), "i64"), ("i64.extend_i32_s", ("i32",), "i64"), ("i64.extend_i32_u", ("i32",), "i64")]
    found += [("i32.wrap_i64", ("i64",), "i32"), ("f32.demote_f64", ("f64",), "f32"), ("f64.promote_f32", ("f32",), "f64")]
    found += [("i32.reinterpret_f32", ("f32",), "i32"), ("f32.reinterpret_i32", ("i32",), "f32")]
    found += [("i64.reinterpret_f64", ("f64",), "i64"), ("f64.reinterpret_i64", ("i64",), "f64")]
    return found


def vectors() -> list[Operation]:
    """Of 128-bit vectors."""
    one, two, three = ("v128",), ("v128", "v128"), ("v128", "v128", "v128")
    found: list[Operation] = [("v128.not", one, "v128"), ("v128.bitselect", three, "v128"), ("v128.any_true", one, "i32")]
    found += _each("v128", "and andnot or xor", two, "v128")
    shapes = {
        "i8x16": ("i32", 16),
        "i16x8": ("i32", 8),
        "i32x4": ("i32", 4),
        "i64x2": ("i64", 2),
        "f32x4": ("f32", 4),
        "f64x2": ("f64", 2),
    }
    for shape, (lane, count) in shapes.items():
        found += _each(shape, "splat", (lane,), "v128")
        for number in range(count):
            for sign in ("_s", "_u") if count > 4 else ("",):
                found.append((f"{shape}.extract_lane{sign} {number}", one, lane))
            found.append((f"{shape}.replace_lane {number}", ("v128", lane), "v128"))
    signed = " ".join(f"{name}_s {name}_u" for name in ("lt", "gt", "le", "ge"))
    for shape in ("i8x16", "i16x8", "i32x4", "i64x2"):
        found += _each(shape, "add sub eq ne", two, "v128")
        found += _each(shape, signed if shape != "i64x2" else "lt_s gt_s le_s ge_s", two, "v128")
        found += _each(shape, "abs neg", one, "v128")
        found += _each(shape, "all_true bitmask", one, "i32")
        found += _each(shape, "shl shr_s shr_u", ("v128", "i32"), "v128")
    found += _each("i8x16 i16x8 i32x4", "min_s min_u max_s max_u", two, "v128")
    found += _each("i8x16 i16x8", "add_sat_s add_sat_u sub_sat_s sub_sat_u avgr_u", two, "v128")
    found += _each("i16x8 i32x4 i64x2", "mul", two, "v128")
    found += _each("i8x16", "popcnt", one, "v128")
    found += _each("i8x16", "swizzle narrow_i16x8_s narrow_i16x8_u", two, "v128")
    found += _each("i16x8", "q15mulr_sat_s narrow_i32x4_s narrow_i32x4_u", two, "v128")
    found += _each("i32x4", "dot_i16x8_s", two, "v128")
    for wide, narrow in (("i16x8", "i8x16"), ("i32x4", "i16x8"), ("i64x2", "i32x4")):
        for sign in ("s", "u"):
            found += _each(wide, f"extend_low_{narrow}_{sign} extend_high_{narrow}_{sign}", one, "v128")
            found += _each(wide, f"extmul_low_{narrow}_{sign} extmul_high_{narrow}_{sign}", two, "v128")
            if wide != "i64x2":
                found += _each(wide, f"extadd_pairwise_{narrow}_{sign}", one, "v128")
    found += _each("f32x4 f64x2", "abs neg sqrt ceil floor trunc nearest", one, "v128")
    found += _each("f32x4 f64x2", "add sub mul div min max pmin pmax eq ne lt gt le ge", two, "v128")
    found += _each("i32x4", "trunc_sat_f32x4_s trunc_sat_f32x4_u trunc_sat_f64x2_s_zero trunc_sat_f64x2_u_zero", one, "v128")
    found += _each("f32x4", "convert_i32x4_s convert_i32x4_u demote_f64x2_zero", one, "v128")
    found += _each("f64x2", "convert_low_i32x4_s convert_low_i32x4_u promote_low_f32x4", one, "v128")
    for lanes in (range(16), range(16, 32), range(31, 15, -1), (0, 31) * 8, (7,) * 16, range(5, 21), (3, 2, 1, 0) * 4):
        found.append((f"i8x16.shuffle {' '.join(map(str, lanes))}", two, "v128"))
    return found


INFINITE = (float("inf"), float("-inf"), float("nan"))
ROUND = (0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 2.0**31, -(2.0**31), 2.0**32, 2.0**63, -(2.0**63), 2.0**64, 1e-40)
EDGES = {
    "b": (0, 1, -1, 127, -128, 126, 64),
    "h": (0, 1, -1, 127, 128, 255, 256, -128, -129, 32767, -32768, 16384),
    "i": (0, 1, -1, 65535, 65536, -65536, 2**31 - 1, -(2**31), 2**24 + 1, 31, 32),
    "q": (0, 1, -1, 2**32, -(2**32), 2**63 - 1, -(2**63)),
    "f": (*ROUND, *INFINITE, -1e-45, 3e38, 3e9, 4294967040.0, 8388609.0, 0.49999997),
    "d": (
        *(*ROUND, *INFINITE, 5e-324, 1.7e308, 2147483647.5, 4294967295.5, 4503599627370497.5, 0.49999999999999994, 16777217.0),
        3.4028235677973366e38,
    ),
}
"""By the type's letter in `struct`."""


def operands(seed: int) -> bytes:
    """Three times 16 bytes for each turn: edges of one type, of several, or anything."""
    source = random.Random(seed)

    def sixteen() -> bytes:
        if source.random() < 0.2:
            return source.randbytes(16)
        kind = source.choice(list(EDGES))
        count = 16 // struct.calcsize(kind)
        values = source.choices(EDGES[kind], k=count)
        return struct.pack(f"<{count}{kind}", *(values if source.random() < 0.8 else values[:1] * count))

    return b"".join(sixteen() for _ in range(3 * TURNS))


def module(operations: list[Operation], data: bytes) -> str:
    """Text of a module with one export for each operation, named by its place, which does all turns."""
    text = "".join(f"\\{byte:02x}" for byte in data)
    lines = [f'(module (memory (export "memory") 1) (data (i32.const {OPERANDS_AT}) "{text}")']
    for number, (name, takes, gives) in enumerate(operations):
        loads = " ".join(f"({kind}.load offset={16 * i} (local.get $p))" for i, kind in enumerate(takes))
        lines.append(f"""(func (export "{number}") (local $p i32) (local $q i32)
  (loop $next
    ({gives}.store offset={RESULTS_AT} (local.get $q) ({name} {loads}))
    (local.set $p (i32.add (local.get $p) (i32.const 48)))
    (local.set $q (i32.add (local.get $q) (i32.const {WIDTH[gives]})))
    (br_if $next (i32.lt_u (local.get $p) (i32.const {RESULTS_AT})))))""")
    return "\n".join([*lines, ")"])


MOVED = {
    "abs", "neg", "copysign", "pmin", "pmax", "eq", "ne", "lt", "gt", "le", "ge", "splat", "reinterpret_i32", "reinterpret_i64",
}  # fmt: skip
"""What gives an operand's bits, or none of a float."""


def plain(operation: Operation, raw: bytes) -> bytes:
    """Results with one NaN in the place of all, where a NaN was computed and not just moved."""
    name, _, gives = operation
    shape, _, verb = name.partition(".")
    lanes = shape if gives == "v128" else gives
    if lanes[0] != "f" or verb in MOVED or "lane" in verb:
        return raw
    values = array("f" if lanes.startswith("f32") else "d", raw)
    sure = "nan" if values.typecode == "f" else "NAN"
    return b"".join(sure.encode() if value != value else struct.pack(values.typecode, value) for value in values)


def results(operations: list[Operation], call: Callable[[str], None], read: Callable[[int, int], bytes]) -> dict[str, str]:
    """A digest of what each operation gives in all turns."""
    found = {}
    for number, operation in enumerate(operations):
        call(str(number))
        raw = plain(operation, read(RESULTS_AT, WIDTH[operation[2]] * TURNS))
        found[f"{operation[0]} {' '.join(operation[1])}"] = hashlib.sha256(raw).hexdigest()[:16]
    return found


def ours(operations: list[Operation], code: bytes) -> dict[str, str]:
    """With WAMR, interpreted or compiled."""
    with Runtime() as runtime:
        instance = runtime.load(code).instantiate()
        return results(operations, lambda name: instance.call(name), instance.memory.read)


if __name__ == "__main__":
    kind, *paths = sys.argv[1:]
    print(json.dumps([ours({"scalars": scalars, "vectors": vectors}[kind](), Path(each).read_bytes()) for each in paths]))

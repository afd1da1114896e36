"""Prints what modules compute, as JSON: `python -m tests.support.results kernels|floats FILE…`

Each file is a .wasm or an image for the machine that runs this; argument and result of every call are printed as bits, so that
two machines agree only where they agree on each.
"""

import json
import random
import struct
import sys
from pathlib import Path

from pywamr import Runtime

FLOATS = (0.0, -0.0, 1.5, -2.75, 3.0e38, 1.0e-40, 5.0e-324, 1.7976931348623157e308, float("inf"), float("-inf"))
# Every order in which integers and floats can meet in registers and on the stack of each architecture's calls.
MODULE = """(module
  (import "host" "mix" (func $mix (param f32 i32 f64 i64 f32 i64 f64 i32 f64 f32 f64 f32) (result f64)))
  (import "host" "single" (func $single (param f32) (result f32)))
  (import "host" "double" (func $double (param i32 f64) (result f64)))
  (func (export "single") (param f32) (result f32) (call $single (local.get 0)))
  (func (export "double") (param f64) (result f64) (call $double (i32.const -7) (local.get 0)))
  (func (export "mix") (param f32 f64) (result f64)
    (call $mix (local.get 0) (i32.const -1) (local.get 1) (i64.const -2) (local.get 0) (i64.const 0x123456789abcdef)
      (local.get 1) (i32.const 77) (local.get 1) (local.get 0) (local.get 1) (local.get 0)))
  WEIGHED)"""
TO_F64 = {"f32": "(f64.promote_f32 {})", "f64": "{}", "i32": "(f64.convert_i32_s {})", "i64": "(f64.convert_i64_s {})"}
_random = random.Random(1)
ORDERS = [_random.choices(list(TO_F64), k=_random.randrange(1, 25)) for _ in range(100)]


def _weighed(number: int, order: list[str]) -> str:
    """A function that weighs each parameter by its place: what arrives in another's place changes the sum."""
    total = "(f64.const 0)"
    for place, kind in enumerate(order):
        value = TO_F64[kind].format(f"(local.get {place})")
        total = f"(f64.add {total} (f64.mul (f64.const {place + 1}) {value}))"
    return f"""(func (export "weighed{number}") (param {" ".join(order)}) (result f64) {total})"""


def _series(length: int) -> str:
    """A loop with many constants: more than there are registers, so that their addresses, or halves of them, are kept instead."""
    turns = "".join(
        f"(local.set $x (f64.add (f64.mul (local.get $x) (f64.const {1 / (7 + each)})) (f64.const {each + 0.3})))"
        for each in range(length)
    )
    return f"""(func (export "series{length}") (param $n i32) (param $x f64) (result f64) (loop $again {turns}
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1))))) (local.get $x))"""


SERIES = (4, 16, 24, 40, 200)
WEIGHED = [_weighed(number, order) for number, order in enumerate(ORDERS)]
MODULE = MODULE.replace("WEIGHED", "\n".join([*WEIGHED, *map(_series, SERIES)]))
KERNELS = ("crc32", "sha256", "sort", "matrix", "filter", "fir", "mix", "parse")


def bits(value: float) -> str:
    """A double as hexadecimal digits; a NaN only as that."""
    return "nan" if value != value else struct.pack(">d", value).hex()


def single(value: float) -> float:
    """A double as the nearest single."""
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def floats(code: bytes) -> dict[str, list[str]]:
    """Calls of MODULE: what the host saw, and what came back."""
    seen: list[str] = []

    def mix(*values):
        seen.extend(bits(each) if isinstance(each, float) else str(each) for each in values)
        return values[0] + values[2]

    hosts = {"mix": mix, "single": lambda value: value, "double": lambda count, value: value if count == -7 else 0.0}
    with Runtime() as runtime:
        instance = runtime.load(code).instantiate({"host": hosts})
        found = {
            "single": [bits(instance.call("single", single(each))) for each in FLOATS],
            "double": [bits(instance.call("double", each)) for each in FLOATS],
            "mix": [bits(instance.call("mix", single(each), each)) for each in FLOATS],
            "weighed": [
                bits(
                    instance.call(
                        f"weighed{number}", *(float(place) if kind[0] == "f" else place for place, kind in enumerate(order))
                    )
                )
                for number, order in enumerate(ORDERS)
            ],
            "series": [bits(instance.call(f"series{length}", 3, 0.5)) for length in SERIES],
        }
    return found | {"seen": seen}


def kernels(code: bytes) -> dict[str, int]:
    """One round of each kernel."""
    with Runtime() as runtime:
        instance = runtime.load(code).instantiate()
        return {name: instance.call(name, 2) for name in KERNELS}


if __name__ == "__main__":
    kind, *paths = sys.argv[1:]
    print(json.dumps([{"floats": floats, "kernels": kernels}[kind](Path(each).read_bytes()) for each in paths]))

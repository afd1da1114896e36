"""Every kind of trap, at its edges: `python -m tests.support.trap_kinds NAMES FILE…` prints what is left after each, as JSON.

A case is a function: it marks memory, a global and the table, does what may trap, and marks other places. Operands are constants,
or come out of globals, where no compiler knows them. The host that it calls may call back into the instance.
"""

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pywamr import Module, Runtime, Trap

PAGE, LAST = 65536, 2**32 - 1
LOADS = {
    f"{kind}.load{narrow}": size
    for kind, whole in (("i32", 4), ("i64", 8), ("f32", 4), ("f64", 8))
    for narrow, size in (("", whole), *((f"{bits}_{sign}", bits // 8) for bits in (8, 16, 32) for sign in "su"))
    if not narrow or (kind[0] == "i" and size < whole)
}
STORES = {"i32.store": 4, "i64.store": 8, "f32.store": 4, "f64.store": 8, "i32.store8": 1, "i32.store16": 2, "i64.store8": 1,
          "i64.store16": 2, "i64.store32": 4}  # fmt: skip
VECTORS = {"v128.load": 16, "v128.load8x8_s": 8, "v128.load16x4_u": 8, "v128.load32x2_s": 8, "v128.load8_splat": 1,
           "v128.load16_splat": 2, "v128.load32_splat": 4, "v128.load64_splat": 8, "v128.load32_zero": 4,
           "v128.load64_zero": 8}  # fmt: skip
OFFSETS = (0, 1, 7, PAGE - 1, PAGE, 2**31 - 1, 2**31, 2**32 - 16, 2**32 - 1)
FLOATS = ("nan", "-nan", "inf", "-inf", "-1", "-0.99999994", "2147483647", "2147483648", "-2147483648", "-2147483904", "4294967040",
          "4294967296", "9223371487098961920", "9223372036854775808", "-9223372036854775808", "-9223373136366403584",
          "18446742974197923840", "18446744073709551616")  # fmt: skip
EDGES = {
    "memory.fill": [(PAGE, 5, 0), (PAGE + 1, 5, 0), (PAGE - 3, 5, 3), (PAGE - 3, 5, 4), (LAST, 5, 1), (LAST, 5, 2), (8, 5, LAST)],
    "memory.copy": [(PAGE, 0, 0), (0, PAGE + 1, 0), (PAGE - 4, 0, 5), (0, PAGE - 4, 5), (LAST - 1, 0, 2), (3, 0, PAGE - 3),
                    (0, 3, PAGE - 2)],
    "memory.init $d": [(0, 0, 16), (0, 0, 17), (0, 16, 0), (0, 17, 0), (PAGE - 4, 4, 4), (PAGE - 4, 4, 5), (0, LAST, 1),
                       (LAST, 0, 1)],
    "memory.init $active": [(0, 0, 0), (0, 0, 1), (PAGE + 1, 0, 0)],
    "table.init $e": [(0, 0, 2), (0, 0, 3), (0, 2, 0), (0, 3, 0), (9, 0, 1), (9, 0, 2), (11, 0, 0), (LAST, 0, 1)],
    "table.init $listed": [(0, 0, 0), (0, 0, 1)],
    "table.copy": [(0, 4, 6), (0, 4, 7), (4, 0, 6), (4, 0, 7), (10, 0, 0), (11, 0, 0), (LAST, 0, 1)],
}  # fmt: skip
HEAD = """(module
  (import "host" "fail" (func $fail)) (import "host" "again" (func $again (param i32) (result i32)))
  (import "host" "caught" (func $caught (param i32) (result i32)))
  (memory (export "memory") 1 3) (table $t (export "table") 10 12 funcref)
  (global $g (export "g") (mut i32) (i32.const 1)) (global $h (export "h") (mut i64) (i64.const 2))
  (global $depth (mut i32) (i32.const 0))
  (type $plain (func)) (type $other (func (param f64) (result i32)))
  (elem $listed (i32.const 5) $nothing $one) (elem $e funcref (ref.func $nothing) (ref.null func)) (elem declare func $nothing)
  (data $active (i32.const 64) "active") (data $d "0123456789abcdef")
  (func $nothing) (func $one (param f64) (result i32) (i32.const 1))
  (func $deep (global.set $depth (i32.add (global.get $depth) (i32.const 1))) (call $deep) (global.set $g (i32.const 99)))
  (func $ping (param i64) (result i64) (i64.add (call $pong (i64.add (local.get 0) (i64.const 1))) (i64.const 1)))
  (func $pong (param i64) (result i64) (i64.mul (call $ping (local.get 0)) (i64.const 3)))
  (func $wide (param f64) (result f64) {wide})
  (func $through (call_indirect (type $plain) (i32.const 8)) (global.set $g (i32.const 98)))
  (elem (i32.const 8) $through)
  (func (export "filled") (param i32) (result i32) (i32.eqz (ref.is_null (table.get $t (local.get 0)))))
  (func (export "size") (result i32) (table.size $t))
"""
WIDE = (
    "(local $x f64) (local.set $x (call $wide (f64.add (local.get 0) (f64.const 1)))) "
    + " ".join(
        f"(local.set $x (f64.div (f64.add (local.get $x) (f64.mul (local.get 0) (f64.const {each}))) (f64.const 3)))"
        for each in range(2, 40)
    )
    + " (local.get $x)"
)
CASE = """(func $case{number}
    (i32.store (i32.const 16) (i32.const 0x11)) (global.set $g (i32.const 7)) (table.set $t (i32.const 2) (ref.func $nothing))
    {body}
    (i32.store (i32.const 20) (i32.const 0x22)) (global.set $h (i64.const 9)) (table.set $t (i32.const 3) (ref.func $nothing)))
"""


class Text:
    """Bodies of cases, and the globals that hide their operands."""

    def __init__(self, hidden: bool) -> None:
        self.hidden = hidden
        self.globals: list[str] = []
        self.functions: list[str] = []
        self.names: list[str] = []

    def value(self, kind: str, number: object) -> str:
        """A constant, or one that nobody knows."""
        if not self.hidden:
            return f"({kind}.const {number})"
        self.globals.append(f"(global $hidden{len(self.globals)} (mut {kind}) ({kind}.const {number}))")
        return f"(global.get $hidden{len(self.globals) - 1})"

    def add(self, name: str, body: str) -> None:
        """One case."""
        self.functions.append(CASE.format(number=len(self.names), body=body))
        self.names.append(name)

    def module(self) -> str:
        """Its text: `run` takes the number of a case."""
        calls = (f"(if (i32.eq (local.get 0) (i32.const {each})) (then (call $case{each})))" for each in range(len(self.names)))
        run = f'(func (export "run") (param i32) {" ".join(calls)})'
        return HEAD.replace("{wide}", WIDE) + "\n".join((*self.globals, *self.functions, run)) + ")"


def module(*, hidden: bool, part: str = "all") -> tuple[str, list[str]]:
    """The text of a module, and the names of its cases: "all", of "vectors", "ranges" or "alignments"."""
    text = Text(hidden)
    parts = {"all": _all, "vectors": lambda text: _accesses(text, vectors=True), "ranges": _ranges, "alignments": _alignments}
    for name, body in parts[part](text):
        text.add(name, body)
    return text.module(), text.names


def _all(text: Text) -> Iterator[tuple[str, str]]:
    yield from _plain(text)
    yield from _numbers(text)
    yield from _accesses(text, vectors=False)
    yield from _ranges(text)
    yield from _alignments(text)


def _plain(text: Text) -> Iterator[tuple[str, str]]:
    def index(number: int) -> str:
        return text.value("i32", number)

    yield "unreachable", "(unreachable)"
    yield "unreachable in a block", f"(block $o (br_if $o {index(0)}) (unreachable))"
    for number in (5, 6, 4, 9, 10, 2**31, 2**32 - 1):
        yield f"call_indirect {number}", f"(call_indirect (type $plain) {index(number)})"
        yield f"table.get {number}", f"(drop (table.get $t {index(number)}))"
        yield f"table.set {number}", f"(table.set $t {index(number)} (ref.func $nothing))"
    for place, length in ((10, 0), (11, 0), (9, 1), (9, 2), (2**32 - 1, 1), (0, 2**32 - 1)):
        yield f"table.fill {place} {length}", f"(table.fill $t {index(place)} (ref.func $nothing) {index(length)})"
    for more in (1, 2, 3, 2**32 - 1):
        yield f"table.grow {more}", f"(i32.store (i32.const 24) (table.grow $t (ref.func $nothing) {index(more)})) (unreachable)"
        grown = f"(i32.store (i32.const 24) (memory.grow {index(more)}))"
        yield (
            f"memory.grow {more}",
            f"{grown} (i32.store8 (i32.const {2 * PAGE - 1}) (i32.const 3)) (i32.store8 (i32.const {3 * PAGE}) (i32.const 4))",
        )
    yield "data.drop", f"(data.drop $d) (memory.init $d {index(0)} {index(0)} {index(1)})"
    yield "elem.drop", f"(elem.drop $e) (table.init $t $e {index(0)} {index(0)} {index(1)})"
    yield "recursion", "(call $deep)"
    yield "recursion of two", "(drop (call $ping (i64.const 1)))"
    yield "recursion of wide frames", "(drop (call $wide (f64.const 1)))"
    yield "recursion through the table", "(call $through)"
    yield "host fails", "(call $fail)"
    for number in range(4):
        yield f"again {number}", f"(i32.store (i32.const 24) (call $again {index(number)}))"
        yield f"caught {number}", f"(i32.store (i32.const 24) (call $caught {index(number)}))"
    yield (
        "caught twice",
        f"(drop (call $caught {index(0)})) (drop (call $caught {index(1)})) (i32.store {index(PAGE)} (i32.const 1))",
    )


def _numbers(text: Text) -> Iterator[tuple[str, str]]:
    for kind, least in (("i32", -(2**31)), ("i64", -(2**63))):
        for operation in ("div_s", "div_u", "rem_s", "rem_u"):
            for left, right in ((7, 0), (0, 0), (least, -1), (least, 0), (-7, 2)):
                yield (
                    f"{kind}.{operation} {left} {right}",
                    f"({kind}.store (i32.const 24) ({kind}.{operation} {text.value(kind, left)} {text.value(kind, right)}))",
                )
        for of in ("f32", "f64"):
            for sign in "su":
                for number in FLOATS:
                    yield (
                        f"{kind}.trunc_{of}_{sign} {number}",
                        f"({kind}.store (i32.const 24) ({kind}.trunc_{of}_{sign} {text.value(of, number)}))",
                    )


def _accesses(text: Text, *, vectors: bool) -> Iterator[tuple[str, str]]:
    loads, stores = (VECTORS, {"v128.store": 16}) if vectors else (LOADS, STORES)
    for name, size in {**loads, **stores}.items():
        for offset in OFFSETS:
            for address in sorted(
                {max(PAGE - size - offset, 0), max(PAGE - size - offset + 1, 0), PAGE, 2**31 - 1, 2**32 - size, 2**32 - 1}
            ):
                place = f"offset={offset} {text.value('i32', address)}"
                kind = name.split(".")[0]
                value = "(v128.const i64x2 -1 -1)" if vectors else f"({kind}.const 77)"
                body = f"({name} {place} {value})" if name in stores else f"(drop ({name} {place}))"
                yield f"{name} {offset} {address}", body


def _ranges(text: Text) -> Iterator[tuple[str, str]]:
    for operation, rows in EDGES.items():
        for row in rows:
            numbers = " ".join(text.value("i32", each) for each in row)
            words = operation.replace("table.init", "table.init $t")
            yield f"{operation.replace('$', '')} {' '.join(map(str, row))}", f"({words} {numbers})"


def _alignments(text: Text) -> Iterator[tuple[str, str]]:
    """Accesses whose alignment is none, or another than the code says, within bounds and partly outside."""
    for name, size in {**LOADS, **STORES}.items():
        kind = name.split(".")[0]
        value = {"i32": "0x01020304", "i64": "0x0102030405060708"}.get(kind, "-1.1")
        for said in (each for each in (1, 2, 4, 8) if each <= size > 1):
            for address in (PAGE - size - 1, PAGE - size + 1, PAGE - size + size // 2, PAGE - 1):
                access = f"({name} align={said} {text.value('i32', address)}"
                filled = f"(memory.fill (i32.const {PAGE - 16}) (i32.const 0x91) (i32.const 16))"
                body = f"{access} ({kind}.const {value}))" if name in STORES else f"({kind}.store (i32.const 24) {access}))"
                yield f"{name} align={said} {address}", filled + body


CALLED_BACK = ("unreachable", "call_indirect 4", "recursion", "host fails")


def left(code: bytes, names: list[str]) -> list[list[Any]]:
    """How each case ends in an instance of its own, and what it leaves; a case in three runs in another thread."""
    found: list[list[Any]] = []
    with Runtime() as runtime:
        module = runtime.load(code)
        for number in range(len(names)):
            if number % 3 == 0:
                worker = threading.Thread(target=lambda at=(number, names): found.append(_one(module, *at)))
                worker.start()
                worker.join()
            else:
                found.append(_one(module, number, names))
    return found


def _one(module: Module, case: int, names: list[str]) -> list[Any]:
    instance = None

    def fail() -> None:
        raise ValueError("no")

    def again(number: int) -> int:
        instance.call("run", names.index(CALLED_BACK[number]))
        return 5

    def caught(number: int) -> int:
        try:
            instance.call("run", names.index(CALLED_BACK[number]))
        except Trap as trap:
            return len(ended(trap.code.value))
        except ValueError:
            return 100
        return 5

    instance = module.instantiate({"host": {"fail": fail, "again": again, "caught": caught}}, stack_bytes=1 << 18)
    with instance:
        try:
            instance.call("run", case)
            how = "returned"
        except Trap as trap:
            how = ended(trap.code.value)
        except ValueError:
            how = "host"
        table = [instance.call("filled", place) for place in range(instance.call("size"))]
        content = instance.memory.read(0, len(instance.memory))
        return [names[case], how, *summary(content), instance.get_global("g"), instance.get_global("h"), table]


def ended(code: str) -> str:
    """A trap's name, of both runtimes: what core 2.0 calls an undefined element is out of bounds for Wasmtime."""
    return {"undefined-element": "table-out-of-bounds", "stack-overflow": "exhausted"}.get(code, code)


def summary(content: bytes) -> list[Any]:
    """Of a memory: its size, where the marks and results are, and a digest."""
    return [len(content), content[16:40].hex(), hashlib.sha256(content).hexdigest()[:12]]


if __name__ == "__main__":
    cases = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for file in sys.argv[2:]:
        print(json.dumps(left(Path(file).read_bytes(), cases)), flush=True)

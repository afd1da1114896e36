"""Makes functions of nested blocks with values under them, several parameters and results, and code after branches.

`python -m tests.support.blocks FILE…` prints what each of them gives as JSON, with WAMR.
"""

import json
import random
import sys
from pathlib import Path
from typing import ClassVar

from pywamr import FunctionType, Runtime, Trap, ValueType

NUMBERS = ("i32", "i64", "f32", "f64")
SEE_VECTOR = """(func $see_v128 (param v128) (call $see_i64 (i64x2.extract_lane 0 (local.get 0)))
    (call $see_i64 (i64x2.extract_lane 1 (local.get 0))))"""
TURNS = 40


class Code:
    """A function's body, drawn instruction by instruction with the types that lie on the stack."""

    LEAST: ClassVar = {
        "i32": "i32.const 3", "i64": "i64.const -5", "f32": "f32.const 0.5", "f64": "f64.const -2",
        "v128": "v128.const i32x4 1 -2 3 -4",
    }  # fmt: skip
    SAME: ClassVar = {"i32": "i32.extend8_s", "i64": "i64.popcnt", "f32": "f32.abs", "f64": "f64.neg", "v128": "v128.not"}
    OPERATIONS: ClassVar = (
        (("i32", "i32"), "i32.add", "i32"), (("i64", "i64"), "i64.sub", "i64"), (("i32",), "i64.extend_i32_s", "i64"),
        (("i64",), "i32.wrap_i64", "i32"), (("i64",), "i64.eqz", "i32"), (("i32",), "f32.reinterpret_i32", "f32"),
        (("f32",), "i32.reinterpret_f32", "i32"), (("i64",), "f64.reinterpret_i64", "f64"),
        (("f64",), "i64.reinterpret_f64", "i64"),
        (("f32",), "f32.neg", "f32"), (("f64", "f64"), "f64.copysign", "f64"), (("i32",), "i32x4.splat", "v128"),
        (("v128", "v128"), "v128.xor", "v128"), (("v128",), "i32x4.extract_lane 1", "i32"),
        (("v128",), "i64x2.extract_lane 1", "i64"),
        (("v128", "i64"), "i64x2.replace_lane 0", "v128"), (("i32",), "i32.clz", "i32"), (("i32", "i64"), "call $mix", "i64"),
        (("f64", "i32"), "call $pair", ("i32", "f64")),
    )  # fmt: skip

    def __init__(
        self, source: random.Random, kinds: tuple[str, ...], results: tuple[str, ...], local_types: tuple[str, ...]
    ) -> None:
        self.source, self.kinds, self.locals, self.left = source, kinds, local_types, 150
        self.operations = [
            (takes, text, gives) for takes, text, gives in self.OPERATIONS if {*takes, gives} <= {*kinds, ("i32", "f64")}
        ]
        self.lines: list[str] = []
        self.labels: list[tuple[str, ...]] = []
        self.loops: list[bool] = []
        self.stack: list[str] = []
        self.floor = 0
        self.dead = False
        self.body((), results, loop=False)

    def types(self, most: int) -> tuple[str, ...]:
        return tuple(self.source.choice(self.kinds) for _ in range(self.source.choice((0, 0, 0, 1, 1, 1, most, most, 12))))

    def has(self, types: tuple[str, ...]) -> bool:
        """Whether the stack ends with these types, above where the block began; in dead code what is missing is there."""
        for back, kind in enumerate(reversed(types), 1):
            if len(self.stack) - back < self.floor:
                return self.dead
            if self.stack[-back] != kind:
                return False
        return True

    def pop(self, count: int) -> None:
        del self.stack[max(self.floor, len(self.stack) - count) :]

    def want(self, types: tuple[str, ...]) -> None:
        """Puts what is missing on the stack."""
        if not self.has(types):
            for kind in types:
                self.push(kind)

    def push(self, kind: str) -> None:
        place = [f"local.get {i}" for i, each in enumerate(self.locals) if each == kind]
        known = {"i32": ["global.get $i"], "i64": ["global.get $l"]}.get(kind, [])
        self.put(self.source.choice((self.LEAST[kind], *place, *known)), (), (kind,))
        if self.source.random() < 0.6:
            self.lines.append(self.SAME[kind])

    def condition(self) -> None:
        """Puts a number on the stack that is different each time."""
        self.put("call $coin", (), ("i32",))

    def put(self, text: str, takes: tuple[str, ...], gives: tuple[str, ...]) -> None:
        self.lines.append(text)
        self.pop(len(takes))
        self.stack += gives

    def end(self) -> None:
        """After what does not go on."""
        self.dead = True
        del self.stack[self.floor :]

    def body(self, params: tuple[str, ...], results: tuple[str, ...], loop: bool) -> None:
        before = self.floor, self.dead, list(self.stack)
        self.floor, self.dead = len(self.stack), False
        self.stack += params
        self.labels.append(params if loop else results)
        self.loops.append(loop)
        for _ in range(self.source.randint(1, 8) if len(self.labels) > 1 else 30):
            if self.left > 0:
                self.step()
        while self.stack[self.floor :] != list(results) and len(self.stack) > self.floor:
            self.put(f"call $see_{self.stack[-1]}", ("any",), ())
        if len(self.stack) == self.floor and not (self.dead and self.source.random() < 0.5):
            for kind in results:
                self.push(kind)
        self.labels.pop()
        self.loops.pop()
        self.floor, self.dead, self.stack = before

    def step(self) -> None:
        self.left -= 1
        self.source.choice((
            self.operation, self.operation, self.operation, self.value, self.value, self.keep, self.drop, self.block, self.block,
            self.branch, self.branch_if, self.table, self.stop, self.select,
        ))()  # fmt: skip

    def value(self) -> None:
        self.push(self.source.choice(self.kinds))

    def operation(self) -> None:
        takes, text, gives = self.source.choice(self.operations)
        self.want(takes)
        self.put(text, takes, gives if isinstance(gives, tuple) else (gives,))

    def keep(self) -> None:
        choices: list[tuple[str, str, tuple[str, ...]]] = [("global.set $i", "i32", ()), ("global.set $l", "i64", ())]
        for number, kind in enumerate(self.locals):
            choices += [(f"local.set {number}", kind, ()), (f"local.tee {number}", kind, (kind,))]
        text, kind, gives = self.source.choice(choices)
        self.want((kind,))
        self.put(text, (kind,), gives)

    def drop(self) -> None:
        if len(self.stack) > self.floor:
            self.put(self.source.choice(("drop", f"call $see_{self.stack[-1]}")), ("any",), ())

    def select(self) -> None:
        kind = self.source.choice(self.kinds)
        takes = (kind, kind, "i32")
        self.want(takes)
        self.put(f"select (result {kind})", takes, (kind,))

    def block(self) -> None:
        word = self.source.choice(("block", "block", "loop", "if", "if else"))
        params, results = self.types(3), self.types(3)
        if word == "if":
            results = params
        takes = (*params, "i32") if word.startswith("if") else params
        self.want(params)
        if word.startswith("if"):
            self.condition()
        signature = " ".join([f"(param {' '.join(params)})"] * bool(params) + [f"(result {' '.join(results)})"] * bool(results))
        self.put(f"{word.split()[0]} {signature}", takes, ())
        if word == "loop":  # each loop ends at some time
            self.lines += ["call $turn", "if", "unreachable", "end"]
        self.body(params, results, loop=word == "loop")
        if word == "if else":
            self.lines.append("else")
            self.body(params, results, loop=False)
        self.put("end", (), results)

    def label(self) -> tuple[int, tuple[str, ...]]:
        depth = self.source.randrange(len(self.labels))
        return depth, self.labels[-1 - depth]

    def may_leave(self) -> bool:
        """Whether this is a place for what does not go on: seldom in the outermost block. In others something goes to the end."""
        if len(self.labels) == 1:
            return self.source.random() < 0.05
        if self.source.random() < 0.8 and not self.loops[-1]:
            self.branch_if(0)
        return True

    def branch(self) -> None:
        if self.may_leave():
            depth, types = self.label()
            self.want(types)
            self.lines.append(f"br {depth}")
            self.end()

    def branch_if(self, depth: int | None = None) -> None:
        depth, types = self.label() if depth is None else (depth, self.labels[-1 - depth])
        self.want(types)
        self.condition()
        self.put(f"br_if {depth}", (*types, "i32"), types)

    def table(self) -> None:
        if self.may_leave():
            depth, types = self.label()
            same = [str(i) for i in range(len(self.labels)) if self.labels[-1 - i] == types]
            self.want(types)
            self.condition()
            self.lines.append(f"br_table {' '.join(self.source.choice(same) for _ in range(self.source.randint(0, 3)))} {depth}")
            self.end()

    def stop(self) -> None:
        if self.may_leave():
            if self.source.random() < 0.2:
                self.lines.append("unreachable")
            else:
                self.want(self.labels[0])
                self.lines.append("return")
            self.end()


def module(source: random.Random, *, vectors: bool = True) -> str:
    """Text of a module whose `run` takes and gives numbers and writes two globals."""
    kinds = (*NUMBERS, "v128") if vectors else NUMBERS
    params = tuple(source.choice(NUMBERS) for _ in range(source.randint(0, 3)))
    more = tuple(source.choice(kinds) for _ in range(source.randint(0, 3)))
    results = tuple(source.choice(NUMBERS) for _ in range(source.randint(0, 3)))
    code = Code(source, kinds, results, (*params, *more))
    return f"""(module (global $i (export "i") (mut i32) (i32.const 1)) (global $l (export "l") (mut i64) (i64.const 2))
  (global $turns (mut i32) (i32.const {TURNS}))
  (func $turn (result i32) (global.set $turns (i32.sub (global.get $turns) (i32.const 1))) (i32.eqz (global.get $turns)))
  (global $state (mut i32) (i32.const 7))
  (func $coin (result i32)
    (global.set $state (i32.add (i32.mul (global.get $state) (i32.const 1664525)) (i32.const 1013904223)))
    (i32.and (i32.shr_u (global.get $state) (i32.const 24)) (i32.const 1)))
  (func $see_i64 (param i64) (global.set $l (i64.add (i64.mul (global.get $l) (i64.const 31)) (local.get 0))))
  (func $see_i32 (param i32) (call $see_i64 (i64.extend_i32_u (local.get 0))))
  (func $see_f32 (param f32) (call $see_i32 (i32.reinterpret_f32 (local.get 0))))
  (func $see_f64 (param f64) (call $see_i64 (i64.reinterpret_f64 (local.get 0))))
  {SEE_VECTOR if vectors else ""}
  (func $mix (param i32 i64) (result i64) (i64.xor (i64.extend_i32_u (local.get 0)) (local.get 1)))
  (func $pair (param f64 i32) (result i32 f64) (local.get 1) (local.get 0))
  (func (export "run") (param {" ".join(params)}) (result {" ".join(results)}) (local {" ".join(more)})
{chr(10).join(code.lines)}))"""


def arguments(params: tuple[ValueType, ...]) -> list[float]:
    """A number for each parameter of `run`."""
    return [0x40000001 + i if kind in (ValueType.I32, ValueType.I64) else 0.25 + i for i, kind in enumerate(params)]


def plain(results: object) -> list[object]:
    """Results as a list, each NaN the same."""
    values = list(results) if isinstance(results, list | tuple) else [] if results is None else [results]
    return ["NaN" if value != value else value for value in values]


def ours(code: bytes) -> list[object]:
    """What `run` gives, and the two globals after it."""
    with Runtime() as runtime:
        loaded = runtime.load(code)
        (kind,) = [each.type for each in loaded.exports if isinstance(each.type, FunctionType)]
        instance = loaded.instantiate()
        try:
            results = plain(instance.call("run", *arguments(kind.params)))
        except Trap:
            results = ["trapped"]
        return [results, instance.get_global("i"), instance.get_global("l")]


if __name__ == "__main__":
    print(json.dumps([ours(Path(each).read_bytes()) for each in sys.argv[1:]]))

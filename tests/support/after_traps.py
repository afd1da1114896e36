"""Functions that trap, and what they leave behind: `python -m tests.support.after_traps FILE…` prints it, as JSON.

Each module exports `run0` and so on, which get two numbers, its memory, two globals, and what its table holds. In them, after a
trap, is what the specification says: all that came before it in the program, and nothing that comes behind.
"""

import hashlib
import json
import random
import sys
import tomllib
from pathlib import Path

from pywamr import Runtime, Trap

END = 65536
MODULE = """(module
  (import "host" "look" (func $look))
  (memory (export "memory") 1 3)
  (global $g (export "g") (mut i32) (i32.const 1))
  (global $h (export "h") (mut i64) (i64.const 2))
  (table $t 4 funcref) (elem declare func $nothing) (elem (i32.const 3) func $nothing)
  (data $d "0123456789abcdef")
  (type $plain (func)) (type $other (func (param f64)))
  (func $nothing)
  (func $store (param i32 i32) (i32.store (local.get 0) (local.get 1)))
  (func $load (param i32) (result i32) (i32.load (local.get 0)))
  (func (export "filled") (param i32) (result i32) (i32.eqz (ref.is_null (table.get $t (local.get 0)))))
  {functions})"""
FUNCTION = """(func (export "run{number}") (param $p i32) (param $n i32)
    (local $i i32) (local $v i32) (local $s i32) (local $k i32) (local $f f32) (local $l i64)
    {body})
  """


_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
CASES = {name: (case["body"], *case["arguments"]) for name, case in _TABLE.items()}


def module(*bodies: str) -> str:
    """The text of a module with these functions."""
    functions = [FUNCTION.format(number=number, body=body) for number, body in enumerate(bodies)]
    return MODULE.replace("{functions}", "".join(functions))


ALL = module(*(body for body, *_ in CASES.values()))


STATEMENTS = (
    "(i32.store {p} (i32.const 7))", "(i32.store8 offset=2 {p} (local.get $n))", "(i64.store align=1 {p} (i64.const 77))",
    "(local.set $s (i32.add (local.get $s) (i32.load {p})))", "(drop (i32.load8_u {p}))", "(i32.store {p} (i32.load {q}))",
    "(i32.store {q} (i32.add (i32.load {q}) (local.get $s)))", "(global.set $g (i32.add (global.get $g) (i32.const 1)))",
    "(i32.store16 offset=6 {q} (i32.load16_s {p}))", "(f32.store {p} (f32.add (f32.convert_i32_u (i32.load {q})) (f32.const 1.5)))",
    "(i32.store offset=4 {p} (local.get $s))", "(call $store {p} (local.get $n))", "(local.set $v (call $load {q}))",
    "(if (i32.and (local.get $n) (i32.const 2)) (then (i32.store {p} (local.get $v))))",
    "(i32.store {k} (local.get $n))",
    "(i32.store {k} (i32.add (i32.load {k}) (i32.const 3)))",
    "(drop (i32.div_u (i32.const 9) (i32.sub (local.get $n) (i32.const 9))))",
    "(memory.fill {q} (i32.const 5) (i32.const 7))", "(memory.copy {p} {q} (i32.const 9))",
)  # fmt: skip
PLACES = {"p": "(local.get $p)", "q": "(local.get $k)", "k": "(i32.const 512)"}


def made(rng: random.Random) -> tuple[str, int, int]:
    """A loop of stores and loads with a few of them around it, near one end of memory or further in."""

    def some(most: int) -> str:
        return " ".join(rng.choice(STATEMENTS).format(**PLACES) for _ in range(rng.randint(0, most)))

    step, stride = rng.choice((4, 4, 4, 1, 8, 3, -4, -1)), rng.choice((0, 4, 4, 8, -4))
    start = rng.choice((END - 250, END - 403, END + 4, 300, 2048))
    body = f"""(local.set $k (i32.const {rng.choice((END - 700, 1024, 1026, END - 100))})) {some(2)}
      (loop $l {some(2)} {rng.choice(STATEMENTS).format(**PLACES)}
        (local.set $k (i32.add (local.get $k) (i32.const {stride}))) (local.set $p (i32.add (local.get $p) (i32.const {step})))
        (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1))))) {some(2)}"""
    return body, start, rng.randint(1, 120)


def left(code: bytes, number: int, *arguments: int) -> dict[str, object]:
    """How a call of a function ends, and what it leaves: the memory's bytes, its size, globals, table."""

    def fail() -> None:
        raise ValueError("no")

    with Runtime() as runtime:
        instance = runtime.load(code).instantiate({"host": {"look": fail}})
        instance.memory.write(0, bytes(number * 37 & 0xFF for number in range(END)))
        try:
            instance.call(f"run{number}", *arguments)
            ended = "returned"
        except (Trap, ValueError):
            ended = "trapped"
        content = instance.memory.read(0, len(instance.memory))
        return summary(
            ended, content, [instance.get_global("g"), instance.get_global("h")], [instance.call("filled", i) for i in range(4)]
        )


def summary(ended: str, content: bytes, numbers: list, filled: list) -> dict[str, object]:
    """The same, for another runtime too: few bytes that tell where memories differ."""
    rows = {str(at): hashlib.sha256(content[at : at + 1024]).hexdigest()[:8] for at in range(0, len(content), 1024)}
    return {"ended": ended, "size": len(content), "globals": numbers, "table": filled, "memory": rows}


if __name__ == "__main__":
    for each in sys.argv[1:]:
        path, *numbers = each.split(":")
        print(json.dumps(left(Path(path).read_bytes(), *map(int, numbers))), flush=True)

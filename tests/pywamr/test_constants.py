"""Extended constant expressions: sums, differences and products of constants, in globals and as places of segments."""

import pytest
from hypothesis import strategies as st

from pywamr import LoadError, Runtime
from tests.support.sampling import check
from tests.support.wat import wat


def module(kind: int, expression: bytes) -> bytes:
    """A module with one global of a type (0x7f: i32, 0x7e: i64), "g"."""
    content = bytes((1, kind, 0)) + expression + b"\x0b"
    size = bytes((len(content) >> 7 * place & 0x7F) | 0x80 * (place < 3) for place in range(4))  # LEB128
    return b"\0asm\1\0\0\0\6" + size + content + b"\7\5\1\1g\3\0"


def test_places_of_segments_and_globals_are_reckoned(runtime):
    wasm = wat("""(module (memory (export "memory") 1) (table 8 funcref)
      (global (export "a") i32 (i32.add (i32.const 2000000000) (i32.const 2000000000)))
      (global (export "b") (mut i64) (i64.mul (i64.sub (i64.const 1) (i64.const 5)) (i64.const 0x4000000000000001)))
      (global (export "c") i32 (i32.sub (i32.const -2147483648) (i32.mul (i32.const 3) (i32.const 7))))
      (data (i32.add (i32.const 3) (i32.mul (i32.const 2) (i32.const 4))) "hello")
      (elem (i32.sub (i32.const 9) (i32.const 4)) func $f)
      (func $f (result i32) (i32.const 77)) (func (export "run") (result i32) (call_indirect (result i32) (i32.const 5))))""")
    instance = runtime.load(wasm).instantiate()
    assert [instance.get_global(name) for name in "abc"] == [-294967296, -4, 2147483627]
    assert instance.memory.read(11, 5) == b"hello"
    assert instance.call("run") == 77


SIGNS = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b}


@pytest.mark.parametrize(("kind", "bits"), [("i32", 32), ("i64", 64)])
def test_any_tree_gives_what_arithmetic_gives(kind, bits):
    wasmtime = pytest.importorskip("wasmtime")

    def wrapped(number):
        return (number + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)

    leaves = st.integers(-(1 << bits - 1), (1 << bits - 1) - 1)
    trees = st.recursive(leaves, lambda inner: st.tuples(st.sampled_from(sorted(SIGNS)), inner, inner), max_leaves=12)

    def text(tree):
        if isinstance(tree, int):
            return f"({kind}.const {tree})", tree
        sign, (left, a), (right, b) = tree[0], text(tree[1]), text(tree[2])
        return f"({kind}.{sign} {left} {right})", wrapped(SIGNS[sign](a, b))

    def agrees(tree):
        expression, value = text(tree)
        with Runtime() as runtime:
            wasm = wasmtime.wat2wasm(f'(module (global (export "g") {kind} {expression}))')
            assert runtime.load(bytes(wasm)).instantiate().get_global("g") == value

    check(50, agrees, trees)


def test_an_expression_as_deep_as_a_module_may_be_takes_no_stack():
    terms = 2000
    left, right = b"\x41\1" + b"\x41\1\x6a" * terms, b"\x41\1" * (terms + 1) + b"\x6a" * terms
    with Runtime() as runtime:
        for expression in (left, right):
            assert runtime.load(module(0x7F, expression)).instantiate().get_global("g") == terms + 1


@pytest.mark.parametrize(
    ("kind", "expression"),
    [
        (0x7F, b"\x41\1\x6a"),  # one operand
        (0x7F, b"\x41\1\x42\1\x6a"),  # of another type
        (0x7E, b"\x41\1\x41\1\x6a"),  # a result of another type
        (0x7F, b"\x41\1\x41\1"),  # two results
        (0x7F, b"\x41\1\x41\1\x6d"),  # a quotient is not constant
        (0x7E, b"\x42\1\x42\1\x7f"),
        (0x7F, b"\x43\0\0\0\0\x43\0\0\0\0\x92"),  # nor are sums of floats
    ],
)
def test_what_is_no_constant_expression_is_refused(kind, expression):
    with Runtime() as runtime, pytest.raises(LoadError, match=r"type mismatch|constant expression"):
        runtime.load(module(kind, expression))

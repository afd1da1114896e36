"""Every way by which a reference gets into a table: null is null, and a function is that function, as in Wasmtime."""

from collections.abc import Callable

import pytest
import wasmtime

from pywamr import NotExportedError, PywamrError, Runtime
from tests.support.aot import compiled

FUNCTIONS = """(type $t (func (result i32)))
  (func $a (type $t) (i32.const 10)) (func $b (type $t) (i32.const 20))
  (func (export "call") (param i32) (result i32) (call_indirect (type $t) (local.get 0)))
  (func (export "null") (param i32) (result i32) (ref.is_null (table.get (local.get 0))))"""
EXTERNAL = '(func (export "null") (param i32) (result i32) (ref.is_null (table.get (local.get 0))))'
TABLE = "(table 4 funcref)"
ROWS = 5  # one more than tables have
WAYS = {
    "active": f"{TABLE} (elem (i32.const 0) funcref (ref.null func) (ref.func $b) (ref.null func))",
    "active in a named table": f"{TABLE} (elem (table 0) (i32.const 1) funcref (ref.null func) (ref.func $b))",
    "active over another": f"{TABLE} (elem (i32.const 0) func $a $b) (elem (i32.const 1) funcref (ref.null func))",
    "indices": f"{TABLE} (elem (i32.const 1) func $b $a)",
    "passive": f"{TABLE} (elem $p funcref (ref.null func) (ref.func $b))"
    '(func (export "go") (table.init $p (i32.const 0) (i32.const 0) (i32.const 2)))',
    "declared": f'{TABLE} (elem declare func $b) (func (export "go") (table.set (i32.const 1) (ref.func $b)))',
    "set to null": f'{TABLE} (elem (i32.const 0) func $a $b) (func (export "go") (table.set (i32.const 0) (ref.null func)))',
    "filled with null": f"{TABLE} (elem (i32.const 0) func $a $b)"
    '(func (export "go") (table.fill (i32.const 0) (ref.null func) (i32.const 3)))',
    "grown": '(table 2 8 funcref) (elem (i32.const 0) func $a $b) (func (export "go")'
    "(drop (table.grow (ref.null func) (i32.const 2))) (drop (table.grow (ref.func $b) (i32.const 1))))",
    "copied": f"{TABLE} (elem (i32.const 2) funcref (ref.null func) (ref.func $b))"
    '(func (export "go") (table.copy (i32.const 0) (i32.const 2) (i32.const 2)))',
    "a global that is null": f"{TABLE} (global $g funcref (ref.null func))"
    '(func (export "go") (table.set (i32.const 0) (global.get $g)))',
    "a global that is a function": f"{TABLE} (global $g funcref (ref.func $b))"
    '(func (export "go") (table.set (i32.const 0) (global.get $g)))',
    "a global set to null": f"{TABLE} (elem declare func $a) (global $g (mut funcref) (ref.func $a))"
    '(func (export "go") (global.set $g (ref.null func)) (table.set (i32.const 0) (global.get $g)))',
}
EXTERNAL_WAYS = {
    "external, untouched": "(table 3 externref)",
    "external, active": "(table 3 externref) (elem (i32.const 0) externref (ref.null extern) (ref.null extern))",
    "external, passive": "(table 3 externref) (elem $p externref (ref.null extern))"
    '(func (export "go") (table.init $p (i32.const 0) (i32.const 0) (i32.const 1)))',
    "external, a global": "(table 3 externref) (global $g externref (ref.null extern))"
    '(func (export "go") (table.set (i32.const 0) (global.get $g)))',
}
MODULES = {name: f"(module {body} {FUNCTIONS})" for name, body in WAYS.items()}
MODULES |= {name: f"(module {body} {EXTERNAL})" for name, body in EXTERNAL_WAYS.items()}


def seen(
    function: Callable[[str], Callable[..., object]], missing: type[Exception], trap: type[Exception]
) -> dict[str, list[object]]:
    """What each exported function gives for each row of the table, after "go"."""
    found: dict[str, list[object]] = {}
    for name in ("go", "call", "null"):
        try:
            called = function(name)
        except missing:
            continue
        found[name] = []
        for arguments in [()] if name == "go" else [(row,) for row in range(ROWS)]:
            try:
                found[name].append(called(*arguments))
            except trap:
                found[name].append("trapped")
    return found


def theirs(wasm: bytes) -> dict[str, list[object]]:
    store = wasmtime.Store()
    exports = wasmtime.Instance(store, wasmtime.Module(store.engine, wasm), []).exports(store)

    def function(name: str) -> Callable[..., object]:
        export = exports[name]
        return lambda *values: export(store, *values)

    return seen(function, KeyError, wasmtime.Trap)


@pytest.mark.parametrize("mode", ["interpreter", "aot"])
@pytest.mark.parametrize("way", MODULES)
def test_a_reference_is_what_was_put_into_the_table(way, mode):
    wasm = bytes(wasmtime.wat2wasm(MODULES[way]))
    runtime = Runtime()
    try:
        instance = runtime.load(wasm if mode == "interpreter" else compiled(wasm)).instantiate()
        assert seen(instance.function, NotExportedError, PywamrError) == theirs(wasm)
    finally:
        runtime.close()

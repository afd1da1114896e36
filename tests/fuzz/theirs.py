"""The same in Wasmtime, which also decides which calls are made: `python -m tests.fuzz.theirs` serves."""

from pathlib import Path
from typing import Any

import wasmtime
from wasmtime import TrapCode as Code

from tests.fuzz import forked, values

FUEL = 3_000_000
TRAPS = {
    Code.UNREACHABLE: "unreachable",
    Code.MEMORY_OUT_OF_BOUNDS: "memory-out-of-bounds",
    Code.TABLE_OUT_OF_BOUNDS: "table-out-of-bounds",
    Code.INTEGER_OVERFLOW: "integer-overflow",
    Code.INTEGER_DIVISION_BY_ZERO: "divide-by-zero",
    Code.BAD_CONVERSION_TO_INTEGER: "invalid-conversion",
    Code.BAD_SIGNATURE: "indirect-call-mismatch",
    Code.INDIRECT_CALL_TO_NULL: "uninitialized-element",
    Code.STACK_OVERFLOW: "exhausted",
    Code.OUT_OF_FUEL: "exhausted",
}


Types = list[list[str]]
"""Of parameters, and of results."""


def look(request: dict[str, Any]) -> dict[str, Any]:
    """As `ours.look`; calls each exported function that takes and gives what both sides know, until one exhausts stack or fuel.

    "shape" is what ours said of the module. "canonical": NaNs are made canonical, so that who compares both ways learns whether a
    module shows their bits.
    """
    store = _store(request.get("canonical", False))
    try:
        module = wasmtime.Module(store.engine, Path(request["path"]).read_bytes())
    except wasmtime.WasmtimeError as error:
        return {"refused": str(error)}
    shape = request["shape"]
    if "imports" not in shape:
        return {}
    if not all(_can_pass(types) for _, _, *types in shape["imports"]):
        return {"left_out": "imports a function of vectors"}
    host = values.Host(request["seed"])
    try:
        instance = wasmtime.Instance(store, module, [_host(store, host, *each) for each in shape["imports"]])
    except wasmtime.Trap as trap:
        return {"seen": [["start", _code(trap)]]}
    except values.HostError:
        return {"seen": [["start", "host"]]}
    except wasmtime.WasmtimeError as error:
        return {"left_out": str(error)}
    found = instance.exports(store)
    seen: list[Any] = [["start", "ok", _state(store, found, shape, host)]]
    for name, types in shape["functions"].items():
        if not _can_pass(types) or len(seen) > values.MOST_CALLS:
            continue
        outcome = _called(store, found[name], name, *types, request["seed"])
        if outcome == "exhausted":
            break
        seen.append([name, outcome, _state(store, found, shape, host)])
    return {"seen": seen}


def _store(canonical: bool) -> wasmtime.Store:
    config = wasmtime.Config()
    config.consume_fuel = True
    config.parallel_compilation = False
    config.cranelift_nan_canonicalization = canonical
    for name in ("relaxed_simd", "tail_call", "memory64", "threads", "multi_memory"):
        setattr(config, f"wasm_{name}", False)
    store = wasmtime.Store(wasmtime.Engine(config))
    store.set_limits(memory_size=values.MAX_PAGES << 16, table_elements=values.TABLE_ELEMENTS)
    store.set_fuel(FUEL)
    return store


def _called(store: wasmtime.Store, function: Any, name: str, params: list[str], results: list[str], seed: int) -> Any:
    given = [values.value(each, bits) for each, bits in zip(params, values.arguments(seed, name, params), strict=True)]
    try:
        found = function(store, *given)
    except wasmtime.Trap as trap:
        return _code(trap)
    except values.HostError:
        return "host"
    listed = found if len(results) > 1 else [found] if results else []
    return [values.shown(each, value) for each, value in zip(results, listed, strict=True)]


def _can_pass(types: Types) -> bool:
    return "v128" not in (*types[0], *types[1])


def _code(trap: wasmtime.Trap) -> str:
    return TRAPS.get(trap.trap_code, str(trap.trap_code))


def _state(store: wasmtime.Store, found: Any, shape: dict[str, Any], host: values.Host) -> list[Any]:
    memory = found[shape["memory"]] if shape["memory"] is not None else None
    size = memory.data_len(store) if memory else 0
    state: list[Any] = [host.calls, host.heard, size]
    if memory and size:
        state.append(values.summed(bytes(memory.read(store, 0, min(size, values.MEMORY_COMPARED)))))
    for name, kind in shape["globals"].items():
        if kind in values.NUMBERS:
            state.append([name, values.shown(kind, found[name].value(store))])
    return state


def _host(store: wasmtime.Store, host: values.Host, module: str, name: str, params: list[str], results: list[str]) -> wasmtime.Func:
    kind = wasmtime.FuncType(*([getattr(wasmtime.ValType, each)() for each in types] for types in (params, results)))
    return wasmtime.Func(store, kind, lambda *given: host.answer(f"{module}.{name}", params, results, given))


if __name__ == "__main__":
    forked.serve(look)

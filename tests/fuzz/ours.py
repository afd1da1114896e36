"""What a module does in pywamr, from outside: `python -m tests.fuzz.ours` serves, also under qemu-user. Needs pywamr alone."""

from pathlib import Path
from typing import Any

from pywamr import (
    FunctionType,
    GlobalType,
    Import,
    Instance,
    LoadError,
    MemoryType,
    Module,
    Runtime,
    Trap,
    UnsupportedError,
    ValueType,
)
from tests.fuzz import forked, values


def look(request: dict[str, Any]) -> dict[str, Any]:
    """Instantiates the module at `path`, makes the calls that `calls` names, and tells what is to be seen after each.

    Without `calls` what it imports and exports: Wasmtime's bindings can't tell types in which there are vectors.
    """
    with Runtime() as runtime:
        try:
            module = runtime.load(Path(request["path"]).read_bytes())
        except UnsupportedError as error:
            return {"left_out": str(error)}
        except LoadError as error:
            return {"refused": str(error)}
        if "calls" not in request:
            return _shape(module)
        host = values.Host(request["seed"])
        try:
            instance = module.instantiate(_hosts(module.imports, host), stack_bytes=values.STACK_BYTES, max_pages=values.MAX_PAGES)
        except Trap as trap:
            return {"seen": [["start", trap.code.value]]}
        except values.HostError:
            return {"seen": [["start", "host"]]}
        except UnsupportedError as error:
            return {"left_out": str(error)}
        exports = {each.name: each.type for each in module.exports}
        seen = [["start", "ok", _state(instance, exports, host)]]
        seen.extend(
            [name, _called(instance, name, exports[name], request["seed"]), _state(instance, exports, host)]
            for name in request["calls"]
        )
        return {"seen": seen}


def _shape(module: Module) -> dict[str, Any]:
    def types(kind: Any) -> list[list[str]]:
        return [_names(kind.params), _names(kind.results)]

    named = {each.name: each.type for each in module.exports}
    return {
        "imports": [[each.module, each.name, *types(each.type)] for each in module.imports],
        "functions": {name: types(kind) for name, kind in named.items() if isinstance(kind, FunctionType)},
        "globals": {name: values.KINDS[kind.value.value] for name, kind in named.items() if isinstance(kind, GlobalType)},
        "memory": next((name for name, kind in named.items() if isinstance(kind, MemoryType)), None),
    }


def _called(instance: Instance, name: str, kind: Any, seed: int) -> Any:
    params, results = _names(kind.params), _names(kind.results)
    given = [values.value(each, bits) for each, bits in zip(params, values.arguments(seed, name, params), strict=True)]
    try:
        found = instance.call(name, *given)
    except Trap as trap:
        return trap.code.value
    except values.HostError:
        return "host"
    listed = list(found) if len(results) > 1 else [found] if results else []
    return [values.shown(each, value) for each, value in zip(results, listed, strict=True)]


def _state(instance: Instance, exports: dict[str, Any], host: values.Host) -> list[Any]:
    size = len(instance.memory)
    state: list[Any] = [host.calls, host.heard, size]
    if size:
        state.append(values.summed(instance.memory.read(0, min(size, values.MEMORY_COMPARED))))
    for name, kind in exports.items():
        if isinstance(kind, GlobalType) and (number := values.KINDS[kind.value.value]) in values.NUMBERS:
            state.append([name, values.shown(number, instance.get_global(name))])
    return state


def _hosts(imports: tuple[Import, ...], host: values.Host) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for each in imports:
        assert isinstance(each.type, FunctionType)
        found.setdefault(each.module, {})[each.name] = _host(each, host)
    return found


def _host(wanted: Import, host: values.Host) -> Any:
    assert isinstance(wanted.type, FunctionType)
    name, params, results = f"{wanted.module}.{wanted.name}", _names(wanted.type.params), _names(wanted.type.results)
    return lambda *given: host.answer(name, params, results, given)


def _names(kinds: tuple[ValueType, ...]) -> list[str]:
    return [values.KINDS[each.value] for each in kinds]


if __name__ == "__main__":
    forked.serve(look)

"""The host functions that a module imports by the Component Model's names: for each import the one that it means."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from device_agent.sandbox.errors import ContractError
from device_agent.sandbox.guest import ModuleGuest
from device_agent.sandbox.signatures import Signature
from ota.formats import worlds
from pywamr import FunctionType, Import, ValueType

__all__ = ["bound", "method_name"]

_DROP = "[resource-drop]"
_DROPS = FunctionType((ValueType.I32,), ())


def method_name(function: str) -> str:
    """What a function is called here: "input_stream_read" for "[method]input-stream.read"."""
    return function.rpartition("]")[2].replace(".", "_").replace("-", "_")


def bound(imports: Iterable[Import], hosts: Mapping[str, Any], guest: ModuleGuest) -> dict[tuple[str, str], Callable[..., Any]]:
    """By module and name. `hosts`: what answers for an interface, by methods.

    What nobody answers for is left out. Raises ContractError for an import of another type than the interface has.
    """
    found: dict[tuple[str, str], Callable[..., Any]] = {}
    for each in imports:
        interface = worlds.interface_of(each.module)
        if interface is None or interface.name not in hosts:
            continue
        function = worlds.function_of(each.module, each.name)
        if function.startswith(_DROP):
            resource = function.removeprefix(_DROP)
            wanted, call = _DROPS, guest.dropper(resource)
        else:
            signature = Signature(interface.functions[function], interface.types)
            method = getattr(hosts[interface.name], method_name(function))
            wanted, call = signature.imported, guest.host(signature, method)
        if each.type != wanted:
            raise ContractError(f"import {each.module}.{each.name} has type {each.type}, the interface says {wanted}")
        found[each.module, each.name] = call
    return found

"""The host functions that a module imports by the Component Model's names: for each import the one that it means."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from device_agent.sandbox.errors import ContractError
from device_agent.sandbox.guest import ModuleGuest
from device_agent.sandbox.signatures import Signature
from ota.formats import worlds
from ota.formats.interfaces import Interface
from pywamr import FunctionType, Import, ValueType

__all__ = ["bound", "method_name"]

_DROP = "[resource-drop]"
_DROPS = FunctionType((ValueType.I32,), ())


def method_name(function: str) -> str:
    """What a function is called here: "input_stream_read" for "[method]input-stream.read"."""
    return function.rpartition("]")[2].replace(".", "_").replace("-", "_")


def bound(
    imports: Iterable[Import],
    hosts: Mapping[str, Any],
    guest: ModuleGuest,
    watched: Callable[[str, Callable[..., Any]], Callable[..., Any]],
) -> dict[tuple[str, str], Callable[..., Any]]:
    """By module and name. `hosts`: what answers for an interface, or for one version of it, by methods.

    What nobody answers for is left out. `watched` gets each of those methods with its name, and answers with what is called.
    Raises ContractError for an import of another type than the interface has.
    """
    found: dict[tuple[str, str], Callable[..., Any]] = {}
    for each in imports:
        interface = worlds.interface_of(each.module)
        host = _host(hosts, interface)
        if interface is None or host is None:
            continue
        function = worlds.function_of(each.module, each.name)
        if function.startswith(_DROP):
            wanted, call = _DROPS, guest.dropper(function.removeprefix(_DROP))
        else:
            signature = Signature(interface.functions[function], interface.types)
            method = watched(f"{interface.name}.{function}", getattr(host, method_name(function)))
            wanted, call = signature.imported, guest.host(signature, method)
        if each.type != wanted:
            raise ContractError(f"import {each.module}.{each.name} has type {each.type}, the interface says {wanted}")
        found[each.module, each.name] = call
    return found


def _host(hosts: Mapping[str, Any], interface: Interface | None) -> Any:
    if interface is None:
        return None
    return hosts.get(f"{interface.name}@{interface.versions[0]}", hosts.get(interface.name))

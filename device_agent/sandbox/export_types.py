"""The flat core types of what modules export (Component Model, CanonicalABI.md, "Flattening"; proxy-wasm, abi-versions/v0.2.1)."""

from device_agent.sandbox.signatures import Signature
from ota.formats.interfaces import HANDLER_FUNCTION, HANDLER_TYPE
from ota.formats.worlds import Plain
from pywamr import Export, FunctionType, MemoryType, ValueType

_I32, _I64 = ValueType.I32, ValueType.I64
_FUNCTIONS = {
    "events.handle": FunctionType((_I32,) * 4, (_I32,)),
    "startup.init": FunctionType((_I32,) * 2, (_I32,)),
    "timer.tick": FunctionType((_I64,), (_I32,)),
    "health.check": FunctionType((), (_I32,)),
    "state.save": FunctionType((), (_I32,)),
    "state.restore": FunctionType((_I32,) * 2, (_I32,)),
}
_HANDLER = Signature(HANDLER_TYPE.functions[HANDLER_FUNCTION], HANDLER_TYPE.types).exported
_ALLOCATOR, _INITIALISER, _POST = FunctionType((_I32,) * 4, (_I32,)), FunctionType((), ()), FunctionType((_I32,), ())
_FILTER = {
    "_initialize": FunctionType((), ()),
    "main": FunctionType((_I32,) * 2, (_I32,)),
    "_start": FunctionType((), ()),
    "malloc": FunctionType((_I32,), (_I32,)),
    "proxy_on_memory_allocate": FunctionType((_I32,), (_I32,)),
    "proxy_on_context_create": FunctionType((_I32,) * 2, ()),
    "proxy_on_vm_start": FunctionType((_I32,) * 2, (_I32,)),
    "proxy_on_configure": FunctionType((_I32,) * 2, (_I32,)),
    "proxy_on_request_headers": FunctionType((_I32,) * 3, (_I32,)),
    "proxy_on_request_body": FunctionType((_I32,) * 3, (_I32,)),
    "proxy_on_tick": FunctionType((_I32,), ()),
    "proxy_on_done": FunctionType((_I32,), (_I32,)),
    "proxy_on_log": FunctionType((_I32,), ()),
    "proxy_on_delete": FunctionType((_I32,), ()),
}


def wrong_type(exports: tuple[Export, ...], plain: Plain, *, is_filter: bool) -> str:
    """What is wrong with the type of an export that is called here; empty for nothing."""
    types = _FILTER if is_filter else _contract(plain)
    for export in exports:
        if export.name == plain.memory and not isinstance(export.type, MemoryType):
            return f"export {export.name} is not a memory"
        wanted = types.get(export.name)
        if wanted is not None and export.type != wanted:
            return f"export {export.name} has type {export.type}, the contract says {wanted}"
    return ""


def _contract(plain: Plain) -> dict[str, FunctionType]:
    """The types of what is called, by the names that it has in this module."""
    types = {name: _FUNCTIONS[each] for each, name in plain.functions.items() if each in _FUNCTIONS}
    if plain.is_handler:
        types[plain.functions["events.handle"]] = _HANDLER
    types |= {name: _POST for each, name in plain.posts.items() if each in _FUNCTIONS}
    return types | {plain.allocator: _ALLOCATOR, plain.initialiser: _INITIALISER}

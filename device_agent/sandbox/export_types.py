"""The flat core types of what modules export (Component Model, CanonicalABI.md, "Flattening"; proxy-wasm, abi-versions/v0.2.1)."""

from ota.formats.capabilities import export_name
from pywamr import Export, FunctionType, MemoryType, ValueType

_I32, _I64 = ValueType.I32, ValueType.I64
_CONTRACT = {
    export_name("events", "handle"): FunctionType((_I32,) * 4, (_I32,)),
    export_name("startup", "init"): FunctionType((_I32,) * 2, (_I32,)),
    export_name("timer", "tick"): FunctionType((_I64,), (_I32,)),
    export_name("health", "check"): FunctionType((), (_I32,)),
    export_name("state", "save"): FunctionType((), (_I32,)),
    export_name("state", "restore"): FunctionType((_I32,) * 2, (_I32,)),
    "cabi_realloc": FunctionType((_I32,) * 4, (_I32,)),
    "_initialize": FunctionType((), ()),
    "__wasm_call_ctors": FunctionType((), ()),
}
_CONTRACT |= {f"cabi_post_{name}": FunctionType((_I32,), ()) for name in _CONTRACT if "#" in name}
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


def wrong_type(exports: tuple[Export, ...], *, is_filter: bool) -> str:
    """What is wrong with the type of an export that is called here; empty for nothing."""
    types = _FILTER if is_filter else _CONTRACT
    for export in exports:
        if export.name == "memory" and not isinstance(export.type, MemoryType):
            return "export memory is not a memory"
        wanted = types.get(export.name)
        if wanted is not None and export.type != wanted:
            return f"export {export.name} has type {export.type}, the contract says {wanted}"
    return ""

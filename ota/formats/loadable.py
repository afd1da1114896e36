"""What boards load, out of the WebAssembly that toolchains make: the core module of a component, with imports as boards read them.

A core module for boards comes back as it is, byte for byte.
"""

from ota.formats import component, wasm
from ota.formats.capabilities import WASI_MODULE
from ota.formats.fields import malformed
from ota.formats.wasm import Reader

__all__ = ["core_module", "written_out"]

MAX_IMPORTS_BYTES = 1 << 20  # of an import section that is written out
_PREVIEW_0 = "wasi_unstable"  # what preview 1 was called before; the SDK of proxy-wasm for AssemblyScript imports it
_AS_IN_PREVIEW_1 = frozenset(
    (
        *("args_get", "args_sizes_get", "environ_get", "environ_sizes_get", "clock_res_get", "clock_time_get", "fd_close"),
        *(
            "fd_fdstat_get",
            "fd_prestat_dir_name",
            "fd_prestat_get",
            "fd_read",
            "fd_write",
            "proc_exit",
            "random_get",
            "sched_yield",
        ),
    )
)
"""Functions with the same arguments and structures. fd_seek, filestat and poll_oneoff have others."""


def core_module(data: bytes) -> bytes:
    """Raises Refused TOO_LARGE, MALFORMED, and MODULE_INVALID for a component that boards can't run, with why and what helps.

    Bytes that are neither a component nor a module come back as they are.
    """
    if component.is_component(data):
        found = component.read(data).main()
        data = data[found.start : found.end]
    return written_out(data)


def written_out(data: bytes) -> bytes:
    """A core module whose imports boards read. Raises Refused MALFORMED.

    Compact imports, a proposal, share the name of their module: each gets it. WASI of before preview 1 becomes preview 1 where a
    function is the same in both.
    """
    if not data.startswith(wasm.MODULE_MAGIC):
        return data
    parts, done = [], 0
    before = len(wasm.MODULE_MAGIC)
    for kind, _, start, end in wasm.spans(data, before, len(data)):
        if kind == wasm.IMPORT:
            reader = Reader(data, start, end)
            section, renamed = _section(reader)
            if reader.compact or renamed:
                parts += [data[done:before], bytes((kind,)), _number(len(section)), section]
                done = end
        before = end
    return b"".join([*parts, data[done:]]) if parts else data


def _section(reader: Reader) -> tuple[bytes, bool]:
    """The section anew, and whether a module has another name in it."""
    count, body, renamed = 0, bytearray(), False
    for each in reader.imports():
        count += 1
        is_older = each.module == _PREVIEW_0 and each.name in _AS_IN_PREVIEW_1
        renamed |= is_older
        for name in (WASI_MODULE if is_older else each.module, each.name):
            text = name.encode()
            body += _number(len(text)) + text
        body += bytes((each.kind,)) + each.type
        if len(body) > MAX_IMPORTS_BYTES:
            raise malformed("module", f"its imports have more than {MAX_IMPORTS_BYTES} bytes, written out")
    return _number(count) + body, renamed


def _number(value: int) -> bytes:
    """In LEB128."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))

"""What boards load, out of the WebAssembly that toolchains make: the core module of a component, with its imports written out.

A core module for boards comes back as it is, byte for byte.
"""

from ota.formats import component, wasm
from ota.formats.fields import malformed
from ota.formats.wasm import Reader

__all__ = ["core_module", "written_out"]

MAX_IMPORTS_BYTES = 1 << 20  # of an import section that is written out


def core_module(data: bytes) -> bytes:
    """Raises Refused TOO_LARGE, MALFORMED, and MODULE_INVALID for a component that boards can't run, with why and what helps.

    Bytes that are neither a component nor a module come back as they are.
    """
    if component.is_component(data):
        found = component.read(data).main()
        data = data[found.start : found.end]
    return written_out(data)


def written_out(data: bytes) -> bytes:
    """A core module without compact imports, a proposal: there, imports of one module share its name. Raises Refused MALFORMED."""
    if not data.startswith(wasm.MODULE_MAGIC):
        return data
    parts, done = [], 0
    before = len(wasm.MODULE_MAGIC)
    for kind, _, start, end in wasm.spans(data, before, len(data)):
        if kind == wasm.IMPORT:
            reader = Reader(data, start, end)
            section = _section(reader)
            if reader.compact:
                parts += [data[done:before], bytes((kind,)), _number(len(section)), section]
                done = end
        before = end
    return b"".join([*parts, data[done:]]) if parts else data


def _section(reader: Reader) -> bytes:
    count, body = 0, bytearray()
    for each in reader.imports():
        count += 1
        for name in (each.module, each.name):
            text = name.encode()
            body += _number(len(text)) + text
        body += bytes((each.kind,)) + each.type
        if len(body) > MAX_IMPORTS_BYTES:
            raise malformed("module", f"its imports have more than {MAX_IMPORTS_BYTES} bytes, written out")
    return _number(count) + body


def _number(value: int) -> bytes:
    """In LEB128."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))

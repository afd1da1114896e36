"""What `ota inspect` says of WebAssembly: who made it, what it needs and offers, the size of its parts, a description for it."""

from typing import Any

from ota.formats import component, wasm
from ota.formats.capabilities import FILTER_VERSIONS, check_exports, interfaces_of, unknown_imports, what_to_do
from ota.formats.cbor import sha256
from ota.formats.features import HINTS, beyond_core
from ota.formats.loadable import written_out
from ota.formats.module import Limits, pages_with_room
from ota.formats.reasons import Refused
from ota.formats.text import amount

__all__ = ["describe_component", "describe_module"]

_NAMES = (
    *("custom", "type", "import", "function", "table", "memory", "global", "export", "start", "element", "code", "data"),
    *("data count", "tag"),
)
Rows = list[tuple[str, str]]


def describe_module(data: bytes) -> tuple[dict[str, Any], Rows]:
    """A core module as plain values, and as labels and texts. Raises Refused MALFORMED where sections can't be told apart."""
    sizes = _sections(data)
    makers = _makers(data)
    core = written_out(data)
    beyond = list(beyond_core(core))
    values: dict[str, Any] = {"bytes": len(data), "sha256": sha256(data)}
    rows: Rows = [("size", f"{len(data)} bytes"), ("sha256", sha256(data).hex())]
    values |= {"made_by": makers, "beyond_core": beyond, "sections": dict(sizes)}
    rows += [("made by", each) for each in makers]
    rows += [("needs", f"{each}, which boards do not have: use {HINTS[each]}") for each in beyond]
    rows += [("imports", "`ota build` writes them out as boards read them")] * (core != data)
    try:
        values, rows = _of_shape(wasm.read(core), values, rows)
    except Refused as error:
        values["refused"] = error.detail
        rows.append(("refused", error.detail))
    return values, rows + [("section", f"{name}: {size} bytes") for name, size in sizes]


def _makers(data: bytes) -> list[str]:
    return [" ".join(each for each in (name, version) if each) for _, name, version in wasm.producers(data)]


def _of_shape(shape: wasm.ModuleShape, values: dict[str, Any], rows: Rows) -> tuple[dict[str, Any], Rows]:
    imports = [f"{module}.{name}" for module, name in shape.imports]
    capabilities = interfaces_of(shape.imports)
    nowhere = unknown_imports(shape.imports)
    unknown = [f"{module}.{name}" for module, name in nowhere]
    is_filter = not set(shape.exports).isdisjoint(FILTER_VERSIONS)
    try:
        abilities, lacks = sorted(check_exports(shape.exports, is_filter=is_filter)), ""
    except Refused as error:
        abilities, lacks = [], error.detail
    toml = _description(shape, capabilities)
    values |= {"memory_pages": shape.memory_pages, "imports": imports, "exports": list(shape.exports)}
    helps = list(what_to_do(nowhere))
    values |= {
        "capabilities": capabilities,
        "unknown_imports": unknown,
        "what_helps": helps,
        "abilities": abilities,
        "description": toml,
    }
    rows.append(("memory", f"{amount(shape.memory_pages, 'page')} of 64 KiB"))
    rows += [("import", each) for each in imports] + [("export", each) for each in shape.exports]
    rows += [("capability", each) for each in capabilities] + [("no board has", each) for each in unknown]
    rows += [("what helps", each) for each in helps]
    rows += [("ability", each) for each in abilities] + [("lacks", lacks)] * bool(lacks)
    if not unknown and not lacks:
        rows += [("its .toml", line) for line in toml.splitlines()]
    return values, rows


def _description(shape: wasm.ModuleShape, capabilities: list[str]) -> str:
    """The least that `ota build` takes for this module; its author fills in names and topics."""
    lines = ["[module]", 'name = "NAME"', 'version = "1.0.0"']
    if (pages := pages_with_room(shape.memory_pages)) > Limits().memory_pages:
        lines += ["[limits]", f"memory_pages = {pages}"]
    for name in (each for each in capabilities if each != "messaging"):
        lines.append(f"[capabilities.{name}]")
        lines += {"gpio": ["inputs = []", "outputs = []"], "serial": ["ports = []"]}.get(name, [])
    lines += ["[capabilities.messaging]", 'subscribe = ["in/#"]']
    if {"messaging", "filter"} & set(capabilities):
        lines.append('publish = ["out/#"]')
    return "\n".join(lines) + "\n"


def _sections(data: bytes) -> list[tuple[str, int]]:
    sizes: dict[str, int] = {}
    for kind, name, _, content in wasm.sections(data):
        label = f"custom {name[:100]}" if kind == 0 else _NAMES[kind] if kind < len(_NAMES) else f"number {kind}"
        sizes[label] = sizes.get(label, 0) + len(content)
    return sorted(sizes.items(), key=lambda each: -each[1])


def describe_component(data: bytes) -> tuple[dict[str, Any], Rows]:
    """A component: its interfaces, its core modules, and the one that boards can run. Raises Refused MALFORMED, TOO_LARGE."""
    found = component.read(data)
    makers = _makers(data)
    cores = sorted(found.cores, key=lambda each: -each.size)
    values: dict[str, Any] = {"bytes": len(data), "sha256": sha256(data), "made_by": makers}
    values |= {"imports": list(found.imports), "exports": list(found.exports)}
    values["core_modules"] = [{"bytes": each.size, "role": each.role.value} for each in cores]
    rows: Rows = [("size", f"{len(data)} bytes"), ("sha256", sha256(data).hex())]
    rows += [("made by", each) for each in makers]
    rows += [("import", each) for each in found.imports] + [("export", each) for each in found.exports]
    rows += [("core module", f"{each.size} bytes, {each.role.value}") for each in cores]
    try:
        main = found.main()
        module, of_module = describe_module(data[main.start : main.end])
    except Refused as error:
        return values | {"refused": error.detail}, [*rows, ("refused", error.detail)]
    shared = {"size", "sha256", "made by", "import", "export"}  # labels that the component has, too
    rows += [(f"main {label}" if label in shared else label, text) for label, text in of_module]
    return values | {"module": module}, rows

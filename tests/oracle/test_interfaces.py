"""The table of interfaces, judged by others: wasm-tools flattens its functions, Wasmtime has WASI 0.2 of just these types."""

import re

import pytest
from wasmtime import Engine, Store, WasiConfig
from wasmtime.component import Component, Linker

from device_agent.sandbox.signatures import Signature
from ota.formats import worlds
from ota.formats.interfaces import INTERFACES, Interface
from pywamr import Runtime
from tests.support.tools import wasm_tools

GENERATED = [each for each in INTERFACES if each.functions or each.resources]
IDENTIFIER = re.compile(r"\b(own|borrow)<([a-z-]+)>")


def named_like(interface: Interface) -> list[Interface]:
    return [each for each in INTERFACES if each.versions == interface.versions]


def wit_type(text: str) -> str:
    return text.replace("type:", "%type:")


def declared_type(name: str, text: str) -> str:
    kind, _, inside = text.partition("{")
    cases = [each.strip() for each in inside.removesuffix("}").split(",")] if kind in ("enum", "flags", "record") else None
    if cases is not None:
        return f"  {kind} {name} {{ {', '.join(map(wit_type, cases))} }}\n"
    cases = re.sub(r"([a-z-]+): ([^,}]+)", r"\1(\2)", inside.removesuffix("}"))
    return f"  variant {name} {{ {IDENTIFIER.sub(own, cases)} }}\n"


def used(interface: Interface, version: str) -> str:
    """The types of other interfaces that it names."""
    text = " ".join((*interface.functions.values(), *interface.types.values()))
    lines = ""
    for other in named_like(interface):
        wanted = {name for _, name in IDENTIFIER.findall(text) if name in other.resources}
        if other.name == "wasi:clocks/wall-clock" and interface.name == "wasi:filesystem/types":
            wanted.add("datetime")
        if other.name == "wasi:keyvalue/store" and interface.name in ("wasi:keyvalue/atomics", "wasi:keyvalue/batch"):
            wanted.add("error")
        if wanted and other.name != interface.name:
            (package, _, name), own_package = other.name.partition("/"), interface.name.partition("/")[0]
            place = name if package == own_package else f"{other.name}{version}"
            lines += f"  use {place}.{{{', '.join(sorted(wanted))}}};\n"
    return lines


def wit(interface: Interface, version: str) -> str:
    """One interface as WIT."""
    uses, free, owned = used(interface, version), "", dict.fromkeys(interface.resources, "")
    imported = set(re.findall(r"[a-z-]+", " ".join(re.findall(r"\{(.*)\}", uses))))
    types = "".join(declared_type(name, text) for name, text in interface.types.items() if name not in imported)
    for name, text in interface.functions.items():
        params, _, result = text.partition("->")
        given = split(params)
        method = name.startswith("[method]")
        shown = ", ".join(f"p{number}: {IDENTIFIER.sub(own, each)}" for number, each in enumerate(given[method:]))
        arrow = f" -> {IDENTIFIER.sub(own, result.strip())}" if result.strip() else ""
        plain = name.rpartition(".")[2] if "]" in name else name
        if "]" in name:
            static = "" if method else "static "
            owned[name.partition("]")[2].partition(".")[0]] += f"    {plain}: {static}func({shown}){arrow};\n"
        else:
            free += f"  {plain}: func({shown}){arrow};\n"
    resources = "".join(f"  resource {name} {{\n{body}  }}\n" for name, body in owned.items())
    return f"interface {interface.name.partition('/')[2]} {{\n{uses}{resources}{types}{free}}}\n"


def split(text: str) -> list[str]:
    """At the commas that are in no brackets."""
    parts = [""]
    for each in text:
        inside = parts[-1].count("<") > parts[-1].count(">")
        parts = [*parts, ""] if each == "," and not inside else [*parts[:-1], parts[-1] + each]
    return [each.strip() for each in parts if each.strip()]


def own(found: re.Match) -> str:
    return found[2] if found[1] == "own" else found[0]


def document(interfaces: list[Interface], version: str) -> str:
    """The packages of these interfaces, and a world that imports all of them."""
    suffix, packages = f"@{version}" if version else "", {}
    for each in interfaces:
        packages.setdefault(each.name.partition("/")[0], []).append(wit(each, suffix))
    text = "".join(f"package {name}{suffix} {{\n{''.join(each)}}}\n" for name, each in packages.items())
    imports = "".join(f"  import {each.name}{suffix};\n" for each in interfaces)
    return f"package judged:all;\n{text}world all {{\n{imports}}}\n"


VERSIONS = sorted({version for each in GENERATED for version in each.versions})


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("naming", ["legacy", "standard32"])
def test_functions_are_flattened_as_others_do(version, naming, tmp_path):
    wanted = [each for each in GENERATED if version in each.versions]
    (tmp_path / "all.wit").write_text(document(wanted, version))
    core = wasm_tools("component", "embed", tmp_path / "all.wit", "--world", "all", "--dummy-names", naming)
    with Runtime() as runtime:
        imports = runtime.load(core).imports
    seen = set()
    for each in imports:
        interface, function = worlds.interface_of(each.module), worlds.function_of(each.module, each.name)
        assert interface in wanted
        assert worlds.is_known(each.module, each.name)
        seen.add((interface.name, function))
        if not function.startswith("[resource-drop]"):
            expected = Signature(interface.functions[function], interface.types).imported
            assert (each.module, function, each.type) == (each.module, function, expected)
    assert seen == {(each.name, name) for each in wanted for name in each.names}


def test_wasmtime_has_wasi_of_these_types(tmp_path):
    """A component that imports all of it is linked: Wasmtime compares every type."""
    unstable = {"exit-with-code"}  # wasi:cli 0.2 has it behind a gate
    wanted = [
        Interface(each.name, each.versions, each.capability,
                  {name: text for name, text in each.functions.items() if name not in unstable}, each.types, each.resources)
        for each in GENERATED if each.capability == "wasi"
    ]  # fmt: skip
    (tmp_path / "all.wit").write_text(document(wanted, "0.2.0"))
    core = tmp_path / "core.wasm"
    core.write_bytes(wasm_tools("component", "embed", tmp_path / "all.wit", "--world", "all", "--dummy"))
    component = wasm_tools("component", "new", core)
    store, linker = Store(engine := Engine()), Linker(engine)
    store.set_wasi(WasiConfig())
    linker.add_wasip2()
    assert linker.instantiate(store, Component(engine, component)) is not None

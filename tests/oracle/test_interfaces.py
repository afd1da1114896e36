"""The table of interfaces, judged by others: wasm-tools flattens its functions, Wasmtime has WASI 0.2 of just these types."""

import os
import re
from pathlib import Path

import pytest
from wasmtime import Engine, Store, WasiConfig
from wasmtime.component import Component, Linker

from device_agent.sandbox.contract import ModuleHost
from device_agent.sandbox.devices import Devices
from device_agent.sandbox.errors import ModuleError
from device_agent.sandbox.signatures import Signature
from ota.formats import worlds
from ota.formats.capabilities import Capabilities
from ota.formats.interfaces import ERROR_CODES, INTERFACES, Interface
from ota.formats.module import ModuleDescription
from pywamr import Runtime
from tests.support.tools import wasm_tools
from tests.support.wasi2_wat import reader

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


EVENTS = """package device:module@0.1.0 {
  interface events { handle: func(topic: string, payload: list<u8>) -> result<_, string>; }
}
"""
PATHS = ("file", "sub/inner", "empty", "missing", "sub", "sub/../file", "../secret", "/etc/passwd", "out", "way/secret", "inside",
         "file/x", "file/", "", ".", "x" * 300)  # fmt: skip


class OurBoard:
    """The module as a board runs it."""

    def __init__(self, wasm, folder):
        self._printed = []
        description = ModuleDescription("m", "1", Capabilities.parse({"wasi": {"read": ["/data"]}}, "test"))
        devices = Devices(folders=(("/data", os.open(folder, os.O_RDONLY | os.O_DIRECTORY), False),))
        self._host = ModuleHost(wasm, description, {}, lambda _, line: self._printed.append(line), devices=devices)
        self._host.begin(b"", {})

    def handle(self, path):
        try:
            self._host.handle(path, b"about " + path.encode())
        except ModuleError as error:
            return str(error)
        raise AssertionError("the module answers with errors")

    def printed(self):
        return self._printed


class Wasmtimes:
    """The same module as a component in Wasmtime."""

    def __init__(self, wasm, folder, scratch):
        wanted = [each for each in GENERATED if each.capability == "wasi" and "exit" not in each.name]
        world = document(wanted, "0.2.0").replace("package judged:all;\n", f"package judged:all;\n{EVENTS}")
        (scratch / "all.wit").write_text(world.rstrip().removesuffix("}") + "  export device:module/events@0.1.0;\n}\n")
        (scratch / "core.wasm").write_bytes(wasm)
        (scratch / "embedded.wasm").write_bytes(
            wasm_tools("component", "embed", scratch / "all.wit", "--world", "all", scratch / "core.wasm")
        )
        wasi = WasiConfig()
        self._output = wasi.stdout_file = str(scratch / "printed")
        wasi.preopen_dir(str(folder), "/data", fs_mutable=False)
        self._store, linker = Store(engine := Engine()), Linker(engine)
        self._store.set_wasi(wasi)
        linker.add_wasip2()
        component = Component(engine, wasm_tools("component", "new", scratch / "embedded.wasm"))
        instance = linker.instantiate(self._store, component)
        outer = instance.get_export_index(self._store, "device:module/events@0.1.0")
        self._handle = instance.get_func(self._store, instance.get_export_index(self._store, "handle", outer))

    def handle(self, path):
        result = self._handle(self._store, path, b"about " + path.encode() + b"\n")
        self._handle.post_return(self._store)
        return result

    def printed(self):
        self._store.close()
        return Path(self._output).read_text().splitlines()


def test_a_module_in_wasi_does_the_same_here_and_in_wasmtime(tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "file").write_text("in a file")
    (folder / "empty").write_text("")
    (folder / "sub" / "inner").write_text("deeper")
    (tmp_path / "secret").write_text("not for modules")
    for name, target in (("out", "../secret"), ("way", ".."), ("inside", "sub/inner")):
        (folder / name).symlink_to(target)
    ours, theirs = OurBoard(reader(), folder), Wasmtimes(reader(), folder, tmp_path)
    here, there = ({path: each.handle(path) for path in PATHS} for each in (ours, theirs))
    assert here == there
    assert (here["file"], here["inside"], here["empty"]) == ("n a file", "eeper", "")
    assert {here[path] for path in ("../secret", "/etc/passwd", "out", "way/secret")} == {
        chr(65 + ERROR_CODES.index("not-permitted"))
    }
    assert ours.printed() == theirs.printed() == [f"about {path}" for path in PATHS]

"""Each example module, wrapped as a component, fits the world of sdk/wit: the contract is the Component Model's own."""

import pytest

from ota.formats import wasm
from ota.formats.capabilities import EXPORTS, FUNCTIONS, check_exports, import_module
from tests.conftest import ROOT
from tests.support.tools import wasm_tools

NAMES = ("monitor-v1", "monitor-v2", "monitor-v3", "tally")
WIT = ROOT / "sdk" / "wit"
WORLD = {name: functions for name, functions in FUNCTIONS.items() if name not in ("wasi", "filter")}  # worlds of their own


@pytest.mark.parametrize("name", NAMES)
def test_a_module_is_a_component_of_the_world(modules, tmp_path, name):
    core = modules / f"{name}.wasm"
    shape = wasm.read(core.read_bytes())
    abilities = check_exports(shape.exports)
    worlds = tmp_path / "wit"
    worlds.mkdir()
    exports = "".join(f"  export {ability};\n" for ability in sorted(abilities))
    imports = "".join(f"  import {each};\n" for each in WORLD)
    text = (WIT / "module.wit").read_text() + f"\nworld wanted {{\n{imports}{exports}}}\n"
    (worlds / "module.wit").write_text(text)
    embedded, component = tmp_path / "embedded.wasm", tmp_path / "component.wasm"
    wasm_tools("component", "embed", worlds, "--world", "wanted", core, "-o", embedded)
    wasm_tools("component", "new", embedded, "-o", component)
    wasm_tools("validate", "--features", "component-model", component)
    shown = wasm_tools("component", "wit", component).decode()
    for ability in abilities:
        assert f"export device:module/{ability}@0.1.0;" in shown


def test_the_world_parses_and_names_what_the_host_knows():
    text = wasm_tools("component", "wit", WIT).decode()
    for interface, functions in (WORLD | EXPORTS).items():
        block = text.split(f"interface {interface} {{")[1].split("\n}")[0]
        for function in functions:
            assert f"{function}: func" in block
        assert import_module(interface) == f"device:module/{interface}@0.1.0"

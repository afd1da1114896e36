"""There and back: a module is wrapped as a component by wasm-tools, taken out again and run here; Wasmtime runs the component."""

import pytest

from ota.formats import wasm
from ota.formats.capabilities import check_exports
from ota.formats.loadable import core_module
from tests.oracle.test_component import EVENTS_OF_BOARDS, built, ours, theirs
from tests.support import wat as wat_support
from tests.support.component import component
from tests.support.sampling import check, few_and_many
from tests.support.tools import wasm_tools
from tests.support.wat import contract_module

NAMES = ("monitor-v1", "monitor-v2", "monitor-v3", "tally")


def code(module: bytes) -> list[tuple[int, bytes]]:
    """Everything that is not a custom section."""
    return [(kind, content) for kind, _, _, content in wasm.sections(module) if kind != 0]


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_out_is_what_went_in_and_what_another_tool_takes_out(tmp_path, name):
    module, binary = built(name)
    taken = core_module(binary)
    assert code(taken) == code(module)
    (tmp_path / "c.wasm").write_bytes(binary)
    wasm_tools(
        "component", "unbundle", "--threshold", "0", "--module-dir", tmp_path / "modules", tmp_path / "c.wasm", "-o", tmp_path / "o"
    )
    assert taken in [path.read_bytes() for path in (tmp_path / "modules").iterdir()]


@pytest.mark.parametrize("name", ["monitor-v2", "tally"])
@few_and_many(10, 60)
def test_an_unbundled_module_answers_events_as_its_component_does_in_wasmtime(name, examples):
    _, binary = built(name)
    taken = core_module(binary)
    startup = b"startup@0.1.0#init" in taken

    def holds(events) -> None:
        assert ours(taken, events, startup=startup) == theirs(binary, events, startup=startup)

    check(examples, holds, EVENTS_OF_BOARDS)


NEWER = (
    ("cabi_post_device:module/events@0.1.0#handle", "cm32p2|device:module/events@0.1|handle_post"),
    ("device:module/events@0.1.0#handle", "cm32p2|device:module/events@0.1|handle"),
    ("device:module/messaging@0.1.0", "cm32p2|device:module/messaging@0.1"),
    ("cabi_realloc", "cm32p2_realloc"),
    ('"memory"', '"cm32p2_memory"'),
)
"""Names as wit-component takes them at first, and by the scheme that BuildTargets.md describes."""


def test_a_component_whose_core_module_has_the_newer_names_answers_as_the_others_do(monkeypatch):
    body = "(call $publish (i32.const 100) (i32.const 5) (local.get $payload) (local.get $size) (i32.const 80)) (i32.const 0)"
    data = '(data (i32.const 100) "out/a")'
    publish = '(import "device:module/messaging@0.1.0" "publish" (func $publish (param i32 i32 i32 i32 i32)))'
    older = contract_module(body, publish, data)
    renamed = wat_support.CONTRACT
    for before, after in NEWER:
        renamed, publish = renamed.replace(before, after), publish.replace(before, after)
    monkeypatch.setattr(wat_support, "CONTRACT", renamed)
    newer = contract_module(body, publish, data)
    assert check_exports(wasm.read(newer).exports) == {"events"}
    events = [("in/x", b"1"), ("in/y", b""), ("in/z", bytes(range(256)))]
    for module in (older, newer):
        binary = component(module)
        assert code(core_module(binary)) == code(module)
        assert ours(core_module(binary), events, startup=False) == theirs(binary, events, startup=False)

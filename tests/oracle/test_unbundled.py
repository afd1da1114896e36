"""There and back: a module is wrapped as a component by wasm-tools, taken out again and run here; Wasmtime runs the component."""

import pytest

from ota.formats import wasm
from ota.formats.loadable import core_module
from tests.oracle.test_component import EVENTS_OF_BOARDS, built, ours, theirs
from tests.support.sampling import check, few_and_many
from tests.support.tools import wasm_tools

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

"""What `--trace` shows of each capability: what a module asked, and what it was told."""

import pytest

from device_agent.sandbox.contract import ModuleHost
from ota.formats.capabilities import FUNCTIONS, Capabilities, import_module
from ota.formats.module import Limits, ModuleDescription
from tests.support.devices import GRANTED, some_devices
from tests.support.wat import contract_module

DATA = r"""(data (i32.const 1000) "out/a") (data (i32.const 1010) "sys/b")
  (data (i32.const 1020) "gpiochip0:1gpiochip0:2gpiochip0:3")
  (data (i32.const 1060) "/dev/ttyS1") (data (i32.const 1080) "key") (data (i32.const 1090) "a\ff\1b value")"""


def text(at: int, size: int) -> str:
    return f"(i32.const {at}) (i32.const {size})"


OUT = "(i32.const 2000)"
CALLS = [
    ("logging", "log", f"(i32.const 2) {text(1000, 5)}", "i32 i32 i32", ["info", "out/a"], None),
    ("messaging", "publish", f"{text(1000, 5)} {text(1090, 9)} {OUT}", "i32 i32 i32 i32 i32", ["out/a", "a\\xff\x1b value"], "ok"),
    ("messaging", "publish", f"{text(1010, 5)} {text(1090, 1)} {OUT}", "i32 i32 i32 i32 i32", ["sys/b", "a"], "error denied"),
    ("messaging", "publish", f"{text(1000, 5)} {text(0, 65537)} {OUT}", "i32 i32 i32 i32 i32", None, "error too-large"),
    ("keyvalue", "get", f"{text(1080, 3)} {OUT}", "i32 i32 i32", ["key"], "none"),
    ("keyvalue", "set", f"{text(1080, 3)} {text(1000, 5)} {OUT}", "i32 i32 i32 i32 i32", ["key", "out/a"], "ok"),
    (
        "keyvalue",
        "set",
        f"{text(1080, 3)} {text(1000, 30)} {OUT}",
        "i32 i32 i32 i32 i32",
        None,
        "error the quota of 20 bytes is used up",
    ),
    ("keyvalue", "delete", f"{text(1080, 3)} {OUT}", "i32 i32 i32", ["key"], "ok"),
    ("config", "get", f"{text(1080, 3)} {OUT}", "i32 i32 i32", ["key"], "set"),
    ("gpio", "read", f"{text(1020, 11)} {OUT}", "i32 i32 i32", ["gpiochip0:1"], True),
    ("gpio", "write", f"{text(1031, 11)} (i32.const 1) {OUT}", "i32 i32 i32 i32", ["gpiochip0:2", 1], "ok"),
    ("gpio", "write", f"{text(1042, 11)} (i32.const 1) {OUT}", "i32 i32 i32 i32", ["gpiochip0:3", 1], "error failed"),
    ("gpio", "write", f"{text(1020, 11)} (i32.const 1) {OUT}", "i32 i32 i32 i32", ["gpiochip0:1", 1], "error denied"),
    ("serial", "read", f"{text(1060, 10)} (i32.const 4) {OUT}", "i32 i32 i32 i32", ["/dev/ttyS1", 4], "hell"),
    ("serial", "read", f"{text(1060, 3)} (i32.const 4) {OUT}", "i32 i32 i32 i32", ["/de", 4], "error denied"),
    ("serial", "write", f"{text(1060, 10)} {text(1000, 5)} {OUT}", "i32 i32 i32 i32 i32", ["/dev/ttyS1", "out/a"], "ok"),
]


@pytest.mark.parametrize(("interface", "function", "arguments", "kinds", "shown", "answer"), CALLS)
def test_a_call_is_shown_as_people_read_it(interface, function, arguments, kinds, shown, answer):
    imported = f'(import "{import_module(interface)}" "{function}" (func $f (param {kinds})))'
    wasm = contract_module(f"(call $f {arguments}) (i32.const 0)", imported, DATA, "")
    seen = []
    description = ModuleDescription("m", "1", Capabilities.parse(GRANTED, "test"), Limits())
    host = ModuleHost(
        wasm, description, {"key": "set"}, lambda *_: None, observe=lambda *call: seen.append(call), devices=some_devices()
    )
    host.handle("t", b"")
    ((name, values, result, took_ns),) = seen
    assert name == f"{interface}.{function}"
    assert result == answer
    assert took_ns > 0
    if shown is not None:
        assert values == shown


def test_every_function_with_addresses_is_described():
    from device_agent.sandbox.tracing import _SHAPES

    plain = {f"{interface}.{name}" for interface in ("clock", "wasi", "filter") for name in FUNCTIONS[interface]}
    assert set(_SHAPES) == {f"{name}.{each}" for name, functions in FUNCTIONS.items() for each in functions} - plain

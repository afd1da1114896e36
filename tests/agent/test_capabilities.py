"""random, gpio, serial and wasi: granted, and denied."""

import os
import tty

import pytest

from device_agent.sandbox.contract import ModuleHost
from device_agent.sandbox.devices import Devices, open_devices
from device_agent.sandbox.errors import ContractError
from device_agent.sandbox.wasi import FUNCTIONS as WASI_FUNCTIONS
from ota.formats.capabilities import FUNCTIONS, Capabilities
from ota.formats.module import Limits, ModuleDescription
from ota.formats.reasons import Reason, Refused
from pywamr import Trap
from tests.support.wat import contract_module

SAY = '(import "device:module/messaging@0.1.0" "publish" (func $publish (param i32 i32 i32 i32 i32)))'
TOPIC = '(data (i32.const 300) "out")'


def publish(at: str, size: str) -> str:
    return f"(call $publish (i32.const 300) (i32.const 3) {at} {size} (i32.const 290))"


def answer(
    body: str, imports: str, capabilities: dict, devices: Devices | None = None, data: str = "", payload=b"", log=None
) -> bytes:
    """What a module publishes that was given an event."""
    given = capabilities | {"messaging": {"publish": ["out"]}}
    wasm = contract_module(body + " (i32.const 0)", SAY + imports, TOPIC + data)
    description = ModuleDescription("m", "1", Capabilities.parse(given, "test"), Limits(memory_pages=4))
    host = ModuleHost(wasm, description, {}, log or (lambda *_: None), devices=devices)
    try:
        return b"".join(payload for _, payload in host.handle("in/x", payload).messages)
    finally:
        host.close()


def test_random_bytes_are_random_and_limited():
    imports = '(import "device:module/random@0.1.0" "get" (func $random (param i32 i32)))'
    body = f"(call $random (i32.const 16) (i32.const 200)) {publish('(i32.load (i32.const 200))', '(i32.load (i32.const 204))')}"
    first, second = (answer(body, imports, {"random": {}}) for _ in range(2))
    assert len(first) == len(second) == 16
    assert first != second
    assert answer(body.replace("16)", "70000)", 1), imports, {"random": {}}) == b""
    with pytest.raises(Refused) as refused:
        answer(body, imports, {})
    assert refused.value.reason is Reason.IMPORT_UNDECLARED


class FakeLine:
    def __init__(self) -> None:
        self.level, self.broken = False, False

    def read(self) -> bool:
        if self.broken:
            raise OSError("unplugged")
        return self.level

    def write(self, value: bool) -> None:
        if self.broken:
            raise OSError("unplugged")
        self.level = value


GPIO = """(import "device:module/gpio@0.1.0" "read" (func $read (param i32 i32 i32)))
  (import "device:module/gpio@0.1.0" "write" (func $write (param i32 i32 i32 i32)))"""
GPIO_BODY = f"""(call $write (i32.const 320) (i32.const 11) (i32.const 1) (i32.const 200))
  (call $read (i32.const 320) (i32.const 11) (i32.const 202))
  (call $read (i32.const 340) (i32.const 12) (i32.const 204)) {publish("(i32.const 200)", "(i32.const 6)")}"""
GPIO_DATA = '(data (i32.const 320) "gpiochip0:4") (data (i32.const 340) "gpiochip0:17")'


def test_gpio_lines_that_are_granted_are_read_and_written_and_no_others():
    granted = {"gpio": {"inputs": ["gpiochip0:17"], "outputs": ["gpiochip0:4"]}}
    output, button = FakeLine(), FakeLine()
    devices = Devices(inputs={"gpiochip0:17": button}, outputs={"gpiochip0:4": output})
    assert answer(GPIO_BODY, GPIO, granted, devices, GPIO_DATA) == bytes((0, 0, 0, 1, 0, 0))
    assert output.level
    output.broken = True
    logged = []
    found = answer(GPIO_BODY, GPIO, granted, devices, GPIO_DATA, log=lambda *each: logged.append(each))
    assert found == bytes((1, 1, 1, 1, 0, 0))
    assert ("warn", "gpiochip0:4: unplugged") in logged
    swapped = Devices(inputs={"gpiochip0:4": FakeLine()})
    assert answer(GPIO_BODY, GPIO, granted, swapped, GPIO_DATA) == bytes((1, 0, 0, 0, 1, 0))  # an input is not written


def test_a_gpio_chip_that_is_not_there_is_named():
    with pytest.raises(Refused, match="GPIO line gpiochip99:1") as refused:
        open_devices(Capabilities.parse({"gpio": {"inputs": ["gpiochip99:1"]}}, "test"))
    assert refused.value.reason is Reason.DEVICE_UNAVAILABLE


SERIAL = """(import "device:module/serial@0.1.0" "read" (func $read (param i32 i32 i32 i32)))
  (import "device:module/serial@0.1.0" "write" (func $write (param i32 i32 i32 i32 i32)))"""


def serial_body(name: str) -> str:
    size = len(name)
    return f"""(call $write (i32.const 320) (i32.const {size}) (local.get $payload) (local.get $size) (i32.const 200))
      (call $read (i32.const 320) (i32.const {size}) (i32.const 100) (i32.const 208))
      (if (i32.eqz (i32.load8_u (i32.const 208)))
        (then {publish("(i32.load (i32.const 212))", "(i32.load (i32.const 216))")})
        (else {publish("(i32.const 208)", "(i32.const 5)")}))"""


def test_a_serial_port_that_is_granted_is_read_and_written_and_no_other():
    pytest.importorskip("serial")
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    path = os.ttyname(theirs)
    capabilities = {"serial": {"ports": [f"{path}:115200"]}}
    devices = open_devices(Capabilities.parse(capabilities, "test"))
    data = f'(data (i32.const 320) "{path}")'
    os.write(ours, b"21.5 C")
    assert answer(serial_body(path), SERIAL, capabilities, devices, data, b"READ?") == b"21.5 C"
    assert os.read(ours, 100) == b"READ?"
    other = "/dev/ttyS9"
    denied = answer(serial_body(other), SERIAL, capabilities, devices, f'(data (i32.const 320) "{other}")', b"x")
    assert denied == bytes((1, 0, 0, 0, 0))
    with pytest.raises(Refused, match="serial port /dev/nothing:9600"):
        open_devices(Capabilities.parse({"serial": {"ports": ["/dev/nothing:9600"]}}, "test"))


def test_operator_and_board_have_the_same_list_of_wasi_functions():
    assert sorted(FUNCTIONS["wasi"]) == sorted(WASI_FUNCTIONS)


def test_wasi_output_is_the_log_and_nothing_else_is_there():
    imports = """(import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))"""
    body = f"""(i32.store (i32.const 200) (i32.const 320)) (i32.store (i32.const 204) (i32.const 8))
      (i32.store8 (i32.const 240) (call $fd_write (i32.const 1) (i32.const 200) (i32.const 1) (i32.const 220)))
      (i32.store8 (i32.const 241) (call $fd_write (i32.const 9) (i32.const 200) (i32.const 1) (i32.const 220)))
      (i32.store8 (i32.const 242) (call $prestat (i32.const 3) (i32.const 220))) {publish("(i32.const 240)", "(i32.const 3)")}"""
    logged = []
    found = answer(body, imports, {"wasi": {}}, data='(data (i32.const 320) "hi\\0athere")', log=lambda *each: logged.append(each))
    assert found == bytes((0, 8, 8))  # BADF: no such descriptor, no folder
    assert logged == [("info", "hi"), ("info", "there")]


def test_what_a_module_printed_before_it_trapped_is_logged():
    imports = '(import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))'
    body = """(i32.store (i32.const 200) (i32.const 320)) (i32.store (i32.const 204) (i32.const 5))
      (drop (call $fd_write (i32.const 2) (i32.const 200) (i32.const 1) (i32.const 220))) (unreachable)"""
    logged = []
    with pytest.raises(Trap):
        answer(body, imports, {"wasi": {}}, data='(data (i32.const 320) "about")', log=lambda *each: logged.append(each))
    assert logged == [("warn", "about")]


def test_a_pointer_outside_the_memory_ends_a_wasi_call():
    imports = '(import "wasi_snapshot_preview1" "random_get" (func $get (param i32 i32) (result i32)))'
    with pytest.raises(ContractError, match="outside the memory"):
        answer("(drop (call $get (i32.const -8) (i32.const 64)))", imports, {"wasi": {}})

"""sdk/c/device_module.h: every capability from C, and from C++."""

import pytest

from device_agent.sandbox.contract import ModuleHost
from ota.formats.capabilities import FUNCTIONS, Capabilities, import_module
from ota.formats.module import Limits, ModuleDescription
from pywamr import Runtime
from tests.support.devices import GRANTED, some_devices
from tests.support.guest_c import compile_c

SOURCE = r"""#include "device_module.h"
static void tell(const char *name, uint32_t status)
{
    uint8_t text[32] = "out/";
    uint32_t size = 4;
    for (; *name; name++)
        text[size++] = (uint8_t)*name;
    uint8_t digit = (uint8_t)('0' + status);
    dm_publish((dm_bytes){ text, size }, (dm_bytes){ &digit, 1 });
}
static bool handle(dm_bytes topic, dm_bytes payload, dm_bytes *error)
{
    (void)topic;
    (void)payload;
    (void)error;
    bool value = false;
    dm_bytes data = { 0, 0 };
    dm_log(DM_INFO, DM_TEXT("all of it"));
    tell("random", dm_random(5).size);
    tell("read", dm_gpio_read(DM_TEXT("gpiochip0:1"), &value));
    tell("value", value);
    tell("read-denied", dm_gpio_read(DM_TEXT("gpiochip0:9"), &value));
    tell("write", dm_gpio_write(DM_TEXT("gpiochip0:2"), false));
    tell("write-denied", dm_gpio_write(DM_TEXT("gpiochip0:1"), true));
    tell("write-failed", dm_gpio_write(DM_TEXT("gpiochip0:3"), true));
    tell("serial", dm_serial_read(DM_TEXT("/dev/ttyS1"), 4, &data));
    dm_publish(DM_TEXT("out/data"), data);
    tell("serial-denied", dm_serial_read(DM_TEXT("/dev/ttyS2"), 4, &data));
    tell("serial-write", dm_serial_write(DM_TEXT("/dev/ttyS1"), DM_TEXT("bye")));
    tell("serial-write-denied", dm_serial_write(DM_TEXT("/dev/ttyS2"), DM_TEXT("bye")));
    tell("set", dm_keyvalue_set(DM_TEXT("key"), DM_TEXT("kept")));
    tell("get", dm_keyvalue_get(DM_TEXT("key"), &data));
    tell("delete", dm_keyvalue_delete(DM_TEXT("key")));
    tell("config", dm_config_get(DM_TEXT("key"), &data));
    tell("clock", dm_clock_now() > 0 && dm_clock_monotonic() > 0);
    return true;
}
DM_EVENTS(handle)
"""


@pytest.mark.parametrize("language", ["c", "c++"])
def test_c_and_cpp_reach_every_capability(tmp_path, language):
    source = tmp_path / "all.c"
    source.write_text(SOURCE)
    module = compile_c(source, "-x", language, "-Wall", "-Wextra", "-Werror")
    with Runtime() as runtime:
        imported = {(each.module, each.name) for each in runtime.load(module.read_bytes()).imports}
    assert imported == {
        (import_module(name), each) for name, functions in FUNCTIONS.items() if name not in ("wasi", "filter") for each in functions
    }
    devices, lines = some_devices(), []
    description = ModuleDescription("m", "1", Capabilities.parse(GRANTED, "test"), Limits())
    host = ModuleHost(module.read_bytes(), description, {"key": "set"}, lambda *line: lines.append(line), devices=devices)
    told = dict(host.handle("t", b"").messages)
    expected = {
        "random": 5, "read": 0, "value": 1, "read-denied": 1, "write": 0, "write-denied": 1, "write-failed": 2, "serial": 0,
        "serial-denied": 1, "serial-write": 0, "serial-write-denied": 1, "set": 1, "get": 1, "delete": 1, "config": 1, "clock": 1,
    }  # fmt: skip
    assert told == {f"out/{name}": str(number).encode() for name, number in expected.items()} | {"out/data": b"hell"}
    assert ("info", "all of it") in lines
    assert devices.outputs["gpiochip0:2"].value is False
    assert devices.ports["/dev/ttyS1"].written == b"bye"


COUNTER = r"""#include "device_module.h"
extern volatile int zero;
volatile int zero = 0; // so that the compiler leaves the constructor to run time
struct Counter { Counter() { value = zero; } int value; };
static Counter counter;
static bool handle(dm_bytes, dm_bytes, dm_bytes *)
{
    uint8_t digit = (uint8_t)('0' + ++counter.value);
    return dm_publish(DM_TEXT("out/count"), dm_bytes{ &digit, 1 }) == DM_PUBLISHED;
}
DM_EVENTS(handle)
"""


def test_constructors_of_cpp_run_once_where_they_are_exported(tmp_path):
    source = tmp_path / "counter.cpp"
    source.write_text(COUNTER)
    flags = ("-x", "c++", "-fno-exceptions", "-fno-rtti", "-Wall", "-Wextra", "-Werror", "-Wl,--export=__wasm_call_ctors")
    module = compile_c(source, *flags)
    description = ModuleDescription("m", "1", Capabilities.parse(GRANTED, "test"), Limits())
    host = ModuleHost(module.read_bytes(), description, {}, lambda *_: None, devices=some_devices())
    assert [host.handle("t", b"").messages for _ in range(3)] == [(("out/count", each),) for each in (b"1", b"2", b"3")]
    host.close()

"""sdk/go: every capability and every ability from Go, and what a panic leaves behind."""

import subprocess
from pathlib import Path

import pytest

from device_agent.sandbox.contract import ModuleHost
from device_agent.sandbox.errors import ModuleError, StateRefusedError
from ota.author.templates import create
from ota.formats.capabilities import Capabilities
from ota.formats.module import Limits, ModuleDescription
from pywamr import Trap
from tests.sdk.test_templates import built as build
from tests.support.devices import GRANTED, some_devices

pytestmark = pytest.mark.full
SOURCE = r"""package main

import (
	"errors"
	"fmt"
	"strings"

	"boards/all/device"
	"boards/all/device/health"
	"boards/all/device/startup"
	"boards/all/device/state"
	"boards/all/device/timer"
)

var count int

func tell(name string, values ...any) { device.Publish("out/"+name, []byte(strings.TrimSpace(fmt.Sprintln(values...)))) }

func handle(topic string, payload []byte) error {
	count++
	switch string(payload) {
	case "panic":
		panic("at the disco")
	case "refuse":
		tell("dropped")
		return errors.New("not " + topic)
	case "count":
		tell("count", count)
		return nil
	}
	device.Log(device.Info, "all of it")
	tell("random", len(device.Random(5)))
	value, err := device.ReadLine("gpiochip0:1")
	tell("read", value, err)
	_, err = device.ReadLine("gpiochip0:9")
	tell("read-denied", err)
	tell("write", device.WriteLine("gpiochip0:2", false))
	tell("write-denied", device.WriteLine("gpiochip0:1", true))
	tell("write-failed", device.WriteLine("gpiochip0:3", true))
	data, err := device.ReadPort("/dev/ttyS1", 4)
	tell("serial", string(data), err)
	_, err = device.ReadPort("/dev/ttyS2", 4)
	tell("serial-denied", err)
	tell("serial-write", device.WritePort("/dev/ttyS1", []byte("bye")))
	tell("serial-write-denied", device.WritePort("/dev/ttyS2", []byte("bye")))
	tell("set", device.Set("key", []byte("kept")))
	data, found := device.Get("key")
	tell("get", string(data), found)
	tell("delete", device.Delete("key"))
	_, found = device.Get("key")
	tell("gone", found)
	tell("too-long", device.Set("", nil))
	text, found := device.Config("key")
	tell("config", text, found)
	_, found = device.Config("other")
	tell("no-config", found)
	tell("clock", device.Now() > 0 && device.Monotonic() > 0)
	tell("denied", device.Publish("secret/x", nil))
	tell("large", device.Publish("out/large", make([]byte, 1<<20+1)))
	return nil
}

func init() {
	device.OnEvent(handle)
	startup.OnStart(func(config []byte) error {
		if string(config) == "key=bad" {
			return errors.New("a bad key")
		}
		return nil
	})
	timer.OnTick(func(nowNs int64) error { tell("tick", nowNs); return nil })
	health.OnCheck(func() error {
		if count > 3 {
			return errors.New("tired")
		}
		return nil
	})
	state.OnSave(func() []byte { return []byte(fmt.Sprint(count)) })
	state.OnRestore(func(given []byte) error {
		_, err := fmt.Sscan(string(given), &count)
		return err
	})
}

func main() {}
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory) -> Path:
    folder = create("all", "go", tmp_path_factory.mktemp("go"))
    (folder / "module.go").write_text(SOURCE)
    return build(folder)


def opened(module: Path, log=lambda *_: None, **config: str) -> ModuleHost:
    capabilities = Capabilities.parse(GRANTED | {"wasi": {}}, "test")
    description = ModuleDescription("all", "1", capabilities, Limits(memory_pages=128))
    host = ModuleHost(module.read_bytes(), description, config, log, devices=some_devices())
    host.begin(b"", {})
    return host


def test_go_reaches_every_capability(module):
    lines: list = []
    host = opened(module, lambda *line: lines.append(line), key="set")
    told = {topic.removeprefix("out/"): payload.decode() for topic, payload in host.handle("t", b"").messages}
    denied = "denied: the manifest does not ask for it, or the board does not grant it"
    expected = {
        "random": "5", "read": "true <nil>", "read-denied": denied, "write": "<nil>", "write-denied": denied,
        "write-failed": "failed: the board's log says more", "serial": "hell <nil>", "serial-denied": denied,
        "serial-write": "<nil>", "serial-write-denied": denied, "set": "<nil>", "get": "kept true", "delete": "<nil>",
        "gone": "false", "config": "set true", "no-config": "false", "clock": "true", "large": "too large",
    }  # fmt: skip
    assert {name: told[name] for name in expected} == expected
    assert told["too-long"].startswith("a key has 1 to ")
    assert ("info", "all of it") in lines


def test_go_has_every_ability(module):
    host = opened(module)
    assert host.interfaces == {"events", "startup", "timer", "health", "state"}
    assert host.tick(77).messages == (("out/tick", b"77"),)
    with pytest.raises(ModuleError, match="not t"):
        host.handle("t", b"refuse")
    host.check()
    assert host.save() == b"1"
    other = opened(module)
    other.begin(b"41", {})
    assert other.handle("t", b"count").messages == (("out/count", b"42"),)
    with pytest.raises(ModuleError, match="tired"):
        other.check()
    with pytest.raises(StateRefusedError, match="integer"):
        other.begin(b"no number", {})
    with pytest.raises(ModuleError, match="a bad key"):
        opened(module, key="bad")


def test_memory_does_not_grow_with_events(module):
    host = opened(module)
    for _ in range(2000):
        host.handle("t", b"count")
    before = host.memory_bytes
    for _ in range(20_000 // 10):
        host.handle("t", b"count")
    assert host.memory_bytes == before


def test_a_panic_is_logged_and_ends_the_module(module):
    lines: list = []
    host = opened(module, lambda *line: lines.append(line))
    with pytest.raises(Trap, match="unreachable"):
        host.handle("t", b"panic")
    assert ("warn", "panic: at the disco") in lines


def test_the_sources_are_formatted(module):
    """gofmt comes with Go."""
    done = subprocess.run(["gofmt", "-l", str(module.parent / "device")], capture_output=True, text=True, check=True)
    assert done.stdout == ""

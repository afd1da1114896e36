"""Devices for authors whose machine has none: lines and ports that show what is written, and read what they were given."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from device_agent.sandbox.devices import Devices, open_devices
from ota.errors import OtaError
from ota.formats.capabilities import Capabilities, split_port

Show = Callable[[str, str], None]


class SimulationError(OtaError):
    """A value is for a device that the module was not granted, or is none for a line."""


def simulated_devices(capabilities: Capabilities, values: Mapping[str, str], show: Show) -> Devices:
    """What `open_devices` opens, but lines and ports are not there. `values`: the level of an input (0 or 1), and what arrives at a
    port, by their names; `show` is called for each write. Raises SimulationError, and for folders as `open_devices` does.
    """
    granted = capabilities.items
    gpio, serial = granted.get("gpio", {}), granted.get("serial", {})
    inputs, outputs = gpio.get("inputs", ()), gpio.get("outputs", ())
    paths = [split_port(name)[0] for name in serial.get("ports", ())]
    for name, value in values.items():
        if name not in (*inputs, *outputs, *paths):
            raise SimulationError(f"the module has no device {name}: {', '.join((*inputs, *outputs, *paths)) or 'it has none'}")
        if name not in paths and value not in ("0", "1"):
            raise SimulationError(f"{name} is a line, whose level is 0 or 1, not {value!r}")
    real = open_devices(Capabilities({name: each for name, each in granted.items() if name not in ("gpio", "serial")}))
    return replace(
        real,
        inputs={name: _Line(name, values.get(name, "0"), show) for name in inputs},
        outputs={name: _Line(name, values.get(name, "0"), show) for name in outputs},
        ports={path: _Port(path, values.get(path, ""), show) for path in paths},
    )


class _Line:
    def __init__(self, name: str, level: str, show: Show) -> None:
        self._name, self._level, self._show = name, level == "1", show

    def read(self) -> bool:
        return self._level

    def write(self, value: bool) -> None:
        self._level = value
        self._show(self._name, str(int(value)))


class _Port:
    def __init__(self, path: str, arrives: str, show: Show) -> None:
        self._path, self._arrives, self._show = path, arrives.encode("utf-8", "surrogateescape"), show

    def read(self, limit: int) -> bytes:
        content, self._arrives = self._arrives[:limit], self._arrives[limit:]
        return content

    def write(self, content: bytes) -> None:
        self._show(self._path, content.decode("utf-8", "backslashreplace"))

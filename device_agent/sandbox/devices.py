"""What a module's grants open: GPIO lines, serial ports, folders. Opened before the worker is confined; nothing is opened after.

Both libraries are optional: a board without gpiod or pyserial has no such capability, and says so.
"""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ota.formats.capabilities import Capabilities, split_line, split_port
from ota.formats.reasons import Reason, Refused

WRITE_TIMEOUT_S = 0.5


class Line(Protocol):
    """One GPIO line that was requested."""

    def read(self) -> bool:
        """Its level. Raises OSError."""

    def write(self, value: bool) -> None:
        """Drives it. Raises OSError."""


class Port(Protocol):
    """One serial port that is open."""

    def read(self, limit: int) -> bytes:
        """What has arrived, at most `limit` bytes; never waits. Raises OSError."""

    def write(self, content: bytes) -> None:
        """All of it, or OSError."""


@dataclass
class Devices:
    """Everything that is open for one module, by the names of its grants."""

    inputs: Mapping[str, Line] = field(default_factory=dict)
    outputs: Mapping[str, Line] = field(default_factory=dict)
    ports: Mapping[str, Port] = field(default_factory=dict)
    folders: tuple[tuple[str, int, bool], ...] = ()  # path, descriptor, whether it may be written

    @property
    def any_device(self) -> bool:
        """Whether a device is among them."""
        return bool(self.inputs or self.outputs or self.ports)


def open_devices(capabilities: Capabilities, *, exclusive: bool = True) -> Devices:
    """Without lines and ports, which another worker may have open, where `exclusive` is false.

    Raises Refused DEVICE_UNAVAILABLE that names what could not be opened, and why.
    """
    granted = capabilities.items
    gpio, serial = (granted.get(name, {}) if exclusive else {} for name in ("gpio", "serial"))
    wasi = granted.get("wasi", {})
    return Devices(
        inputs={name: _open_line(name, output=False) for name in gpio.get("inputs", ())},
        outputs={name: _open_line(name, output=True) for name in gpio.get("outputs", ())},
        ports={split_port(name)[0]: _open_port(name) for name in serial.get("ports", ())},
        folders=(
            *((path, _open_folder(path), False) for path in wasi.get("read", ())),
            *((path, _open_folder(path, write=True), True) for path in wasi.get("write", ())),
        ),
    )


def _unavailable(what: str, why: object) -> Refused:
    return Refused(Reason.DEVICE_UNAVAILABLE, f"{what}: {why}")


def _open_folder(path: str, *, write: bool = False) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unavailable(f"folder {path}", error.strerror) from error
    if write and os.fstatvfs(descriptor).f_flag & os.ST_RDONLY:
        os.close(descriptor)
        why = "its file system is read-only to the agent; under systemd: systemctl edit wamr-ota, [Service], ReadWritePaths="
        raise _unavailable(f"folder {path}", why + path)
    return descriptor


def _open_port(name: str) -> Port:
    path, baud_rate = split_port(name)
    try:
        import serial
    except ImportError:
        raise _unavailable(f"serial port {name}", "pyserial is not installed on this board") from None
    try:
        return _SerialPort(serial.Serial(path, baud_rate, timeout=0, write_timeout=WRITE_TIMEOUT_S, exclusive=True))
    except (OSError, ValueError) as error:
        raise _unavailable(f"serial port {name}", error) from error


class _SerialPort:
    def __init__(self, port: Any) -> None:
        self._port = port

    def read(self, limit: int) -> bytes:
        content: bytes = self._port.read(min(limit, self._port.in_waiting))
        return content

    def write(self, content: bytes) -> None:
        if self._port.write(content) != len(content):
            raise OSError("the port did not take all of it")


def _open_line(name: str, *, output: bool) -> Line:
    chip, offset = split_line(name)
    try:
        import gpiod
    except ImportError:
        raise _unavailable(f"GPIO line {name}", "libgpiod's Python package (gpiod 2) is not installed on this board") from None
    try:
        direction = gpiod.line.Direction.OUTPUT if output else gpiod.line.Direction.INPUT
        settings: dict[Any, Any] = {offset: gpiod.LineSettings(direction=direction)}
        return _GpioLine(gpiod.request_lines(f"/dev/{chip}", consumer="wamr-ota", config=settings), offset, gpiod.line.Value)
    except (OSError, ValueError, AttributeError) as error:
        raise _unavailable(f"GPIO line {name}", error) from error


class _GpioLine:
    def __init__(self, request: Any, offset: int, value: Any) -> None:
        self._request, self._offset, self._value = request, offset, value

    def read(self) -> bool:
        return bool(self._request.get_value(self._offset) == self._value.ACTIVE)

    def write(self, value: bool) -> None:
        self._request.set_value(self._offset, self._value.ACTIVE if value else self._value.INACTIVE)


def import_drivers() -> None:
    """Imports what `open_devices` may need while files can still be opened: in the process that workers are forked from."""
    for name in ("serial", "gpiod"):
        with contextlib.suppress(ImportError):
            __import__(name)

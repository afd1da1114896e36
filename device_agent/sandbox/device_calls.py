"""The capabilities `gpio` and `serial`: what a module may do with the lines and ports that were opened for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from device_agent.channel.frames import PAYLOAD_LIMIT_BYTES
from device_agent.sandbox.devices import Devices
from device_agent.sandbox.errors import ContractError
from device_agent.sandbox.guest import ModuleGuest
from device_agent.sandbox.signatures import Failure, Signature

__all__ = ["DeviceCalls"]

_DENIED, _FAILED = 0, 1
_ERRORS = {"error": "enum{denied, failed}"}
_SIGNATURES = {
    "gpio": {"read": "string -> result<bool, error>", "write": "string, bool -> result<_, error>"},
    "serial": {"read": "string, u32 -> result<list<u8>, error>", "write": "string, list<u8> -> result<_, error>"},
}


class DeviceCalls:
    """For one module. The log has more detail of a failure than the module gets."""

    def __init__(self, devices: Devices, log: Callable[[str, str], None]) -> None:
        self._devices, self._log = devices, log

    def functions(self, guest: ModuleGuest) -> dict[str, dict[str, Callable[..., Any]]]:
        """Host functions by interface and name."""
        return {
            interface: {
                name: guest.host(Signature(text, _ERRORS), getattr(self, f"{interface}_{name}")) for name, text in texts.items()
            }
            for interface, texts in _SIGNATURES.items()
        }

    @contextmanager
    def _answered(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._log("warn", f"{name}: {error}")
            raise Failure(_FAILED) from None

    def gpio_read(self, name: str) -> bool:
        """The level of a line. Raises Failure."""
        line = self._devices.inputs.get(name) or self._devices.outputs.get(name)
        if line is None:
            raise Failure(_DENIED)
        with self._answered(name):
            return line.read()

    def gpio_write(self, name: str, value: bool) -> None:
        """Drives a line. Raises Failure."""
        line = self._devices.outputs.get(name)
        if line is None:
            raise Failure(_DENIED)
        with self._answered(name):
            line.write(value)

    def serial_read(self, name: str, limit: int) -> bytes:
        """What has arrived at a port. Raises Failure."""
        port = self._devices.ports.get(name)
        if port is None:
            raise Failure(_DENIED)
        with self._answered(name):
            return port.read(min(limit, PAYLOAD_LIMIT_BYTES))

    def serial_write(self, name: str, content: bytes) -> None:
        """All of it. Raises Failure; ContractError for more than PAYLOAD_LIMIT_BYTES."""
        port = self._devices.ports.get(name)
        if port is None:
            raise Failure(_DENIED)
        if len(content) > PAYLOAD_LIMIT_BYTES:
            raise ContractError(f"{len(content)} bytes for {name} at once, the limit is {PAYLOAD_LIMIT_BYTES}")
        with self._answered(name):
            port.write(content)

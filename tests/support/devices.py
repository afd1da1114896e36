"""Devices that are none, for tests of what modules are told."""

from device_agent.sandbox.devices import Devices


class Line:
    """One that reads what was written, at first true."""

    def __init__(self, broken: bool = False) -> None:
        self.value = True
        self._broken = broken

    def read(self) -> bool:
        return self.value

    def write(self, value: bool) -> None:
        if self._broken:
            raise OSError("no power")
        self.value = value


class Port:
    """One on which "hello" arrived."""

    def __init__(self) -> None:
        self.written = b""

    def read(self, limit: int) -> bytes:
        return b"hello"[:limit]

    def write(self, data: bytes) -> None:
        self.written += data


GRANTED = {
    "logging": {},
    "messaging": {"publish": ["out/#"], "subscribe": ["#"]},
    "keyvalue": {"quota_bytes": 20},
    "clock": {},
    "config": {},
    "random": {},
    "gpio": {"inputs": ["gpiochip0:1"], "outputs": ["gpiochip0:2", "gpiochip0:3"]},
    "serial": {"ports": ["/dev/ttyS1:9600"]},
}


def some_devices() -> Devices:
    """Those of GRANTED; the last line is broken."""
    outputs = {"gpiochip0:2": Line(), "gpiochip0:3": Line(broken=True)}
    return Devices({"gpiochip0:1": Line()}, outputs, {"/dev/ttyS1": Port()}, ())

"""Where a broker is: `mqtt://host[:1883]` or `mqtts://host[:8883]`."""

from dataclasses import dataclass
from urllib.parse import urlsplit

_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class BrokerUrl:
    """Host and port of a broker, and whether the connection is TLS."""

    host: str
    port: int
    tls: bool

    @classmethod
    def parse(cls, text: str) -> "BrokerUrl":
        """Raises ValueError, saying what such an address looks like."""
        try:
            parts = urlsplit(text)
            port = parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError:
            raise ValueError(f"{text!r}: the port is not a number") from None
        if parts.scheme not in _PORTS or not parts.hostname or parts.path not in ("", "/") or parts.username:
            raise ValueError(f"{text!r} is not a broker address: mqtt://host[:port] or mqtts://host[:port], no password in it")
        return cls(parts.hostname, port, parts.scheme == "mqtts")

    def __str__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"

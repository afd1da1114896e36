"""Where a broker is: `mqtt://host[:1883]` or `mqtts://host[:8883]`."""

import ipaddress
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
            port = _PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
            if not port and parts.scheme in _PORTS:
                raise ValueError
        except ValueError:
            raise ValueError(f"{text!r}: host[:port] is expected, an IPv6 address in brackets, the port from 1 to 65535") from None
        host = parts.hostname or ""
        rest = parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None
        if parts.scheme not in _PORTS or rest or not is_host(host) or any(map(str.isspace, text)):
            raise ValueError(f"{text!r} is not a broker address: mqtt://host[:port] or mqtts://host[:port], no password in it")
        return cls(host, port, parts.scheme == "mqtts")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


def is_host(text: str) -> bool:
    """Whether this can be a machine's name or address, without brackets."""
    if ":" in text:
        try:
            return bool(ipaddress.IPv6Address(text))
        except ValueError:
            return False
    return bool(text) and text.isprintable() and not set(text) & set(' "#%/<>?@[\\]^`{|}')

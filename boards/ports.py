"""Ports of the loopback for servers that this program starts."""

import random
import socket
from pathlib import Path

__all__ = ["free_port", "free_ports"]

LOWEST = 10_240
EPHEMERAL = 32_768  # where Linux begins by default with the ports that it gives to connections
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """So many ports that nobody listens on, each another.

    None of them is one that the kernel gives to a connection: such a connection could have the port by the time that the server is
    started, or while it is restarted. Raises OSError when no port is left.
    """
    candidates = range(LOWEST, max(_first_ephemeral(), LOWEST + 1000))
    first = random.randrange(len(candidates))  # noqa: S311 (others are not to begin with the same one; no secret)
    found: list[int] = []
    for port in (*candidates[first:], *candidates[:first]):
        if len(found) == count:
            break
        if _is_free(port):
            found.append(port)
    if len(found) < count:
        raise OSError("no port of the loopback is left for a server")
    return found


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _first_ephemeral() -> int:
    try:
        return int(_RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return EPHEMERAL

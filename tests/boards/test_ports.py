"""Ports for servers on the loopback."""

import socket
from pathlib import Path

import pytest

from boards import ports


def test_ports_are_free_each_another_and_none_that_the_kernel_gives_to_connections():
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found = ports.free_ports(50)
    assert len(set(found)) == 50
    assert all(ports.LOWEST <= each < first for each in found)
    with socket.create_server(("127.0.0.1", found[0])) as server:
        assert not ports._is_free(server.getsockname()[1])


def test_no_port_that_is_left_is_said(monkeypatch):
    monkeypatch.setattr(ports, "_is_free", lambda port: port == ports.LOWEST)
    assert ports.free_port() == ports.LOWEST
    with pytest.raises(OSError, match="no port of the loopback is left"):
        ports.free_ports(2)

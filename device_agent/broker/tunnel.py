"""A TLS connection that is opened with a key in a token, by a process of its own: the agent reads and writes what is inside.

Python's `ssl` takes keys from files only. OpenSSL's provider pkcs11 (Debian: pkcs11-provider) reads a file that names a key in a
token as if it held it. It is loaded by OpenSSL's configuration, for a whole process, and so is the token's module: therefore a
process for each connection (device_agent.broker.tunnel_process), which has its own configuration and can be ended.

The agent makes the TCP connection and keeps a copy of it, to see what has arrived before it is decrypted.
"""

import base64
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
from typing import Any

from device_agent.broker import token
from device_agent.broker.settings import BrokerConfig
from device_agent.broker.tunnel_process import UNREAD
from ota.interrupts import blocked
from ota.token_keys import TokenUri

__all__ = ["TunnelSocket", "open_tunnel"]

SERVER = "device_agent.broker.tunnel_process"
OPEN_S = 20.0  # for Python to start, the module to load, the handshake
LINGER_S = 5.0  # for what was written last to be sent
ANSWER_BYTES = 4096
_DESCRIPTION = b"PKCS#11 Provider URI v1.0"
CONFIGURATION = b"""openssl_conf = all
[all]
providers = both
[both]
default = first
pkcs11 = second
[first]
activate = 1
[second]
pkcs11-module-quirks = no-deinit
activate = 1
"""


class TunnelSocket(socket.socket):
    """The agent's end: plain bytes, and what it asks of TCP. Closing it ends the process once all is sent."""

    tcp: socket.socket
    process: "subprocess.Popen[bytes]"

    @classmethod
    def of(cls, ours: socket.socket, tcp: socket.socket, process: "subprocess.Popen[bytes]") -> "TunnelSocket":
        """Takes all three over."""
        made = cls(fileno=ours.detach())
        made.tcp, made.process = tcp, process
        return made

    def getsockopt(self, level: int, option: int, *more: Any) -> Any:
        """Of the connection to the broker where TCP is asked."""
        return (
            self.tcp.getsockopt(level, option, *more) if level == socket.IPPROTO_TCP else super().getsockopt(level, option, *more)
        )

    def setsockopt(self, level: int, option: int, *value: Any) -> None:
        """Likewise."""
        if level == socket.IPPROTO_TCP:
            self.tcp.setsockopt(level, option, *value)
        else:
            super().setsockopt(level, option, *value)

    def close(self) -> None:
        """Again: no effect."""
        if self.fileno() >= 0:
            super().close()
            self.tcp.close()
            threading.Thread(target=_reap, args=(self.process,), daemon=True, name="tunnel").start()


def _reap(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(LINGER_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def open_tunnel(config: BrokerConfig, timeout_s: float) -> TunnelSocket:
    """Connects, TLS included. On a thread. Raises OSError naming what failed, IdentityError for a token that can't be used."""
    assert config.key_file is not None
    content = config.key_file.read_bytes()
    token.key(content, make=False)  # a wrong PIN is tried there once, not here each time
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_connection((config.url.host, config.url.port), timeout_s))
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        with theirs:
            process = _start(config, token.uri_of(content), tcp, theirs)
        stack.callback(_reap, process)
        stack.callback(process.kill)
        if (said := _answer(process)) != "ok":
            if said.startswith(UNREAD):  # with a PIN that the token takes no more, say: it is not tried here again and again
                token.close()
            raise OSError(said)
        stack.pop_all()
        return TunnelSocket.of(ours, tcp, process)


def _start(config: BrokerConfig, uri: TokenUri, tcp: socket.socket, theirs: socket.socket) -> "subprocess.Popen[bytes]":
    with _in_memory(CONFIGURATION) as openssl, _in_memory(_key_file(uri)) as key:
        what = {
            "tcp": tcp.fileno(),
            "plain": theirs.fileno(),
            "host": config.url.host,
            "ca_file": str(config.ca_file) if config.ca_file is not None else None,
            "certificate_file": str(config.certificate_file),
            "key_file": f"/proc/self/fd/{key}",
        }
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OPENSSL_CONF": f"/proc/self/fd/{openssl}",
            "PKCS11_PROVIDER_MODULE": uri.module,
        }
        with blocked():
            return subprocess.Popen(
                [sys.executable, "-P", "-m", SERVER, json.dumps(what)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                pass_fds=[tcp.fileno(), theirs.fileno(), openssl, key],
                env=environment,
            )


@contextlib.contextmanager
def _in_memory(content: bytes) -> Any:
    descriptor = os.memfd_create("tunnel")
    try:
        os.write(descriptor, content)
        yield descriptor
    finally:
        os.close(descriptor)


def _answer(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], OPEN_S)[0]:
        return f"the process that opens the connection with the token's key has not answered in {OPEN_S:.0f} s"
    said = os.read(process.stdout.fileno(), ANSWER_BYTES).decode(errors="replace").strip()
    return said or "the process that opens the connection with the token's key has ended"


def _key_file(uri: TokenUri) -> bytes:
    """What the provider reads as a key: a URI in ASN.1 in PEM, as its uri2pem.py makes it.

    The module is left out: the provider has one for all, and gets it by the environment.
    """
    path, _, query = uri.text.partition("?")
    kept = [each for each in path.split(";") if not each.startswith("type=")]
    options = [each for each in query.split("&") if each.startswith("pin-source=")]
    text = f"{';'.join([*kept, 'type=private'])}?{'&'.join(options)}".encode()
    encoded = base64.encodebytes(_tagged(0x30, _tagged(0x1A, _DESCRIPTION) + _tagged(0x0C, text)))
    return b"-----BEGIN PKCS#11 PROVIDER URI-----\n" + encoded + b"-----END PKCS#11 PROVIDER URI-----\n"


def _tagged(tag: int, content: bytes) -> bytes:
    """A value in DER (X.690, 8.1), of less than 64 KiB."""
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x81" + bytes([size]) if size < 256 else b"\x82" + size.to_bytes(2)
    return bytes([tag]) + length + content

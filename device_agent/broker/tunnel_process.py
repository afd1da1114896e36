"""The process that opens a TLS connection with a key in a token, and copies what comes and goes until one side ends.

It says "ok", or what failed, in one line of its standard output.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import sys

READ_BYTES = 64 << 10
HANDSHAKE_S = 10.0
CLOSE_S = 3.0  # for the broker to answer the end of TLS
UNREAD = "OpenSSL does not read the key from the token"  # so begins what is said then


def main() -> None:
    """Runs one connection. Ends without Python's tidying up: providers and modules of tokens do not agree on theirs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        asyncio.run(_serve(json.loads(sys.argv[1])))
    except (OSError, ValueError) as error:
        said = str(getattr(error, "strerror", None) or error)
        _say(said if said.startswith(UNREAD) else f"{getattr(error, 'filename', None) or 'TLS'}: {said}")
    os._exit(0)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(1, line.replace("\n", " ").encode(errors="replace")[:4000] + b"\n")


def _context(what: dict[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=what["ca_file"])
    try:
        context.load_cert_chain(what["certificate_file"], what["key_file"], _nobody)
    except ssl.SSLError as error:
        raise OSError(
            f"{UNREAD} ({error}): is its provider pkcs11 installed (Debian 13: pkcs11-provider), is the certificate for this key?"
        ) from error
    return context


def _nobody() -> bytes:
    """Asked when the token does not take the PIN of its file. Else whoever sits at the terminal is asked."""
    raise OSError(f"{UNREAD}: it does not take the PIN")


async def _serve(what: dict[str, str]) -> None:
    context = _context(what)
    tcp, plain = socket.socket(fileno=int(what["tcp"])), socket.socket(fileno=int(what["plain"]))
    broker = await asyncio.open_connection(
        sock=tcp, ssl=context, server_hostname=what["host"], ssl_handshake_timeout=HANDSHAKE_S, ssl_shutdown_timeout=CLOSE_S
    )
    agent = await asyncio.open_connection(sock=plain)
    _say("ok")
    copying = [asyncio.ensure_future(_copy(agent[0], broker[1])), asyncio.ensure_future(_copy(broker[0], agent[1]))]
    await asyncio.wait(copying, return_when=asyncio.FIRST_COMPLETED)
    for _, writer in (broker, agent):
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await writer.drain()
                writer.close()
                await writer.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the reader's side has ended; waits while the writer's side takes no more."""
    with contextlib.suppress(OSError):
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()


if __name__ == "__main__":
    main()

"""The process that has the token: loads its PKCS#11 module, logs in, finds and makes keys, signs. One question after the other.

A question is [work, URI, bytes], an answer ["", bytes] or [reason, text]; packets of a socket. The bytes are the digest to be
signed, or the URI of the present key where another one is made. It ends with the agent.
"""

import contextlib
import signal
import socket
import sys

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from device_agent.broker.token import FAILED, KEY_MISSING, LIMIT_BYTES, MISSING, PIN_REFUSED
from ota import token_keys
from ota.formats import cbor
from ota.token_keys import KeyMissing, PinRefused, TokenError, TokenKey, TokenMissing, TokenP256, TokenUri

_REASONS = {TokenMissing: MISSING, PinRefused: PIN_REFUSED, KeyMissing: KEY_MISSING}
_KEYS: dict[str, TokenKey] = {}


def main() -> None:
    """Answers until the agent has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for the agent
    with socket.socket(fileno=int(sys.argv[1])) as channel, contextlib.suppress(ConnectionError):
        while question := channel.recv(LIMIT_BYTES):
            channel.send(cbor.encode(_answer(*cbor.decode(question, "a question", LIMIT_BYTES))))


def _answer(work: str, text: str, about: bytes) -> list[object]:
    try:
        found = _key(work, TokenUri.parse(text), about)
        return ["", found.sign_digest(about) if work == "sign" else _point(found)]
    except TokenError as error:
        return [_REASONS.get(type(error), FAILED), str(error)[:1000]]


def _key(work: str, uri: TokenUri, about: bytes) -> TokenP256:
    if work == "renew":
        _KEYS.pop(uri.text, None)
        found: TokenKey = token_keys.make_successor(uri, TokenUri.parse(about.decode()), _nobody)
    elif work == "sign" and uri.text in _KEYS:
        found = _KEYS[uri.text]
    else:
        found = _found(uri, make=work == "make")
    if not isinstance(found, TokenP256):
        raise TokenError(f"{uri.text}: not a key on P-256")
    _KEYS[uri.text] = found
    return found


def _found(uri: TokenUri, *, make: bool) -> TokenKey:
    try:
        return token_keys.find(uri, _nobody)
    except KeyMissing:
        if not make:
            raise
    return token_keys.make(uri, _nobody, "es256")


def _nobody(_: str) -> None:
    """There is no one who could type a PIN."""


def _point(key: TokenP256) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


if __name__ == "__main__":
    main()

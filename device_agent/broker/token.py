"""The board's key in a PKCS#11 token: a secure element, a TPM, a smart card, SoftHSM. It signs there, and never leaves it.

A key file holds the key's URI (RFC 7512) instead of a key, with the PIN in a file of its own:

    pkcs11:token=board;object=device?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/wamr-ota/pin

The token's module is somebody's native code, and its device may be slow, stuck or pulled out. So it runs in a process of its own
(device_agent.broker.token_process), which is ended when it does not answer: the agent and its modules go on. Connections to the
broker need the key too, and get it in another way: device_agent.broker.tunnel.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from device_agent.broker.identity import TOKEN, IdentityError
from ota.formats import cbor
from ota.held_keys import HeldP256
from ota.interrupts import blocked
from ota.token_keys import TokenError, TokenUri

__all__ = ["FAILED", "PIN_REFUSED", "TOKEN", "Holder", "TokenProblem", "close", "key", "make_successor", "uri_of"]

SERVER = "device_agent.broker.token_process"
OPEN_S = 30.0  # for the process to start, load the module, log in and make a key
SIGN_S = 2.0  # a signature may take
LIMIT_BYTES = 4096  # of a question and of an answer
MISSING, PIN_REFUSED, KEY_MISSING, FAILED = "token-missing", "token-pin-refused", "token-key-missing", "token-failed"
SECOND = "-2"  # a key and its successor have two labels in turn


class TokenProblem(IdentityError):
    """The token does not do what is asked of it; `reason` is one of the codes above."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Holder:
    """The process that has the token. It is started when a key is opened, and again after it had to be ended. On any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._refused: dict[str, tuple[int, ...]] = {}  # files of PINs, as they were when the token refused them
        self._taken: dict[str, tuple[int, ...]] = {}  # and when the process logged in with them

    def open(self, work: str, uri: TokenUri, present: str = "") -> bytes:
        """What `work` gives: "find", "make", "renew" (in the place of the key before the `present` one). Raises TokenProblem.

        Starts the process if need be; and anew where the file of the PIN has changed: it is tried here before connections use it.
        """
        with self._held(OPEN_S):
            self._check_pin(uri)
            stamp = _stamp(uri.pin_file)
            if self._process is None or self._process.poll() is not None or self._taken.get(uri.pin_file, stamp) != stamp:
                self._start()
            found = self._ask([work, uri.text, present.encode()], uri, OPEN_S)
            self._taken[uri.pin_file] = stamp
            return found

    def sign(self, uri: TokenUri, digest: bytes) -> bytes:
        """The halves r and s. Starts nothing: raises TokenProblem while there is no process, or when it takes too long."""
        with self._held(SIGN_S):
            if self._channel is None:
                raise TokenProblem(FAILED, "the token is not open")
            return self._ask(["sign", uri.text, digest], uri, SIGN_S)

    def close(self) -> None:
        """Ends the process, also one that somebody waits for. It is started again when a key is opened."""
        if (process := self._process) is not None:
            process.kill()
        with self._lock:
            self._end()

    @contextlib.contextmanager
    def _held(self, timeout_s: float) -> Any:
        if not self._lock.acquire(timeout=timeout_s):
            raise TokenProblem(FAILED, f"the token has not answered somebody else in {timeout_s:.0f} s")
        try:
            yield
        finally:
            self._lock.release()

    def _start(self) -> None:
        self._end()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-P", "-m", SERVER, str(theirs.fileno())]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            try:
                with blocked():
                    self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=environment)
            except OSError as error:
                ours.close()
                raise TokenProblem(FAILED, f"the token's process does not start: {error.strerror}") from error
        self._channel = ours

    def _ask(self, question: list[object], uri: TokenUri, timeout_s: float) -> bytes:
        assert self._channel is not None
        stamp = _stamp(uri.pin_file)  # before: one that is put there meanwhile was not refused
        self._channel.settimeout(timeout_s)
        try:
            self._channel.send(cbor.encode(question))
            match cbor.decode(self._channel.recv(LIMIT_BYTES), "the token's answer", LIMIT_BYTES):
                case ["", bytes() as found]:
                    return found
                case [str() as reason, str() as text]:
                    raise self._problem(reason, text, uri, stamp)
            raise ValueError("another answer than expected")
        except TimeoutError:
            self._end()
            raise TokenProblem(FAILED, f"the token has not answered in {timeout_s:.0f} s: its process was ended") from None
        except TokenProblem:
            raise
        except Exception as error:  # noqa: BLE001 - whatever came from there, no answer can be trusted to be the next one
            self._end()
            raise TokenProblem(FAILED, f"the token's process has ended or answers wrongly ({type(error).__name__})") from None

    def _problem(self, reason: str, text: str, uri: TokenUri, stamp: tuple[int, ...]) -> TokenProblem:
        if reason == PIN_REFUSED and stamp:
            self._refused[uri.pin_file] = stamp
        if reason != KEY_MISSING:
            self._end()  # what it knows of tokens is old when one was pulled out
        return TokenProblem(reason, text)

    def _check_pin(self, uri: TokenUri) -> None:
        """A token locks itself after a few wrong PINs: each is tried once, however often the board looks at its certificate."""
        if uri.pin_file and self._refused.get(uri.pin_file) == _stamp(uri.pin_file) != ():
            raise TokenProblem(PIN_REFUSED, f"{uri.pin_file}: the token has refused this PIN, which is not tried once more")

    def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._channel = None
        self._taken.clear()


_HOLDER = Holder()


def close() -> None:
    """Ends the process that has the token: the next one to open a key logs in anew."""
    _HOLDER.close()


def _stamp(file: str) -> tuple[int, ...]:
    try:
        found = Path(file).stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


def uri_of(content: bytes) -> TokenUri:
    """The URI in a key file. Raises TokenProblem."""
    try:
        uri = TokenUri.parse(content.decode("ascii").strip())
    except (TokenError, UnicodeDecodeError) as error:
        raise TokenProblem(FAILED, str(error)) from error
    if not uri.pin_file:
        raise TokenProblem(PIN_REFUSED, f"{uri.text} names no file with the PIN: add pin-source=file:/path")
    return uri


def key(content: bytes, *, make: bool) -> ec.EllipticCurvePrivateKey:
    """The key that a file with this content names. `make`: where the token has none. Raises TokenProblem."""
    uri = uri_of(content)
    return _TokenKey(uri, _HOLDER.open("make" if make else "find", uri))


def make_successor(content: bytes) -> bytes:
    """A new key pair under the other one of two labels, in the place of what was there; returns its URI. Raises TokenProblem."""
    uri = uri_of(content)
    if not uri.label:
        raise TokenProblem(FAILED, f"{uri.text} names no object, whose successor could be made: add ;object=LABEL")
    label = uri.label.removesuffix(SECOND) if uri.label.endswith(SECOND) else uri.label + SECOND
    following = uri.of(label)
    _HOLDER.open("renew", following, uri.text)
    return following.text.encode() + b"\n"


class _TokenKey(HeldP256):
    """As `cryptography` has private keys, so that requests for certificates are signed with it too."""

    def __init__(self, uri: TokenUri, point: bytes) -> None:
        self._uri = uri
        try:
            super().__init__(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point))
        except ValueError as error:
            raise TokenProblem(FAILED, f"{uri.text}: not a key on P-256: {error}") from error

    def sign_digest(self, digest: bytes) -> bytes:
        """As `HeldP256` has it."""
        return _HOLDER.sign(self._uri, digest)

    def stays(self) -> TokenProblem:
        """Likewise."""
        return TokenProblem(FAILED, "the key stays in its token")

"""One HTTP request: no redirect is followed, the answer has a limit of bytes and of time, certificates are verified.

On the standard library: what is wanted here is what clients of registries leave out (docs/decisions/0034-registries.md).
"""

import http.client
import ipaddress
import queue
import ssl
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urljoin, urlsplit

from ota.errors import OtaError
from ota.formats.reasons import Reason, Refused

__all__ = ["DEFAULT_TIMES", "Answer", "HttpError", "Times", "ask", "is_loopback", "join", "origin", "trusting"]

_PIECE_BYTES = 64 * 1024


class HttpError(OtaError):
    """A server cannot be reached, is too slow, or does not speak HTTP. It may be tried again."""


@dataclass(frozen=True)
class Times:
    """How long an answer may take."""

    stall_s: float = 30  # without a byte
    small_s: float = 60  # for a document, as a whole
    blob_s: float = 900  # for a module, as a whole


DEFAULT_TIMES = Times()


@dataclass(frozen=True)
class Answer:
    """What a server answered; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: credentials are for one of these."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:  # no URL: it is nobody's
        return "", "", 0


def join(base: str, location: str) -> str:
    """Where a header Location leads; empty for what is no URL, whose origin is nobody's."""
    try:
        return urljoin(base, location) if location else ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def trusting(authorities: Path | None) -> ssl.SSLContext:
    """The system's authorities, and those of a file. Raises OtaError."""
    context = ssl.create_default_context()
    try:
        if authorities is not None:
            context.load_verify_locations(authorities)
    except OSError as error:  # ssl.SSLError is one
        raise OtaError(f"{authorities}: {error.strerror or error}: certificates in PEM are expected") from error
    return context


def ask(
    method: str,
    url: str,
    headers: Mapping[str, str],
    *,
    context: ssl.SSLContext,
    limit_bytes: int,
    whole_s: float,
    stall_s: float,
    body: bytes | None = None,
) -> Answer:
    """The answer, whatever its status. Raises HttpError, and Refused TOO_LARGE, REGISTRY_UNTRUSTED."""
    until = time.monotonic() + whole_s

    def work() -> Answer:
        request = urllib.request.Request(url, body, dict(headers), method=method)  # noqa: S310 - the scheme is the caller's
        with _opener(url, context).open(request, timeout=stall_s) as answer:
            return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, _read(answer, url, limit_bytes, until))

    # In a thread: a server that sends a byte now and then must not hold the caller, be it in a name, a handshake or a header.
    done: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()
    threading.Thread(target=_hand_over, args=(work, done), daemon=True).start()
    try:
        found = done.get(timeout=whole_s)
    except queue.Empty:
        raise HttpError(f"{url}: no answer in {whole_s:g} s") from None
    if isinstance(found, Answer):
        return found
    raise _meaning(found, url) from found


def _hand_over(work, done) -> None:  # type: ignore[no-untyped-def]
    try:
        done.put(work())
    except BaseException as error:  # noqa: BLE001 - it is raised by who waits
        done.put(error)


def _opener(url: str, context: ssl.SSLContext) -> urllib.request.OpenerDirector:
    """Without the handlers for redirects, cookies, passwords, and other schemes than these two."""
    opener = urllib.request.OpenerDirector()
    opener.addheaders = [("User-Agent", "wamr-ota")]
    if not is_loopback(origin(url)[1]):
        opener.add_handler(urllib.request.ProxyHandler())
    opener.add_handler(urllib.request.HTTPHandler())
    opener.add_handler(urllib.request.HTTPSHandler(context=context))
    return opener


def _read(answer: http.client.HTTPResponse, url: str, limit_bytes: int, until: float) -> bytes:
    announced = answer.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced[:20]) > limit_bytes and answer.length:
        raise Refused(Reason.TOO_LARGE, f"{url}: {announced[:20]} bytes are announced, the limit is {limit_bytes}")
    pieces, size = [], 0
    while piece := answer.read1(_PIECE_BYTES):
        size += len(piece)
        if size > limit_bytes:
            raise Refused(Reason.TOO_LARGE, f"{url}: more than {limit_bytes} bytes")
        if time.monotonic() > until:
            raise TimeoutError("too slow")
        pieces.append(piece)
    if answer.length:
        raise HttpError(f"{url}: the answer ended {answer.length} bytes early")
    return b"".join(pieces)


def _meaning(error: BaseException, url: str) -> BaseException:
    """As the error that a caller knows."""
    cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, BaseException) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Refused(Reason.REGISTRY_UNTRUSTED, f"{url}: certificate: {cause.verify_message}")
    if isinstance(cause, (OSError, http.client.HTTPException, ValueError)):
        return HttpError(f"{url}: {cause or type(cause).__name__}")
    return error

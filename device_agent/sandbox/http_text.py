"""Requests and answers of HTTP/1.1 as text in a message's payload, and header maps as proxy-wasm has them in memory."""

import re
import struct
from dataclasses import dataclass, field

HEADERS, HEADERS_BYTES = 64, 16 * 1024
"""The most headers that a message may have, and their bytes."""
PATH_BYTES = 1024
_START = re.compile(rb"([A-Z]{1,16}) (/[!-~]{0,%d}) HTTP/1\.1\r\n" % (PATH_BYTES - 1))
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_VERSION, _SPACE = re.compile(rb"HTTP/", re.IGNORECASE), b"\0\t\n\v\f\r "
_ONCE = (b"content-length", b"host", b"reply-to")  # readers would not agree which of two counts
_FRAMING = (b"content-length", b"transfer-encoding")  # say where a body ends: a message that is written has the one that fits
Headers = list[tuple[bytes, bytes]]


class HeadersError(ValueError):
    """Headers that can't be read, or are too many."""


@dataclass
class Request:
    """What a filter sees of a message. Names of headers are in small letters; those with a colon come first, as in HTTP/2."""

    headers: Headers
    body: bytes
    is_http: bool = field(default=False)


def request_of(topic: str, payload: bytes, authority: str) -> Request:
    """A message as a request: what its payload says if that is HTTP/1.1, else a POST of the payload to the topic.

    Raises HeadersError for a payload that begins as HTTP and that two readers might not read alike: it is no other message either.
    """
    if _begins(payload):
        return _parsed(payload, authority)
    head = [(b":method", b"POST"), (b":path", f"/{topic}".encode()), (b":authority", authority.encode()), (b":scheme", b"mqtt")]
    return Request([*head, (b"content-length", str(len(payload)).encode())], payload)


def _begins(payload: bytes) -> bool:
    """Whether a reader that forgives much would take it for a request: a method, and a version where a version may be."""
    if not _VERSION.search(payload):
        return False
    words = payload.lstrip(_SPACE).partition(b"\n")[0].split()
    likely = (*words[1:3], *words[1:][-1:])
    return bool(words) and bool(_NAME.match(words[0])) and any(_VERSION.match(each) for each in likely)


def _parsed(payload: bytes, authority: str) -> Request:
    start = _START.match(payload)
    if start is None:
        raise HeadersError(f"the request line {payload[:40]!r} is none of HTTP/1.1")
    end = payload.find(b"\r\n\r\n", start.end() - 2, start.end() + HEADERS_BYTES)
    if end < 0:
        raise HeadersError(f"its headers do not end in an empty line within {HEADERS_BYTES} bytes")
    headers = [_header(each) for each in payload[start.end() : end].split(b"\r\n")] if end > start.end() else []
    if len(headers) > HEADERS - 4:
        raise HeadersError(f"{len(headers)} headers, the limit is {HEADERS - 4}")
    body = payload[end + 4 :]
    sound(headers)
    if any(name == b"content-length" and value != str(len(body)).encode() for name, value in headers):
        raise HeadersError(f"its content-length is not that of its body, {len(body)} bytes")
    host = first(headers, b"host") or authority.encode()
    head = [(b":method", start[1]), (b":path", start[2]), (b":authority", host), (b":scheme", b"http")]
    return Request([*head, *(each for each in headers if each[0] != b"host")], body, is_http=True)


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon:
        raise HeadersError(f"the header {line[:40]!r} has no colon")
    return name.lower(), value.strip(b" \t")


def sound(headers: Headers) -> None:
    """Raises HeadersError for a header that is none of HTTP/1.1, is no text, is there twice, or says how the body is encoded."""
    for name, value in headers:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise HeadersError(f"the header {name[:40]!r} is none of HTTP/1.1")
        text_of(value)
    names = [name for name, _ in headers]
    if b"transfer-encoding" in names:
        raise HeadersError("it has a transfer-encoding, which messages can't have")
    if twice := [each for each in _ONCE if names.count(each) > 1]:
        raise HeadersError(f"it has the header {twice[0].decode()} twice")


def first(headers: Headers, name: bytes) -> bytes:
    """The value of the first header of a name; empty for none."""
    return next((value for key, value in headers if key == name), b"")


def text_of(content: bytes) -> str:
    """Raises HeadersError for what is not UTF-8."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise HeadersError(f"{content[:40]!r} is not UTF-8") from None


def request_text(request: Request) -> bytes:
    """As HTTP/1.1. Raises HeadersError where a filter made of it what HTTP has no form for."""
    method, path = first(request.headers, b":method"), first(request.headers, b":path")
    if not _START.fullmatch(method + b" " + path + b" HTTP/1.1\r\n"):
        raise HeadersError("its method or path is none of HTTP/1.1")
    return method + b" " + path + b" HTTP/1.1\r\n" + _rest(request.headers, request.body, first(request.headers, b":authority"))


def answer_text(status: int, headers: Headers, body: bytes) -> bytes:
    """An answer as HTTP/1.1. Raises HeadersError."""
    return f"HTTP/1.1 {status} \r\n".encode() + _rest(headers, body)


def _rest(headers: Headers, body: bytes, host: bytes = b"") -> bytes:
    kept = [each for each in headers if not each[0].startswith(b":") and each[0] not in (*_FRAMING, b"host")]
    kept = [(b"host", host)] * bool(host) + kept + [(b"content-length", str(len(body)).encode())]
    sound(kept)
    return b"".join(b"%s: %s\r\n" % each for each in kept) + b"\r\n" + body


def packed(headers: Headers) -> bytes:
    """A header map: their number, the sizes of names and values, then these, each with a zero behind it."""
    sizes = b"".join(struct.pack("<II", len(name), len(value)) for name, value in headers)
    return struct.pack("<I", len(headers)) + sizes + b"".join(name + b"\0" + value + b"\0" for name, value in headers)


def unpacked(data: bytes) -> Headers:
    """The headers of a map; of no bytes, or a zero, none. Raises HeadersError."""
    if data in (b"", b"\0"):
        return []
    try:
        (number,) = struct.unpack_from("<I", data)
        if number > HEADERS:
            raise HeadersError(f"{number} headers, the limit is {HEADERS}")
        sizes = [struct.unpack_from("<II", data, 4 + 8 * each) for each in range(number)]
    except struct.error:
        raise HeadersError("a header map that is cut") from None
    at, headers = 4 + 8 * number, []
    for name_size, value_size in sizes:
        name, value = data[at : at + name_size], data[at + name_size + 1 : at + name_size + 1 + value_size]
        at += name_size + value_size + 2
        if at > len(data):
            raise HeadersError("a header map that is cut")
        headers.append((name.lower(), value))
    return checked(headers)


def checked(headers: Headers) -> Headers:
    """These. Raises HeadersError when they are too many."""
    size = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > HEADERS or size > HEADERS_BYTES:
        raise HeadersError(f"{len(headers)} headers of {size} bytes, the limits are {HEADERS} and {HEADERS_BYTES}")
    return headers

"""Requests and answers of HTTP/1.1 as text in a message's payload, and header maps as proxy-wasm has them in memory."""

import re
import struct
from dataclasses import dataclass, field

HEADERS, HEADERS_BYTES = 64, 16 * 1024
"""The most headers that a message may have, and their bytes."""
_START = re.compile(rb"([A-Z]{1,16}) (/[^ \r\n]{0,1023}) HTTP/1\.1\r\n")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
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
    """A message as a request: what its payload says if that is HTTP/1.1, else a POST of the payload to the topic."""
    found = _parsed(payload, authority)
    if found is not None:
        return found
    head = [(b":method", b"POST"), (b":path", f"/{topic}".encode()), (b":authority", authority.encode()), (b":scheme", b"mqtt")]
    return Request([*head, (b"content-length", str(len(payload)).encode())], payload)


def _parsed(payload: bytes, authority: str) -> Request | None:
    start = _START.match(payload)
    end = payload.find(b"\r\n\r\n", start.end() - 2, HEADERS_BYTES) if start else -1
    if start is None or end < 0:
        return None
    headers: Headers = []
    for line in payload[start.end() : end].split(b"\r\n") if end > start.end() else ():
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name) or b"\0" in value or b"\n" in value or len(headers) >= HEADERS - 4:
            return None
        headers.append((name.lower(), value.strip(b" \t")))
    host = next((value for name, value in headers if name == b"host"), authority.encode())
    head = [(b":method", start[1]), (b":path", start[2]), (b":authority", host), (b":scheme", b"http")]
    return Request([*head, *(each for each in headers if each[0] != b"host")], payload[end + 4 :], is_http=True)


def first(headers: Headers, name: bytes) -> bytes:
    """The value of the first header of a name; empty for none."""
    return next((value for key, value in headers if key == name), b"")


def request_text(request: Request) -> bytes:
    """As HTTP/1.1. Raises HeadersError where a filter made of it what HTTP has no form for."""
    method, path = first(request.headers, b":method"), first(request.headers, b":path")
    if not _START.fullmatch(method + b" " + path + b" HTTP/1.1\r\n"):
        raise HeadersError("method or path is none that HTTP/1.1 has")
    return method + b" " + path + b" HTTP/1.1\r\n" + _rest(request.headers, request.body, first(request.headers, b":authority"))


def answer_text(status: int, headers: Headers, body: bytes) -> bytes:
    """An answer as HTTP/1.1. Raises HeadersError."""
    return f"HTTP/1.1 {status} \r\n".encode() + _rest(headers, body)


def _rest(headers: Headers, body: bytes, host: bytes = b"") -> bytes:
    kept = [each for each in headers if not each[0].startswith(b":") and each[0] not in (b"content-length", b"host")]
    kept = [(b"host", host)] * bool(host) + kept + [(b"content-length", str(len(body)).encode())]
    if any(not _NAME.fullmatch(name) or b"\r" in value or b"\n" in value or b"\0" in value for name, value in kept):
        raise HeadersError("a header is none that HTTP/1.1 has")
    return b"".join(b"%s: %s\r\n" % each for each in kept) + b"\r\n" + body


def packed(headers: Headers) -> bytes:
    """A header map: their number, the sizes of names and values, then these, each with a zero behind it."""
    sizes = b"".join(struct.pack("<II", len(name), len(value)) for name, value in headers)
    return struct.pack("<I", len(headers)) + sizes + b"".join(name + b"\0" + value + b"\0" for name, value in headers)


def unpacked(data: bytes) -> Headers:
    """The headers of a map; of no bytes none. Raises HeadersError."""
    if not data:
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

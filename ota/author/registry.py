"""A repository of an OCI registry: documents and blobs, each checked against its digest and size.

Credentials go to the registry, when it asks, and to the token server that it names over TLS; never along a redirect.
"""

import json
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, urlencode, urljoin

from ota.author.docker_config import Login
from ota.author.http import DEFAULT_TIMES, Answer, HttpError, Times, ask, is_loopback, join, origin
from ota.formats import oci
from ota.formats.cbor import sha256
from ota.formats.oci import Descriptor, Reference
from ota.formats.reasons import Reason, Refused

__all__ = ["NotThereError", "Repository"]

_ERROR_LIMIT_BYTES, _TOKEN_LIMIT_BYTES, _MAX_REDIRECTS = 64 * 1024, 64 * 1024, 3
_ACCEPT = ", ".join((*oci.MANIFESTS, *oci.INDEXES))
_CHALLENGE = re.compile(r'([A-Za-z_]{1,32})="([^"]{0,2048})"')
_HUB = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}


class NotThereError(HttpError):
    """The registry has no such thing, or does not show it to us."""


@dataclass
class Repository:
    """Over TLS; over plain HTTP on the loopback, or where that is asked for."""

    reference: Reference
    context: ssl.SSLContext
    login: Callable[[str], Login | None]
    plain_http: bool = False
    writes: bool = False
    times: Times = DEFAULT_TIMES
    _authorization: str = ""

    def __post_init__(self) -> None:
        host = _HUB.get(self.reference.host, self.reference.host)
        name = origin(f"//{host}")[1]
        plain = self.plain_http or (is_loopback(name) and not self._speaks_tls(host))
        self.base = f"{'http' if plain else 'https'}://{host}/v2/{self.reference.name}/"

    def manifest(self, tag_or_digest: str) -> bytes:
        """A manifest or an index; one that was asked for by its digest has it. Raises HttpError, NotThereError, Refused."""
        answer = self._get(f"manifests/{tag_or_digest}", oci.MANIFEST_LIMIT_BYTES, self.times.small_s, _ACCEPT)
        found = oci.digest_of(answer.body)
        for wanted in (tag_or_digest, answer.headers.get("docker-content-digest", "")):
            if wanted.startswith("sha256:") and wanted != found:
                what = f"{self.reference}: the manifest has the digest {found}"
                raise Refused(Reason.MANIFEST_DIGEST_MISMATCH, f"{what}, {wanted[:80]} is expected")
        return answer.body

    def blob(self, wanted: Descriptor, limit_bytes: int) -> bytes:
        """Raises HttpError, NotThereError, Refused TOO_LARGE, BLOB_DIGEST_MISMATCH."""
        what = f"{self.reference}: {wanted.digest}"
        if wanted.size > limit_bytes:
            raise Refused(Reason.TOO_LARGE, f"{what} has {wanted.size} bytes, the limit is {limit_bytes}")
        body = self._get(f"blobs/{wanted.digest}", wanted.size, self.times.blob_s).body
        if len(body) != wanted.size or oci.digest_of(body) != wanted.digest:
            raise Refused(Reason.BLOB_DIGEST_MISMATCH, f"{what} has {len(body)} bytes with the SHA-256 {sha256(body).hex()}")
        return body

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """What refers to a manifest: the first page that the registry gives, or the tag sha256-… where it keeps none
        (distribution specification 1.1, "Listing Referrers" and "Referrers Tag Schema"). Raises HttpError, Refused.
        """
        for path in (f"referrers/{digest}", f"manifests/{digest.replace(':', '-')}"):
            try:
                index = self._get(path, oci.MANIFEST_LIMIT_BYTES, self.times.small_s, oci.INDEXES[0]).body
            except NotThereError:
                continue
            return oci.entries(index, f"{self.reference}: {path}")
        return ()

    def put_blob(self, data: bytes) -> None:
        """Uploads it in one piece. Raises HttpError, Refused REGISTRY_UNTRUSTED."""
        begun = self._ask("POST", urljoin(self.base, "blobs/uploads/"), body=b"")
        _expect(begun, 202, f"{self.reference}: an upload")
        place = join(self.base, begun.headers.get("location", ""))
        if origin(place) != origin(self.base):
            raise Refused(Reason.REGISTRY_UNTRUSTED, f"{self.reference}: the upload is sent to another server, {origin(place)[1]}")
        place += ("&" if "?" in place else "?") + urlencode({"digest": oci.digest_of(data)})
        done = self._ask("PUT", place, body=data, kind="application/octet-stream", whole_s=self.times.blob_s)
        _expect(done, 201, f"{self.reference}: the upload")

    def put_manifest(self, data: bytes, tag: str) -> None:
        """Raises HttpError."""
        done = self._ask("PUT", urljoin(self.base, f"manifests/{quote(tag)}"), body=data, kind=oci.MANIFEST)
        _expect(done, 201, f"{self.reference}: the manifest")

    def _speaks_tls(self, host: str) -> bool:
        """Of a registry on the loopback. One with a wrong certificate speaks it, too."""
        try:
            ask("GET", f"https://{host}/v2/", {}, context=self.context, limit_bytes=_ERROR_LIMIT_BYTES, whole_s=5, stall_s=5)
        except HttpError:
            return False
        except Refused:
            return True
        return True

    def _get(self, path: str, limit_bytes: int, whole_s: float, accept: str = "*/*") -> Answer:
        url = urljoin(self.base, path)
        for _ in range(_MAX_REDIRECTS + 1):
            answer = self._ask("GET", url, accept=accept, limit_bytes=limit_bytes, whole_s=whole_s)
            if answer.status not in (301, 302, 303, 307, 308):
                _expect(answer, 200, f"{self.reference}: {path}")
                return answer
            url = self._redirected(url, answer.headers.get("location", ""))
        raise Refused(Reason.REGISTRY_UNTRUSTED, f"{self.reference}: {path}: more than {_MAX_REDIRECTS} redirects")

    def _redirected(self, url: str, location: str) -> str:
        to = join(url, location)
        if origin(to)[0] != "https" and origin(to) != origin(self.base):
            shown = f"{origin(to)[0]}://{origin(to)[1]}"
            raise Refused(Reason.REGISTRY_UNTRUSTED, f"{self.reference}: a redirect to {shown}, which is not over TLS")
        return to

    def _ask(
        self,
        method: str,
        url: str,
        *,
        accept: str = "*/*",
        kind: str = "",
        body: bytes | None = None,
        limit_bytes: int = _ERROR_LIMIT_BYTES,
        whole_s: float = 0,
    ) -> Answer:
        """One request, and once again with credentials where the registry itself asks for them."""

        def once() -> Answer:
            headers = {"Accept": accept} | ({"Content-Type": kind} if kind else {})
            if ours and self._authorization:
                headers["Authorization"] = self._authorization
            return self._http(method, url, headers, max(limit_bytes, _ERROR_LIMIT_BYTES), whole_s or self.times.small_s, body)

        ours = origin(url) == origin(self.base)
        answer = once()
        if answer.status == 401 and ours:
            self._authorization = self._answer_to(answer.headers.get("www-authenticate", ""))
            answer = once()
        if answer.status == 200 and len(answer.body) > limit_bytes:
            raise Refused(Reason.TOO_LARGE, f"{url}: {len(answer.body)} bytes, the limit is {limit_bytes}")
        return answer

    def _http(self, method: str, url: str, headers: dict[str, str], limit_bytes: int, whole_s: float, body: bytes | None) -> Answer:
        return ask(
            method,
            url,
            headers,
            context=self.context,
            limit_bytes=limit_bytes,
            whole_s=whole_s,
            stall_s=min(self.times.stall_s, whole_s),
            body=body,
        )

    def _answer_to(self, challenge: str) -> str:
        """The header Authorization that a registry asks for (RFC 7235; "Docker Registry v2 authentication"). Raises HttpError."""
        scheme, _, rest = challenge.partition(" ")
        known = self.login(self.reference.host)
        if scheme.lower() == "basic":
            if known is None or known.is_token:
                raise HttpError(f"{self.reference}: credentials are wanted: `docker login {self.reference.host}`")
            return known.basic
        if scheme.lower() == "bearer":
            return self._token(dict(_CHALLENGE.findall(rest)), known)
        raise HttpError(f"{self.reference}: credentials of the kind {scheme[:20]!r} are wanted, Basic or Bearer is known")

    def _token(self, challenge: dict[str, str], known: Login | None) -> str:
        realm = challenge.get("realm", "")
        if origin(realm)[0] != "https" and origin(realm) != origin(self.base):
            raise Refused(Reason.REGISTRY_UNTRUSTED, f"{self.reference}: its token server {realm[:200]} is not over TLS")
        asked = {"service": challenge.get("service", ""), "scope": f"repository:{self.reference.name}:pull{',push' * self.writes}"}
        headers, body, url = {}, None, f"{realm}{'&' if '?' in realm else '?'}{urlencode(asked)}"
        if known is not None and known.is_token:
            asked |= {"grant_type": "refresh_token", "client_id": "wamr-ota", "refresh_token": known.secret}
            headers, body, url = {"Content-Type": "application/x-www-form-urlencoded"}, urlencode(asked).encode(), realm
        elif known is not None:
            headers = {"Authorization": known.basic}
        answer = self._http("GET" if body is None else "POST", url, headers, _TOKEN_LIMIT_BYTES, self.times.small_s, body)
        _expect(answer, 200, f"{self.reference}: a token")
        value = oci.parse_json(answer.body, _TOKEN_LIMIT_BYTES, f"{self.reference}: the token")
        token = value.get("token") or value.get("access_token")
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise HttpError(f"{self.reference}: the token server gave no token")
        return f"Bearer {token}"


def _expect(answer: Answer, status: int, what: str) -> None:
    if answer.status == status:
        return
    kind = NotThereError if answer.status in (401, 403, 404) else HttpError
    raise kind(f"{what}: the server answers {answer.status}{_said(answer.body)}")


def _said(body: bytes) -> str:
    """The error that a registry names, if it does."""
    try:
        first = json.loads(body)["errors"][0]
        return f", {first['code']}: {first.get('message', '')}"[:300]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""

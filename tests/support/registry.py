"""Registries of artifacts: the reference implementation as a process, and one that says what a test tells it."""

import base64
import json
import shutil
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from boards.ports import free_port
from ota.formats import oci

LOOPBACK, PATIENCE_S = "127.0.0.1", 60
USER, PASSWORD = "author", "correct horse"
HTPASSWD = f"{USER}:$2b$04$E7Nive7T5MOtoBVHNJrONuO1fibQWtTrUMzeiUkKZWtY/1fBu4hXq\n"


class DockerRegistry:
    """`distribution`, as Debian has it: with TLS and a password where they are given."""

    def __init__(self, folder: Path, *, certificate: Path | None = None, htpasswd: str = "") -> None:
        program = shutil.which("docker-registry")
        if program is None:
            pytest.skip("docker-registry is not installed")
        self.host = f"{LOOPBACK}:{free_port()}"
        config: dict = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
            "http": {"addr": self.host, "secret": "x"},
        }
        if certificate is not None:
            config["http"]["tls"] = {"certificate": str(certificate), "key": str(certificate.with_suffix(".key"))}
        if htpasswd:
            (folder / "htpasswd").write_text(htpasswd)
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
        (folder / "registry.yml").write_text(json.dumps(config))  # JSON is YAML
        with (folder / "registry.log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, "serve", str(folder / "registry.yml")], stdout=subprocess.DEVNULL, stderr=log
            )
        _wait(self.host, self._process)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)


def _wait(host: str, process: subprocess.Popen) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        assert process.poll() is None
        try:
            urlopen(f"http://{host}/", timeout=5).close()
        except URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                return  # it answers
            time.sleep(0.05)
        except OSError:
            return
        else:
            return
    raise AssertionError("the registry does not answer")


class ScriptedRegistry:
    """Answers by path with (status, headers, body), or with what a function of the handler does. Notes all requests."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.answers: dict = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                registry.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
                answer = registry.answers.get(self.path.partition("?")[0], (404, {}, b""))
                if callable(answer):
                    answer = answer(self)
                    if answer is None:
                        return
                status, headers, body = answer
                self.send_response(status)
                for key, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, address):
                pass  # a client that had enough

        self._server = Server((LOOPBACK, 0), Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.host = f"{LOOPBACK}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def serve(self, name: str, blobs: list[bytes], manifest: dict | bytes, tag: str = "1") -> str:
        """Has these blobs, and this manifest under its tag and its digest, which is returned."""
        for blob in blobs:
            self.answers[f"/v2/{name}/blobs/{oci.digest_of(blob)}"] = (200, {}, blob)
        document = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        digest = oci.digest_of(document)
        for each in (tag, digest):
            self.answers[f"/v2/{name}/manifests/{each}"] = (200, {}, document)
        return digest

    def asked(self, part: str) -> list[dict[str, str]]:
        """The headers of the requests for paths with this part."""
        return [headers for path, headers in self.requests if part in path]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def descriptor(blob: bytes, media_type: str, title: str = "", **more) -> dict:
    return (
        {"mediaType": media_type, "digest": oci.digest_of(blob), "size": len(blob)}
        | ({"annotations": {oci.TITLE: title}} if title else {})
        | more
    )


def plain_artifact(blob: bytes, media_type: str = oci.WASM, title: str = "") -> dict:
    """As `oras push` makes it."""
    return {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "config": descriptor(b"{}", "application/vnd.oci.empty.v1+json"),
        "layers": [descriptor(blob, media_type, title)],
    }


def docker_config(folder: Path, host: str, user: str = USER, password: str = PASSWORD) -> Path:
    """As `docker login` writes it; returns the folder for DOCKER_CONFIG."""
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return folder

"""Credentials for registries, from where `docker login` and `oras login` put them.

config.json in DOCKER_CONFIG or ~/.docker: credHelpers, then credsStore (programs docker-credential-NAME), then auths.
"""

import base64
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ota.errors import OtaError

__all__ = ["Login", "login", "parse_config", "written"]

CONFIG_LIMIT_BYTES, ANSWER_LIMIT_BYTES, HELPER_S = 1024 * 1024, 64 * 1024, 30
_HUB = {"docker.io", "registry-1.docker.io", "index.docker.io"}
_HUB_KEY = "https://index.docker.io/v1/"
_NOBODY = "credentials not found in native keychain"  # what helpers print on standard output, with status 1


@dataclass(frozen=True)
class Login:
    """A name with a password, or a token by which a registry gives out others."""

    user: str
    secret: str = field(repr=False)
    is_token: bool = False

    @property
    def basic(self) -> str:
        """For a header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()


def login(host: str, environment: Mapping[str, str] = os.environ, helper_s: float = HELPER_S) -> Login | None:
    """The credentials for a registry, None where there are none. Raises OtaError for a file or helper that fails."""
    config = _config(Path(environment.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json")
    helpers = config.get("credHelpers")
    helper = helpers.get(host) if isinstance(helpers, dict) else None
    if helper := helper or config.get("credsStore"):
        found = _ask_helper(helper, _HUB_KEY if host in _HUB else host, environment, helper_s)
        if found is not None:
            return found
    return written(config, host)


def written(config: Mapping[str, Any], host: str) -> Login | None:
    """The credentials that stand in the file itself. Raises OtaError."""
    auths = config.get("auths")
    for key, value in auths.items() if isinstance(auths, dict) else ():
        if _host(key) == host or (host in _HUB and _host(key) in _HUB):
            return _written(value, key)
    return None


def _config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_LIMIT_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OtaError(f"{path}: {error.strerror}") from error
    return parse_config(data, str(path))


def parse_config(data: bytes, what: str) -> dict[str, Any]:
    """The content of config.json, read from `what`. Raises OtaError."""
    if len(data) > CONFIG_LIMIT_BYTES:
        raise OtaError(f"{what} is larger than {CONFIG_LIMIT_BYTES} bytes")
    try:
        value = json.loads(data or b"{}")
    except (ValueError, RecursionError) as error:
        raise OtaError(f"{what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise OtaError(f"{what} is no JSON object")
    return value


def _host(key: str) -> str:
    """Of a key of auths, which may be a host or a URL."""
    return key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]


def _written(value: Any, key: str) -> Login | None:
    if not isinstance(value, dict):
        return None
    if isinstance(token := value.get("identitytoken"), str) and token:
        return Login("", token, is_token=True)
    encoded = value.get("auth")
    if not isinstance(encoded, str) or not encoded:
        return None
    try:
        user, separator, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        raise OtaError(f"Docker's configuration: auths of {key}: auth is not Base64 of text") from None
    if not separator:
        raise OtaError(f"Docker's configuration: auths of {key}: auth has no user and password")
    return Login(user, secret.strip("\0"))


def _ask_helper(name: Any, host: str, environment: Mapping[str, str], helper_s: float) -> Login | None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise OtaError(f"Docker's configuration: {name!r} is no name of a credential helper")
    command = f"docker-credential-{name}"
    try:
        done = subprocess.run(
            [command, "get"], input=host.encode(), capture_output=True, env=dict(environment), timeout=helper_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise OtaError(f"{command}: no answer in {helper_s:g} s") from None
    except OSError as error:
        raise OtaError(f"{command}: {error.strerror}") from None
    if done.returncode:
        if done.stdout.decode(errors="replace").strip() == _NOBODY:
            return None
        raise OtaError(f"{command} failed for {host}: {(done.stderr or done.stdout)[:300].decode(errors='replace').strip()}")
    try:
        value = json.loads(done.stdout[:ANSWER_LIMIT_BYTES])
        user, secret = value["Username"], value["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise OtaError(f"{command}: the answer for {host} has no Username and Secret") from None
    if not isinstance(user, str) or not isinstance(secret, str):
        raise OtaError(f"{command}: Username and Secret for {host} are no texts")
    return Login("", secret, is_token=True) if user == "<token>" else Login(user, secret)

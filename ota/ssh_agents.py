"""Private keys in an ssh-agent, which signs with them: on this machine, or on the one that a session was forwarded from.

`ssh-agent:SHA256:…` names a key by the fingerprint that `ssh-add -l` shows, `ssh-agent:COMMENT` by its comment. Ed25519 and P-256
are for us; what an agent's hardware keys (sk-…) sign is another message, which boards do not take. Needs the extra `ssh-agent`.
"""

import contextlib
import hashlib
from base64 import b64encode
from collections.abc import Iterator
from typing import Any, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from ota.errors import KeyFileError
from ota.held_keys import HeldP256
from ota.keyring import SigningKey

__all__ = ["SCHEME", "AgentKeyError", "open_key"]

SCHEME = "ssh-agent:"
_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256")


class AgentKeyError(KeyFileError):
    """There is no agent, it has no such key, or it does not sign."""


def open_key(reference: str, secrets: object) -> SigningKey:  # noqa: ARG001
    """The agent's key that a reference names. Raises AgentKeyError."""
    wanted = reference.removeprefix(SCHEME)
    with _keys() as keys:
        found = [each for each in keys if wanted in (_fingerprint(each.blob), each.comment)]
        if len(found) != 1:
            known = ", ".join(f"{_fingerprint(each.blob)} ({each.comment})" for each in keys)
            raise AgentKeyError(f"{reference}: the ssh-agent has {len(found)} such keys, not one. It has {known}")
        name, blob = found[0].get_name(), found[0].blob
    return SigningKey(_key_of(name, blob, reference))


@contextlib.contextmanager
def _keys() -> Iterator[tuple[Any, ...]]:
    """The agent's keys, while there is a connection to it."""
    try:
        import paramiko
    except ImportError:
        raise AgentKeyError("keys of an ssh-agent need paramiko: pip install 'wamr-ota[ssh-agent]'") from None
    try:
        with contextlib.closing(paramiko.Agent()) as agent:
            keys = agent.get_keys()
            if not keys:
                raise AgentKeyError("there is no ssh-agent, or it has no keys: is SSH_AUTH_SOCK set, and did ssh-add add one?")
            yield keys
    except (paramiko.SSHException, OSError) as error:
        raise AgentKeyError(f"the ssh-agent does not answer, or does not sign: {error}") from error


def _fingerprint(blob: bytes) -> str:
    return f"SHA256:{b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}"


def _key_of(name: str, blob: bytes, reference: str) -> "_AgentP256 | _AgentEd25519":
    if name not in _TYPES:
        raise AgentKeyError(f"{reference} is a key of type {name}: {' and '.join(_TYPES)} can sign updates")
    public = load_ssh_public_key(f"{name} {b64encode(blob).decode()}".encode())
    if isinstance(public, ed25519.Ed25519PublicKey):
        return _AgentEd25519(blob, public)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    return _AgentP256(blob, public)


def _signature(blob: bytes, message: bytes) -> bytes:
    """What is inside of the agent's answer, which is the key's type and this (RFC 4253, section 6.6)."""
    with _keys() as keys:
        for each in keys:
            if each.blob == blob:
                return _texts(bytes(each.sign_ssh_data(message)))[1]
    raise AgentKeyError(f"the ssh-agent has the key {_fingerprint(blob)} no more")


def _texts(data: bytes) -> list[bytes]:
    found: list[bytes] = []
    while data:
        size = int.from_bytes(data[:4])
        if len(data) < 4 + size:
            raise AgentKeyError("the ssh-agent's answer is cut off")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


_STAYS = "the key stays in the ssh-agent: it can't be written to a file"


def _stays(*_: Any, **__: Any) -> NoReturn:
    raise AgentKeyError(_STAYS)


class _AgentEd25519(ed25519.Ed25519PrivateKey):
    def __init__(self, blob: bytes, public: ed25519.Ed25519PublicKey) -> None:
        self._blob, self._public = blob, public

    def sign(self, data: Any) -> bytes:
        """64 bytes."""
        return _signature(self._blob, bytes(data))

    def public_key(self) -> ed25519.Ed25519PublicKey:
        """The public half."""
        return self._public

    private_bytes = private_bytes_raw = __copy__ = __deepcopy__ = _stays


class _AgentP256(HeldP256):
    def __init__(self, blob: bytes, public: ec.EllipticCurvePublicKey) -> None:
        super().__init__(public)
        self._blob = blob

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """DER, as `cryptography` gives it; the agent hashes with SHA-256."""
        if not isinstance(signature_algorithm.algorithm, SHA256):
            raise UnsupportedAlgorithm("an ssh-agent signs with SHA-256")
        r, s = (int.from_bytes(each) for each in _texts(_signature(self._blob, bytes(data))))
        return encode_dss_signature(r, s)

    def stays(self) -> AgentKeyError:
        """As `HeldP256` has it."""
        return AgentKeyError(_STAYS)

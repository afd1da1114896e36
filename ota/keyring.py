"""Private keys: making, keeping and using them. No code that runs on a board can import this module."""

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from cbor2 import CBORTag
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

with contextlib.suppress(ImportError):  # before cryptography 47
    from cryptography.hazmat.primitives.asymmetric import mldsa

from ota.durable import sync_folder
from ota.errors import KeyFileError
from ota.formats import cbor
from ota.formats.algorithms import usable_names
from ota.formats.cose import ALGORITHM, KEY_ID, SIGN1_TAG, TYPE, VerifyKey, sig_structure

ALGORITHMS = usable_names()


FILE_LIMIT_BYTES = 64 << 10
"""No private key of any algorithm is as big in PEM."""


class KeyLockedError(KeyFileError):
    """A key file is locked, and no passphrase was given that opens it."""


class Signer(Protocol):
    """Something that signs with a private key: a key file, or later a token or an agent that keeps the key to itself."""

    @property
    def public(self) -> VerifyKey:
        """The public half."""

    def sign1(self, payload: bytes, kind: str | None = None) -> bytes:
        """A COSE_Sign1 over a detached payload; algorithm, key identifier and `kind` (the type) are in the protected headers."""


# Looked up when it is called: the module of ML-DSA may be missing.
_GENERATE: dict[str, Callable[[], Any]] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "es256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ml-dsa-44": lambda: mldsa.MLDSA44PrivateKey.generate(),  # noqa: PLW0108
    "ml-dsa-65": lambda: mldsa.MLDSA65PrivateKey.generate(),  # noqa: PLW0108
}


class SigningKey:
    """A private key out of a file: a `Signer`."""

    def __init__(self, key: Any) -> None:
        """Raises ValueError for a key that is for no algorithm of ALGORITHMS."""
        self._key = key  # a private key of `cryptography`
        self.public = VerifyKey(key.public_key())
        self._algorithm = self.public.algorithm

    @classmethod
    def generate(cls, algorithm: str = "ed25519") -> "SigningKey":
        """A new key; `algorithm` is one of ALGORITHMS."""
        if algorithm not in ALGORITHMS:
            raise ValueError(f"{algorithm!r} is not one of {', '.join(ALGORITHMS)}")
        return cls(_GENERATE[algorithm]())

    @classmethod
    def load(cls, path: Path, passphrase: bytes | None = None) -> "SigningKey":
        """From a PEM file (PKCS #8). Raises KeyFileError, also for one that others can read, and for no plain file."""
        try:
            if path.stat().st_mode & 0o077:
                raise KeyFileError(f"{path} can be read by others than its owner: chmod 600 {path}")
            key = load_pem_private_key(_read(path), passphrase)
        except OSError as error:
            raise KeyFileError(f"{path}: {error.strerror}") from error
        except TypeError:
            if not passphrase:
                raise KeyLockedError(f"{path} is locked: give --passphrase-file") from None
            return cls.load(path)  # it is not locked
        except ValueError:
            kind = KeyLockedError if passphrase else KeyFileError
            raise kind(f"{path} is not a PEM private key, or the passphrase is wrong") from None
        except UnsupportedAlgorithm as error:
            raise KeyFileError(f"{path} holds a key that the installed cryptography can't use: {error}") from None
        try:
            return cls(key)
        except ValueError:
            raise KeyFileError(f"{path} holds no key of {', '.join(ALGORITHMS)}") from None

    def save(self, path: Path, passphrase: bytes | None = None) -> None:
        """Into a new file with mode 0600, locked with the passphrase if there is one. Raises KeyFileError; never overwrites."""
        lock = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            _write_new(temporary, pem)
            try:
                os.link(temporary, path)  # whole or not there, and never in the place of another
            except FileExistsError:
                raise
            except OSError:  # a file system without links, as on many sticks
                _write_new(path, pem)
            finally:
                temporary.unlink()
            sync_folder(path.parent)
        except OSError as error:
            raise KeyFileError(f"{path}: {error.strerror}") from error

    @property
    def private(self) -> ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey:
        """The key itself, for what is no COSE: certificates. Raises KeyFileError for one of an algorithm that TLS lacks here."""
        if not isinstance(self._key, (ed25519.Ed25519PrivateKey, ec.EllipticCurvePrivateKey)):
            raise KeyFileError(f"a key of {self._algorithm.name} can't sign certificates")
        return self._key

    def sign1(self, payload: bytes, kind: str | None = None) -> bytes:
        """A COSE_Sign1 over a detached payload; algorithm, key identifier and `kind` (the type) are in the protected headers.

        The same each time with Ed25519 and ES256 (RFC 6979), another each time with ML-DSA.
        """
        headers: dict[int, object] = {ALGORITHM: self._algorithm.numbers[0], KEY_ID: self.public.key_id}
        if kind is not None:
            headers[TYPE] = kind
        protected = cbor.encode(headers)
        signature = self._raw(sig_structure(protected, payload))
        return cbor.encode(CBORTag(SIGN1_TAG, [protected, {}, None, signature]))

    def _raw(self, message: bytes) -> bytes:
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(self._key.sign(message, ec.ECDSA(SHA256(), deterministic_signing=True)))
            return r.to_bytes(32) + s.to_bytes(32)
        signature: bytes = self._key.sign(message)
        return signature


def _read(path: Path) -> bytes:
    """The content of a plain file. Raises OSError, and KeyFileError for one that is too big for a key, a pipe or a device."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123 - a descriptor
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise KeyFileError(f"{path} is not a file")
        if len(data := file.read(FILE_LIMIT_BYTES + 1)) > FILE_LIMIT_BYTES:
            raise KeyFileError(f"{path} is bigger than {FILE_LIMIT_BYTES} bytes, and no key")
    return data


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sign_document(payload: bytes, kind: str, keys: Sequence[Signer]) -> bytes:
    """A signed document (`ota.formats.signed`)."""
    return cbor.encode([payload, [key.sign1(payload, kind) for key in keys]])

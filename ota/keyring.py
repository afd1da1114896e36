"""Private keys: making, keeping and using them. No code that runs on a board can import this module."""

import os
import secrets
from pathlib import Path

from cbor2 import CBORTag
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

from ota.durable import sync_folder
from ota.errors import OtaError
from ota.formats import cbor
from ota.formats.cose import ALGORITHM, KEY_ID, SIGN1_TAG, TYPE, VerifyKey, sig_structure

ALGORITHMS = ("ed25519", "es256")


class KeyFileError(OtaError):
    """A key file is missing, readable by others, of another kind, or locked with another passphrase."""


class KeyLockedError(KeyFileError):
    """A key file is locked, and no passphrase was given."""


class SigningKey:
    """A private key that signs COSE_Sign1 messages."""

    def __init__(self, key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public = VerifyKey(key.public_key())

    @classmethod
    def generate(cls, algorithm: str = "ed25519") -> "SigningKey":
        """A new key; `algorithm` is one of ALGORITHMS."""
        if algorithm == "ed25519":
            return cls(ed25519.Ed25519PrivateKey.generate())
        if algorithm == "es256":
            return cls(ec.generate_private_key(ec.SECP256R1()))
        raise ValueError(f"{algorithm!r} is not one of {', '.join(ALGORITHMS)}")

    @classmethod
    def load(cls, path: Path, passphrase: bytes | None = None) -> "SigningKey":
        """From a PEM file (PKCS #8). Raises KeyFileError, also for a file that others than its owner can read."""
        try:
            if path.stat().st_mode & 0o077:
                raise KeyFileError(f"{path} can be read by others than its owner: chmod 600 {path}")
            key = load_pem_private_key(path.read_bytes(), passphrase)
        except OSError as error:
            raise KeyFileError(f"{path}: {error.strerror}") from error
        except TypeError:
            if not passphrase:
                raise KeyLockedError(f"{path} is locked: give --passphrase-file") from None
            raise KeyFileError(f"{path} is not locked, but a passphrase was given") from None
        except ValueError:
            raise KeyFileError(f"{path} is not a PEM private key, or the passphrase is wrong") from None
        if isinstance(key, ed25519.Ed25519PrivateKey) or (
            isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
        ):
            return cls(key)
        raise KeyFileError(f"{path} holds neither an Ed25519 nor a P-256 key")

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
        """The key itself, for what is no COSE: certificates."""
        return self._key

    def sign1(self, payload: bytes, kind: str | None = None) -> bytes:
        """A COSE_Sign1 over a detached payload; algorithm, key identifier and `kind` (the type) are in the protected headers."""
        algorithm = -8 if isinstance(self._key, ed25519.Ed25519PrivateKey) else -7
        headers: dict[int, object] = {ALGORITHM: algorithm, KEY_ID: self.public.key_id}
        if kind is not None:
            headers[TYPE] = kind
        protected = cbor.encode(headers)
        signature = self._raw(sig_structure(protected, payload))
        return cbor.encode(CBORTag(SIGN1_TAG, [protected, {}, None, signature]))

    def _raw(self, message: bytes) -> bytes:
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(message)
        r, s = decode_dss_signature(self._key.sign(message, ec.ECDSA(SHA256())))
        return r.to_bytes(32) + s.to_bytes(32)


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sign_document(payload: bytes, kind: str, keys: list[SigningKey]) -> bytes:
    """A signed document (`ota.formats.signed`)."""
    return cbor.encode([payload, [key.sign1(payload, kind) for key in keys]])

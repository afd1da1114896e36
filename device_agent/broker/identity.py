"""The board's own key, which never leaves it, and its certificate: who the board is.

The key opens TLS connections to the broker and signs what the board says of itself. It signs no updates. What reads and asks for
certificates is `device_agent.broker.certificates`: boards without one do without X.509. A key may be in a token; then its file
holds the token's URI (`device_agent.broker.token`).
"""

import functools
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from cbor2 import CBORTag
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from ota import durable
from ota.errors import OtaError
from ota.formats import cbor
from ota.formats.cose import ALGORITHM, KCCS, KEY_ID, SIGN1_TAG, TYPE, X5CHAIN, VerifyKey, bare_key, sig_structure

__all__ = ["TOKEN", "Identity", "IdentityError", "device_key", "make_successor", "write_durably"]

TOKEN = b"pkcs11:"  # so begins a file that names a key in a token (RFC 7512)
_P256_BYTES = 32
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


class IdentityError(OtaError):
    """The board's key or certificate can't be used. `reason`: the code that the board's problems say it by."""

    reason = "identity-unusable"


@dataclass(frozen=True)
class Identity:
    """The board's key and, where it has one, its certificate. Never changed: a renewal makes another."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: bytes = b""  # DER; b"" where there is none

    @classmethod
    def load(cls, key_file: Path, certificate_file: Path | None = None) -> "Identity":
        """From PEM files; makes the key where there is none yet. Raises IdentityError.

        That the certificate is for the key is for `device_agent.broker.certificates` to check.
        """
        if certificate_file is None:
            return cls(device_key(key_file))
        try:
            text = certificate_file.read_text(encoding="ascii")
            first = text[text.index(_BEGIN) : text.index(_END) + len(_END)]
            return cls(device_key(key_file, make=False), ssl.PEM_cert_to_DER_cert(first))
        except OSError as error:
            raise IdentityError(f"{certificate_file}: {error.strerror}") from error
        except ValueError:
            raise IdentityError(f"{certificate_file} is not a certificate in PEM format") from None

    @functools.cached_property
    def public(self) -> VerifyKey:
        """What verifies its signatures."""
        return VerifyKey(self.key.public_key())

    def sign(self, message: bytes) -> bytes:
        """The signature of ES256 as COSE has it: 64 bytes (RFC 9053, section 2.1)."""
        r, s = decode_dss_signature(self.key.sign(message, ec.ECDSA(SHA256())))
        return r.to_bytes(_P256_BYTES) + s.to_bytes(_P256_BYTES)

    def sign1(self, payload: bytes, kind: str, *, introduce: bool = True) -> bytes:
        """A COSE_Sign1 with the payload in it. Algorithm, key identifier and `kind` (the type) are protected.

        `introduce`: the key is beside them, in its certificate as x5chain (RFC 9360), or bare in kccs (RFC 9528).
        """
        protected = cbor.encode({ALGORITHM: self.public.algorithm.numbers[0], KEY_ID: self.public.key_id, TYPE: kind})
        beside: dict[int, object] = {}
        if introduce:
            beside = {X5CHAIN: self.certificate} if self.certificate else {KCCS: bare_key(self.public)}
        return cbor.encode(CBORTag(SIGN1_TAG, [protected, beside, payload, self.sign(sig_structure(protected, payload))]))


def device_key(file: Path, *, make: bool = True) -> ec.EllipticCurvePrivateKey:
    """The key in a file (P-256, mode 0600), made where there is none yet; or the one in a token that the file has the URI of.

    `make`: also in the token, where it has no such key. Raises IdentityError.
    """
    try:
        content = file.read_bytes()
        if content.startswith(TOKEN):
            from device_agent.broker import token  # few boards have one

            return token.key(content, make=make)
        key = load_pem_private_key(content, None)
    except FileNotFoundError:
        key = ec.generate_private_key(ec.SECP256R1())
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return key
    except OSError as error:
        raise IdentityError(f"{file}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise IdentityError(f"{file} is not an unlocked private key in PEM format") from None
    if not (isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)):
        raise IdentityError(f"{file} holds no P-256 key")
    return key


def make_successor(file: Path, successor: Path) -> None:
    """Where the key of `file` is in a token, makes the next one there, and `successor` names it. Raises IdentityError, OSError."""
    content = file.read_bytes()
    if content.startswith(TOKEN):
        from device_agent.broker import token

        write_durably(successor, token.make_successor(content))


def write_durably(file: Path, content: bytes) -> None:
    """Replaces a file, mode 0600, so that after a power cut it is the old or the new one, whole. Raises IdentityError."""
    try:
        durable.write_durably(file, content, 0o600)
    except OSError as error:
        raise IdentityError(f"{file}: {error.strerror}") from error

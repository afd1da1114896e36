"""An operator's keys in a PKCS#11 token: a smart card, an HSM, a TPM behind tpm2-pkcs11 (ota.token_keys)."""

from typing import TYPE_CHECKING

from ota import token_keys
from ota.keyring import SigningKey
from ota.token_keys import ALGORITHMS, SCHEME, AskPin, TokenError, TokenUri, log_out

if TYPE_CHECKING:
    from ota.references import Secrets

__all__ = ["ALGORITHMS", "SCHEME", "TokenError", "TokenUri", "in_token", "log_out", "make_key", "open_key"]


def open_key(reference: str, secrets: "Secrets") -> SigningKey:
    """The key that a URI names. Raises TokenError."""
    return SigningKey(token_keys.find(TokenUri.parse(reference), _asking(secrets)))


def in_token(reference: str, name: str) -> str:
    """The URI of a key with this name: the label is the one of the URI, or "wamr-ota", and the name. Raises TokenError."""
    uri = TokenUri.parse(reference)
    return uri.of(f"{uri.label or 'wamr-ota'}-{name}").text


def make_key(reference: str, secrets: "Secrets", algorithm: str) -> SigningKey:
    """A new key pair in the token under the label of the URI, never to be read out. Raises TokenError, also where one exists."""
    return SigningKey(token_keys.make(TokenUri.parse(reference), _asking(secrets), algorithm))


def _asking(secrets: "Secrets") -> AskPin:
    """What somebody typed for something else is not tried: a token locks itself after a few wrong PINs."""

    def ask(label: str) -> bytes | None:
        return secrets.given if secrets.given and not secrets.typed else secrets.answer(f"the PIN of token {label}")

    return ask

"""Keys inside a PKCS#11 token: which one a URI means, and signing with it. Nothing here reads or keeps a private key.

A key is named by a URI (RFC 7512), such as `pkcs11:token=ops;object=release?module-path=/usr/lib/softhsm/libsofthsm2.so`. The
module is `module-path`, or what the environment variable PKCS11_MODULE says. The PIN is in the file of `pin-source`, or is asked
for; a URI with the PIN itself is refused, because it would be in shell histories and process lists. Needs the extra `pkcs11`.

Operators sign documents so (ota.tokens), boards open connections and sign reports (device_agent.broker.token).
"""

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from ota.errors import KeyFileError
from ota.held_keys import HeldP256

__all__ = [
    "ALGORITHMS",
    "SCHEME",
    "KeyMissing",
    "PinRefused",
    "TokenError",
    "TokenKey",
    "TokenMissing",
    "TokenP256",
    "TokenUri",
    "find",
    "log_out",
    "make",
    "make_successor",
]

SCHEME = "pkcs11:"
ALGORITHMS = ("es256", "ed25519")  # that keys are made for
URI_CHARACTERS = 1024
PIN_BYTES = 256
SUCCESSOR = b"wamr-ota"  # so begins the CKA_ID of a key that a renewal made
_PATH, _QUERY = frozenset(("token", "object", "id", "serial", "type")), frozenset(("module-path", "pin-source"))


class TokenError(KeyFileError):
    """The token, its module or its PIN can't be used, or it has no such key."""


class TokenMissing(TokenError):
    """There is no such token, no such module, or no python-pkcs11."""


class PinRefused(TokenError):
    """The token does not take the PIN, or there is none to give it."""


class KeyMissing(TokenError):
    """The token has no such key."""


AskPin = Callable[[str], bytes | None]
"""Gives the PIN of a token with this label where the URI names no file of it; None where nobody knows it."""


@dataclass(frozen=True)
class TokenUri:
    """A PKCS#11 URI: which module, which token, and which key on it."""

    text: str
    module: str
    token: str = ""
    serial: str = ""
    label: str = ""  # of the key
    identifier: bytes = b""  # of the key
    pin_file: str = ""

    @classmethod
    def parse(cls, text: str) -> "TokenUri":
        """Raises TokenError for what is no such URI, or names what is not known here."""
        if not text.startswith(SCHEME) or len(text) > URI_CHARACTERS:
            raise TokenError(f"{text[:80]!r} is not a PKCS#11 URI of at most {URI_CHARACTERS} characters (RFC 7512)")
        path, _, query = text.removeprefix(SCHEME).partition("?")
        attributes = _attributes(path, ";", _PATH, text)
        options = _attributes(query, "&", _QUERY, text)
        if attributes.get("type", "private") != "private":
            raise TokenError(f"{text}: type={attributes['type']}, not a private key")
        module = unquote(options.get("module-path", "")) or os.environ.get("PKCS11_MODULE", "")
        if not module:
            raise TokenError(f"{text} names no module: add ?module-path=/path/of/the/module.so, or set PKCS11_MODULE")
        return cls(
            text,
            module,
            unquote(attributes.get("token", "")),
            unquote(attributes.get("serial", "")),
            unquote(attributes.get("object", "")),
            unquote_to_bytes(attributes.get("id", "")),
            _pin_file(unquote(options.get("pin-source", "")), text),
        )

    def of(self, label: str) -> "TokenUri":
        """The same token, and the key with this label."""
        path, mark, query = self.text.removeprefix(SCHEME).partition("?")
        kept = [each for each in path.split(";") if each and each.partition("=")[0] not in ("object", "id", "type")]
        return TokenUri.parse(f"{SCHEME}{';'.join([*kept, f'object={label}'])}{mark}{query}")


def _attributes(text: str, separator: str, known: frozenset[str], uri: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in filter(None, text.split(separator)):
        name, equals, value = each.partition("=")
        if name == "pin-value":
            raise TokenError("a PIN inside a URI is seen by everybody who lists processes: give pin-source=file:/path, or type it")
        if not equals or name not in known or name in found:
            raise TokenError(f"{uri}: {name!r} is not one of {', '.join(sorted(known))}, each once")
        found[name] = value
    return found


def _pin_file(source: str, uri: str) -> str:
    if not source:
        return ""
    parts = urlsplit(source)
    if parts.scheme not in ("", "file") or parts.netloc or not parts.path.startswith("/"):
        raise TokenError(f"{uri}: pin-source is not file:/path")
    return parts.path


def find(uri: TokenUri, ask: AskPin) -> "TokenKey":
    """The key that a URI names. Raises TokenError, KeyMissing where the token has none such."""
    return _key_of(uri, _session(uri, ask))


def make(uri: TokenUri, ask: AskPin, algorithm: str, identifier: bytes = b"") -> "TokenKey":
    """A new key pair in the token under the label of the URI, never to be read out; `identifier`: its CKA_ID, b"" for a random one.

    Raises TokenError, also where one exists.
    """
    if not uri.label:
        raise TokenError(f"{uri.text} names no object: add ;object=LABEL for the new key")
    if algorithm not in ALGORITHMS:
        raise TokenError(f"keys in tokens are for {' or '.join(ALGORITHMS)}, not for {algorithm}")
    session = _session(uri, ask)
    if _found(uri, session):
        raise TokenError(f"{uri.text}: the token has a key of this label already; it is not replaced")
    pkcs11 = _library()
    from pkcs11.util.ec import encode_named_curve_parameters

    kind, curve, mechanism = {
        "es256": (pkcs11.KeyType.EC, "secp256r1", pkcs11.Mechanism.EC_KEY_PAIR_GEN),
        "ed25519": (pkcs11.KeyType.EC_EDWARDS, "1.3.101.112", pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN),
    }[algorithm]
    try:
        parameters = session.create_domain_parameters(
            kind, {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}, local=True
        )
        private = {pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False}
        parameters.generate_keypair(
            mechanism=mechanism,
            store=True,
            label=uri.label,
            id=identifier or os.urandom(8),
            private_template=private,
            capabilities=_signs(),
        )
    except pkcs11.PKCS11Error as error:
        raise TokenError(f"{uri.text}: the token makes no key for {algorithm}: {_named(error)}") from error
    return _key_of(uri, session)


def make_successor(uri: TokenUri, present: TokenUri, ask: AskPin) -> "TokenKey":
    """A new key pair on P-256 under the label of `uri`, which follows the `present` one. Raises TokenError.

    What has the label is deleted, but only what an earlier call made, or what came before a present key that one made: a token may
    have keys of others.
    """
    if not uri.label or uri.label == present.label:
        raise TokenError(f"{uri.text} names no other object than the present key: nothing is deleted")
    pkcs11, session = _library(), _session(uri, ask)
    try:
        there = [
            each
            for kind in (pkcs11.ObjectClass.PRIVATE_KEY, pkcs11.ObjectClass.PUBLIC_KEY)
            for each in session.get_objects(_wanted(uri, kind))
        ]
        if not all(map(_is_successor, there)) and not all(map(_is_successor, _found(present, session))):
            raise TokenError(f"{uri.text}: the token has a key of this label that is not this board's; it is not replaced")
        for each in there:
            each.destroy()
    except pkcs11.PKCS11Error as error:
        raise TokenError(f"{uri.text}: the key can't be deleted: {_named(error)}") from error
    return make(uri, ask, "es256", SUCCESSOR + os.urandom(8))


def _is_successor(found: Any) -> bool:
    return bytes(found.id).startswith(SUCCESSOR)


def _signs() -> Any:
    flags = _library().MechanismFlag
    return flags.SIGN | flags.VERIFY


def _library() -> Any:
    try:
        import pkcs11
    except ImportError:
        raise TokenMissing("keys in tokens need python-pkcs11: pip install 'wamr-ota[pkcs11]'") from None
    return pkcs11


@functools.cache
def _module(path: str) -> Any:
    pkcs11 = _library()
    try:
        return pkcs11.lib(path)
    except (pkcs11.PKCS11Error, RuntimeError, OSError) as error:
        raise TokenMissing(f"{path} can't be loaded as a PKCS#11 module: {_named(error)}") from error


_SESSIONS: dict[tuple[str, str, str], Any] = {}
"""One for each token while the process lives: most tokens take one log-in of a process only."""
_REFUSED: set[tuple[str, str, str, str]] = set()
"""PINs that a token refused: it would lock itself if each of its keys were tried with the same wrong one."""


def log_out() -> None:
    """Ends the sessions of this process with all tokens. They begin anew, with a PIN, when a key is used."""
    _REFUSED.clear()
    while _SESSIONS:
        _SESSIONS.popitem()[1].close()


def _session(uri: TokenUri, ask: AskPin) -> Any:
    pkcs11 = _library()
    where = (uri.module, uri.token, uri.serial)
    if where in _SESSIONS:
        return _SESSIONS[where]
    try:
        tokens = list(_module(uri.module).get_tokens(token_label=uri.token or None, token_serial=uri.serial.encode() or None))
        if len(tokens) != 1:
            names = ", ".join(sorted(each.label for each in tokens)) or "none"
            raise TokenMissing(f"{uri.text}: {len(tokens)} tokens fit, not one ({names}): name it with token=LABEL")
        pin = _pin(uri, ask, tokens[0].label)
        if (*where, pin) in _REFUSED:
            raise PinRefused(f"{uri.text}: the token has refused this PIN, which is not tried once more")
        if uri.pin_file and tokens[0].flags & pkcs11.TokenFlag.USER_PIN_FINAL_TRY:  # nobody is there who could type it
            raise PinRefused(f"{uri.text}: one more wrong PIN would lock the token: log in by hand with the right one first")
        _SESSIONS[where] = tokens[0].open(rw=True, user_pin=pin)
    except pkcs11.PKCS11Error as error:
        if isinstance(error, (pkcs11.PinIncorrect, pkcs11.PinLocked, pkcs11.PinExpired, pkcs11.PinInvalid, pkcs11.PinLenRange)):
            _REFUSED.add((*where, pin))
            raise PinRefused(f"{uri.text}: {_named(error)}") from error
        raise TokenError(f"{uri.text}: {_named(error)}") from error
    return _SESSIONS[where]


def _pin(uri: TokenUri, ask: AskPin, label: str) -> str:
    if uri.pin_file:
        path = Path(uri.pin_file)
        try:
            if path.stat().st_mode & 0o077:
                raise PinRefused(f"{path} can be read by others than its owner: chmod 600 {path}")
            content = path.read_bytes()[: PIN_BYTES + 1]
        except OSError as error:
            raise PinRefused(f"{path}: {error.strerror}") from error
    else:
        given = ask(label)
        if given is None:
            raise PinRefused(f"the PIN of token {label} is needed: give --passphrase-file, or pin-source in the URI")
        content = given
    pin = content.strip()
    if not 0 < len(pin) <= PIN_BYTES:
        raise PinRefused(f"the PIN of token {label} is empty, or longer than {PIN_BYTES} bytes")
    try:
        return pin.decode()
    except UnicodeDecodeError:  # another PIN in its place would be tried, and counted by the token
        raise PinRefused(f"the PIN of token {label} is not UTF-8 text") from None


def _named(error: BaseException) -> str:
    """The library's errors are told by their type alone."""
    return f"{type(error).__name__} {error}".strip()


def _wanted(uri: TokenUri, kind: Any) -> dict[Any, Any]:
    attribute = _library().Attribute
    wanted: dict[Any, Any] = {attribute.CLASS: kind}
    if uri.label:
        wanted[attribute.LABEL] = uri.label
    if uri.identifier:
        wanted[attribute.ID] = uri.identifier
    return wanted


def _found(uri: TokenUri, session: Any) -> list[Any]:
    return list(session.get_objects(_wanted(uri, _library().ObjectClass.PRIVATE_KEY)))


def _key_of(uri: TokenUri, session: Any) -> "TokenP256 | TokenEd25519":
    pkcs11 = _library()
    try:
        found = _found(uri, session)
        if len(found) != 1:
            kind_of = TokenError if found else KeyMissing
            raise kind_of(f"{uri.text}: the token has {len(found)} such private keys, not one: name it with object= or id=")
        (private,) = found
        pair: Mapping[Any, Any] = {
            pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PUBLIC_KEY,
            pkcs11.Attribute.ID: private.id,
            pkcs11.Attribute.KEY_TYPE: private.key_type,
        }
        publics = [each for each in session.get_objects(pair) if each.label == private.label]
        if len(publics) != 1:
            raise TokenError(f"{uri.text}: the token has {len(publics)} public keys for it, not one")
        point = bytes(publics[0][pkcs11.Attribute.EC_POINT])
        kind = private.key_type
    except pkcs11.PKCS11Error as error:
        raise TokenError(f"{uri.text}: {_named(error)}") from error
    raw = point[2:] if point[:1] == b"\x04" and len(point) in (34, 67) else point  # an OCTET STRING, or bare as some tokens give it
    try:
        if kind == pkcs11.KeyType.EC:
            return TokenP256(private, ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw))
        if kind == pkcs11.KeyType.EC_EDWARDS:
            return TokenEd25519(private, ed25519.Ed25519PublicKey.from_public_bytes(raw))
    except ValueError as error:
        raise TokenError(f"{uri.text}: the key is not on P-256 or Ed25519: {error}") from error
    raise TokenError(f"{uri.text}: a key of type {kind.name}, not on P-256 or Ed25519")


def _signature(private: Any, message: bytes, mechanism: str) -> bytes:
    pkcs11 = _library()
    try:
        return bytes(private.sign(message, mechanism=pkcs11.Mechanism[mechanism]))
    except pkcs11.PKCS11Error as error:
        raise TokenError(f"the token does not sign: {_named(error)}") from error


_STAYS = "the key stays in its token: it can't be written to a file"


def _stays(*_: Any, **__: Any) -> NoReturn:
    raise TokenError(_STAYS)


class TokenP256(HeldP256):
    """As `cryptography` has private keys, so that certificates can be signed with it too."""

    def __init__(self, private: Any, public: ec.EllipticCurvePublicKey) -> None:
        super().__init__(public)
        self._private = private

    def sign_digest(self, digest: bytes) -> bytes:
        """As `HeldP256` has it."""
        return _signature(self._private, digest, "ECDSA")

    def stays(self) -> TokenError:
        """Likewise."""
        return TokenError(_STAYS)


class TokenEd25519(ed25519.Ed25519PrivateKey):
    def __init__(self, private: Any, public: ed25519.Ed25519PublicKey) -> None:
        self._private, self._public = private, public

    def sign(self, data: Any) -> bytes:
        """64 bytes."""
        return _signature(self._private, bytes(data), "EDDSA")

    def public_key(self) -> ed25519.Ed25519PublicKey:
        """The public half."""
        return self._public

    private_bytes = private_bytes_raw = __copy__ = __deepcopy__ = _stays


TokenKey = TokenP256 | TokenEd25519
"""A private key of `cryptography` that signs in its token."""

"""Signature algorithms, a row each: how their public keys stand in COSE, and how signatures are verified.

Whatever else the project says of algorithms it takes from here: a further one is a further row. ES256 and Ed25519 are of the
classical family, ML-DSA (FIPS 204) is of the post-quantum one. A row whose algorithm the installed `cryptography` lacks stays in
the table, so that its keys are named, and is not usable.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

try:
    from cryptography.hazmat.primitives.asymmetric import mldsa
except ImportError:  # before cryptography 47
    mldsa = None  # type: ignore[assignment]

__all__ = ["ALGORITHMS", "CLASSICAL", "FAMILIES", "POST_QUANTUM", "Algorithm", "algorithm_of", "usable_names"]

CLASSICAL, POST_QUANTUM = "classical", "post-quantum"
FAMILIES = (CLASSICAL, POST_QUANTUM)
KTY, ALG = 1, 3  # members of every COSE_Key: RFC 9052 section 7.1
_P256_BYTES = 32


@dataclass(frozen=True)
class Algorithm:
    """One way of signing."""

    name: str
    family: str
    numbers: tuple[int, ...]  # COSE's for it; messages and keys of ours name the first
    members: Mapping[int, int]  # of a COSE_Key: what they must be
    sizes: Mapping[int, int]  # of a COSE_Key: members that hold the key itself, and their bytes
    signature_bytes: int
    key_type: type[Any] | None  # None: the installed library lacks it
    load: Callable[..., Any]  # from the members of `sizes`, in their order; raises ValueError
    dump: Callable[[Any], tuple[bytes, ...]]  # to these members
    verify: Callable[[Any, bytes, bytes], None]  # raises InvalidSignature
    thumbprint_has_algorithm: bool = False  # RFC 9679 leaves it out where the curve says enough

    @property
    def usable(self) -> bool:
        """Whether this machine can verify its signatures."""
        return self.key_type is not None

    @property
    def labels(self) -> frozenset[int]:
        """The members that a COSE_Key may have."""
        return frozenset((ALG, *self.members, *self.sizes))

    def required(self, key: Any) -> dict[int, Any]:
        """The members of a COSE_Key that its thumbprint is over."""
        found = dict(self.members) | dict(zip(self.sizes, self.dump(key), strict=True))
        return found | ({ALG: self.numbers[0]} if self.thumbprint_has_algorithm else {})

    def is_of(self, value: Mapping[Any, Any]) -> bool:
        """Whether a COSE_Key says that it is for this algorithm, and nothing that is not known of it."""
        named = value.get(ALG, None if self.thumbprint_has_algorithm else self.numbers[0])
        return (
            all(type(value.get(label)) is int and value[label] == wanted for label, wanted in self.members.items())
            and type(named) is int
            and named in self.numbers
            and set(value) <= self.labels
        )


def _load_p256(x: bytes, y: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), ec.SECP256R1()).public_key()


def _dump_p256(key: ec.EllipticCurvePublicKey) -> tuple[bytes, ...]:
    numbers = key.public_numbers()
    return numbers.x.to_bytes(_P256_BYTES), numbers.y.to_bytes(_P256_BYTES)


def _verify_p256(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> None:
    r, s = (int.from_bytes(half) for half in (signature[:_P256_BYTES], signature[_P256_BYTES:]))
    key.verify(encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))


def _dump_raw(key: Any) -> tuple[bytes, ...]:
    return (key.public_bytes(Encoding.Raw, PublicFormat.Raw),)


def _verify_raw(key: Any, signature: bytes, message: bytes) -> None:
    key.verify(signature, message)


def _ml_dsa(parameters: int, number: int, key_bytes: int, signature_bytes: int) -> Algorithm:
    """ML-DSA (FIPS 204) in COSE: RFC 9964, key type AKP."""
    kind = getattr(mldsa, f"MLDSA{parameters}PublicKey", None)
    load = kind.from_public_bytes if kind is not None else _unavailable
    name = f"ml-dsa-{parameters}"
    return Algorithm(
        name, POST_QUANTUM, (number,), {KTY: 7}, {-1: key_bytes}, signature_bytes, kind, load, _dump_raw, _verify_raw, True
    )


def _unavailable(*_: bytes) -> Any:
    raise ValueError("the installed cryptography lacks the algorithm")


# ES256 of RFC 9053, ESP256 of RFC 9864; EdDSA of RFC 9053, Ed25519 of RFC 9864.
ALGORITHMS = (
    Algorithm(
        "ed25519",
        CLASSICAL,
        (-8, -19),
        {KTY: 1, -1: 6},
        {-2: 32},
        64,
        ed25519.Ed25519PublicKey,
        ed25519.Ed25519PublicKey.from_public_bytes,
        _dump_raw,
        _verify_raw,
    ),
    Algorithm(
        "es256",
        CLASSICAL,
        (-7, -9),
        {KTY: 2, -1: 1},
        {-2: _P256_BYTES, -3: _P256_BYTES},
        64,
        ec.EllipticCurvePublicKey,
        _load_p256,
        _dump_p256,
        _verify_p256,
    ),
    _ml_dsa(44, -48, 1312, 2420),
    _ml_dsa(65, -49, 1952, 3309),
)


def algorithm_of(key: Any) -> Algorithm:
    """The algorithm that a public key of `cryptography` is for. Raises ValueError where there is none."""
    for each in ALGORITHMS:
        if each.key_type is not None and isinstance(key, each.key_type):
            if isinstance(key, ec.EllipticCurvePublicKey) and not isinstance(key.curve, ec.SECP256R1):
                break
            return each
    raise ValueError(f"not a key of {', '.join(each.name for each in ALGORITHMS)}")


def usable_names() -> tuple[str, ...]:
    """The algorithms whose signatures this machine can verify."""
    return tuple(each.name for each in ALGORITHMS if each.usable)


def verifies(algorithm: Algorithm, key: Any, signature: bytes, message: bytes) -> bool:
    """Whether `signature`, as COSE has it, is this key's over `message`."""
    if len(signature) != algorithm.signature_bytes:
        return False
    try:
        algorithm.verify(key, signature, message)
    except InvalidSignature:
        return False
    return True

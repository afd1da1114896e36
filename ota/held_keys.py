"""Private keys on P-256 that stay where they are, in a token or an agent: used as those of `cryptography`, never read out."""

from typing import Any, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import Hash

from ota.errors import OtaError

__all__ = ["HeldP256"]


class HeldP256(ec.EllipticCurvePrivateKey):
    """Signs documents, and requests for certificates too. A subclass says how a digest is signed, and that the key stays."""

    def __init__(self, public: ec.EllipticCurvePublicKey) -> None:
        self._public = public

    def sign_digest(self, digest: bytes) -> bytes:
        """The halves r and s, one after the other, each as long as the curve's order (as COSE has it)."""
        raise NotImplementedError

    def stays(self) -> OtaError:
        """What is raised when somebody wants to have the key itself."""
        raise NotImplementedError

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """DER, as `cryptography` gives it. Its holder chooses its own nonces: the signature is another each time."""
        hashing = signature_algorithm.algorithm
        if isinstance(hashing, Prehashed):
            raise UnsupportedAlgorithm("only whole messages are signed with a key that is held elsewhere")
        digest = Hash(hashing)
        digest.update(data)
        raw = self.sign_digest(digest.finalize())
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        """P-256."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """In bits."""
        return self._public.key_size

    def _stays(self, *_: Any, **__: Any) -> NoReturn:
        raise self.stays()

    private_numbers = private_bytes = exchange = __copy__ = __deepcopy__ = _stays

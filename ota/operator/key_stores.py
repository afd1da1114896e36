"""Certificates and keys as Java's brokers read them: PKCS #12 (RFC 7292), in place of PEM."""

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key, pkcs12

from ota.errors import OtaError

__all__ = ["PASSWORD", "key_store", "trust_store"]

PASSWORD = "changeit"  # noqa: S105 - Java asks for one; who may read the file decides
NAME = b"broker"


def key_store(key_pem: bytes, chain_pem: bytes) -> bytes:
    """A key with its certificate and those of its issuers. Both PEM; the first certificate is the key's."""
    first, *others = x509.load_pem_x509_certificates(chain_pem)
    key = load_pem_private_key(key_pem, None)
    return pkcs12.serialize_key_and_certificates(NAME, key, first, others, _locked())  # type: ignore[arg-type]


def trust_store(authorities_pem: bytes) -> bytes:
    """Authorities, each marked as one that Java trusts. Raises OtaError where `cryptography` is too old for that."""
    if not hasattr(pkcs12, "serialize_java_truststore"):
        raise OtaError("a store of certificates for Java needs cryptography 45 or newer: pip install -U cryptography")
    found = x509.load_pem_x509_certificates(authorities_pem)
    named = [pkcs12.PKCS12Certificate(each, f"authority-{number}".encode()) for number, each in enumerate(found)]
    return pkcs12.serialize_java_truststore(named, _locked())


def _locked() -> BestAvailableEncryption:
    return BestAvailableEncryption(PASSWORD.encode())

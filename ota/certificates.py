"""X.509 certificates that come from elsewhere, for whoever reads them with `cryptography`."""

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509 import InvalidVersion

__all__ = ["UNREADABLE"]

UNREADABLE = (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, InvalidVersion)
"""What the library raises for what is no certificate or request, or one that it can't use."""

"""Boards as far as their certificates go: a key, a certificate, requests for the next one. No agent, no broker."""

from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from device_agent.broker.identity import Identity
from ota.formats.cose import VerifyKey
from ota.formats.renewal import REQUEST_TYPE, RenewalAnswer, RenewalRequest
from ota.operator.renewal import answer_renewal


def csr(name, key):
    """A PKCS #10 request (PEM)."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256()).public_bytes(Encoding.PEM)


@dataclass
class Board:
    """One board."""

    name: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    pem: bytes = b""  # of its certificate, and its issuer's

    def enrol(self, authority):
        """Gets its first certificate."""
        self.pem = authority.sign(csr(self.name, self.key), self.name)
        return self

    @property
    def identity(self):
        return Identity(self.key, self.chain[0].public_bytes(Encoding.DER))

    @property
    def chain(self):
        return x509.load_pem_x509_certificates(self.pem)

    def asks(self, key=None, refused=b"", name=None):
        """A request, and its signed bytes."""
        request = RenewalRequest(name or self.name, csr(self.name, key or ec.generate_private_key(ec.SECP256R1())), refused)
        return request, self.identity.sign1(request.to_payload(), REQUEST_TYPE)

    def believes(self, answer, request):
        """The answer as the board reads it."""
        return RenewalAnswer.verified(answer, VerifyKey(self.chain[1].public_key()), self.name, request.mark)

    def renew(self, workspace, authority, now_s):
        """Asks, and takes what it gets; what the operator is told."""
        key = ec.generate_private_key(ec.SECP256R1())
        request, data = self.asks(key)
        answer, outcome = answer_renewal(workspace, authority, data, now_s)
        read = self.believes(answer, request)
        if not read.reason:
            self.key, self.pem = key, read.certificate
        return outcome

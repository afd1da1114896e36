"""One document of each kind, the same bytes in every run: keys are made from fixed numbers. For the schema, for other
implementations, for fuzzing, and for the worked examples of docs/reference/examples.md.
"""

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from device_agent.broker.identity import Identity
from ota.author.encryption import Readers, encrypted, sealed_for
from ota.formats import cbor
from ota.formats.agent import AgentDescription, Platform
from ota.formats.encryption import GroupKey, public_cose_key
from ota.formats.enrolment import Answer, Request, Token
from ota.formats.key_delivery import DELIVERY_TYPE, KeyDelivery, plaintext
from ota.formats.provenance import Provenance
from ota.formats.renewal import RenewalAnswer, RenewalRequest
from ota.formats.report import (
    Attempt,
    InstanceReport,
    JournalHead,
    LogRecord,
    Message,
    Refusal,
    Report,
    Running,
    Summary,
    encode_logs,
    encode_messages,
)
from ota.formats.signed_report import INSTANCE_REPORT, LOG, REPORT, TELEMETRY
from ota.formats.trust import ROLES
from ota.formats.window import Window
from ota.keyring import SigningKey, sign_document
from tests.support.signing import NOW_S, Signer

ROLE_KEYS = {role: SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n, role in enumerate(ROLES, 1)}
SIGNER = Signer(dict(ROLE_KEYS))


class _SameEachTime(Identity):
    """Signs by RFC 6979, which a board does not: it may have a key in a token."""

    def sign(self, message: bytes) -> bytes:
        r, s = decode_dss_signature(self.key.sign(message, ec.ECDSA(SHA256(), deterministic_signing=True)))
        return r.to_bytes(32) + s.to_bytes(32)


BOARD = _SameEachTime(ec.derive_private_key(7, ec.SECP256R1()))
UPDATE = SIGNER.update(b"\0asm" + bytes(100), aot=((bytes(16), b"x" * 300),))
LARGE = SIGNER.update(bytes(20_000))
GROUP_KEY, OWN_KEY = GroupKey(b"\x05" * 16), ec.derive_private_key(8, ec.SECP256R1())
SEALED = encrypted(UPDATE.draft, Readers((GROUP_KEY,), (OWN_KEY.public_key(),)), lambda size: b"\x06" * size).signed(
    UPDATE.manifest.sequence, ROLE_KEYS["release"]
)
TOKEN = Token(bytes(8), bytes(32))
REQUEST = Request.make(TOKEN, "roof-1", b"csr")
AGENT = AgentDescription("0.1.0+ab12", Platform("aarch64", "py311", "glibc-2.17"), 3, 1, 3, 1000)
ENTRY = SIGNER.entry(
    bytes(32),
    boards=("roof-1", "roof-2"),
    window=Window.parse({1: 31, 2: 120, 3: 120, 4: True, 5: False}, "test"),
    config={"site": "roof"},
    together=(),
)
_INFO, _CONTENT = sealed_for(plaintext({GROUP_KEY.key_id: GROUP_KEY}), OWN_KEY.public_key(), lambda size: b"\x06" * size)
DELIVERY = KeyDelivery("roof-1", "lab", 4, NOW_S, (GROUP_KEY.key_id,), _INFO.to_bytes(), _CONTENT)
REPORT_OF_BOARD = Report(
    "roof-1",
    "lab",
    "generic",
    "0.1.0",
    NOW_S,
    12,
    (Summary("blink", "blink", "1.0.0", 3, "confirmed", "confirmed"),),
    (Refusal("group", 3, "signer-unknown", "why"),),
    {"events": 3},
    ("disk-full: nothing left",),
    2,
    ("ed25519", "es256"),
    1 << 33,
    JournalHead(4, bytes(32)),
    public_cose_key(OWN_KEY.public_key()),
)
INSTANCE = InstanceReport("roof-1", "blink", NOW_S, Running("blink", "1.0.0", bytes(32)), Attempt("confirmed"), {"events": 3}, 7)
LOGS = encode_logs("roof-1", 7, [LogRecord(1.5, "info", "blink", "blink 1.0.0", "hello")])
TELEMETRY_BATCH = encode_messages("roof-1", 8, [Message(1, 1.5, "blink", "blink 1.0.0", "x/y", b"1")])
SAID = Provenance("git+https://example.com/x@1", "ci", bytes(32), "mends it\nall", ("CVE-2026-12345",), "oci://x/y")

WRITTEN: dict[str, bytes] = {
    "root-document": SIGNER.root_document(),
    "deployment-document": SIGNER.document({"module": ENTRY, "gone": SIGNER.entry(b"")})[1],
    "envelope": UPDATE.envelope,
    "encrypted-envelope": SEALED.envelope,
    "chunk-index": LARGE.index.to_bytes(),
    "module": UPDATE.manifest.module.to_bytes(),
    "agent": AGENT.to_bytes(),
    "group-key": GROUP_KEY.to_bytes(),
    "group-keys-document": sign_document(DELIVERY.to_payload(), DELIVERY_TYPE, [SIGNER.keys["deploy"]]),
    "text-map": SAID.to_bytes(),
    "report": REPORT_OF_BOARD.to_bytes(),
    "instance-report": INSTANCE.to_bytes(),
    "signed-report": BOARD.sign1(REPORT_OF_BOARD.to_bytes(), REPORT),
    "signed-instance-report": BOARD.sign1(INSTANCE.to_bytes(), INSTANCE_REPORT, introduce=False),
    "signed-logs": BOARD.sign1(LOGS, LOG, introduce=False),
    "signed-telemetry": BOARD.sign1(TELEMETRY_BATCH, TELEMETRY, introduce=False),
    "logs": LOGS,
    "telemetry": TELEMETRY_BATCH,
    "enrolment-request": REQUEST.to_bytes(),
    "enrolment-answer": Answer.make(TOKEN, REQUEST, reason="token-used").to_bytes(),
    "renewal-request": RenewalRequest("roof-1", b"csr").to_payload(),
    "renewal-answer": RenewalAnswer("roof-1", bytes(32), b"pem").to_payload(),
}


def content(signed: bytes) -> bytes:
    """The content of a signed document."""
    found: bytes = cbor.decode(signed, "test", 1 << 20)[0]
    return found

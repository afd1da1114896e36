"""docs/reference/examples.md, made from the code. `python -m tests.support.examples` writes it anew."""

import re
import textwrap
from pathlib import Path

from ota.formats.diagnostic import diagnostic
from tests.support.documents import UPDATE, WRITTEN

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "examples.md"
_HEAD = """# Documents byte by byte

One of each kind, as the code writes it, in diagnostic notation (RFC 8949, section 8) and in hexadecimal. `<< … >>` is a byte
string with CBOR in it. [Documents](documents.md) says what the members mean, [documents.cddl](documents.cddl) what shape they have.

This page is made by `python -m tests.support.examples`, and `tests/formats/test_examples.py` compares it. Other implementations of
CBOR and COSE read the same bytes and verify the signatures in `tests/formats/test_implementations.py`.

The keys are made from numbers that everybody knows, and protect nothing. Those of the roles are Ed25519; their private keys are 32
bytes 01 for root, 02 for release, 03 for deploy. That of the board is on P-256; its private key is the number 7. Signatures are the
same each time: Ed25519 is so, and the board's is made by RFC 6979 here, which a real board need not do. The group's key is 16
bytes 05, the board's private key to decrypt with is the number 8, and what is random in the ciphertext is the byte 06.
"""
_ABOUT = {
    "root-document": "Root: who may sign what. Signed by the root key.",
    "deployment-document": "Deployment: what the boards of a group run, one instance and one to go. Signed by the deploy key.",
    "envelope": "Manifest: a SUIT envelope, signed by the release key. The module has 104 bytes and one ahead-of-time image.",
    "encrypted-envelope": "The same update encrypted, for a group by AES Key Wrap and for a board by ECDH.",
    "group-key": "A group's key, as a file.",
    "group-keys-document": "A group's keys for one board, encrypted to its own key. Signed by the deploy key.",
    "text-map": "The text that an envelope may carry as its member 23. The manifest has its digest.",
    "chunk-index": "Chunk index of a blob of 20,000 bytes. The manifest has its digest.",
    "signed-report": "Report of a board, with its bare key in the unprotected headers. Signed by the board.",
    "signed-instance-report": "Report of an instance. Signed by the board.",
    "signed-logs": "Log lines. Signed by the board.",
    "signed-telemetry": "A batch of messages. Signed by the board.",
    "enrolment-request": "Request for a certificate with a token whose secret is 32 zero bytes.",
    "enrolment-answer": "Answer to it: refused.",
    "renewal-request": "Content of a request for another certificate.",
    "renewal-answer": "Content of the answer.",
}
_HEX_A_LINE, _WIDTH = 96, 128  # digits, characters


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for name, about in _ABOUT.items():
        data = WRITTEN[name]
        blocks = "\n\n".join(f"```text\n{each}\n```" for each in (_notation(data), _lines(data.hex())))
        parts.append(f"## {name}\n\n{about} {len(data)} bytes.\n\n{blocks}\n")
    envelope, module = UPDATE.digest.hex(), UPDATE.manifest.digest.hex()
    parts.append(f"## Names\n\nThe envelope above is retained under its SHA-256, `{envelope}`.\nIts module is named `{module}`.\n")
    return "\n".join(parts)


def _notation(data: bytes) -> str:
    """With spaces in what is long, which the notation allows in hexadecimal."""
    spaced = re.sub(rf"h'([0-9a-f]{{{_HEX_A_LINE + 1},}})'", lambda found: f"h'{_lines(found[1], ' ')}'", diagnostic(data))
    lines = []
    for line in spaced.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()))
        lines += textwrap.wrap(line, _WIDTH, subsequent_indent=f"{indent}  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def _lines(text: str, between: str = "\n") -> str:
    return between.join(text[at : at + _HEX_A_LINE] for at in range(0, len(text), _HEX_A_LINE))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

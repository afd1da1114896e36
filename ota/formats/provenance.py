"""Where an update comes from and what it is for: the kind that boards judge by, and SUIT's text (23), which is for people.

The kind stands in the description under the release keys' signatures. The text is severable: the manifest has its digest, the
envelope its content, and an envelope that lost it verifies all the same. Boards neither read nor need the text.
"""

import re
from dataclasses import dataclass
from enum import Enum

from ota.formats import cbor
from ota.formats.fields import Fields, Unknown, malformed

__all__ = ["ADVISORY_LIMIT", "CVE_LIMIT", "LANGUAGE", "LINE_LIMIT", "TEXT_LIMIT_BYTES", "Kind", "Provenance", "text_digest"]

TEXT_LIMIT_BYTES = 8 * 1024
ADVISORY_LIMIT, LINE_LIMIT, CVE_LIMIT = 4000, 256, 64  # characters of an advisory, of a line, and names of vulnerabilities
CVES_LIMIT = CVE_LIMIT * len("CVE-2026-1234567890123456789 ")
LANGUAGE = "und"  # BCP 47: not determined
_ADVISORY, _REVISION, _BUILDER, _SBOM, _CVES, _ORIGIN = (
    2,
    -1,
    -2,
    -3,
    -4,
    -5,
)  # suit-text-update-description; ours have private numbers
_CVE = re.compile(r"CVE-[0-9]{4}-[0-9]{4,19}")


class Kind(Enum):
    """What an update is for, say those who released it. The values are those of manifests."""

    UNSPECIFIED = 0
    FUNCTIONAL = 1
    SECURITY = 2
    UNKNOWN = -1  # a number that this version does not know

    @classmethod
    def of(cls, number: int) -> "Kind":
        """The kind of a manifest's number."""
        return cls(number) if number in (1, 2) else cls.UNKNOWN

    @property
    def text(self) -> str:
        """For people and machines."""
        return self.name.lower()


@dataclass(frozen=True)
class Provenance:
    """The texts of an update. What is empty is not said."""

    revision: str = ""  # of the source, such as git+https://example.com/blink@<commit>
    builder: str = ""  # who or what built it
    sbom: bytes = b""  # SHA-256 of the software bill of materials
    advisory: str = ""  # what it mends; may have several lines
    cves: tuple[str, ...] = ()
    origin: str = ""  # where the module was fetched from, with its digest: oci://…@sha256:…

    def to_bytes(self) -> bytes:
        """The encoded SUIT_Text_Map, empty where there is nothing to say. Raises Refused for what `from_bytes` would refuse."""
        found = {
            _ADVISORY: self.advisory,
            _REVISION: self.revision,
            _BUILDER: self.builder,
            _SBOM: self.sbom.hex(),
            _CVES: " ".join(self.cves),
            _ORIGIN: self.origin,
        }
        said = {key: text for key, text in found.items() if text}
        if not said:
            return b""
        encoded = cbor.encode({LANGUAGE: said})
        self.from_bytes(encoded)
        return encoded

    @classmethod
    def from_bytes(cls, data: bytes) -> "Provenance":
        """Raises Refused TOO_LARGE, and MALFORMED also for characters that a terminal would obey."""
        what = "text"
        by_language = cbor.decode(data, what, TEXT_LIMIT_BYTES)
        if not isinstance(by_language, dict) or len(by_language) != 1:
            raise malformed(what, "not a map with the texts of one language")
        ((language, texts),) = by_language.items()
        if not isinstance(language, str):
            raise malformed(what, "a language is not text")
        known = (_ADVISORY, _REVISION, _BUILDER, _SBOM, _CVES, _ORIGIN)
        fields = Fields(texts, what, known, Unknown.IGNORE)
        cves = tuple(_line(fields, _CVES, CVES_LIMIT).split())
        if len(cves) > CVE_LIMIT or not all(_CVE.fullmatch(each) for each in cves):
            raise malformed(what, f"not at most {CVE_LIMIT} names such as CVE-2026-12345")
        return cls(
            revision=_line(fields, _REVISION),
            builder=_line(fields, _BUILDER),
            sbom=_digest(_line(fields, _SBOM)),
            advisory=_text(fields, _ADVISORY, ADVISORY_LIMIT, "\n"),
            cves=cves,
            origin=_line(fields, _ORIGIN),
        )


def text_digest(text: bytes) -> bytes:
    """The SHA-256 that the manifest has of a severable text: of its byte string (draft-ietf-suit-manifest, section 8.4.12)."""
    return cbor.sha256(cbor.encode(text)) if text else b""


def _line(fields: Fields, key: int, limit: int = LINE_LIMIT) -> str:
    return _text(fields, key, limit, "")


def _text(fields: Fields, key: int, limit: int, keep: str) -> str:
    if key not in fields:
        return ""
    value = fields.text(key, limit)
    if wrong := next((each for each in value if not each.isprintable() and each not in keep), ""):
        raise malformed("text", f"field {key} has the character U+{ord(wrong):04X}, which is not for terminals")
    return value


def _digest(text: str) -> bytes:
    if text and not re.fullmatch("[0-9a-f]{64}", text):
        raise malformed("text", "the digest of the bill of materials is not a SHA-256 in hexadecimal")
    return bytes.fromhex(text)

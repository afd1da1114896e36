"""Kind and text of an update: what is signed, what may be severed, and what a terminal is not made to do."""

from dataclasses import replace

import pytest

from ota.author.build import sign
from ota.formats import cbor, suit
from ota.formats.describe import describe
from ota.formats.fields import NON_CRITICAL
from ota.formats.manifest import MANIFEST_LIMIT_BYTES, verify_any
from ota.formats.module import ModuleDescription
from ota.formats.provenance import ADVISORY_LIMIT, CVE_LIMIT, LANGUAGE, TEXT_LIMIT_BYTES, Kind, Provenance, text_digest
from ota.formats.reasons import Reason, Refused
from ota.keyring import SigningKey
from tests.support.signing import Signer

SAID = Provenance(
    "git:0123abcd",
    "builder 7",
    b"s" * 32,
    "Two frames\nin one packet",
    ("CVE-2026-1234", "CVE-2026-12345"),
    "oci://registry.example/x@sha256:00",
)
SIGNER = Signer()
UPDATE = SIGNER.update(bytes(3000))


def signed(text: bytes, digest: bytes | None = None, kind: Kind = Kind.UNSPECIFIED) -> bytes:
    """An envelope with a text, by the release key; `digest`: what the manifest has of it."""
    digest = text_digest(text) if digest is None else digest
    manifest = replace(UPDATE.manifest, text_digest=digest, module=replace(UPDATE.manifest.module, kind=kind))
    return sign(manifest, UPDATE.blob, UPDATE.index, [SIGNER.keys["release"]], text).envelope


def refusal(function, *values) -> Refused:
    with pytest.raises(Refused) as caught:
        function(*values)
    return caught.value


def rows(envelope: bytes) -> list[tuple[str, str]]:
    return list(describe(envelope).rows)


def test_what_is_said_reads_back():
    for said in (SAID, Provenance(advisory="x"), replace(SAID, cves=())):
        assert Provenance.from_bytes(said.to_bytes()) == said
    assert Provenance().to_bytes() == b""


def test_text_and_kind_are_shown():
    shown = rows(signed(SAID.to_bytes(), kind=Kind.SECURITY))
    assert {("update", "security"), ("revision", "git:0123abcd"), ("mends", "CVE-2026-12345")} <= set(shown)
    values = describe(signed(SAID.to_bytes(), kind=Kind.SECURITY)).values
    assert (values["kind_of_update"], values["text"]["cves"]) == ("security", ["CVE-2026-1234", "CVE-2026-12345"])


def test_an_envelope_that_lost_its_text_verifies_and_says_so():
    whole = suit.Envelope.from_bytes(signed(SAID.to_bytes()), MANIFEST_LIMIT_BYTES)
    blocks = cbor.decode(suit_member(signed(SAID.to_bytes()), suit.AUTHENTICATION), "test", 1 << 16)[1:]
    severed = suit.encode_envelope(whole.manifest_bytes, blocks)
    assert verify_any(severed, SIGNER.root()).manifest == verify_any(signed(SAID.to_bytes()), SIGNER.root()).manifest
    assert ("text", "was severed") in rows(severed)


def suit_member(envelope: bytes, member: int) -> bytes:
    return cbor.decode(envelope, "test", 1 << 16, (suit.ENVELOPE_TAG,)).value[member]


def test_a_text_that_does_not_match_its_digest_is_refused():
    other = replace(SAID, advisory="Nothing to see").to_bytes()
    error = refusal(verify_any, signed(other, text_digest(SAID.to_bytes())), SIGNER.root())
    assert error.reason is Reason.SEVERED_MISMATCH
    assert error.detail.startswith("the digest of text is ")


def test_a_text_that_was_put_into_an_envelope_without_its_digest_is_refused():
    assert refusal(verify_any, signed(SAID.to_bytes(), b""), SIGNER.root()).reason is Reason.MALFORMED


def test_a_text_that_is_too_large_is_refused_by_boards_and_authors():
    text = cbor.encode({LANGUAGE: {2: "x" * TEXT_LIMIT_BYTES}})
    error = refusal(verify_any, signed(text), SIGNER.root())
    assert (error.reason, str(TEXT_LIMIT_BYTES) in error.detail) == (Reason.TOO_LARGE, True)
    assert refusal(Provenance.from_bytes, text).reason is Reason.TOO_LARGE
    assert refusal(replace(SAID, advisory="x" * (ADVISORY_LIMIT + 1)).to_bytes).reason is Reason.MALFORMED


@pytest.mark.parametrize("member", [suit.PAYLOAD_FETCH, suit.INSTALL])
def test_another_severed_part_than_text_is_refused(member):
    envelope = cbor.decode(signed(SAID.to_bytes()), "test", 1 << 16, (suit.ENVELOPE_TAG,))
    manifest = cbor.decode(envelope.value[suit.MANIFEST], "test", 1 << 16)
    part = manifest.get(member, cbor.encode([]))
    manifest[member] = [suit.SHA_256, cbor.sha256(cbor.encode(part))]
    encoded = cbor.encode(manifest)
    wrapper = cbor.encode([suit.signed_digest(encoded), SIGNER.keys["release"].sign1(suit.signed_digest(encoded))])
    envelope.value.update({suit.AUTHENTICATION: wrapper, suit.MANIFEST: encoded, member: part})
    assert refusal(verify_any, cbor.encode(envelope), SIGNER.root()).reason is Reason.COMMAND_UNSUPPORTED


@pytest.mark.parametrize("text", ["\x1b[2J", "a\rb", "\u202eevil", "a\x00", "\x9b31m"])
@pytest.mark.parametrize("field", ["advisory", "revision", "builder"])
def test_characters_that_a_terminal_obeys_are_not_signed_and_not_shown(field, text):
    assert refusal(replace(SAID, **{field: text}).to_bytes).reason is Reason.MALFORMED
    key = {"advisory": 2, "revision": -1, "builder": -2}[field]
    shown = rows(signed(cbor.encode({LANGUAGE: {key: text}})))  # somebody signed it all the same
    assert all(each.isprintable() for row in shown for each in row)
    assert any(label == "text" and each.startswith("is not shown (malformed: text: ") for label, each in shown)


def test_a_line_of_an_advisory_does_not_pass_for_a_row_of_its_own():
    shown = rows(signed(replace(SAID, advisory="x\nsigned by  the auditor").to_bytes()))
    assert ("advisory", "signed by  the auditor") in shown
    assert all("\n" not in text for _, text in shown)


@pytest.mark.parametrize("name", ["CVE-26-1", "cve-2026-1234", "CVE-2026-1234;rm", "GHSA-xxxx"])
def test_what_is_no_name_of_a_vulnerability_is_refused(name):
    assert refusal(replace(SAID, cves=(name,)).to_bytes).reason is Reason.MALFORMED


def test_each_text_is_read_up_to_its_limit():
    longest = "CVE-2026-" + "1" * 19
    for member, good, bad in (
        (2, "a" * 4000, "a" * 4001),
        (-1, "r" * 256, "r" * 257),
        (-2, "b" * 256, "b" * 257),
        (-4, " ".join([longest] * 64), " ".join([longest] * 64) + "  "),
        (-4, longest, longest + "1"),
        (-5, "o" * 256, "o" * 257),
    ):
        assert Provenance.from_bytes(cbor.encode({LANGUAGE: {member: good}}))
        assert refusal(Provenance.from_bytes, cbor.encode({LANGUAGE: {member: bad}})).reason is Reason.MALFORMED
    assert refusal(Provenance.from_bytes, bytes(8192)).reason is Reason.MALFORMED
    assert refusal(Provenance.from_bytes, bytes(8193)).reason is Reason.TOO_LARGE


def test_the_numbers_of_texts_and_kinds_are_those_of_manifests():
    assert cbor.decode(SAID.to_bytes(), "test", 1 << 14) == {
        "und": {
            2: SAID.advisory,
            -1: SAID.revision,
            -2: SAID.builder,
            -3: SAID.sbom.hex(),
            -4: " ".join(SAID.cves),
            -5: SAID.origin,
        }
    }
    assert {name: kind.value for name, kind in Kind.__members__.items()} == {
        "UNSPECIFIED": 0,
        "FUNCTIONAL": 1,
        "SECURITY": 2,
        "UNKNOWN": -1,
    }


def test_more_names_than_the_limit_are_refused():
    names = tuple(f"CVE-2026-{number:04}" for number in range(CVE_LIMIT + 1))
    assert Provenance.from_bytes(replace(SAID, cves=names[:-1]).to_bytes()).cves == names[:-1]
    assert refusal(replace(SAID, cves=names).to_bytes).reason is Reason.MALFORMED


@pytest.mark.parametrize("text", [[], {}, {1: {}}, {"en": {}, "de": {}}, {"en": []}, {"en": {2: 1}}, {"en": {-3: "00"}}])
def test_a_text_of_another_form_is_refused_where_it_is_shown_and_harmless_on_boards(text):
    encoded = cbor.encode(text)
    assert refusal(Provenance.from_bytes, encoded).reason is Reason.MALFORMED
    assert verify_any(signed(encoded), SIGNER.root())


@pytest.mark.parametrize(("number", "kind"), [(1, Kind.FUNCTIONAL), (2, Kind.SECURITY), (0, Kind.UNKNOWN), (3, Kind.UNKNOWN)])
def test_a_kind_that_is_unknown_is_kept_apart_from_one_that_is_not_said(number, kind):
    value = cbor.decode(UPDATE.manifest.module.to_bytes(), "test", 1 << 16) | {NON_CRITICAL + 1: number}
    assert ModuleDescription.from_bytes(cbor.encode(value)).kind is kind
    assert UPDATE.manifest.kind is Kind.UNSPECIFIED


def test_what_the_text_says_of_security_makes_no_security_update():
    assert verify_any(signed(SAID.to_bytes()), SIGNER.root()).manifest.kind is Kind.UNSPECIFIED


def test_a_text_stays_where_it_is_when_another_person_signs():
    once = signed(SAID.to_bytes())
    envelope = suit.Envelope.from_bytes(once, MANIFEST_LIMIT_BYTES)
    twice = suit.add_signature(once, SigningKey.generate().sign1(envelope.digest), MANIFEST_LIMIT_BYTES)
    found = suit.Envelope.from_bytes(twice, MANIFEST_LIMIT_BYTES)
    assert (len(found.signatures), found.severed) == (2, {suit.TEXT: SAID.to_bytes()})
    assert verify_any(twice, SIGNER.root())

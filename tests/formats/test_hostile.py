"""Well-formed CBOR with the wrong things in it: every reader refuses with `Refused`, whatever is put where."""

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ota.formats import cbor, deployment, manifest, suit, trust
from ota.formats.chunks import ChunkIndex
from ota.formats.cose import Sign1
from ota.formats.provenance import Provenance
from ota.formats.reasons import Refused
from ota.formats.report import Report, decode_logs, decode_messages
from ota.formats.trust import ROOT_TYPE
from ota.keyring import sign_document
from tests.formats.test_others import REPORT
from tests.support.signing import Signer, acceptance

SIGNER = Signer()
UPDATE = SIGNER.update(b"\0asm\x01\0\0\0" + bytes(3000))
KEYS = st.integers(-30, 30) | st.text(max_size=3) | st.binary(max_size=3) | st.booleans() | st.none() | st.tuples(st.integers(0, 3))
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def replaced(value, data):
    """The value with something, somewhere, replaced by anything."""
    if isinstance(value, dict) and value and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(value, key=repr)))
        if data.draw(st.booleans()):
            return {**value, key: replaced(value[key], data)}
        return {**value, data.draw(KEYS): value[key]}
    if isinstance(value, list) and value and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(value) - 1))
        return [*value[:at], replaced(value[at], data), *value[at + 1 :]]
    return data.draw(ANYTHING)


def reads_or_refuses(read, content) -> bool:
    """Whether the content is read, or refused with a word on why; any other exception comes out."""
    try:
        read(content)
    except Refused as error:
        return bool(error.detail)
    return True


@settings(max_examples=400)
@given(st.data())
def test_a_signature_with_anything_in_it(data):
    value = replaced([{1: -8, 4: b"key", 16: "type"}, {}, None, bytes(64)], data)
    if isinstance(value, list) and value:
        value[0] = cbor2.dumps(value[0], canonical=True)
    key = SIGNER.keys["root"].public
    assert reads_or_refuses(lambda content: Sign1.from_bytes(content).verify(key, b"payload"), cbor2.dumps(value, canonical=True))


@settings(max_examples=400)
@given(st.data())
def test_a_signed_manifest_with_anything_in_it(data):
    value = cbor.decode(UPDATE.manifest.to_bytes(), "manifest", 1 << 20)
    for key in (suit.COMMON, suit.VALIDATE, suit.INVOKE, suit.INSTALL):
        value[key] = cbor.decode(value[key], "section", 1 << 20)
    value = replaced(value, data)
    if isinstance(value, dict):
        value = {key: cbor2.dumps(each, canonical=True) if isinstance(each, (list, dict)) else each for key, each in value.items()}
    payload = cbor2.dumps(value, canonical=True)
    envelope = suit.encode_envelope(payload, [SIGNER.keys["release"].sign1(suit.signed_digest(payload))])
    assert reads_or_refuses(lambda content: manifest.verify(content, SIGNER.root(), acceptance()), envelope)


@settings(max_examples=300)
@given(st.data())
def test_a_signed_root_or_deployment_with_anything_in_it(data):
    root = replaced(cbor.decode(SIGNER.root().to_payload(), "root", 1 << 20), data)
    assert reads_or_refuses(trust.first_root, sign_document(cbor2.dumps(root, canonical=True), ROOT_TYPE, [SIGNER.keys["root"]]))
    wanted = replaced(cbor.decode(SIGNER.deployment(bytes(32))[0].to_payload(), "deployment", 1 << 20), data)
    document = sign_document(cbor2.dumps(wanted, canonical=True), deployment.DEPLOYMENT_TYPE, [SIGNER.keys["deploy"]])
    assert reads_or_refuses(lambda content: deployment.verify(content, SIGNER.root(), group="lab"), document)


@settings(max_examples=300)
@given(st.data())
def test_reports_and_indexes_with_anything_in_them(data):
    report = cbor2.dumps(replaced(cbor.decode(REPORT.to_bytes(), "report", 1 << 20), data), canonical=True)
    index = cbor2.dumps(replaced(cbor.decode(UPDATE.index.to_bytes(), "index", 1 << 20), data), canonical=True)
    assert reads_or_refuses(lambda content: ChunkIndex.from_bytes(content, cbor.sha256(content), bytes(32), 3), index)
    for read in (Report.from_bytes, decode_logs, decode_messages):
        assert reads_or_refuses(read, report)


def test_an_algorithm_that_is_a_list_is_refused():
    message = cbor2.dumps([cbor2.dumps({1: []}), {}, None, bytes(64)])
    with pytest.raises(Refused, match="names algorithm"):
        Sign1.from_bytes(message).verify(SIGNER.keys["root"].public, b"payload")


def test_a_command_that_is_true_is_not_command_one():
    with pytest.raises(Refused, match="command True"):
        suit.command_sequence(cbor2.dumps([True, 15]), "sequence")


@settings(max_examples=400)
@given(st.data())
def test_a_text_with_anything_in_it(data):
    text = {"und": {2: "words\nmore", -1: "v1", -2: "runner", -3: "00" * 32, -4: "CVE-2026-1000"}}
    assert reads_or_refuses(Provenance.from_bytes, cbor2.dumps(replaced(text, data), canonical=True))

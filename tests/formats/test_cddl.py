"""docs/reference/documents.cddl says what the code writes and reads: everything that it writes fits, and what has another shape is
refused by both.
"""

import logging

import pytest

cddl_verifier = pytest.importorskip("cddl_verifier", reason="cddl-verifier is not installed")

from ota.formats import cbor
from ota.formats.agent import AgentDescription
from ota.formats.deployment import Deployment
from ota.formats.encryption import GroupKey
from ota.formats.enrolment import Request
from ota.formats.key_delivery import KeyDelivery
from ota.formats.module import ModuleDescription
from ota.formats.provenance import Provenance
from ota.formats.reasons import Refused
from ota.formats.renewal import RenewalRequest
from ota.formats.report import (
    InstanceReport,
    Report,
    decode_logs,
    decode_messages,
)
from ota.formats.trust import Root
from tests.conftest import ROOT
from tests.support.documents import WRITTEN, content

logging.getLogger("cddl_verifier").disabled = True
SCHEMA = cddl_verifier.Validator(ROOT / "docs" / "reference" / "documents.cddl")
READERS = {
    "root": (content(WRITTEN["root-document"]), Root.from_payload),
    "deployment": (content(WRITTEN["deployment-document"]), Deployment.from_payload),
    "module": (WRITTEN["module"], ModuleDescription.from_bytes),
    "agent": (WRITTEN["agent"], AgentDescription.from_bytes),
    "group-key": (WRITTEN["group-key"], GroupKey.from_bytes),
    "group-keys": (content(WRITTEN["group-keys-document"]), KeyDelivery.from_payload),
    "text-map": (WRITTEN["text-map"], Provenance.from_bytes),
    "report": (WRITTEN["report"], Report.from_bytes),
    "instance-report": (WRITTEN["instance-report"], InstanceReport.from_bytes),
    "logs": (WRITTEN["logs"], decode_logs),
    "telemetry": (WRITTEN["telemetry"], decode_messages),
    "enrolment-request": (WRITTEN["enrolment-request"], Request.from_bytes),
    "renewal-request": (WRITTEN["renewal-request"], RenewalRequest.from_payload),
}
VALUES = (None, True, 0, -1, 1 << 40, "", "a name/", b"", bytes(33), [], {}, 1.5)


def fits(kind, data):
    return SCHEMA.validate(data, kind).valid


@pytest.mark.parametrize("kind", WRITTEN)
def test_what_is_written_fits(kind):
    found = SCHEMA.validate(WRITTEN[kind], kind, require_deterministic=True)
    assert found.valid, [each.message for each in found.diagnostics]


@pytest.mark.parametrize("kind", [each for each in WRITTEN if each not in ("module", "agent", "text-map", "group-key")])
def test_a_document_is_of_one_kind(kind):
    """Reports differ by their members, signed documents by the type that signatures name."""
    assert [each for each in WRITTEN if each in READERS and each != kind and fits(each, WRITTEN[kind])] == []


def mutations(value, whole=()):
    """The same, but for what is below the keys of `whole`, with one part taken away, or another in its place, or one more."""
    if isinstance(value, dict):
        for key, part in value.items():
            rest = {each: other for each, other in value.items() if each != key}
            yield rest
            yield from (rest | {key: each} for each in VALUES)
            yield from (rest | {key: each} for each in (() if key in whole else mutations(part)))
        yield value | {63: 0}
        yield value | {100: 0}
        yield value | {"more": 0}
    elif isinstance(value, list):
        for at, part in enumerate(value):
            yield value[:at] + value[at + 1 :]
            yield from ([*value[:at], each, *value[at + 1 :]] for each in (*VALUES, *mutations(part)))
        yield [*value, 0]


def is_read(reader, data):
    try:
        reader(data)
    except Refused:
        return False
    return True


@pytest.mark.parametrize("kind", READERS)
def test_schema_and_code_refuse_the_same(kind):
    """The schema never refuses what the code reads. What the code refuses and the schema does not is what CDDL can't say."""
    data, reader = READERS[kind]
    stricter, laxer, refused = [], [], 0
    for value in mutations(cbor.decode(data, "test", 1 << 20), WHOLE.get(kind, ())):
        changed = cbor.encode(value)
        read, fit = is_read(reader, changed), fits(kind, changed)
        refused += not read
        if read and not fit:
            stricter.append(value)
        if fit and not read:
            laxer.append(value)
    assert stricter == []
    assert refused > 10
    assert len(laxer) <= BEYOND.get(kind, 0), laxer


WHOLE = {"root": (6,)}
"""Keys: any that is of no known type is kept, so the schema takes everything that has a type."""
BEYOND = {"root": 3, "agent": 9}
"""How many of the changes the code refuses for what CDDL can't say: order, relations between members, the meaning of texts."""

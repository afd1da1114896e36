"""Every limit holds for both sides: what one may write the other reads; one beyond is cut, or refused by the limit's name."""

from dataclasses import replace

import pytest

from ota.author.build import BuildError, prepare
from ota.formats import cbor, report, trust
from ota.formats import deployment as deployments
from ota.formats.capabilities import MAX_FILTERS, QUOTA_LIMIT_BYTES, Capabilities
from ota.formats.chunks import BLOB_LIMIT_BYTES, CHUNK_MIN_BYTES, INDEX_LIMIT_BYTES, ChunkIndex
from ota.formats.deployment import DEPLOYMENT_TYPE
from ota.formats.module import CONFIG_LIMIT_BYTES, ModuleDescription
from ota.formats.reasons import Reason, Refused
from ota.formats.report import (
    InstanceReport,
    LogRecord,
    Message,
    Refusal,
    Report,
    Running,
    Summary,
    decode_logs,
    decode_messages,
    encode_logs,
    encode_messages,
)
from ota.formats.signed import MAX_SIGNATURES, Role, SignedDocument
from ota.formats.topics import TOPIC_CHARACTERS
from ota.formats.trust import MAX_KEYS, ROOT_LIMIT_BYTES, ROOT_TYPE
from ota.keyring import SigningKey, sign_document
from tests.formats.test_others import INSTANCE_REPORT, REPORT
from tests.support.operator import ota
from tests.support.signing import Signer
from tests.support.wat import contract_module

SIGNER = Signer()
WIDE = "\U0001f4a1"  # four bytes in UTF-8


def refusal(function, *values) -> Refused:
    with pytest.raises(Refused) as caught:
        function(*values)
    return caught.value


def fullest(more: int = 0) -> Report:
    """A report with everything at its limit, or `more` beyond."""
    word = WIDE * (report.WORD_CHARACTERS + more)
    return replace(
        REPORT,
        agent=word,
        instances=(Summary("n" * 64, *("v" * 64,) * 2, (1 << 63) - 1, *("w" * 64,) * 3),) * (report.INSTANCES + more),
        refusals=(Refusal("group", 1, "r" * 64, WIDE * (report.DETAIL_CHARACTERS + more)),) * (report.REFUSALS + more),
        counters={f"{number:064d}": (1 << 63) - 1 for number in range(report.COUNTERS + more)},
        problems=(WIDE * (report.PROBLEM_CHARACTERS + more),) * (report.PROBLEMS + more),
    )


def test_a_report_with_everything_at_its_limit_is_read():
    data = fullest().to_bytes()
    assert len(data) <= report.REPORT_LIMIT_BYTES
    assert Report.from_bytes(data) == fullest()


def test_a_report_beyond_its_limits_is_cut_and_read():
    assert Report.from_bytes(fullest(1).to_bytes()) == fullest()


def fullest_instance(more: int = 0) -> InstanceReport:
    """A report of an instance with everything at its limit, or `more` beyond."""
    return replace(
        INSTANCE_REPORT,
        running=replace(INSTANCE_REPORT.running, lacking=(WIDE * (report.WORD_CHARACTERS + more),) * (report.LACKING + more)),
        attempt=replace(INSTANCE_REPORT.attempt, detail=WIDE * (report.DETAIL_CHARACTERS + more)),
        counters={f"{number:064d}": (1 << 63) - 1 for number in range(report.COUNTERS + more)},
    )


def test_a_report_of_an_instance_with_everything_at_its_limit_or_beyond_is_read():
    for more in (0, 1):
        data = fullest_instance(more).to_bytes()
        assert len(data) <= report.REPORT_LIMIT_BYTES
        assert InstanceReport.from_bytes(data) == fullest_instance()


@pytest.mark.parametrize(
    ("where", "content"),
    [
        (("counters",), {str(number): 0 for number in range(report.COUNTERS + 1)}),
        (("problems",), [""] * (report.PROBLEMS + 1)),
        (("problems",), ["x" * (report.PROBLEM_CHARACTERS + 1)]),
        (("refusals", 0, "detail"), "x" * (report.DETAIL_CHARACTERS + 1)),
        (("instances",), [{}] * (report.INSTANCES + 1)),
        (("instances", 0, "version"), "x" * (report.WORD_CHARACTERS + 1)),
        (("agent",), "x" * (report.WORD_CHARACTERS + 1)),
    ],
)
def test_a_report_of_another_writer_beyond_a_limit_is_refused(where, content):
    value = cbor.decode(REPORT.to_bytes(), "report", 1 << 16)
    inner = value
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = content
    assert refusal(Report.from_bytes, cbor.encode(value)).reason is Reason.MALFORMED


def test_a_counter_whose_name_is_no_name_is_left_out_on_both_sides():
    strange = replace(REPORT, counters={"äöü": 1, "a b": 2, "x" * 65: 3, "good": 4})
    assert Report.from_bytes(strange.to_bytes()).counters == {"good": 4}
    value = cbor.decode(REPORT.to_bytes(), "report", 1 << 16) | {"counters": {"äöü": 1, "good": 4}}
    assert Report.from_bytes(cbor.encode(value)).counters == {"good": 4}


def test_batches_are_read_up_to_their_limits():
    logs = [LogRecord(1.0, "info", "", "", "")] * report.BATCH_LIMIT_RECORDS
    assert decode_logs(encode_logs("d", 1, logs)).records == logs
    error = refusal(decode_logs, encode_logs("d", 1, [*logs, logs[0]]))
    assert error.detail == "log records: field 'records' has 1001 items, the limit is 1000"
    empty = len(encode_messages("d", 1, [Message(1, 1.0, "i", "m 1", "a", bytes(1 << 16))])) - (1 << 16)
    fitting = Message(1, 1.0, "i", "m 1", "a", bytes(report.BATCH_LIMIT_BYTES - empty))
    assert len(encode_messages("d", 1, [fitting])) == report.BATCH_LIMIT_BYTES
    assert decode_messages(encode_messages("d", 1, [fitting])).records == [fitting]
    beyond = encode_messages("d", 1, [fitting._replace(payload=fitting.payload + b"x")])
    assert refusal(decode_messages, beyond).reason is Reason.TOO_LARGE


def test_the_largest_blob_in_the_smallest_chunks_has_an_index_that_is_read():
    count = BLOB_LIMIT_BYTES // CHUNK_MIN_BYTES
    index = ChunkIndex(bytes(32), BLOB_LIMIT_BYTES, CHUNK_MIN_BYTES, (bytes(32),) * count)
    data = index.to_bytes()
    assert len(data) <= INDEX_LIMIT_BYTES
    assert ChunkIndex.from_bytes(data, cbor.sha256(data), bytes(32), BLOB_LIMIT_BYTES) == index


def test_a_root_with_all_keys_that_it_may_have_is_read():
    keys = [SigningKey.generate("es256") for _ in range(MAX_KEYS + 1)]

    def rooted(*root_keys: SigningKey) -> trust.Root:
        parts = {"root": root_keys, "release": keys[:1], "deploy": keys[1:2]}
        return SIGNER.root(
            roles={name: Role({each.public.key_id: each.public for each in part}, 1) for name, part in parts.items()}
        )

    root = rooted(*keys[2:MAX_KEYS])
    document = sign_document(root.to_payload(), ROOT_TYPE, [keys[2]] * MAX_SIGNATURES)
    assert len(document) <= ROOT_LIMIT_BYTES
    assert trust.first_root(document) == root
    error = refusal(trust.first_root, sign_document(rooted(*keys[2:]).to_payload(), ROOT_TYPE, [keys[2]]))
    assert error.detail == f"root document: {MAX_KEYS + 1} keys, the limit is {MAX_KEYS}"


def test_a_document_has_as_many_signatures_as_it_may():
    payload = SIGNER.deployment(bytes(32))[0].to_payload()
    key = SIGNER.keys["deploy"]
    document = sign_document(payload, DEPLOYMENT_TYPE, [key] * MAX_SIGNATURES)
    assert deployments.verify(document, SIGNER.root(), group="lab")
    error = refusal(SignedDocument.from_bytes, sign_document(payload, DEPLOYMENT_TYPE, [key] * (MAX_SIGNATURES + 1)), "it", 1 << 16)
    assert error.detail == f"it: {MAX_SIGNATURES + 1} signatures, the limit is {MAX_SIGNATURES}"


@pytest.mark.parametrize(
    ("name", "fits", "beyond", "named"),
    [
        ("messaging.subscribe", [f"t/{n}" for n in range(MAX_FILTERS)], [f"t/{n}" for n in range(MAX_FILTERS + 1)], MAX_FILTERS),
        ("messaging.publish", ["x" * TOPIC_CHARACTERS], ["x" * (TOPIC_CHARACTERS + 1)], TOPIC_CHARACTERS),
        ("keyvalue.quota_bytes", QUOTA_LIMIT_BYTES, QUOTA_LIMIT_BYTES + 1, QUOTA_LIMIT_BYTES),
    ],
)
def test_a_limit_of_a_capability_is_named_where_it_is_exceeded(name, fits, beyond, named):
    interface, argument = name.split(".")
    parsed = Capabilities.parse({interface: {argument: fits}}, "manifest")
    assert Capabilities.parse(parsed.to_value(), "manifest") == parsed
    error = refusal(Capabilities.parse, {interface: {argument: beyond}}, "manifest")
    assert name in error.detail
    assert str(named) in error.detail


def described(folder, config: str):
    module = folder / "module.wasm"
    module.write_bytes(contract_module())
    module.with_suffix(".toml").write_text(f'[module]\nname = "m"\nversion = "1"\nconfig = "{config}"\n')
    return module


def test_what_a_board_refuses_in_a_description_is_refused_when_it_is_built_and_when_it_is_tried(tmp_path, capfd):
    fitting = described(tmp_path, "x" * CONFIG_LIMIT_BYTES)
    draft = prepare(fitting, "test.example")
    assert ModuleDescription.from_bytes(draft.manifest.module.to_bytes()) == draft.manifest.module
    assert ota(tmp_path, "run", fitting) == 0
    beyond = described(tmp_path, "x" * (CONFIG_LIMIT_BYTES + 1))
    with pytest.raises((BuildError, Refused), match=f"the limit is {CONFIG_LIMIT_BYTES}"):
        prepare(beyond, "test.example")
    capfd.readouterr()
    assert ota(tmp_path, "run", beyond) == 1
    assert f"the limit is {CONFIG_LIMIT_BYTES}" in capfd.readouterr().err


def test_nothing_that_runs_is_too_long_for_a_report():
    """Names and versions of modules are names, which a report has room for."""
    running = Running("x" * 64, "y" * 64, bytes(32), bytes(32), (1 << 63) - 1, "confirmed", "interpreter")
    assert InstanceReport.from_bytes(replace(INSTANCE_REPORT, running=running).to_bytes()).running == running

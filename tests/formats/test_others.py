"""Chunk indexes, capabilities, topics, reports, module shapes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.formats import capabilities, chunks, topics, wasm
from ota.formats.broker_url import BrokerUrl
from ota.formats.capabilities import Capabilities
from ota.formats.cbor import decode, encode, sha256
from ota.formats.chunks import ChunkIndex
from ota.formats.reasons import Reason, Refused
from ota.formats.report import (
    Attempt,
    Batch,
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
from tests.support.wat import contract_module


def refusal(function, *values) -> Refused:
    with pytest.raises(Refused) as caught:
        function(*values)
    return caught.value


def read_index(index: ChunkIndex, data: bytes | None = None) -> ChunkIndex:
    data = index.to_bytes() if data is None else data
    return ChunkIndex.from_bytes(data, sha256(data), index.digest, index.size)


@given(st.binary(min_size=1, max_size=10_000), st.integers(1024, 5000))
def test_the_chunks_make_the_blob(blob, size):
    index = ChunkIndex.of(blob, size)
    assert read_index(index) == index
    pieces = [blob[number * size : (number + 1) * size] for number in range(len(index.digests))]
    for number, piece in enumerate(pieces):
        index.check(number, piece)
        assert len(piece) == index.chunk_size(number)
    assert b"".join(pieces) == blob


@given(st.binary(min_size=1500, max_size=5000), st.data())
def test_a_changed_chunk_is_refused(blob, data):
    index = ChunkIndex.of(blob, 1024)
    number = data.draw(st.integers(0, len(index.digests) - 1))
    chunk = bytearray(blob[number * 1024 : (number + 1) * 1024])
    chunk[data.draw(st.integers(0, len(chunk) - 1))] ^= 0x10
    assert refusal(index.check, number, bytes(chunk)).reason is Reason.CHUNK_DIGEST_MISMATCH
    assert refusal(index.check, number, bytes(chunk[:-1])).reason is Reason.CHUNK_DIGEST_MISMATCH


def test_an_index_that_the_manifest_does_not_name_is_refused():
    index = ChunkIndex.of(bytes(3000), 1024)
    assert refusal(ChunkIndex.from_bytes, index.to_bytes(), bytes(32), index.digest, 3000).reason is Reason.INDEX_MISMATCH
    data = index.to_bytes()
    assert refusal(ChunkIndex.from_bytes, data, sha256(data), bytes(32), 3000).reason is Reason.INDEX_MISMATCH
    assert refusal(ChunkIndex.from_bytes, bytes(chunks.INDEX_LIMIT_BYTES + 1), b"", b"", 1).reason is Reason.TOO_LARGE


@pytest.mark.parametrize("change", [{3: 4000}, {4: 100}, {4: 1 << 20}, {5: bytes(64)}, {5: bytes(95)}])
def test_an_index_that_contradicts_itself_is_refused(change):
    index = ChunkIndex.of(bytes(3000), 1024)
    value = {1: 1, 2: index.digest, 3: 3000, 4: 1024, 5: b"".join(index.digests)} | change
    assert refusal(read_index, index, encode(value)).reason in (Reason.MALFORMED, Reason.INDEX_MISMATCH)


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        ("#", "a/b", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "b", False),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/+", "a/+", True),
        ("a/+", "a/#", False),
        ("a/b", "a/+", False),
        ("+/b", "a/b", True),
        ("a", "a", True),
        ("a", "a/b", False),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("a/#", "ab", False),
        ("a/#", "ab/c", False),
        ("a/#", "a/#", True),
        ("a/#", "a/+", True),
        ("a/#", "#", False),
        ("a/b/#", "a/#", False),
        ("/#", "", True),
        ("a/+/#", "a/b", True),
        ("a/+/#", "a", False),
    ],
)
def test_one_filter_covers_another(wide, narrow, covered):
    assert topics.covers(wide, narrow) is covered


def test_filters_and_topics_are_told_apart():
    assert topics.is_topic("a/b")
    assert topics.is_filter("a/+/#")
    for bad in ("", "a/#/b", "a#", "a+/b", "a\0b", "x" * 300):
        assert not topics.is_filter(bad)
    assert not topics.is_topic("a/+")


def test_names_cannot_smuggle_topic_levels():
    for name in ("a/b", "#", "", ".x", "a b", "ä", "x" * 65):
        with pytest.raises(ValueError, match="level of a topic"):
            topics.desired(name)


GRANTED = Capabilities.parse(
    {"logging": {}, "messaging": {"publish": ["a/#"], "subscribe": ["in/+"]}, "keyvalue": {"quota_bytes": 100}}, "policy"
)


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("/dev/ttyUSB0", True),
        ("/dev/serial/by-id/usb-1a86_USB2.0-Serial-if00-port0", True),
        ("/dev/serial/by-path/platform-fd500000.pcie-pci-0000:01:00.0-usb-0:1.3:1.0-port0", True),
        ("/dev/../etc/passwd", False),
        ("/dev/a/./b", False),
        ("/dev//a", False),
        ("/dev/", False),
        ("/dev", False),
        ("/etc/dev/a", False),
        ("/dev/a b", False),
        ("/dev/" + "a" * 220, False),
    ],
)
def test_serial_ports_are_paths_below_dev_that_lead_nowhere_else(path, is_one):
    given = {"serial": {"ports": [f"{path}:115200"]}}
    if is_one:
        assert capabilities.split_port(Capabilities.parse(given, "policy").items["serial"]["ports"][0]) == (path, 115200)
    else:
        assert refusal(Capabilities.parse, given, "policy").reason is Reason.MALFORMED


@pytest.mark.parametrize(
    ("declared", "missing"),
    [
        ({"logging": {}}, []),
        ({"messaging": {"publish": ["a/b", "a/+"]}}, []),
        ({"messaging": {"publish": ["b"]}}, ["messaging.publish b"]),
        ({"messaging": {"publish": ["#"]}}, ["messaging.publish #"]),
        ({"messaging": {"subscribe": ["in/a", "in/#"]}}, ["messaging.subscribe in/#"]),
        ({"keyvalue": {"quota_bytes": 101}}, ["keyvalue.quota_bytes 101 (granted 100)"]),
        ({"clock": {}, "config": {}}, ["clock", "config"]),
    ],
)
def test_everything_that_is_not_granted_is_named(declared, missing):
    wanted = Capabilities.parse(declared, "manifest")
    assert wanted.missing_from(GRANTED) == missing
    if missing:
        error = refusal(capabilities.check_granted, wanted, GRANTED)
        assert error.reason is Reason.CAPABILITY_DENIED
        assert str(error) == f"capability-denied: the board does not grant: {', '.join(missing)}"


@pytest.mark.parametrize(
    "value",
    [
        {"logging": []},
        {"messaging": {"publish": "a"}},
        {"messaging": {"publish": ["a#"]}},
        {"keyvalue": {"quota_bytes": -1}},
        {"keyvalue": {"quota_bytes": True}},
        [],
    ],
)
def test_a_capability_or_argument_of_another_form_is_refused(value):
    assert refusal(Capabilities.parse, value, "policy").reason is Reason.MALFORMED


@pytest.mark.parametrize(("value", "named"), [({"network": {}}, "'network'"), ({"logging": {"x": 1}}, "'x'")])
def test_an_unknown_capability_or_argument_is_refused_by_name(value, named):
    error = refusal(Capabilities.parse, value, "policy")
    assert error.reason is Reason.MEMBER_UNKNOWN
    assert named in error.detail


def test_an_undeclared_import_is_named():
    declared = Capabilities.parse({"logging": {}}, "manifest")
    capabilities.check_imports([("device:module/logging@0.1.0", "log")], declared)
    imports = [("device:module/clock@0.1.0", "now"), ("wasi_snapshot_preview1", "fd_write"), ("device:module/logging@0.1.0", "x")]
    error = refusal(capabilities.check_imports, imports, declared)
    assert error.reason is Reason.IMPORT_UNDECLARED
    assert all(f"{module}.{name}" in str(error) for module, name in imports)


def test_imports_without_end_are_named_in_part():
    imports = [("env", f"f{number}") for number in range(100_000)]
    error = refusal(capabilities.check_imports, imports, Capabilities({}))
    assert "env.f0, env.f1," in error.detail
    assert error.detail.endswith("and 99984 more")


def test_an_interface_in_part_is_refused():
    names = ["memory", "cabi_realloc", "device:module/events@0.1.0#handle", "device:module/state@0.1.0#save"]
    assert refusal(capabilities.check_exports, names).reason is Reason.EXPORT_MISSING
    assert capabilities.check_exports(names[:3]) == {"events"}
    assert refusal(capabilities.check_exports, names[:2]).reason is Reason.EXPORT_MISSING


def test_an_index_may_be_as_large_as_allowed_and_no_larger():
    for size, reason in ((chunks.INDEX_LIMIT_BYTES, Reason.INDEX_MISMATCH), (chunks.INDEX_LIMIT_BYTES + 1, Reason.TOO_LARGE)):
        assert refusal(chunks.ChunkIndex.from_bytes, bytes(size), bytes(32), bytes(32), 1).reason is reason


def test_the_shape_of_a_module_is_read():
    imports = '(import "device:module/clock@0.1.0" "now" (func (result i64)))'
    shape = wasm.read(contract_module(imports=imports))
    assert shape.imports == (("device:module/clock@0.1.0", "now"),)
    assert {"memory", "cabi_realloc", "device:module/events@0.1.0#handle"} <= set(shape.exports)


@given(st.binary(max_size=100).filter(lambda data: not data.startswith(b"\0asm\1\0\0\0")))
def test_garbage_is_no_module(data):
    assert refusal(wasm.read, data).reason is Reason.MALFORMED


@given(st.data())
def test_a_truncated_module_is_refused_or_read_in_part(data):
    whole = contract_module()
    try:
        wasm.read(whole[: data.draw(st.integers(0, len(whole) - 1))])
    except Refused as error:
        assert error.reason is Reason.MALFORMED


REPORT = Report(
    "d", "g", "generic", "0.1.0", 5, 6, (Summary("i", "m", "1", 3, "trial", "trial"),), (Refusal("group", 4, "malformed", "x"),),
    {"events": 7},
)  # fmt: skip
RUNNING = Running("m", "1", bytes(32), bytes(32), 3, "trial")
INSTANCE_REPORT = InstanceReport("d", "i", 5, RUNNING, Attempt("trial", bytes(16)), {"events": 7})


def test_reports_logs_and_messages_read_back():
    assert Report.from_bytes(REPORT.to_bytes()) == REPORT
    for documents in ({}, {"group": 3}, {"device": 4}, {"group": 3, "device": 4}):
        said = replace(REPORT, documents=documents)
        assert Report.from_bytes(said.to_bytes()) == said
    assert InstanceReport.from_bytes(INSTANCE_REPORT.to_bytes()) == INSTANCE_REPORT
    logs = [LogRecord(1.5, "info", "i", "m 1", "hello"), LogRecord(2.0, "error", "", "", "x")]
    assert decode_logs(encode_logs("d", 7, logs)) == Batch("d", 7, logs)
    messages = [Message(1, 1.25, "i", "m 1", "a/b", b"\0\xff")]
    assert decode_messages(encode_messages("d", 8, messages)) == Batch("d", 8, messages)


def test_a_report_keeps_the_first_problems_and_the_beginning_of_each():
    problems = tuple(f"storage-failing: {number} " + "x" * 300 for number in range(20))
    read = Report.from_bytes(replace(REPORT, problems=problems).to_bytes())
    assert read.problems == tuple(each[:200] for each in problems[:8])


def test_true_is_no_number():
    batch = {"v": 2, "device": "d", "counter": 1, "records": [[True, 1.0, "i", "m 1", "a/b", b""]]}
    assert refusal(decode_messages, encode(batch)).reason is Reason.MALFORMED
    value = decode(REPORT.to_bytes(), "report", 10_000)
    for key in ("v", "time", "uptime"):
        assert refusal(Report.from_bytes, encode(value | {key: True})).reason is Reason.MALFORMED
    assert refusal(Report.from_bytes, encode(value | {"counters": {"events": True}})).reason is Reason.MALFORMED
    for wrong in ({"group": True}, {"device": -1}, [3]):
        assert refusal(Report.from_bytes, encode(value | {"documents": wrong})).reason is Reason.MALFORMED
    assert Report.from_bytes(encode(value | {"documents": {"group": 3, "later": "x"}})).documents == {"group": 3}
    value = decode(INSTANCE_REPORT.to_bytes(), "report", 10_000)
    assert refusal(InstanceReport.from_bytes, encode(value | {"time": True})).reason is Reason.MALFORMED


@given(st.binary(max_size=200))
def test_garbage_is_no_report(data):
    for read in (Report.from_bytes, InstanceReport.from_bytes, decode_logs, decode_messages):
        try:
            assert read(data) == []
        except Refused as error:
            assert error.reason is Reason.MALFORMED


def test_broker_addresses():
    assert BrokerUrl.parse("mqtt://host") == BrokerUrl("host", 1883, tls=False)
    assert str(BrokerUrl.parse("mqtts://host:99")) == "mqtts://host:99"
    for bad in ("host", "http://host", "mqtt://", "mqtt://host:x", "mqtt://user:secret@host", "mqtt://host/path"):
        with pytest.raises(ValueError, match="mqtt"):
            BrokerUrl.parse(bad)
    for bad in (
        "mqtt://h:0",
        "mqtt://h:65536",
        "mqtt://::1",
        "mqtt://[::1",
        "mqtt://[::g]",
        "mqtt://a b",
        "mqtt://h?x=1",
        "mqtt://h#x",
    ):
        with pytest.raises(ValueError, match="mqtt"):
            BrokerUrl.parse(bad)
    for text in ("mqtt://[::1]:1883", "mqtts://[2001:db8::1]:8883", "mqtt://[fe80::1%eth0]:1883"):  # IPv6, with a zone perhaps
        assert str(BrokerUrl.parse(text)) == text

"""What `ota inspect` says of any file."""

import io
import json
from dataclasses import replace

import cbor2
import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from ota.author.build import prepare
from ota.formats import bundle, cbor, suit, topics
from ota.formats.describe import describe
from ota.formats.diagnostic import MAX_DEPTH, diagnostic
from ota.formats.enrolment import Token
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import Role
from ota.formats.signed_report import REPORT as REPORT_TYPE
from ota.formats.window import Window
from tests.formats.test_growth import NEW_KEY, signed_root
from tests.formats.test_others import INSTANCE_REPORT, REPORT
from tests.support.operator import ota
from tests.support.reports import identity, signed
from tests.support.signing import Signer
from tests.support.tools import wasm_tools
from tests.support.wat import OK, contract_module
from tests.support.worker_rig import PUBLISH

SIGNER = Signer()
WASM = contract_module()
UPDATE = SIGNER.update(WASM)
ROLES = dict(SIGNER.root().roles) | {"release": Role(SIGNER.root().roles["release"].keys, 1, {NEW_KEY.key_id: NEW_KEY})}
DEPLOYMENT, DEPLOYMENT_DOCUMENT = SIGNER.deployment(UPDATE.digest, expires_s=0)
TOKEN = Token(b"identify", b"s" * 32)
FILES = {
    "manifest": UPDATE.envelope,
    "root": signed_root(SIGNER.root(roles=ROLES), SIGNER.keys["root"]),
    "deployment": DEPLOYMENT_DOCUMENT,
    "report": signed(replace(REPORT, counter=9)),
    "instance report": signed(replace(INSTANCE_REPORT, counter=9)),
    "module": WASM,
    "enrolment token": TOKEN.to_text().encode(),
    "ahead-of-time image": b"\0aot....",
}


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_file_is_told_and_shown(kind):
    found = describe(FILES[kind])
    assert (found.kind, found.values["kind"], found.rows[0]) == (kind, kind, ("kind", kind))


@pytest.mark.parametrize("sequence", [{b"a": 1}, {1: {b"a": 2}}, float("nan"), "1"])
def test_a_sequence_number_that_is_none_is_not_shown(sequence, tmp_path, capsys):
    envelope = suit.encode_envelope(cbor.encode({suit.VERSION: 1, suit.SEQUENCE: sequence}), [])
    (tmp_path / "manifest.suit").write_bytes(envelope)
    assert ota(tmp_path, "inspect", tmp_path / "manifest.suit", "--json") == 0
    assert json.loads(capsys.readouterr().out)["sequence"] is None


def test_values_are_structured():
    manifest = describe(FILES["manifest"]).values
    assert manifest["module"] == {"name": "module", "version": "1.0.0"}
    assert manifest["image"] == {"bytes": len(WASM), "sha256": UPDATE.manifest.digest}
    assert manifest["capabilities"]["messaging"] == {"subscribe": ["in/#", "sys/#"], "publish": ["out/#"]}
    assert manifest["signed_by"] == [SIGNER.keys["release"].public.key_id]
    root = describe(FILES["root"]).values
    assert root["roles"]["release"] == {"threshold": 1, "keys": list(ROLES["release"].keys), "unusable": [NEW_KEY.label]}
    assert root["verifies_by_itself"] is True
    deployment = describe(FILES["deployment"])
    assert deployment.values["instances"]["module"]["expires_s"] is None
    assert ("  expires", "never") in deployment.rows
    assert "device:module/events@0.1.0#handle" in describe(WASM).values["exports"]


def test_everything_in_an_entry_is_shown():
    entries = {
        "a": SIGNER.entry(b""),
        "b": SIGNER.entry(UPDATE.digest, config={"colour": "red"}),
    }
    shared = {"deployment_id": bytes(16), "window": Window(frozenset({0}), 120, 60), "together": ("a", "b")}
    alike = {"boards": ("roof-1",), "fraction_ppm": 0, "paused": True}
    _, document = SIGNER.document({name: replace(each, **shared, **alike) for name, each in entries.items()}, device="roof-1")
    found = describe(document)
    removed, wanted = found.values["instances"]["a"], found.values["instances"]["b"]
    assert (removed["manifest"], wanted["manifest"], wanted["config"]) == (None, UPDATE.digest, {"colour": "red"})
    assert ("  manifest", "none: it is removed") in found.rows
    assert ("  boards", "0 % and roof-1, paused") in found.rows
    assert ("  together", "a, b") in found.rows
    assert ("  config", "colour=red") in found.rows
    assert found.values["device"] == "roof-1"
    assert wanted["window"] == str(Window(frozenset({0}), 120, 60))


def test_times_are_dates_however_late():
    rows = dict(describe(signed_root(SIGNER.root(issued_s=0, expires_s=1 << 40), SIGNER.keys["root"])).rows)
    assert (rows["issued"], rows["expires"]) == ("1970-01-01 00:00:00 UTC", f"{1 << 40} s after 1970")


def test_a_root_that_does_not_verify_by_itself_is_shown_as_such():
    forged = signed_root(SIGNER.root(), SIGNER.keys["deploy"])
    found = describe(forged)
    assert found.values["verifies_by_itself"] is False
    assert dict(found.rows)["verifies by itself"].startswith("no (signer-unknown")


def test_the_secret_of_a_token_is_not_shown():
    found = describe(FILES["enrolment token"])
    assert TOKEN.secret.hex() not in repr(found)
    assert TOKEN.secret not in found.values.values()


@settings(max_examples=300)
@given(st.sampled_from(sorted(FILES)), st.integers(0, 400), st.binary(max_size=8))
def test_damaged_files_are_described_or_refused_and_nothing_else(kind, at, content):
    damaged = FILES[kind][:at] + content + FILES[kind][at + 2 * len(content) :]
    try:
        assert describe(damaged).rows
    except Refused as error:
        assert error.detail


@pytest.mark.parametrize("data", [b"", b"hello", b"\x00", b"\xff", b"\xa1\x61a\x01"])
def test_what_is_none_of_the_kinds_is_told_what_was_expected(data):
    with pytest.raises(Refused) as caught:
        describe(data)
    assert caught.value.reason is Reason.MALFORMED
    assert "not a manifest, a root, a deployment, a report, a module" in caught.value.detail


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats() | st.binary(max_size=9) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_diagnostic_notation_shows_any_item(value):
    assert diagnostic(cbor2.dumps(value))


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_diagnostic_notation_of_garbage_is_text_or_one_line_of_error(data):
    try:
        assert diagnostic(data)
    except ValueError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ("01", "1"), ("20", "-1"), ("f4", "false"), ("f7", "undefined"), ("f0", "simple(16)"), ("f8ff", "simple(255)"),
        ("f97e00", "NaN"), ("f97c00", "Infinity"), ("f9fc00", "-Infinity"), ("f93e00", "1.5"), ("c11a00000001", "1(1)"),
        ("4401020304", "h'01020304'"), ("43820102", "<< [1, 2] >>"), ("6161", '"a"'), ("62225c", '"\\"\\\\"'),
        ("80", "[]"), ("a0", "{}"), ("a10102", "{1: 2}"), ("9f0102ff", "[_ 1, 2]"), ("bf0102ff", "{_ 1: 2}"),
        ("5f41014102ff", "(_ h'01', h'02')"), ("c349010000000000000000", "3(h'010000000000000000')"),
    ],
)  # fmt: skip
def test_diagnostic_notation_is_that_of_the_rfc(data, shown):
    assert diagnostic(bytes.fromhex(data)) == shown


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it ends after 0 bytes"),
        (b"\x82\x01", "it ends"),
        (b"\x01\x02", "1 bytes follow the item that ends at byte 1"),
        (b"\x81" * 5000 + b"\x01", f"nested deeper than {MAX_DEPTH}"),
        (b"\x61\xff", "the text at byte 0 is not UTF-8"),
        (b"\x9b" + b"\xff" * 8, "it ends in the middle of an item"),
        (b"\x1c", "byte 0 begins no item"),
        (b"\xff", "byte 0 begins no item"),
        (b"\x9f\x01", "it ends after 2 bytes"),
    ],
)
def test_a_file_that_is_no_cbor_is_one_line_and_no_traceback(tmp_path, capsys, data, why):
    path = tmp_path / "file"
    path.write_bytes(data)
    assert ota(tmp_path, "inspect", path, "--diag") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"ota: {path} is not CBOR: {why}")
    assert error.count("\n") == 1


def test_a_folder_and_a_file_are_inspected_and_verified_for_machines(tmp_path, capsys):
    folder = UPDATE.save(tmp_path)
    (tmp_path / "root.cbor").write_bytes(SIGNER.root_document())
    assert ota(tmp_path, "inspect", folder, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["kind"], shown["digest"]) == ("manifest", UPDATE.digest.hex())
    verify = ("verify", folder / "manifest.suit", "--root", tmp_path / "root.cbor", "--json")
    assert ota(tmp_path, *verify) == 0
    good = json.loads(capsys.readouterr().out)
    assert (good["good"], good["name"], good["signers"]) == (True, "module", [SIGNER.keys["release"].public.key_id.hex()])
    stranger = Signer().update(WASM)
    (folder / "manifest.suit").write_bytes(stranger.envelope)
    assert ota(tmp_path, *verify) == 1
    assert json.loads(capsys.readouterr().out)["reason"] == "signer-unknown"


def test_a_folder_that_is_no_update_is_one_line(tmp_path, capsys):
    assert ota(tmp_path, "inspect", tmp_path) == 1
    assert f"{tmp_path} is not a build: it has no manifest.suit" in capsys.readouterr().err


def test_what_is_inspected_is_not_for_the_terminal_to_obey(tmp_path, capsys):
    value = cbor.decode(REPORT.to_bytes(), "report", 1 << 16) | {"agent": "\x1b[2J"}
    (tmp_path / "report").write_bytes(identity("d").sign1(cbor.encode(value), REPORT_TYPE))
    for options in ((), ("--json",), ("--diag",)):
        assert ota(tmp_path, "inspect", tmp_path / "report", *options) == 0
        shown = capsys.readouterr().out
        assert "\x1b" not in shown
        assert "[2J" in shown


RICH = """(module (import "device:module/logging@0.1.0" "log" (func (param i32 i32 i32)))
  (import "env" "abort" (func)) (memory (export "memory") 40) (data (i32.const 0) "abc") (func (export "run") (return_call 1)))"""


def test_a_module_is_described_by_what_it_needs_and_what_made_it():
    made = bytes(wasmtime.wat2wasm(RICH)) + b"\0\x21\x09producers\x01\x0cprocessed-by\x01\x03abc\x032.1"
    found = describe(made)
    values = found.values
    assert (found.kind, values["memory_pages"], values["made_by"]) == ("module", 40, ["abc 2.1"])
    assert (values["capabilities"], values["unknown_imports"]) == (["logging"], ["env.abort"])
    assert values["beyond_core"] == ["tail-calls"]
    assert values["sections"]["code"] > 0
    rows = dict(found.rows)
    assert "does not export device:module/events" in rows["lacks"]
    assert "-mno-tail-call" in rows["needs"]
    assert rows["no board has"] == "env.abort"
    assert "memory_pages = 56" in values["description"]


def test_the_description_that_is_suggested_is_taken(tmp_path):
    module = tmp_path / "m.wasm"
    module.write_bytes(contract_module(OK, PUBLISH, "", ""))
    module.with_suffix(".toml").write_text(describe(module.read_bytes()).values["description"])
    draft = prepare(module, "example.com")
    assert draft.manifest.name == "NAME"


def test_a_component_is_told_from_a_module(tmp_path):
    found = describe(wasm_tools("parse", "-", text="(component (core module (func)) (core module (memory 1)))"))
    assert (found.kind, len(found.values["core_modules"])) == ("component", 2)


def test_a_module_that_imports_a_memory_is_described_all_the_same():
    found = describe(bytes(wasmtime.wat2wasm('(module (import "env" "memory" (memory 1)) (func))')))
    assert "import env.memory is not a function" in found.values["refused"]
    assert found.values["sections"]["import"] > 0


def test_every_part_of_a_bundle_is_a_row_with_a_text():
    made = io.BytesIO()
    bundle.pack([(topics.desired("lab"), lambda: b"signed"), ("ota/v1/crl", lambda: b"revoked")], made.write)
    assert all(text for _, text in describe(made.getvalue()).rows)
    assert ("crl", "yes") in describe(made.getvalue()).rows

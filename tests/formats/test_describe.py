"""What `ota inspect` says of any file."""

import json

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ota.formats import cbor
from ota.formats.describe import describe
from ota.formats.diagnostic import MAX_DEPTH, diagnostic
from ota.formats.enrolment import Token
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import Role
from tests.formats.test_growth import NEW_KEY, signed_root
from tests.formats.test_others import REPORT
from tests.support.operator import ota
from tests.support.signing import Signer
from tests.support.wat import contract_module

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
    "report": REPORT.to_bytes(),
    "module": WASM,
    "enrolment token": TOKEN.to_text().encode(),
    "ahead-of-time image": b"\0aot....",
}


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_file_is_told_and_shown(kind):
    found = describe(FILES[kind])
    assert (found.kind, found.values["kind"], found.rows[0]) == (kind, kind, ("kind", kind))


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
    assert deployment.values["expires_s"] is None
    assert ("expires", "never") in deployment.rows
    assert "device:module/events@0.1.0#handle" in describe(WASM).values["exports"]


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
    assert capsys.readouterr().err == f"ota: {tmp_path / 'manifest.suit'}: No such file or directory\n"


def test_what_is_inspected_is_not_for_the_terminal_to_obey(tmp_path, capsys):
    value = cbor.decode(REPORT.to_bytes(), "report", 1 << 16) | {"agent": "\x1b[2J"}
    (tmp_path / "report").write_bytes(cbor.encode(value))
    for options in ((), ("--json",), ("--diag",)):
        assert ota(tmp_path, "inspect", tmp_path / "report", *options) == 0
        shown = capsys.readouterr().out
        assert "\x1b" not in shown
        assert "[2J" in shown

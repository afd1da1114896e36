"""Bills of materials and building again: what a module is made of, and that the same source gives the same bytes."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ota.author import locks, sbom
from ota.author.build import BuildError, Update, prepare
from ota.author.locks import LockError, Part
from ota.author.rebuild import signed_again
from ota.author.sbom import SbomError
from ota.formats import wasm
from ota.formats.cbor import sha256
from ota.formats.manifest import verify_any
from ota.formats.reasons import Reason, Refused
from ota.keyring import SigningKey
from ota.operator.workspace import Workspace
from tests.support.aot import aotc
from tests.support.operator import ota

SPDX = b'{"spdxVersion": "SPDX-2.3"}'
CARGO = """version = 3
[[package]]
name = "blink"
version = "0.1.0"
[[package]]
name = "serde"
version = "1.0.200"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "ddc6f9cc94d67c0e21aaf7eda3a010fd3af78ebf6e096aa6e2e13c79749cce4f"
"""
NPM = {
    "lockfileVersion": 3,
    "packages": {
        "": {"name": "blink"},
        "node_modules/@scope/part": {"version": "2.0.0", "integrity": "sha512-" + "A" * 86 + "=="},
        "node_modules/assemblyscript": {"version": "0.28.0", "dev": True},
        "node_modules/local": {"link": True},
    },
}
ZIG = """.{
    .name = .blink, // a comment
    .version = "0.1.0",
    .dependencies = .{
        .@"foo-bar" = .{ .url = "https://example.com/a.tar.gz", .hash = "1220ab", .lazy = false },
        .here = .{ .path = "../here" },
    },
    .paths = .{ "build.zig", "src" },
}
"""


@pytest.fixture
def source(tmp_path, modules):
    """A folder with the example tally, where it may be changed."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("tally.wasm", "tally.toml"):
        shutil.copy(modules / name, folder / name)
    return folder / "tally.wasm"


@pytest.fixture
def bill(tmp_path):
    path = tmp_path / "bill.json"
    path.write_bytes(SPDX)
    return path


def test_packages_of_a_cargo_lock_are_named_with_their_digests(tmp_path):
    (tmp_path / "Cargo.lock").write_text(CARGO)
    (part,) = locks.read(tmp_path / "Cargo.lock")
    assert (part.ecosystem, part.name, part.version, part.digests[0][0]) == ("cargo", "serde", "1.0.200", "SHA-256")


def test_packages_of_a_package_lock_are_named_and_those_that_only_build_are_told_apart(tmp_path):
    (tmp_path / "package-lock.json").write_text(json.dumps(NPM))
    scoped, builder = locks.read(tmp_path / "package-lock.json")
    assert (scoped.name, scoped.digests, scoped.development) == ("@scope/part", (("SHA-512", "00" * 64),), False)
    assert (builder.name, builder.development) == ("assemblyscript", True)


def test_dependencies_of_a_zig_package_are_named(tmp_path):
    (tmp_path / "build.zig.zon").write_text(ZIG)
    assert locks.read(tmp_path / "build.zig.zon") == (Part("generic", "foo-bar", "1220ab", url="https://example.com/a.tar.gz"),)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Cargo.lock", "[[package]\n"),
        ("Cargo.lock", '[[package]]\nsource = "x"\n'),
        ("Cargo.lock", "package = 3\n"),
        ("package-lock.json", "[]"),
        ("package-lock.json", '{"packages": {"node_modules/a": {"integrity": "md5-AA=="}}}'),
        ("package-lock.json", "[" * 100_000),
        ("build.zig.zon", ".{ .dependencies = .{"),
        ("build.zig.zon", ".{ $ }"),
        ("build.zig.zon", ".{" * 100_000),
        ("other.lock", ""),
    ],
)
def test_a_lock_that_is_damaged_is_refused_in_one_line(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(LockError, match=name):
        locks.read(tmp_path / name)


def test_a_lock_that_is_too_large_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "LOCK_LIMIT_BYTES", 10)
    (tmp_path / "Cargo.lock").write_text(CARGO)
    with pytest.raises(LockError, match="is larger than 10 bytes"):
        locks.read(tmp_path / "Cargo.lock")


def custom(name: bytes, content: bytes) -> bytes:
    section = bytes([len(name)]) + name + content
    return b"\0asm\x01\0\0\0\0" + bytes([len(section)]) + section


def test_what_a_module_was_produced_with_is_read():
    content = b"\x01\x08language\x02\x03C11\x00\x04Rust\x041.90"
    assert wasm.producers(custom(b"producers", content)) == (("language", "C11", ""), ("language", "Rust", "1.90"))
    assert wasm.producers(custom(b"other", content)) == ()


@settings(max_examples=200)
@given(st.binary(max_size=100))
def test_a_damaged_section_of_producers_is_refused(content):
    try:
        assert isinstance(wasm.producers(custom(b"producers", content)), tuple)
    except Refused as error:
        assert error.reason.value == "malformed"


def test_a_bill_is_made_from_module_and_locks_the_same_each_time(source):
    pytest.importorskip("cyclonedx")
    (source.parent / "Cargo.lock").write_text(CARGO)
    (source.parent / "package-lock.json").write_text(json.dumps(NPM))
    (source.parent / "build.zig.zon").write_text(ZIG)
    made = sbom.make(source, source.read_bytes(), "tally", "1.0.0")
    assert made == sbom.make(source, source.read_bytes(), "tally", "1.0.0")
    found = json.loads(made)
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert found["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": sha256(source.read_bytes()).hex()}]
    scopes = {each["purl"].partition("?")[0]: each["scope"] for each in found["components"]}
    assert scopes == {
        "pkg:cargo/serde@1.0.200": "required",
        "pkg:npm/%40scope/part@2.0.0": "required",
        "pkg:npm/assemblyscript@0.28.0": "excluded",
        "pkg:generic/foo-bar@1220ab": "required",
    }


@pytest.mark.parametrize("data", [b"", b"[]", b'{"bomFormat": "Other"}', b"{}", b"[" * 100_000])
def test_what_is_no_bill_of_materials_is_refused(data):
    with pytest.raises(SbomError, match="bill"):
        sbom.check(data, "bill")


def test_an_update_has_its_bill_by_digest_and_shows_it(workspace, source, bill, tmp_path, capsys):
    assert ota(workspace, "build", source, "-o", tmp_path / "dist", "--sbom", bill) == 0
    folder = tmp_path / "dist" / "tally-1.0.0"
    capsys.readouterr()
    assert ota(workspace, "sbom", folder) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(SPDX)
    assert ota(workspace, "verify", folder) == 0
    assert f"sbom  sha256 {sha256(SPDX).hex()}" in capsys.readouterr().out
    assert ota(workspace, "sbom", folder, "-o", tmp_path / "copy.json") == 0
    assert (tmp_path / "copy.json").read_bytes() == SPDX


@pytest.mark.parametrize("content", [b'{"spdxVersion": "SPDX-3.0"}', None])
def test_a_bill_that_does_not_match_its_digest_is_refused(workspace, source, bill, tmp_path, capsys, content):
    assert ota(workspace, "build", source, "-o", tmp_path / "dist", "--sbom", bill) == 0
    kept = tmp_path / "dist" / "tally-1.0.0" / "sbom.json"
    if content is None:
        kept.unlink()
    else:
        kept.write_bytes(content)
    for words in (("sbom", kept.parent), ("verify", kept.parent), ("publish", kept.parent, "--dry-run")):
        assert ota(workspace, *words) == 1
        assert "sbom.json" in capsys.readouterr().err


def test_the_bill_is_kept_with_what_was_signed(workspace, source, bill, tmp_path):
    for out in ("one", "two"):  # the second time it is not signed again
        assert ota(workspace, "build", source, "-o", tmp_path / out, "--sbom", bill) == 0
        assert Update.load(tmp_path / out / "tally-1.0.0").sbom == SPDX


@pytest.mark.parametrize("algorithm", ["ed25519", "es256"])
@pytest.mark.parametrize("aot", [(), pytest.param(("x86_64",), marks=pytest.mark.skipif(aotc() is None, reason="no wamr_aotc"))])
def test_two_builds_are_the_same_bit_by_bit(source, bill, tmp_path, algorithm, aot):
    key = SigningKey.generate(algorithm)
    for out in ("one", "two"):
        prepare(source, "test.example", aot=aot, sbom=str(bill)).signed(7, key).write(tmp_path / out)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def built(workspace, source, tmp_path, capsys, *words):
    assert ota(workspace, "build", source, "-o", tmp_path / "dist", *words) == 0
    capsys.readouterr()
    return tmp_path / "dist" / "tally-1.0.0"


@pytest.mark.parametrize("algorithm", ["ed25519", "es256"])
def test_an_update_that_is_built_again_is_the_same_signatures_included(tmp_path, source, bill, capsys, algorithm):
    workspace = tmp_path / "operator"
    assert ota(workspace, "init", "--algorithm", algorithm) == 0
    words = ("--security", "--cve", "CVE-2026-1000", "--revision", "v1", "--sbom", bill, "--chunk-bytes", "1024")
    folder = built(workspace, source, tmp_path, capsys, *words)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert ota(workspace, "rebuild", folder, source, "--check", "--sbom", bill) == 0
    assert capsys.readouterr().out.endswith("; 1 signature made again and the same\n")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert ota(workspace, "rebuild", folder, source, "-o", tmp_path / "again", "--sbom", bill) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == {p.name: b for p, b in before.items()}


def test_what_is_not_the_same_is_built_without_a_signature(workspace, source, tmp_path, capsys):
    folder = built(workspace, source, tmp_path, capsys)
    source.write_bytes(source.read_bytes() + b"\x00\x02\x01x")  # one more section
    assert ota(workspace, "rebuild", folder, source, "-o", tmp_path / "again") == 1
    assert "again has no signature" in capsys.readouterr().err
    with pytest.raises(Refused) as refused:
        verify_any(Update.load(tmp_path / "again").envelope, Workspace.open(workspace).root())
    assert refused.value.reason is Reason.SIGNATURE_MISSING


def test_who_has_no_key_compares_everything_but_signatures_which_verify(workspace, source, tmp_path, capsys):
    folder = built(workspace, source, tmp_path, capsys)
    (workspace / "keys" / "release.pem").unlink()
    assert ota(workspace, "rebuild", folder, source, "--check") == 0
    assert "its signatures verify, none was made again" in capsys.readouterr().out


class Hedged:
    """A key that signs in another way each time, as ML-DSA and many tokens do."""

    def __init__(self) -> None:
        self._key, self._used = SigningKey.generate("es256"), 0
        self.public = self._key.public

    def sign1(self, payload, kind=None):
        self._used += 1
        return self._key.sign1(payload + b"x" * self._used, kind)


def test_a_key_that_signs_in_another_way_each_time_accuses_nobody(source):
    fixed, hedged = SigningKey.generate(), Hedged()
    update = prepare(source, "test.example").signed(7, fixed, hedged)
    assert signed_again(update, [fixed, hedged]) == (1, 0)
    assert signed_again(update, []) == (0, 0)


def test_a_signature_that_its_key_does_not_make_again_is_counted(source):
    fixed, hedged = SigningKey.generate(), Hedged()
    hedged._key, hedged.public = fixed, fixed.public  # signed something else, once
    update = prepare(source, "test.example").signed(7, hedged)
    assert signed_again(update, [fixed]) == (0, 1)


def test_another_source_is_named_with_what_differs(workspace, source, tmp_path, capsys):
    folder = built(workspace, source, tmp_path, capsys)
    source.with_suffix(".toml").write_text(source.with_suffix(".toml").read_text().replace("tally/#", "total/#"))
    assert ota(workspace, "rebuild", folder, source, "--check") == 1
    assert "not the same: the manifest: " in capsys.readouterr().out
    source.write_bytes(source.read_bytes() + b"\x00\x02\x01x")  # one more section
    assert ota(workspace, "rebuild", folder, source, "--check", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["same"], len(found["differences"])) == (False, 3)  # manifest, module, index


@pytest.mark.parametrize("name", ["manifest.suit", "module.wasm", "index.cbor"])
def test_a_build_folder_that_was_changed_between_build_and_check_is_refused(workspace, source, tmp_path, capsys, name):
    folder = built(workspace, source, tmp_path, capsys)
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    assert ota(workspace, "rebuild", folder, source, "--check") == 1
    said = capsys.readouterr()
    assert (said.out, name in said.err) == ("", True)


def test_another_signed_update_that_was_put_into_the_folder_does_not_pass(workspace, source, tmp_path, capsys):
    folder = built(workspace, source, tmp_path, capsys)
    assert ota(workspace, "build", source, "-o", tmp_path / "other", "--security") == 0
    shutil.copytree(tmp_path / "other" / "tally-1.0.0", folder, dirs_exist_ok=True)
    again = prepare(source, "test.example")
    assert Update.load(folder).draft.content != again.content
    capsys.readouterr()
    stranger = tmp_path / "stranger"
    assert ota(stranger, "init", "--vendor", "test.example") == 0
    assert ota(stranger, "rebuild", folder, source, "--check") == 1
    assert "signer-unknown" in capsys.readouterr().err


def test_an_update_with_images_is_not_compared_without_their_targets(workspace, source, tmp_path, capsys):
    folder = built(workspace, source, tmp_path, capsys)
    assert ota(workspace, "rebuild", folder, source, "--check", "--aot", "x86_64") == 1
    assert "the update has 0 ahead-of-time images: name their targets with --aot" in capsys.readouterr().err


def test_a_missing_library_is_named_with_how_to_get_it(source, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cyclonedx.model", None)
    with pytest.raises(SbomError, match=r"pip install 'wamr-ota\[sbom\]'"):
        sbom.make(source, source.read_bytes(), "tally", "1.0.0")


def test_a_build_folder_without_its_bill_is_not_loaded(tmp_path, source, bill):
    update = prepare(source, "test.example", sbom=str(bill)).signed(1, SigningKey.generate())
    folder = update.save(tmp_path / "dist")
    (folder / "sbom.json").write_bytes(b'{"bomFormat": "CycloneDX"}')
    with pytest.raises(BuildError, match="is not the bill of materials that the manifest names"):
        Update.load(folder)


def test_a_bill_that_is_made_with_the_update_is_made_again_with_it(workspace, source, tmp_path, capsys):
    pytest.importorskip("cyclonedx")
    (source.parent / "Cargo.lock").write_text(CARGO)
    folder = built(workspace, source, tmp_path, capsys, "--sbom", "auto")
    assert ota(workspace, "sbom", source, "-o", tmp_path / "bill.json") == 0
    assert (tmp_path / "bill.json").read_bytes() == (folder / "sbom.json").read_bytes()
    assert ota(workspace, "rebuild", folder, source, "--check") == 0
    (source.parent / "Cargo.lock").write_text(CARGO.replace("1.0.200", "1.0.201"))
    capsys.readouterr()
    assert ota(workspace, "rebuild", folder, source, "--check") == 1
    assert "not the same: the bill of materials: " in capsys.readouterr().out

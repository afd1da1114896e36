"""Agents to go over the air: from a tarball to a signed update that is deployed as instance "agent"."""

import io
import json
import tarfile
from dataclasses import replace

import pytest

from ota.author.agent import prepare_agent, read_tarball
from ota.author.build import BuildError, Update
from ota.cli.main import main
from ota.formats.agent import AgentManifest
from ota.formats.cbor import sha256
from ota.formats.manifest import read_manifest
from ota.formats.provenance import Kind, Provenance
from ota.formats.reasons import Refused
from ota.keyring import SigningKey
from tests.support.signing import VENDOR

ABOUT = {
    "version": "0.2.0+0123456789ab",
    "architecture": "aarch64",
    "python": "py311",
    "libc": "glibc-2.34",
    "launcher": 1,
    "schema": 3,
    "reads": 1,
    "readable_by": 3,
}


def tarball(folder, about=ABOUT, **files):
    path = folder / "agent.tar.gz"
    content = {"lib/code.py": b"x" * 5000} | {name: text.encode() for name, text in files.items()}
    if about is not None:
        content["agent.json"] = json.dumps(about).encode()
    with tarfile.open(path, "w:gz") as archive:
        for name, data in sorted(content.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def test_a_tarball_becomes_a_draft_that_says_what_the_tarball_says(tmp_path):
    draft = prepare_agent(tarball(tmp_path), VENDOR, board="roof", security_epoch=4)
    manifest = draft.manifest
    assert isinstance(manifest, AgentManifest)
    assert draft.label == "agent 0.2.0+0123456789ab"
    assert manifest.agent.platform.text == "aarch64, py311, glibc-2.34"
    assert (manifest.agent.schema, manifest.agent.reads, manifest.agent.readable_by) == (3, 1, 3)
    assert manifest.agent.unpacked_bytes == 5000 + len(json.dumps(ABOUT))
    assert manifest.security_epoch == 4
    assert manifest.class_of("roof") == manifest.class_identifier


def test_an_agent_says_what_it_is_for_and_where_it_comes_from(tmp_path):
    (tmp_path / "bill.json").write_text('{"spdxVersion": "SPDX-2.3"}')
    said = Provenance(revision="v1", cves=("CVE-2026-1000",))
    made = prepare_agent(tarball(tmp_path), VENDOR, kind=Kind.SECURITY, provenance=said, sbom=str(tmp_path / "bill.json"))
    update = Update.load(made.signed(7, SigningKey.generate()).save(tmp_path / "out"))
    assert (update.manifest.kind, update.sbom) == (Kind.SECURITY, b'{"spdxVersion": "SPDX-2.3"}')
    assert Provenance.from_bytes(update.text) == replace(said, sbom=sha256(update.sbom))


def test_a_signed_agent_is_kept_and_read_again(tmp_path):
    update = prepare_agent(tarball(tmp_path), VENDOR).signed(7, SigningKey.generate())
    folder = update.save(tmp_path / "out")
    assert folder.name == "agent-0.2.0+0123456789ab"
    assert Update.load(folder) == update
    (folder / "agent.tar.gz").write_bytes(b"another")
    with pytest.raises(BuildError, match="is not what the manifest names"):
        Update.load(folder)


@pytest.mark.parametrize(
    ("about", "why"),
    [
        (None, "agent-invalid: .* has no agent.json"),
        (ABOUT | {"launcher": 2}, "class-mismatch: the agent is for wamr-ota:launcher@2"),
        (ABOUT | {"architecture": "sparc"}, "malformed: .* no platform of ours"),
        (ABOUT | {"version": 3}, "malformed"),
        ({}, "malformed"),
        ([], "malformed"),
    ],
)
def test_a_tarball_that_is_none_of_ours_is_refused_by_name(tmp_path, about, why):
    with pytest.raises(Refused, match=why):
        read_tarball(tarball(tmp_path, about))


@pytest.mark.parametrize("version", ["../../etc", "a/b", ".x", "0.2.0.new"])
def test_what_boards_would_refuse_is_not_signed(tmp_path, version):
    with pytest.raises(Refused, match="malformed"):
        prepare_agent(tarball(tmp_path, ABOUT | {"version": version}), VENDOR)


def test_a_file_that_is_no_tarball_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"no archive")
    with pytest.raises(Refused, match=r"agent-invalid: .*/x: no tarball of an agent"):
        prepare_agent(tmp_path / "x", VENDOR)
    with pytest.raises(BuildError, match="No such file"):
        prepare_agent(tmp_path / "missing", VENDOR)
    (tmp_path / "empty").touch()
    with pytest.raises(BuildError, match="a blob has 1 to"):
        prepare_agent(tmp_path / "empty", VENDOR)


def test_an_agent_goes_by_itself_and_is_rehearsed_without_a_broker(tmp_path, capsys):
    workspace = str(tmp_path / "operator")
    assert main(["-C", workspace, "init", "--vendor", VENDOR, "--no-passphrase"]) == 0
    made = str(tarball(tmp_path))
    assert main(["-C", workspace, "publish", "--agent", made, "--dry-run"]) == 0
    assert "agent 0.2.0+0123456789ab for group lab" in capsys.readouterr().out
    assert main(["-C", workspace, "publish"]) == 2
    assert "nothing to publish" in capsys.readouterr().err
    assert main(["-C", workspace, "publish", "--agent", made, "--instance", "x", "--dry-run"]) == 2
    assert "by itself" in capsys.readouterr().err


def test_the_agent_is_no_module_that_can_be_removed_or_configured(tmp_path, capsys):
    workspace = str(tmp_path / "operator")
    assert main(["-C", workspace, "init", "--vendor", VENDOR, "--no-passphrase"]) == 0
    for words in (["remove", "agent"], ["config", "agent", "a=b"]):
        assert main(["-C", workspace, *words]) == 1
        assert "instance-reserved: instance 'agent' is the agent itself, which can't be" in capsys.readouterr().err


def test_an_agents_manifest_is_inspected_and_verified(tmp_path, capsys):
    workspace = str(tmp_path / "operator")
    assert main(["-C", workspace, "init", "--vendor", VENDOR, "--no-passphrase"]) == 0
    update = prepare_agent(tarball(tmp_path), VENDOR).signed(7, SigningKey.load(tmp_path / "operator/keys/release.pem", None))
    folder = update.save(tmp_path)
    assert isinstance(read_manifest_of(folder), AgentManifest)
    assert main(["inspect", str(folder)]) == 0
    assert "aarch64, py311, glibc-2.34" in capsys.readouterr().out
    assert main(["-C", workspace, "verify", str(folder / "manifest.suit")]) == 0
    assert "good: agent 0.2.0+0123456789ab" in capsys.readouterr().out


def read_manifest_of(folder):
    from ota.formats import suit

    return read_manifest(suit.Envelope.from_bytes((folder / "manifest.suit").read_bytes(), 1 << 16))

"""Where an update comes from, from the command line to what `ota verify` shows."""

import json
import subprocess

import pytest

from ota.operator.signing import Signable
from tests.support.operator import ota


@pytest.fixture
def build(workspace, modules, capsys):
    """Builds the example monitor with more words; returns the exit code, what was said, and the folder."""

    def run(*words):
        out = workspace / "dist"
        code = ota(workspace, "build", modules / "monitor-v1.wasm", "-o", out, *words)
        return code, capsys.readouterr(), out / "monitor-1.0.0"

    return run


def test_a_security_update_says_what_it_mends(workspace, build, tmp_path, capsys):
    advisory = tmp_path / "advisory.txt"
    advisory.write_text("A frame that is too long\nstops the module.\n")
    words = ("--security", "--advisory", advisory, "--cve", "CVE-2026-2000", "--cve", "cve-2026-1000", "--builder", "runner 7")
    code, _, folder = build(*words, "--revision", "v1.0.0")
    assert code == 0
    assert ota(workspace, "verify", folder) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("good: monitor 1.0.0")
    assert [each.split() for each in shown[1:]] == [
        ["update", "security"],
        ["revision", "v1.0.0"],
        ["builder", "runner", "7"],
        ["advisory", "A", "frame", "that", "is", "too", "long"],
        ["advisory", "stops", "the", "module."],
        ["mends", "CVE-2026-1000"],
        ["mends", "CVE-2026-2000"],
    ]
    assert ota(workspace, "verify", folder / "manifest.suit", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["text"]["cves"]) == ("security", ["CVE-2026-1000", "CVE-2026-2000"])
    assert ota(workspace, "inspect", folder) == 0
    assert "update      security\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--cve", "CVE-2026-1000"), 2, "they go with --security"),
        (("--functional", "--advisory", "some words"), 2, "they go with --security"),
        (("--security", "--advisory", "no-such-file.txt"), 1, "no-such-file.txt: No such file or directory; a text has more than"),
        (("--security", "--advisory", "word " * 1000), 1, "has 5000 characters, the limit is 4000"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_signed(build, words, code, message):
    found, said, folder = build(*words)
    assert (found, folder.exists()) == (code, False)
    assert message in said.err


def test_an_update_that_is_built_is_not_given_another_kind(workspace, build, capsys):
    _, _, folder = build()
    assert ota(workspace, "publish", folder, "--security", "--dry-run") == 1
    assert "is built and signed already: --security is for a .wasm" in capsys.readouterr().err


def test_git_says_which_revision_it_is_and_whether_files_differ(workspace, modules, tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    (source / "tally.wasm").write_bytes((modules / "tally.wasm").read_bytes())
    (source / "tally.toml").write_text((modules / "tally.toml").read_text())

    def git(*words):
        command = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@test.example", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def revision(version):
        words = ("-o", tmp_path / "dist", "--revision", "git", "--version", version)
        assert ota(workspace, "build", source / "tally.wasm", *words) == 0
        capsys.readouterr()
        assert ota(workspace, "verify", tmp_path / "dist" / f"tally-{version}", "--json") == 0
        return json.loads(capsys.readouterr().out)["text"]["revision"]

    assert ota(workspace, "build", source / "tally.wasm", "-o", tmp_path / "dist", "--revision", "git") == 1
    assert "--revision git: " in capsys.readouterr().err
    git("init", "-q")
    git("add", "tally.toml")
    git("commit", "-qm", "x")
    commit = git("rev-parse", "HEAD")
    assert revision("1") == f"git:{commit}"
    (source / "tally.toml").write_text((modules / "tally.toml").read_text() + "\n")
    assert revision("2") == f"git:{commit}+changed"


def test_who_signs_a_security_update_is_told_so(build):
    assert Signable.from_bytes((build("--security")[2] / "manifest.suit").read_bytes()).label.endswith(", security")
    assert not Signable.from_bytes((build("--new-sequence")[2] / "manifest.suit").read_bytes()).label.endswith(", security")

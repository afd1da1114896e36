"""Artifacts that go between `ota` and the command `oras` through a registry, where that command is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.lab import echo
from tests.support.operator import ota
from tests.support.registry import DockerRegistry

pytestmark = pytest.mark.full
TOML = '[module]\nname = "echo"\nversion = "1.0.0"\n[capabilities.messaging]\nsubscribe = ["in/#"]\npublish = ["out/#"]\n'
CONFIG = "application/vnd.wasm.config.v0+json"


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    opened = DockerRegistry(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def module(tmp_path) -> Path:
    path = tmp_path / "echo.wasm"
    path.write_bytes(echo(1))
    path.with_suffix(".toml").write_text(TOML)
    return path


def oras(folder: Path, verb: str, *words: str) -> None:
    program = shutil.which("oras")
    if program is None:
        pytest.skip("oras is not installed: go install oras.land/oras/cmd/oras@v1.3.6")
    subprocess.run([program, verb, "--plain-http", *words], cwd=folder, check=True, capture_output=True, timeout=60)


def test_what_ota_pushes_is_pulled_by_oras(tmp_path, registry, module):
    assert ota(tmp_path, "push", f"oci://{registry.host}/echo:1.0.0", module) == 0
    oras(tmp_path, "pull", f"{registry.host}/echo:1.0.0", "-o", "pulled")
    assert (tmp_path / "pulled" / "echo.wasm").read_bytes() == module.read_bytes()
    assert (tmp_path / "pulled" / "echo.toml").read_text() == TOML


@pytest.mark.parametrize(
    "words",
    [
        ("echo.wasm:application/wasm",),
        ("echo.wasm",),
        ("--config", f"/dev/null:{CONFIG}", "echo.wasm:application/wasm"),
        ("echo.wasm:application/wasm", "echo.toml:application/vnd.wamr-ota.description.v1+toml"),
    ],
)
def test_what_oras_pushes_is_built_by_ota(tmp_path, registry, module, words):
    oras(tmp_path, "push", f"{registry.host}/echo:1.0.0", *words)
    workspace = tmp_path / "operator"
    assert ota(workspace, "init", "--vendor", "test.example") == 0
    described = () if words[-1].startswith("echo.toml") else ("--description", module.with_suffix(".toml"))
    assert ota(workspace, "build", f"oci://{registry.host}/echo:1.0.0", "-o", tmp_path / "dist", *described) == 0
    assert (tmp_path / "dist" / "echo-1.0.0" / "module.wasm").read_bytes() == module.read_bytes()

"""The commands that take a module take a component, and boards get the core module in it."""

import json

import pytest

from ota.author import artifact
from ota.formats.cbor import sha256
from ota.formats.loadable import core_module
from tests.oracle.test_component import built
from tests.support.aot import aotc
from tests.support.operator import ota
from tests.support.tools import wasm_tools


@pytest.fixture
def workspace(tmp_path):
    """A new one, for tests that capture what other processes say."""
    assert ota(tmp_path / "operator", "init", "--vendor", "test.example") == 0
    return tmp_path / "operator"


@pytest.fixture
def module(tmp_path, modules):
    """The example tally as a component, with its description beside it."""
    path = tmp_path / "tally.wasm"
    path.write_bytes(built("tally")[1])
    path.with_suffix(".toml").write_bytes((modules / "tally.toml").read_bytes())
    return path


def test_the_manifest_carries_the_core_module_of_a_component(workspace, module, tmp_path, capsys):
    assert ota(workspace, "build", module, "-o", tmp_path / "dist", "--sbom", "auto") == 0
    told = capsys.readouterr()
    core = (tmp_path / "dist/tally-1.0.0/module.wasm").read_bytes()
    assert core == core_module(module.read_bytes())
    assert f"tally.wasm is a component: the core module in it, {len(core)} bytes, is what boards get" in told.err
    bill = json.loads((tmp_path / "dist/tally-1.0.0/sbom.json").read_text())
    assert bill["metadata"]["component"]["hashes"][0]["content"] == sha256(core).hex()
    assert ota(workspace, "rebuild", tmp_path / "dist/tally-1.0.0", module, "--check") == 0
    assert ota(workspace, "sbom", module) == 0
    assert ota(workspace, "publish", module, "--dry-run") == 0
    assert "tally 1.0.0 for group lab: " in capsys.readouterr().out


@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
def test_the_core_module_of_a_component_is_compiled_ahead_of_time(workspace, module, tmp_path):
    assert ota(workspace, "build", module, "-o", tmp_path / "dist", "--aot", "x86_64") == 0
    assert len(list((tmp_path / "dist/tally-1.0.0").glob("*.aot"))) == 1


@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
def test_a_component_runs_compiled_ahead_of_time(module, capfd):
    assert ota(module.parent, "run", module, "--aot", "--event", "sys/load=1") == 0
    assert "topic=tally/count  payload=1" in capfd.readouterr().out


def test_a_component_runs_and_is_shown(module, capfd):
    assert ota(module.parent, "run", module, "--event", "sys/load=1", "--event", "sys/load=2") == 0
    assert "topic=tally/count  payload=2" in capfd.readouterr().out
    assert ota(module.parent, "inspect", module, "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["kind"], found["exports"]) == ("component", ["device:module/events@0.1.0"])
    assert found["module"]["capabilities"] == ["messaging", "keyvalue"]


def test_the_description_that_is_suggested_for_a_component_is_taken(workspace, module, tmp_path, capsys):
    assert ota(workspace, "inspect", module) == 0
    lines = [
        line.partition("its .toml")[2].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("its .toml")
    ]
    module.with_suffix(".toml").write_text("\n".join(lines))
    assert ota(workspace, "build", module, "-o", tmp_path / "dist") == 0


def test_a_component_that_boards_cannot_run_is_refused_by_every_command(workspace, tmp_path, capfd):
    path = tmp_path / "two.wasm"
    path.write_bytes(wasm_tools("parse", "-", text="(component (core module (func)) (core module (func)))"))
    for command in (("build", path), ("publish", path, "--dry-run"), ("run", path), ("push", "oci://localhost:1/a:b", path)):
        assert ota(workspace, *command) == 1
        told = capfd.readouterr().err
        assert f"module-invalid: {path}: a component that boards can't run: 2 of its core modules have code" in told
    assert ota(workspace, "inspect", path) == 0
    assert "publish the parts that it is composed of" in capfd.readouterr().out


def test_an_artifact_of_a_component_says_so_and_what_its_interfaces_are(module):
    wrapped = artifact._platform(module.read_bytes())
    assert wrapped["os"] == "wasip2"
    assert wrapped["component"]["exports"] == ["device:module/events@0.1.0"]
    assert artifact._platform(core_module(module.read_bytes())) == {"os": "wasip1"}


def test_compact_imports_are_written_out(workspace, module, tmp_path, capfd):
    """As `wasm-opt -all` writes them; wasm-tools reads them, and would not if they were not written out."""
    text = """(module (import "device:module/keyvalue@0.1.0" (item "get") (item "delete") (func (param i32 i32 i32)))
      (import "device:module/logging@0.1.0" (item "log" (func (param i32 i32 i32))))
      (memory (export "memory") 1) (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 64)
      (func (export "device:module/events@0.1.0#handle") (param i32 i32 i32 i32) (result i32)
        (call 2 (i32.const 2) (local.get 0) (local.get 1)) (i32.const 0)))"""
    compact = wasm_tools("parse", "-", text=text)
    module.write_bytes(compact)
    asked = '[capabilities.keyvalue]\n[capabilities.logging]\n[capabilities.messaging]\nsubscribe = ["#"]\n'
    module.with_suffix(".toml").write_text(f'[module]\nname = "m"\nversion = "1"\n{asked}')
    assert ota(workspace, "run", module, "--event", "said=1") == 0
    assert "said" in capfd.readouterr().out
    assert ota(workspace, "build", module, "-o", tmp_path / "dist") == 0
    plain = tmp_path / "dist/m-1/module.wasm"
    wasm_tools("validate", "--features=-compact-imports", plain)
    assert wasm_tools("print", plain).count(b"(import ") == 3
    assert ota(workspace, "inspect", module) == 0
    assert "`ota build` writes them out" in capfd.readouterr().out
    assert core_module(plain.read_bytes()) == plain.read_bytes()

"""A guest in Rust by wit-bindgen gives the same answers as it is, unbundled from its component, and as a component in Wasmtime."""

import shutil
from pathlib import Path

import pytest

from ota.formats.loadable import core_module
from tests.conftest import ROOT
from tests.oracle.test_component import ours, theirs
from tests.oracle.test_unbundled import code
from tests.support.operator import ota
from tests.support.rust import TARGET, build
from tests.support.tools import wasm_tools

EVENTS = [
    ("in/a", b"x"),
    ("in/b", b"\xff"),
    ("in/a", b""),
    ("in/b", b"fail"),
    ("in/zw\u00f6lf", "z\u00f6lf".encode()),
    ("in/a", b"a" * 4000),
]


@pytest.fixture
def source(tmp_path):
    """The crate counter, where its WIT is found, with the others beside it."""
    shutil.copytree(ROOT / "sdk" / "components", tmp_path / "components", ignore=shutil.ignore_patterns("target"))
    shutil.copytree(ROOT / "sdk" / "wit", tmp_path / "wit")
    return tmp_path / "components" / "counter"


def built(source: Path, target: str) -> Path:
    """The crate's module or component."""
    out = build(source, (1, 85), target)
    if out is None:
        pytest.skip(f"no Rust from 1.85 on with the target {target}: rustup target add {target}")
    return out / f"{source.name}.wasm"


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_guest_by_wit_bindgen_answers_alike_bare_unbundled_and_as_a_component(source, tmp_path, capfd):
    bare, wrapped = built(source, TARGET), tmp_path / "counter.wasm"
    wasm_tools("component", "new", bare, "-o", wrapped)
    taken = core_module(wrapped.read_bytes())
    assert code(taken) == code(bare.read_bytes())
    expected = theirs(wrapped.read_bytes(), EVENTS, startup=False)
    assert [each[0] for each in expected] == ["ok", "ok", "ok", "error", "ok", "ok"]
    assert ours(bare.read_bytes(), EVENTS, startup=False) == expected
    assert ours(taken, EVENTS, startup=False) == expected
    shutil.copy(source / "counter.toml", tmp_path)
    assert ota(tmp_path, "run", wrapped, "--event", "in/a=hello") == 0
    assert "payload=in/a 1 hello" in capfd.readouterr().out


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_component_of_wasip2_that_prints_and_tells_the_time_builds_and_runs(source, tmp_path, capfd):
    """Rust's library imports WASI 0.2 for that: streams, clocks, the environment, standard output."""
    library = source / "src" / "lib.rs"
    said = 'println!("seen {topic}"); let past = std::time::SystemTime::now() > std::time::UNIX_EPOCH; assert!(past); let said ='
    library.write_text(library.read_text().replace("let said =", said))
    path = built(source, "wasm32-wasip2")
    taken = core_module(path.read_bytes())
    assert b"wasi:cli/stdout@0.2." in taken
    expected = theirs(path.read_bytes(), EVENTS, startup=False)
    assert [each[0] for each in expected] == ["ok", "ok", "ok", "error", "ok", "ok"]
    assert ours(taken, EVENTS, startup=False) == expected
    workspace, module = tmp_path / "operator", tmp_path / "counter.wasm"
    shutil.copy(path, module)
    module.with_suffix(".toml").write_text((source / "counter.toml").read_text() + "[capabilities.wasi]\n")
    assert ota(tmp_path, "run", module, "--event", "in/a=hello") == 0
    shown = capfd.readouterr().out
    assert "message=seen in/a" in shown
    assert "payload=in/a 1 hello" in shown
    assert ota(workspace, "init", "--vendor", "test.example") == 0
    assert ota(workspace, "build", module, "-o", tmp_path / "dist") == 0
    assert (tmp_path / "dist/counter-1.0.0/module.wasm").read_bytes() == taken


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_component_for_wasmcloud_as_its_toolchain_makes_it_builds_and_runs(source, tmp_path, capfd):
    crate = source.with_name("relay")
    module = crate / "relay.wasm"
    shutil.copy(built(crate, "wasm32-wasip2"), module)
    events = ("--event", "in/a=x", "--event", "in/a=y")
    assert ota(tmp_path, "run", module, *events, "--config", "target=out/b") == 0
    shown = capfd.readouterr().out
    assert "message=relay: in/a" in shown
    assert "topic=out/b  payload=1 x" in shown
    assert "topic=out/b  payload=2 y" in shown
    assert "key=seen/in/a  value=2" in shown
    assert ota(tmp_path, "run", module, "--event", "in/a=x") == 1
    assert "error=no target is configured" in capfd.readouterr().out
    assert ota(tmp_path / "operator", "init", "--vendor", "test.example") == 0
    assert ota(tmp_path / "operator", "build", module, "-o", tmp_path / "dist") == 0
    assert (tmp_path / "dist/relay-1.0.0/module.wasm").read_bytes() == core_module(module.read_bytes())

"""A guest in Rust by wit-bindgen gives the same answers as it is, unbundled from its component, and as a component in Wasmtime."""

import shutil

import pytest

from ota.formats.loadable import core_module
from tests.conftest import ROOT
from tests.oracle.test_component import ours, theirs
from tests.oracle.test_unbundled import code
from tests.support.operator import ota
from tests.support.rust import build
from tests.support.tools import wasm_tools

EVENTS = [
    ("in/a", b"x"),
    ("in/b", b"\xff"),
    ("in/a", b""),
    ("in/b", b"fail"),
    ("in/zw\u00f6lf", "z\u00f6lf".encode()),
    ("in/a", b"a" * 4000),
]


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_guest_by_wit_bindgen_answers_alike_bare_unbundled_and_as_a_component(tmp_path, capfd):
    source = tmp_path / "components" / "counter"
    shutil.copytree(ROOT / "sdk" / "components" / "counter", source, ignore=shutil.ignore_patterns("target"))
    shutil.copytree(ROOT / "sdk" / "wit", tmp_path / "wit")
    out = build(source, least=(1, 85))
    if out is None:
        pytest.skip("no Rust from 1.85 on with the target wasm32-unknown-unknown: rustup target add wasm32-unknown-unknown")
    bare, wrapped = out / "counter.wasm", tmp_path / "counter.wasm"
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

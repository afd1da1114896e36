"""What compiling ahead of time leaves behind."""

from pathlib import Path

import pytest

from ota.author import aot
from tests.support.aot import aotc
from tests.support.wat import OK, contract_module


@pytest.mark.parametrize("limit_s", [aot.COMPILE_LIMIT_S, 0.01])
def test_nothing_is_left_in_the_folder_where_the_operator_stands(tmp_path, monkeypatch, limit_s):
    """WAMR's compiler notes how much stack functions take in a file where it runs, and leaves it when it is ended."""
    if aotc() is None:
        pytest.skip("wamr_aotc is not built: make aotc")
    (tmp_path / "module.wasm").write_bytes(contract_module(OK, "", "", ""))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(aot, "COMPILE_LIMIT_S", limit_s)
    try:
        aot.Compiler().compile(Path("module.wasm"), "x86_64")
        assert limit_s > 1
    except aot.AotError as error:
        assert "took more than" in str(error)
    assert [each.name for each in tmp_path.iterdir()] == ["module.wasm"]

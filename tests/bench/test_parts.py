"""`python -m bench`: what it measures, all of it or some."""

import ast
import json

import pytest

from bench import __main__ as bench
from tests.conftest import ROOT


def test_every_measurement_is_a_part():
    measuring = {
        path.stem
        for path in (ROOT / "bench").glob("[a-z]*.py")
        if any(isinstance(each, ast.FunctionDef) and each.name == "measure" for each in ast.parse(path.read_text()).body)
    }
    assert measuring - {"boards", "earlier"} == {*bench.PARTS, "guests"}  # those are commands of their own


def test_a_part_alone_is_measured_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench", "signatures", "--rounds", "1", "--out", str(tmp_path / "found.json")])
    assert bench.main() == 0
    names = [each["name"] for each in json.loads((tmp_path / "found.json").read_text())]
    assert "verify_manifest_ed25519_ms" in names
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)


def test_a_part_that_there_is_not_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench", "speed"])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 2
    assert "no such part: speed" in capsys.readouterr().err

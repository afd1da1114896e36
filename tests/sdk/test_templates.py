"""`ota new`: every language does the same job, built as its README says."""

from pathlib import Path

import pytest

from device_agent.sandbox.contract import ModuleHost
from ota.author.build import describe
from ota.author.templates import LANGUAGES
from ota.cli.main import main
from ota.formats import wasm
from tests.conftest import ROOT
from tests.support.languages import ToolchainLackingError, build

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


def built(folder: Path) -> Path:
    """The module of a template's folder; skips the test where its toolchain is not here."""
    try:
        return build(folder)
    except ToolchainLackingError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("language", [pytest.param(each, marks=pytest.mark.full) if each in SLOW else each for each in LANGUAGES])
def test_every_language_does_the_same_job(tmp_path, monkeypatch, capsys, language):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAMR_OTA_CACHE", str(ROOT / "build" / "cache"))
    assert main(["new", "sum", "--lang", language]) == 0
    module = built(tmp_path / "sum")
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
    with pytest.raises(SystemExit) as ended:
        main(["new", name])
    assert ended.value.code == 2
    assert "is not a name" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_name_that_programs_would_take_for_an_option_is_refused(tmp_path, monkeypatch, capsys, language):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "--lang", language, "--", "-x"]) == 1
    assert "'-x' begins with a dash" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

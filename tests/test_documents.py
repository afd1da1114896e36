"""What the documents show works: every snippet is executed."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from device_agent.node import config
from ota.formats.reasons import Reason
from tests.conftest import ROOT
from tests.support.guest_c import compile_c
from tests.support.lab import Mosquitto


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_ten_lines_of_pywamr_run():
    (program,) = blocks(ROOT / "wamr_bindings" / "README.md", "python")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "42 [40]\nunreachable\n", "")


def test_the_steps_by_hand_work_against_mosquitto(tmp_path, modules):
    if Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    (steps,) = blocks(ROOT / "README.md", "sh")
    broker = Mosquitto(tmp_path)
    broker.start()
    (tmp_path / "build").mkdir()
    shutil.copytree(modules, tmp_path / "build" / "modules")
    script = f"set -eu\ntrap 'kill %1' EXIT\n{steps.replace(':1883', f':{broker.port}')}"
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    try:
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90, check=False
        )
    finally:
        broker.stop()
    assert done.returncode == 0, done.stderr
    assert "1 of 1 boards confirmed it" in done.stdout
    assert re.search(r"board-1\s+lab\s+monitor 1.0.0\s+confirmed\s+confirmed", done.stdout)
    assert "readings/load" in done.stdout


def test_the_module_of_the_readme_compiles_and_runs(tmp_path):
    source = tmp_path / "echo.c"
    source.write_text(blocks(ROOT / "README.md", "c")[0])
    module = compile_c(source)
    module.with_suffix(".toml").write_text(blocks(ROOT / "README.md", "toml")[0])
    command = [sys.executable, "-m", "ota.cli.main", "run", str(module), "--event", "sys/x=hello"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "topic=readings/echo  payload=hello" in done.stdout


def test_the_example_configuration_names_every_setting():
    loaded = config.load(ROOT / "device_agent" / "agent.example.toml")
    assert loaded.device == "board-1"
    text = (ROOT / "device_agent" / "node" / "config.py").read_text()
    names = set(
        re.findall(r'"(?:device|broker|enrolment|storage|trust|factory|trial|fetch|health|report|sources|limits)\.(\w+)"', text)
    )
    example = (ROOT / "device_agent" / "agent.example.toml").read_text()
    assert all(re.search(rf"^(# )?{name} = ", example, flags=re.MULTILINE) for name in names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "device.id is missing"),
        ("[device", "agent.toml"),
        ('[device]\nid = "a b"\n', "device.id must be 1 to 64 letters"),
        ('[device]\nid = "a"\ngroup = "b"\n[storage]\nfolder = "s"\n[trust]\nroot = "r"\n[trial]\nsecond = 1\n', "trial.second"),
        ('[device]\nid = "a"\ngroup = "b"\n[storage]\nfolder = "s"\n[trust]\nroot = "r"\n[grants.network]\n', "'network'"),
        ('[device]\nid = "a"\ngroup = "b"\n[storage]\nfolder = "s"\n[trust]\nroot = "r"\n[broker]\nurl = "x"\n', "broker.url"),
    ],
)
def test_a_wrong_configuration_is_one_clear_line(tmp_path, text, message):
    path = tmp_path / "agent.toml"
    path.write_text(text)
    command = [sys.executable, "-m", "device_agent", "--config", str(path), "check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_every_reason_is_documented():
    text = (ROOT / "docs" / "reasons.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w-]+)` \|", text, flags=re.MULTILINE) == [reason.value for reason in Reason]


def test_links_between_documents_lead_somewhere():
    for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), ROOT / "wamr_bindings" / "README.md"]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_limits_that_are_documented_are_those_of_the_code():
    config = agent_config_defaults()
    rows = re.findall(
        r"^\|[^|]*\| (\d+) \|[^|]*\| `([\w.]+)(?::(\w+))?` \|", (ROOT / "docs/reference/limits.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 25
    for value, where, name in rows:
        found = getattr(importlib.import_module(where), name) if name else config[where]
        assert int(value) == found, f"{where} {name}"


def agent_config_defaults() -> dict[str, int]:
    """The settings of the example configuration, by section and name."""
    example = tomllib.loads((ROOT / "device_agent/agent.example.toml").read_text())
    return {f"limits.{name}": value for name, value in example["limits"].items()}

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

from device_agent.command import main as agent
from device_agent.node import config
from ota.formats.reasons import Reason
from tests.conftest import ROOT
from tests.support.aot import aotc
from tests.support.guest_c import compile_c
from tests.support.lab import Mosquitto
from tests.support.registry import DockerRegistry


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_ten_lines_of_pywamr_run():
    (program,) = blocks(ROOT / "wamr_bindings" / "README.md", "python")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "42 [40]\nunreachable\n", "")


DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "wamr_bindings" / "README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
EXECUTED = "<!-- executed by tests/test_documents.py"
REGISTRY = "localhost:5000"  # of artifacts
LONG = (
    "keep-a-module-secret.md",
    "roll-out.md",
    "many-modules.md",
    "watch-a-fleet.md",
    "stolen-release-key.md",
    "lost-root-share.md",
)
SCRIPTS = [
    pytest.param(each, id=str(each.relative_to(ROOT)), marks=[pytest.mark.full] if each.name in LONG else [])
    for each in DOCUMENTS
    if EXECUTED in each.read_text(encoding="utf-8")
]


def marked(path: Path) -> list[tuple[str, str]]:
    """Every block of shell commands with the comment on the line before it, which says who executes it."""
    return re.findall(r"(?:(<!-- [^\n]*?-->)\n)?```sh\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_says_which_test_executes_it(path):
    text = path.read_text(encoding="utf-8")
    for mark, code in marked(path):
        assert mark, f"{path.name} has commands that nothing executes: {code}"
        tests = re.findall(r"tests/[\w/]+\.py", text if mark.startswith("<!-- commands: ") else mark)
        assert tests
        assert all((ROOT / each).is_file() for each in tests), mark


@pytest.mark.parametrize("path", SCRIPTS)
def test_the_commands_of_a_document_work(path, tmp_path, modules):
    if Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    if "where wamr_aotc is built" in path.read_text(encoding="utf-8") and aotc() is None:
        pytest.skip("wamr_aotc is not built: make aotc")
    registry = DockerRegistry(tmp_path) if REGISTRY in path.read_text(encoding="utf-8") else None
    broker = Mosquitto(tmp_path)
    broker.start()
    (tmp_path / "build").mkdir()
    shutil.copytree(modules, tmp_path / "build" / "modules")
    steps = "".join(code for mark, code in marked(path) if mark.startswith(EXECUTED))
    steps = re.sub("(:|-p )1883", f"\\g<1>{broker.port}", steps)
    if registry is not None:
        steps = steps.replace(REGISTRY, registry.host)
    script = f"set -eu\ntrap 'kill $(jobs -p) || true' EXIT\n{steps}"
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    try:
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False
        )
    finally:
        broker.stop()
        if registry is not None:
            registry.close()
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in EXPECTED.get(path.name, ()):
        assert re.search(expected, done.stdout), f"{expected}\n{done.stdout}"


EXPECTED = {
    "README.md": (
        r"1 of 1 boards",
        r"board-1\s+lab\s+\S+\s+monitor\s+monitor 1.0.0\s+confirmed",
        r"devices/board-1/readings/\w+ ",
        r"devices/board-1/summaries/load ",
    ),
    "tutorial.md": (r"blink 1\.1\.0", r"rolled-back", r"board-1\s+lab\s+\S+\s+monitor\s+monitor 2.0.0\s+confirmed"),
    "write-a-module.md": (r"publish",),
    "carry-updates.md": (
        r"lab\.bundle: \d+ bytes, for group lab",
        r"monitor: confirmed",
        r"board-1\s+lab\s+\S+\s+monitor\s+monitor \S+\s+confirmed",
        r"archive: \d+ messages are new, 0 were there",
        r"1 group: \d+ messages were put back",
    ),
    "keep-a-module-secret.md": (
        r"key [0-9a-f]{16} of group lab: \S+/group-[0-9a-f]{16}\.key",
        r"encrypted for\s+group key [0-9a-f]{16}",
        r"board board-1\s+[0-9a-f]{16}",
        r"group-[0-9a-f]{16}\.key is deleted",
    ),
    "lost-deploy-key.md": (
        r"keys/deploy.pem \(not there\)",
        r"1 of 1 boards will follow",
        r"the deployment of group lab is signed again",
        r"board-1\s+lab\s+\S+\s+monitor\s+monitor 2.0.0\s+confirmed",
    ),
    "stolen-release-key.md": (
        r"1 of 1 boards will follow",
        r"the stolen key signs nothing any more",
        r"board-1\s+lab\s+\S+\s+monitor\s+monitor 1.0.0\s+confirmed",
    ),
    "lost-root-share.md": (r"monitor-1\.0\.0\n", r"root 2 is published", r"root 3 is published", r"root 4 is published"),
    "use-a-registry.md": (
        r"oci://\S+/lab/tally:1\.0\.0: build/modules/tally\.wasm, sha256:[0-9a-f]{64}\n",
        r"origin  oci://\S+/lab/tally@sha256:[0-9a-f]{64}\n",
        r"nothing was sent\n",
    ),
    "many-modules.md": (
        r"together with summary",
        r"devices/board-1/summaries/load \{.*board:board-1 instance:summary module:summary 1.0.0 number:",
        r"site=roof\nunit=1min\n",
        r"1 waiting for the window",
        r"board-1\s+lab\s+0.1.0\s+sampler\s+sampler 1.1.0\s+confirmed.*\n\Z",
    ),
}
"""What the commands of a document must print, as patterns."""


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
    names = {"factory", "memory_pages", "messages_per_s", "log_lines_per_s", "event_queue", "event_queue_bytes"} | set(
        re.findall(
            r'"(?:device|broker|enrolment|renewal|storage|trust|trial|fetch|health|report|limits|updates|policy|topics|bus|bundles)'
            r'\.(\w+)"',
            text,
        )
    )
    example = (ROOT / "device_agent" / "agent.example.toml").read_text()
    assert [name for name in names - {"grants"} if not re.search(rf"^(# )?{name} = ", example, flags=re.MULTILINE)] == []


COMPLETE = '[device]\nid = "a"\ngroup = "b"\n[storage]\nfolder = "s"\n[trust]\nroot = "r"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "device.id is missing"),
        ("[device", "agent.toml"),
        ("trial = 3\n" + COMPLETE, "there is no setting trial outside of a section; a section is written [trial]"),
        ('[device]\nid = "a b"\n', "device.id must be 1 to 64 letters"),
        ('[device]\nid = "a"\ngroup = "b"\n[storage]\nfolder = "s"\n[trust]\nroot = "r"\n[trial]\nsecond = 1\n', "trial.second"),
        (COMPLETE + "[policy.grants.network]\n", "policy.grants: capability 'network' is not one of"),
        (COMPLETE + "[grants.logging]\n", "there is no setting grants.logging"),
        (COMPLETE + "[policy]\ninstances = 65\n", "policy.instances must be a number from 1 to 64"),
        (COMPLETE + '[broker]\nurl = "mqtt://b"\nkeepalive_s = 86400\n', "broker.keepalive_s must be a number from 1 to 65535"),
        (
            COMPLETE + '[broker]\nurl = "mqtt://b"\nsession_expiry_s = 5e9\n',
            "session_expiry_s must be a number from 0 to 4294967295",
        ),
        (
            COMPLETE + "[instances.agent]\n",
            'instances.agent must be named with 1 to 64 letters, digits, - _ or ., other than "agent"',
        ),
        (COMPLETE + "[instances.pump]\ncolour = 1\n", "there is no setting instances.pump.colour"),
        (COMPLETE + "[instances.pump.grants.network]\n", "instances.pump.grants"),
        (COMPLETE + "[instances.pump.limits]\nmemory_pages = 0\n", "instances.pump.limits.memory_pages must be a whole number"),
        (
            COMPLETE + "[instances.pump.config]\nsite = 3\n",
            "instances.pump.config: configuration key 'site' has int as its value",
        ),
        (COMPLETE + '[topics]\npublish = "{topic}/x"\n', "topics.publish: '{topic}/x': {topic} must be its last level"),
        (
            COMPLETE + '[topics]\nsubscribe = ["{colour}/{topic}"]\n',
            "topics.subscribe: '{colour}/{topic}': there is no placeholder",
        ),
        (COMPLETE + "[bus]\ndurable = 1\n", "bus.durable must be true or false"),
        (COMPLETE + '[sources.x]\nkind = "y"\n', "sources.x.kind must be one of"),
        ('[device]\nid = "a"\ngroup = "b"\n[storage]\nfolder = "s"\n[trust]\nroot = "r"\n[broker]\nurl = "x"\n', "broker.url"),
    ],
)
def test_a_wrong_configuration_is_one_clear_line(tmp_path, capsys, text, message):
    path = tmp_path / "agent.toml"
    path.write_text(text)
    assert agent(["--config", str(path), "check"]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_every_reason_is_documented():
    text = (ROOT / "docs" / "reasons.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w-]+)` \|", text, flags=re.MULTILINE) == [reason.value for reason in Reason]


def test_links_between_documents_lead_somewhere():
    for path in DOCUMENTS:
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
    sections = ("limits", "bus", "trial", "policy")
    return {f"{section}.{name}": value for section in sections for name, value in example[section].items()}


def test_the_readme_fits_and_lines_are_not_too_long():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    long = [
        f"{path.name}:{number}"
        for path in DOCUMENTS
        if path.parent.name != "decisions"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 132 and not line.startswith("|") and "http" not in line
    ]
    assert long == []

"""The agent's process: what it writes to standard error, and what it looks at before it starts."""

import asyncio
import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from device_agent.node import service
from device_agent.node.config import ConfigError, load
from device_agent.node.service import _ToOperator
from ota.formats.report import decode_logs, encode_logs

SCRIPT = """
import logging, os
from device_agent.node.service import _Bounded
logging.basicConfig(level=logging.INFO, handlers=[_Bounded()], format="%(message)s")
for number in range(30_000):
    logging.info("record %06d %s", number, "x" * 80)
    if number % 10_000 == 0:
        os.write(2, b"somebody else\\n")
"""


def test_a_log_that_is_a_file_keeps_its_end_within_bounds(tmp_path):
    """On small systems it lies in memory, and a board runs for years."""
    log = tmp_path / "agent.log"
    with log.open("ab") as file:
        subprocess.run([sys.executable, "-c", SCRIPT], stderr=file, check=True)
    lines = log.read_text().splitlines()
    assert log.stat().st_size < 1_100_000
    assert lines[-1].startswith("record 029999 ")
    numbers = [int(line.split()[1]) for line in lines if line.startswith("record")]
    assert numbers == list(range(numbers[0], 30_000))
    assert len(numbers) > 1000


def test_a_log_that_is_no_file_for_appending_is_left_alone(tmp_path):
    with (tmp_path / "log").open("wb") as file:
        subprocess.run([sys.executable, "-c", SCRIPT], stderr=file, check=True)
    assert (tmp_path / "log").stat().st_size > 2_000_000
    piped = subprocess.run([sys.executable, "-c", SCRIPT], stderr=subprocess.PIPE, check=True)
    assert len(piped.stderr) > 2_000_000


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('confinement = "off"', 'policy.confinement must be "required" or "best-effort"'),
        ("confinement = false", "policy.confinement must be text"),
        ('worker_users = "0-10"', "policy.worker_users must be numbers of users"),
        ('worker_users = "20-10"', "policy.worker_users must be numbers of users"),
        ('worker_users = "1-4294967295"', "policy.worker_users must be numbers of users"),
    ],
)
def test_a_policy_of_confinement_with_nonsense_is_refused(tmp_path, setting, message):
    text = '[device]\nid = "a"\ngroup = "b"\n[storage]\nfolder = "s"\n[trust]\nroot = "r"\n[policy]\n'
    (tmp_path / "agent.toml").write_text(text + setting)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "agent.toml")


def test_an_address_that_is_none_is_one_sentence(tmp_path):
    text = '[device]\nid = "a"\ngroup = "b"\n[storage]\nfolder = "s"\n[trust]\nroot = "r"\n[broker]\nurl = "localhost"\n'
    (tmp_path / "agent.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"agent.toml: broker.url: 'localhost' is not a broker address: mqtt://host"):
        load(tmp_path / "agent.toml")


def test_confinement_is_required_unless_the_policy_says_otherwise(tmp_path):
    text = '[device]\nid = "a"\ngroup = "b"\n[storage]\nfolder = "s"\n[trust]\nroot = "r"\n'
    (tmp_path / "agent.toml").write_text(text)
    assert load(tmp_path / "agent.toml").confinement_required
    (tmp_path / "agent.toml").write_text(text + '[policy]\nconfinement = "best-effort"\nworker_users = "7-9"\n')
    config = load(tmp_path / "agent.toml")
    assert not config.confinement_required
    assert list(config.worker_users) == [7, 8, 9]


def test_a_log_line_with_a_file_name_that_is_no_text_reaches_the_operator():
    async def main():
        taken = []
        handler = _ToOperator(SimpleNamespace(log=taken.append), asyncio.get_running_loop())
        handler.emit(logging.LogRecord("agent", logging.ERROR, __file__, 1, "%s: gone", (os.fsdecode(b"/a\xff"),), None))
        await asyncio.sleep(0)
        return taken

    (record,) = asyncio.run(main())
    assert decode_logs(encode_logs("d", 1, [record])).records[0].message == "/a\\udcff: gone"


def test_an_idle_agent_has_not_loaded_what_it_may_never_need():
    script = """
import sys
import device_agent.command, device_agent.node.service
unneeded = {"tarfile", "http.client", "email", "importlib.metadata", "zipfile", "shutil", "tempfile", "pywamr", "ctypes"}
assert not unneeded & sys.modules.keys(), unneeded & sys.modules.keys()
import paho.mqtt.client, urllib.request
assert urllib.request.getproxies() == {"http": "http://proxy:1"}
assert paho.mqtt.client.urllib.request.proxy_bypass
from urllib.request import Request
assert sys.modules["urllib.request"].Request is Request
"""
    environment = {each: value for each, value in os.environ.items() if not each.lower().endswith("_proxy")}
    subprocess.run([sys.executable, "-c", script], env=environment | {"http_proxy": "http://proxy:1"}, check=True)


@pytest.mark.parametrize(("hands_over", "failed"), [(True, False), (True, True), (False, False)])
def test_the_next_agent_may_begin_once_the_node_has_stopped_in_good_order(tmp_path, monkeypatch, hands_over, failed):
    said: list[str] = []

    class Node:
        def __init__(self, *_: object) -> None:
            self.hands_over, self.failed = hands_over, failed

        async def run(self) -> None:
            said.append("stopped")

        def stop(self) -> None:
            """Nobody asks."""

    monkeypatch.setattr(service, "Node", Node)
    monkeypatch.setattr(service, "load", lambda _: None)
    launcher = SimpleNamespace(let_begin=lambda: said.append("next"))
    asyncio.run(service._serve(tmp_path, launcher))
    assert said == (["stopped", "next"] if hands_over and not failed else ["stopped"])

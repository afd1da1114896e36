"""A mistyped setting of agent.toml: the message names it, and the setting that was meant."""

import re

import pytest

from device_agent.command import main
from device_agent.instance.slots import module_spec
from device_agent.node.config import ConfigError, load
from ota.formats.module import Limits
from tests.support.signing import Signer

WHOLE = """\
[device]
id = "board-1"
group = "lab"
[broker]
url = "mqtt://localhost:1883"
[storage]
folder = "board"
[trust]
root = "root.1.cbor"
[trial]
seconds = 2
[sources.readings]
kind = "proc"
period_s = 0.5
[policy.grants.messaging]
subscribe = ["sys/#"]
[instances.pump]
factory = "factory"
[instances.pump.limits]
memory_pages = 64
"""


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("id =", "idd =", "device.id is missing, and there is no setting device.idd"),
        ('id = "board-1"\n', "", "device.id is missing"),
        ("[broker]", "[brokr]", "there is no setting brokr.url (did you mean broker.url?)"),
        ("seconds =", "second =", "there is no setting trial.second (did you mean seconds?)"),
        ("seconds = 2", "colour = 2", "there is no setting trial.colour"),
        ("factory =", "factroy =", "there is no setting instances.pump.factroy (did you mean factory?)"),
        ("pages =", "page =", "there is no setting instances.pump.limits.memory_page (did you mean memory_pages?)"),
        ("period_s", "period", "there is no setting sources.readings.period for a source of this kind (did you mean period_s?)"),
        ("subscribe", "subscibe", "policy.grants: messaging has no argument 'subscibe' (did you mean subscribe?)"),
    ],
)
def test_a_mistyped_setting_is_named_with_the_one_that_was_meant(tmp_path, right, wrong, said):
    file = tmp_path / "agent.toml"
    file.write_text(WHOLE)
    assert load(file).device == "board-1"
    assert right in WHOLE
    file.write_text(WHOLE.replace(right, wrong, 1))
    with pytest.raises(ConfigError, match=re.escape(f"{file}: {said}") + "$"):
        load(file)


@pytest.mark.parametrize(
    ("asked", "policy", "own", "gets"),
    [
        ((1_000_000, 100_000), "", "", (1000, 100)),
        ((20, 3), "", "", (20, 3)),
        ((1_000_000, 100_000), "[policy]\nmessages_per_s = 5\nlog_lines_per_s = 6\n", "", (5, 6)),
        ((1_000_000, 100_000), "[policy]\nmessages_per_s = 5\n", "messages_per_s = 7000\nlog_lines_per_s = 1\n", (7000, 1)),
    ],
    ids=["whoever asks for everything", "whoever asks for less", "of this board", "of this instance"],
)
def test_how_much_a_module_may_say_is_bounded_whatever_its_manifest_asks_for(tmp_path, asked, policy, own, gets):
    file = tmp_path / "agent.toml"
    file.write_text(WHOLE.replace("[policy.grants", f"{policy}[policy.grants") + own)
    manifest = Signer().update(b"module", limits=Limits(messages_per_s=asked[0], log_lines_per_s=asked[1])).manifest
    limits = module_spec("pump", manifest, b"", {}, load(file).policy("pump"), tmp_path).description.limits
    assert (limits.messages_per_s, limits.log_lines_per_s) == gets


@pytest.mark.parametrize("words", [[], ["check"], ["status"], ["install", "x.bundle"], ["audit", "export"]])
def test_without_its_configuration_an_agent_says_how_to_name_it(tmp_path, capsys, words):
    file = tmp_path / "agent.toml"
    assert main(["--config", str(file), *words]) == 1
    said = capsys.readouterr()
    assert f"{file} is not there: name the configuration file with --config" in said.out + said.err

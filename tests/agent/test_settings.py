"""A mistyped setting of agent.toml: the message names it, and the setting that was meant."""

import re

import pytest

from device_agent.command import main
from device_agent.node.config import ConfigError, load

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


@pytest.mark.parametrize("words", [[], ["check"], ["status"], ["install", "x.bundle"], ["audit", "export"]])
def test_without_its_configuration_an_agent_says_how_to_name_it(tmp_path, capsys, words):
    file = tmp_path / "agent.toml"
    assert main(["--config", str(file), *words]) == 1
    said = capsys.readouterr()
    assert f"{file} is not there: name the configuration file with --config" in said.out + said.err

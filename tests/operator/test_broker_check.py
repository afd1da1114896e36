"""`ota broker check` on real brokers, as they are and with limits and access rules."""

import json

import pytest

from ota.formats import topics
from ota.formats.broker_url import BrokerUrl
from ota.operator.broker import Broker
from ota.operator.workspace import Settings
from tests.support.lab import Mosquitto
from tests.support.operator import ota
from tests.support.rumqttd import Rumqttd


@pytest.fixture
def start(tmp_path):
    """Starts a broker: mosquitto with lines of configuration, or rumqttd with none."""
    started = []

    def opened(*lines: str, rules: str = "") -> str:
        if Mosquitto.command() is None and lines != ("rumqttd",):
            pytest.skip("mosquitto is not installed")
        broker = Rumqttd(tmp_path) if lines == ("rumqttd",) else Mosquitto(tmp_path)
        if lines != ("rumqttd",):
            if rules:
                (tmp_path / "rules").write_text(rules)
                (tmp_path / "rules").chmod(0o600)
                lines = (*lines, f"acl_file {tmp_path / 'rules'}")
            with broker._config.open("a") as config:
                config.write("".join(f"{line}\n" for line in lines))
        broker.start()
        started.append(broker)
        return broker.url

    yield opened
    for each in started:
        each.stop()


def measured(capsys, folder, url: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code and findings by name."""
    capsys.readouterr()
    code = ota(folder, "broker", "check", url, "--json")
    return code, {each["what"]: each for each in json.loads(capsys.readouterr().out)["findings"]}


@pytest.mark.parametrize("kind", [(), pytest.param(("rumqttd",), marks=pytest.mark.full)])
def test_a_broker_is_measured_and_left_as_it_was(start, tmp_path, capsys, kind):
    url = start(*kind)
    code, found = measured(capsys, tmp_path, url)
    assert code == 0
    assert found["retained messages"]["found"].startswith("2000 of 2000 by exact topics")
    assert found["wildcard reads"]["verdict"] == "note"
    assert found["wildcard reads"]["found"].startswith("cut at ")
    assert found["names with a dot"]["verdict"] == "good"
    assert found["may read and write"]["verdict"] == "good"
    assert found["over a restart"]["verdict"] == "unknown"
    with Broker(Settings("example.com", BrokerUrl.parse(url), "lab")) as broker:
        broker.subscribe(f"{topics.PREFIX}/#")
        assert [each.topic for each in broker.messages(1.0)] == []


def test_mosquitto_is_told_what_to_set(start, tmp_path, capsys):
    assert ota(tmp_path, "broker", "check", start("max_queued_messages 0")) == 0
    shown = capsys.readouterr().out
    assert "all of 2000" in shown
    assert "in mosquitto.conf: persistence true, autosave_interval 60" in shown


@pytest.mark.parametrize(("size", "verdict", "advice"), [(9000, "note", "--chunk-bytes 8192"), (2000, "bad", "allow packets of")])
def test_packets_that_are_too_small_are_told(start, tmp_path, capsys, size, verdict, advice):
    code, found = measured(capsys, tmp_path, start(f"max_packet_size {size}"))
    assert code == (verdict == "bad")
    assert found["Maximum Packet Size"]["verdict"] == verdict
    assert advice in found["Maximum Packet Size"]["advice"]


def test_a_subscription_that_is_granted_and_brings_nothing_is_told(start, tmp_path, capsys):
    """mosquitto grants what its rules deny."""
    url = start(rules="topic write ota/v1/#\n")
    code, found = measured(capsys, tmp_path, url)
    assert code == 1
    assert "our message did not come back" in found["may read and write"]["found"]
    assert "retained messages" not in found


def test_a_user_who_may_only_read_is_told(start, tmp_path, capsys):
    code, found = measured(capsys, tmp_path, start(rules="topic read ota/v1/#\n"))
    assert code == 1
    assert found["may write"]["found"].startswith("no: not authorized (0x87)")


def test_no_broker_is_one_line(tmp_path, capsys):
    assert ota(tmp_path, "broker", "check", "mqtt://127.0.0.1:1") == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("ota: the broker at mqtt://127.0.0.1:1 can't be reached")
    with pytest.raises(SystemExit) as ended:
        ota(tmp_path, "broker", "check", "ftp://x")
    assert ended.value.code == 2

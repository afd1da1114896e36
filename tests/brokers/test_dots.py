"""Names with dots, on brokers that take a dot for the end of a level."""

import json

import pytest

from ota.formats import topics
from ota.formats.broker_url import BrokerUrl
from ota.operator.broker import Broker
from ota.operator.discovery import discover
from ota.operator.workspace import Settings
from tests.support.brokers import Artemis
from tests.support.operator import ota

pytestmark = pytest.mark.full


@pytest.fixture
def artemis(tmp_path):
    opened = Artemis(tmp_path)
    opened.start()
    yield opened
    opened.stop()


def test_a_board_whose_name_has_dots_is_discovered(artemis):
    with Broker(Settings("example.com", BrokerUrl.parse(artemis.url), "lab")) as broker:
        broker.publish_all([(topics.online(name), topics.ONLINE) for name in ("pump-1", "pump-1.example.com")])
        assert set(discover(broker, ()).online) == {"pump-1", "pump-1.example.com"}


def test_the_check_says_that_wildcards_pass_over_names_with_dots(artemis, tmp_path, capsys):
    ota(tmp_path, "broker", "check", artemis.url, "--json")
    found = {each["what"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert found["names with a dot"]["verdict"] == "note"
    assert "wildcard-addresses" in found["names with a dot"]["advice"]

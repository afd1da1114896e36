"""An operator's workspace, with and without a broker."""

import pytest

from tests.support.lab import Mosquitto
from tests.support.operator import ota
from tests.support.publishing import Publishing
from tests.support.rumqttd import Rumqttd


@pytest.fixture
def workspace(tmp_path, capsys):
    """A new one."""
    folder = tmp_path / "operator"
    assert ota(folder, "init", "--vendor", "test.example") == 0
    capsys.readouterr()
    return folder


@pytest.fixture(params=("mosquitto", pytest.param("rumqttd", marks=pytest.mark.full)))
def site(request, tmp_path, capsys):
    """An operator, and each of the brokers in turn."""
    if request.param == "mosquitto" and Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    opened = Publishing(tmp_path, Mosquitto if request.param == "mosquitto" else Rumqttd)
    capsys.readouterr()
    yield opened
    opened.close()


@pytest.fixture
def quick(tmp_path, capsys):
    """The same, for what does not depend on the broker."""
    opened = Publishing(tmp_path, Rumqttd)
    capsys.readouterr()
    yield opened
    opened.close()

"""A broker without MQTT 5 is refused by name, with what it answered, by operator and board."""

import asyncio

import pytest

from device_agent.broker.link import Link
from device_agent.broker.settings import BrokerConfig
from ota.formats.broker_url import BrokerUrl
from tests.support.brokers import Aedes
from tests.support.lab import PATIENCE_S
from tests.support.operator import ota

pytestmark = pytest.mark.full


@pytest.fixture
def broker(tmp_path):
    opened = Aedes(tmp_path)
    opened.start()
    yield opened
    opened.stop()


def test_the_operator_is_told_before_anything_is_sent(broker, tmp_path, capsys):
    assert ota(tmp_path / "operator", "init", "--no-passphrase", "--broker", broker.url) == 0
    for words in (("status",), ("broker", "check", broker.url)):
        capsys.readouterr()
        assert ota(tmp_path / "operator", *words) == 1
        told = f"ota: the broker at {broker.url} refused the connection: Unsupported protocol version; wamr-ota needs MQTT 5"
        assert capsys.readouterr().err.splitlines()[-1] == told


def test_the_board_says_so_and_is_never_online(broker, caplog):
    online = []

    async def inside() -> None:
        config = BrokerConfig(BrokerUrl("127.0.0.1", broker.port, tls=False))
        running = asyncio.create_task(Link(config, "b", lambda *_: None, lambda: online.append(1), lambda: None).run())
        async with asyncio.timeout(PATIENCE_S):
            while "refused" not in caplog.text:
                await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(inside())
    assert "the broker refused the connection: Unsupported protocol version; MQTT 5 is needed" in caplog.text
    assert not online

"""One connection to the broker: what is kept for it has a bound."""

import asyncio

from device_agent.broker import connection
from device_agent.broker.buffered import BufferedSocket
from device_agent.broker.packets import puback
from device_agent.broker.settings import BrokerConfig, Session
from ota.formats.broker_url import BrokerUrl


class Full:
    """A socket that takes nothing."""

    def send(self, _: bytes) -> int:
        raise BlockingIOError

    def fileno(self) -> int:
        return -1


def test_a_broker_that_sends_and_takes_nothing_loses_its_connection(monkeypatch):
    """Whatever Receive Maximum says, it may send for ever: each message would leave an acknowledgement in memory."""
    monkeypatch.setattr(connection, "UNSENT_MAX_BYTES", 1000)

    async def main() -> str:
        ours = connection.Connection(BrokerConfig(BrokerUrl.parse("mqtt://x")), "x", Session(True, 0, None), None)
        ours._socket = BufferedSocket(Full())
        ours._flushing = asyncio.get_running_loop().call_later(60, lambda: None)
        for mid in range(1, 251):
            ours._put(puback(mid))
            assert not ours._lost.is_set()
        ours._put(puback(251))
        assert ours._lost.is_set()
        ours._flushing.cancel()
        return ours._ended().reason

    assert asyncio.run(main()).startswith("the broker sends, and takes nothing")

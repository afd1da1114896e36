"""One connection to the broker: what is kept for it has a bound, and what ends it is told for what it is."""

import asyncio
from types import SimpleNamespace

import pytest
from paho.mqtt.subscribeoptions import SubscribeOptions

from device_agent.broker import connection
from device_agent.broker.buffered import BufferedSocket
from device_agent.broker.packets import puback
from device_agent.broker.settings import BrokerConfig, Session
from ota.formats.broker_url import BrokerUrl
from tests.support.scripted_broker import CONNACK, DISCONNECT, PUBLISH, SUBACK, SUBSCRIBE, UNSUBACK, ScriptedBroker, packet


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


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (packet(SUBACK, 0, b"\0\1\0\x42"), "the broker sent a packet that can't be read, of type 9"),
        (packet(SUBACK, 0, b""), "the broker sent a packet that can't be read, of type 9"),
        (packet(UNSUBACK, 0, b"\0\1\0\x42"), "the broker sent a packet that can't be read, of type 11"),
        (packet(DISCONNECT, 0, b"\x42\0"), "the broker sent a packet that can't be read, of type 14"),
        (packet(CONNACK, 0, b"\0\0\0"), "the broker answered CONNECT twice"),
    ],
    ids=["suback", "empty suback", "unsuback", "disconnect", "connack"],
)
def test_a_packet_that_ends_a_connection_is_not_taken_for_another_client_with_the_boards_name(sent, reason):
    async def main():
        async with ScriptedBroker() as broker:
            accepted = []

            def accept(limits, session_present) -> None:
                accepted.append(limits)
                broker.send(sent)

            ours = connection.Connection(broker.config, "x", Session(True, 0, None), SimpleNamespace(accepted=accept))
            await ours.open()
            try:
                async with asyncio.timeout(60):
                    ended = await ours.serve()
            finally:
                ours.close()
            assert (ended.reason, ended.closed, len(accepted)) == (reason, False, 1)

    asyncio.run(main())


@pytest.mark.parametrize("asked", ["subscription", "message"])
def test_a_broker_that_answers_nothing_but_pings_loses_its_connection(monkeypatch, asked):
    monkeypatch.setattr(connection, "ANSWER_TIMEOUT_S", 0.1)
    monkeypatch.setattr(connection, "MISC_MAX_S", 0.01)

    class Silent(ScriptedBroker):
        def _answer(self, taken, writer) -> None:
            if taken.kind not in (SUBSCRIBE, PUBLISH):
                super()._answer(taken, writer)

    async def main():
        async with Silent() as broker:
            settled = []

            def accept(limits, session_present) -> None:
                if asked == "subscription":
                    ours.subscribe([("doc", SubscribeOptions(qos=1))])
                else:
                    ours.publish(connection.Outgoing("out", b"", False, settled.append))

            ours = connection.Connection(broker.config, "x", Session(True, 0, None), SimpleNamespace(accepted=accept))
            await ours.open()
            try:
                async with asyncio.timeout(60):
                    ended = await ours.serve()
            finally:
                ours.close()
            assert ended.reason == "the broker has answered none of 1 packets for 0 s"
            assert not ended.closed
            assert settled == ([] if asked == "subscription" else [connection.Sent.LOST])

    asyncio.run(main())

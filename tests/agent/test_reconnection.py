"""When the link connects again, and what it says of why it could not."""

import asyncio
import datetime
import socket
import subprocess
import threading
import time
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from boards.ports import free_port
from device_agent.broker import backoff
from device_agent.broker.backoff import Backoff, Ended
from device_agent.broker.connection import Connection
from device_agent.broker.link import Link
from device_agent.broker.settings import BrokerConfig
from ota.formats.broker_url import BrokerUrl
from tests.support.lab import PATIENCE_S, Mosquitto
from tests.support.scripted_broker import CONNECT, DISCONNECT, ScriptedBroker
from tests.support.tls import server_certificate

REFUSED = Ended("the broker refused the connection", accepted=False)
WORKED = Ended("", lasted_s=20.0, accepted=True, granted=True)
SHORT = Ended("", lasted_s=0.2, accepted=True, granted=True, closed=True)


def delays(*ends: Ended) -> list[float]:
    """Delays after connections that ended so, one second apart, without chance."""
    waits = Backoff(lambda low, high: high)
    return [waits.after(each, float(at)) for at, each in enumerate(ends)]


def test_delays_double_up_to_a_minute_until_a_session_worked():
    assert delays(*[REFUSED] * 9) == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert delays(REFUSED, REFUSED, WORKED, REFUSED) == [0.5, 1, 0.5, 1]


@pytest.mark.parametrize(
    "ended",
    [
        replace(WORKED, granted=False),  # no subscription was granted
        replace(WORKED, lasted_s=1.0),  # it was cut off at once
    ],
)
def test_being_accepted_is_not_having_worked(ended):
    assert delays(ended, ended, ended) == [0.5, 1, 2]


def test_a_short_session_in_which_a_part_of_an_update_arrived_worked():
    assert delays(*[replace(SHORT, progress=True)] * 5) == [0.5] * 5


def test_sessions_closed_within_seconds_are_contention_as_if_the_broker_had_said_so():
    for ends in ([SHORT] * 12, [replace(SHORT, taken_over=True)] * 12):
        waits = Backoff(lambda low, high: high)
        found = [waits.after(each, float(at)) for at, each in enumerate(ends)]
        assert waits.contended
        assert found[-1] == backoff.CONTENTION_MAX_S
        waits.after(WORKED, 100.0)
        assert waits.contended  # the other one was only waiting
        waits.after(replace(WORKED, lasted_s=backoff.CONTENTION_FORGET_S), 1000.0)
        assert not waits.contended


def test_a_broker_that_restarts_is_no_contention():
    waits = Backoff()
    for at in range(5):
        waits.after(replace(SHORT, lasted_s=60.0), at * 600.0)
    for at in range(5):
        waits.after(replace(SHORT, closed=False), 5000.0 + at)  # the network, not the broker
    assert not waits.contended


async def tried(config: BrokerConfig, attempts: int, monkeypatch) -> Link:
    """A link after some attempts."""
    monkeypatch.setattr(backoff, "RECONNECT_MIN_S", 0.05)
    made = []
    link = Link(config, "board", lambda *_: None, lambda: None, lambda: None)
    connect_once = link._connect_once

    async def counted():
        made.append(await connect_once())
        return made[-1]

    link._connect_once = counted
    running = asyncio.create_task(link.run())
    async with asyncio.timeout(60):
        while len(made) < attempts:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return link


@pytest.mark.parametrize(
    ("connack", "told"),
    [
        (b"\x00\x86\x00", "the broker refused the connection: Bad user name or password"),
        (b"\x00\x87\x08\x1f\x00\x05lease", "the broker refused the connection: Not authorized (lease)"),
        (b"\x00\x84\x00", "the broker refused the connection: Unsupported protocol version; MQTT 5 is needed"),
        (b"\x00\x01", "the broker refused the connection: Unsupported protocol version; MQTT 5 is needed"),  # as MQTT 3.1.1 says it
    ],
)
def test_why_the_broker_refuses_is_said_once(caplog, monkeypatch, connack, told):
    async def inside():
        async with ScriptedBroker(connack=lambda _: connack) as broker:
            await tried(broker.config, 4, monkeypatch)
            assert broker.connections >= 4

    asyncio.run(inside())
    assert caplog.text.count(told) == 1


def test_a_password_that_fits_no_packet_is_told_and_ends_nothing(tmp_path, caplog, monkeypatch):
    """The file is read at each attempt, and may be another by now."""
    (password := tmp_path / "password").write_text("x" * 70_000)

    async def inside():
        async with ScriptedBroker() as broker:
            await tried(replace(broker.config, username="board", password_file=password), 2, monkeypatch)

    asyncio.run(inside())
    assert caplog.text.count("is too long for MQTT") == 1


def test_a_broker_that_does_not_answer_at_all_is_told(caplog, monkeypatch):
    """amqtt 0.12.1 leaves a CONNECT of MQTT 5 unanswered and the connection open."""
    monkeypatch.setattr("device_agent.broker.connection.CONNACK_TIMEOUT_S", 0.1)
    monkeypatch.setattr("device_agent.broker.connection.MISC_MAX_S", 0.05)

    async def inside():
        async def listen(reader, writer):
            await reader.read()
            writer.close()

        config = BrokerConfig(BrokerUrl("127.0.0.1", free_port(), tls=False))
        server = await asyncio.start_server(listen, "127.0.0.1", config.url.port)
        await tried(config, 2, monkeypatch)
        server.close()

    asyncio.run(inside())
    assert caplog.text.count("no answer to CONNECT in 0 s: is there MQTT 5") == 1


def test_a_broker_that_closes_without_an_answer_is_told_from_one_that_is_not_there(caplog, monkeypatch):
    async def inside():
        async def hang_up(reader, writer):
            await reader.read(1000)
            writer.close()

        config = BrokerConfig(BrokerUrl("127.0.0.1", free_port(), tls=False))
        await tried(config, 2, monkeypatch)
        server = await asyncio.start_server(hang_up, "127.0.0.1", config.url.port)
        await tried(config, 2, monkeypatch)
        server.close()

    asyncio.run(inside())
    assert caplog.text.count("Connection refused") == 1
    assert caplog.text.count("closed the connection without an answer to CONNECT: is there MQTT 5") == 1


def test_a_name_that_is_not_found_is_said(caplog, monkeypatch):
    asyncio.run(tried(BrokerConfig(BrokerUrl("broker.invalid", 1883, tls=False)), 2, monkeypatch))
    assert len(caplog.records) == 1
    assert "broker.invalid" in caplog.text


def certificate(folder, name: str, days: int) -> None:
    """A certificate of its own authority that ends in some days, or ended."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(days + 1000)
        .not_valid_before(now - datetime.timedelta(days=9))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    (folder / "client.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "client.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def test_an_expired_certificate_is_said_once_and_a_renewed_one_used_at_the_next_attempt(tmp_path, caplog, monkeypatch):
    """TLS 1.3: the alert comes after the handshake, when the connection counts as made."""
    if Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    server_certificate(tmp_path)
    config = BrokerConfig(
        BrokerUrl("127.0.0.1", free_port(), tls=True),
        ca_file=tmp_path / "server.pem",
        certificate_file=tmp_path / "client.pem",
        key_file=tmp_path / "client.key",
    )
    (tmp_path / "mosquitto.conf").write_text(
        f"listener {config.url.port} 127.0.0.1\nallow_anonymous true\nuser root\nrequire_certificate true\n"
        f"cafile {tmp_path}/client.pem\ncertfile {tmp_path}/server.pem\nkeyfile {tmp_path}/server.key\n"
    )

    async def until_online() -> None:
        online = asyncio.Event()
        running = asyncio.create_task(Link(config, "board", lambda *_: None, online.set, lambda: None).run())
        async with asyncio.timeout(60):
            await online.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    for days, work in ((-1, lambda: tried(config, 3, monkeypatch)), (5, until_online)):
        certificate(tmp_path, "board", days)
        broker = subprocess.Popen([Mosquitto.command(), "-c", str(tmp_path / "mosquitto.conf")], stderr=subprocess.DEVNULL)
        try:
            until_it_listens(config.url.port)
            asyncio.run(work())
        finally:
            broker.terminate()
            broker.wait()
    assert caplog.text.lower().count("alert certificate expired") == 1


def test_two_reasons_that_take_turns_are_said_once_each(caplog):
    """A broker's TLS alert, or the end of the stream, whichever is seen first."""

    async def inside():
        link = Link(BrokerConfig(BrokerUrl("127.0.0.1", 1, tls=False)), "board", lambda *_: None, lambda: None, lambda: None)
        for reason in ("the alert", "the end", "the alert", "the end"):
            link._say(Ended(reason, accepted=False))

    asyncio.run(inside())
    assert [caplog.text.count(each) for each in ("the alert", "the end")] == [1, 1]


def until_it_listens(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return


def test_a_password_file_is_read_at_each_attempt(tmp_path, caplog, monkeypatch):
    file = tmp_path / "password"

    async def inside():
        async with ScriptedBroker(connack=lambda _: b"\x00\x86\x00") as broker:
            config = replace(broker.config, username="board", password_file=file)
            await tried(config, 2, monkeypatch)
            assert not broker.packets
            for password in ("first", "second"):
                file.write_text(password)
                await tried(config, 1, monkeypatch)
                assert broker.of(CONNECT)[-1].body.endswith(password.encode())

    asyncio.run(inside())
    assert caplog.text.count("No such file or directory") == 1


def test_a_connection_that_came_about_after_its_end_was_asked_for_is_closed(monkeypatch):
    dialing, go_on, connections = threading.Event(), threading.Event(), []
    dial = Connection._dial

    def slow(self):
        connections.append(self)  # held: being collected would close its socket too
        dialing.set()
        go_on.wait(PATIENCE_S)
        dial(self)

    monkeypatch.setattr(Connection, "_dial", slow)

    async def inside():
        async with ScriptedBroker() as broker:
            running = asyncio.create_task(Link(broker.config, "board", lambda *_: None, lambda: None, lambda: None).run())
            await asyncio.to_thread(dialing.wait, PATIENCE_S)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            go_on.set()
            async with asyncio.timeout(PATIENCE_S):
                while not broker.connections or broker.open:
                    await asyncio.sleep(0.01)
            assert [each.kind for each in broker.packets] == [CONNECT, DISCONNECT]

    asyncio.run(inside())


def test_two_boards_of_one_name_both_report_it(tmp_path, caplog):
    """mosquitto 2.0.11 closes the connection that is taken over without a word; later ones say why."""
    if Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    broker = Mosquitto(tmp_path)
    broker.start()

    async def inside():
        config = BrokerConfig(BrokerUrl("127.0.0.1", broker.port, tls=False))
        twins = [Link(config, "twin", lambda *_: None, lambda: None, lambda: None) for _ in range(2)]
        for each in twins:
            each.subscribe("a/b")
        running = [asyncio.create_task(each.run()) for each in twins]
        async with asyncio.timeout(60):
            while not all(any("session-taken-over" in problem for problem in each.problems) for each in twins):
                await asyncio.sleep(0.05)
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    try:
        asyncio.run(inside())
    finally:
        broker.stop()
    assert caplog.text.count("are there two boards called twin?") == 2

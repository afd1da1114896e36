"""The broker of docs/broker.md, started from what that page says, and a board with a good certificate that tries everything."""

import contextlib
import os
import queue
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from device_agent.broker.identity import signing_request
from ota.cli.main import main
from ota.demo.broker import free_port
from ota.formats import topics
from ota.operator.ca import CertificateAuthority
from ota.operator.workspace import Workspace
from tests.conftest import ROOT
from tests.support.lab import Mosquitto

PAGE = (ROOT / "docs" / "broker.md").read_text()
pytestmark = pytest.mark.skipif(
    Mosquitto.command() is None or not shutil.which("openssl") or not shutil.which("mosquitto_passwd"),
    reason="mosquitto, mosquitto_passwd and openssl are needed",
)
DENIED, NOBODY_LISTENS = 0x87, 0x10
WAIT_S = 15.0


def block(mark):
    """What the page shows behind a mark."""
    return re.search(rf"<!-- {re.escape(mark)} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)[1]


class Site:
    """An operator's workspace, and mosquitto as the page sets it up; folders and ports are this test's own."""

    def __init__(self, folder):
        self.folder, self.operator = folder, folder / "operator"
        assert main(["-C", str(self.operator), "init", "--broker", "mqtts://127.0.0.1:8885"]) == 0
        self.authority = CertificateAuthority(Workspace.open(self.operator))
        commands = block("commands: server certificate").replace("DNS:broker.example.com", "IP:127.0.0.1")
        subprocess.run(["sh", "-e", "-c", commands], cwd=folder, check=True, capture_output=True)
        certificates, data = folder / "certs", folder / "data"
        certificates.mkdir()
        data.mkdir()
        for each in (folder / "broker.pem", folder / "broker.key", self.operator / "trust/ca.pem"):
            shutil.copy(each, certificates)
        for name in ("boards.acl", "enrolment.acl", "operators.acl"):
            (folder / name).write_text(block(f"file: {name}"))
        (folder / "password").write_text("of the operator\n")
        passwords = folder / "operators.passwd"
        subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "operator", "of the operator"], check=True, capture_output=True)
        self.ports = {8883: free_port(), 8884: free_port(), 8885: free_port()}
        text = block("file: mosquitto.conf").replace("/etc/mosquitto/certs", str(certificates))
        text = text.replace("/etc/mosquitto", str(folder)).replace("/var/lib/mosquitto", str(data))
        for listed, ours in self.ports.items():
            text = text.replace(f"listener {listed}", f"listener {ours} 127.0.0.1")
        root = "user root\n" if os.geteuid() == 0 else ""
        (folder / "mosquitto.conf").write_text(root + text)
        self.process = None
        self.start()
        settings = (
            f'vendor = "example.com"\nbroker = "mqtts://127.0.0.1:{self.ports[8885]}"\ngroup = "lab"\n'
            f'username = "operator"\npassword_file = "{folder}/password"\nca_file = "trust/ca.pem"\n'
        )
        (self.operator / "ota.toml").write_text(settings)

    def start(self):
        command = [Mosquitto.command(), "-c", str(self.folder / "mosquitto.conf")]
        with (self.folder / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log)
        end = time.monotonic() + WAIT_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.ports[8885])) == 0:
                    return
            assert time.monotonic() < end, (self.folder / "mosquitto.log").read_text()
            time.sleep(0.05)

    def stop(self):
        self.process.terminate()
        self.process.wait(10)

    def certificate(self, name):
        """A board's key and certificate."""
        key, file = self.folder / f"{name}.key", self.folder / f"{name}.pem"
        file.write_bytes(self.authority.sign(signing_request(key, name), name))
        return file, key

    def client(self, name, **how):
        """Connected as a board of this name."""
        return Client(self, 8883, certificate=self.certificate(name), **how)

    def run(self, *command):
        return main(["-C", str(self.operator), *command])


class Client:
    """A client of the broker, with whatever it is told."""

    def __init__(self, site, port, *, certificate=None, password="", identifier=""):
        self.messages, self._answers = queue.Queue(), queue.Queue()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, identifier, protocol=mqtt.MQTTv5)
        context = ssl.create_default_context(cafile=str(site.operator / "trust/ca.pem"))
        if certificate is not None:
            context.load_cert_chain(*certificate)
        self._client.tls_set_context(context)
        if password:
            self._client.username_pw_set("operator", password)
        self._client.on_connect = lambda *each: self._answers.put(each[3].value)
        self._client.on_connect_fail = lambda *_: self._answers.put(-1)
        self._client.on_disconnect = lambda *each: self._answers.put(-2)
        self._client.on_subscribe = lambda *each: self._answers.put(each[3][0].value)
        self._client.on_publish = lambda *each: self._answers.put(each[3].value)
        self._client.on_message = lambda _client, _data, message: self.messages.put((message.topic, message.payload))
        self.refused = None
        try:
            self._client.connect("127.0.0.1", site.ports[port], properties=self._session())
        except OSError as error:
            self.refused = error
            return
        self._client.loop_start()
        if code := self._answers.get(timeout=WAIT_S):
            self.refused = code

    @staticmethod
    def _session():
        made = Properties(PacketTypes.CONNECT)
        made.SessionExpiryInterval = 0
        return made

    def publish(self, topic, payload=b"x", *, retain=True):
        """The broker's answer: 0 for one that was taken, whether or not anybody listens (0x10)."""
        self._client.publish(topic, payload, 1, retain)
        code = self._answers.get(timeout=WAIT_S)
        return 0 if code == NOBODY_LISTENS else code

    def reads(self, topic_filter):
        """What comes for a filter: all that is retained. mosquitto sends it before it answers the subscription that follows."""
        for each in (topic_filter, "a/fence"):
            self._client.subscribe(each, 0)
            self._answers.get(timeout=WAIT_S)
        found = []
        while not self.messages.empty():
            found.append(self.messages.get())
        self._client.unsubscribe(topic_filter)
        return found

    def close(self):
        self._client.loop_stop()
        self._client.disconnect()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    opened = Site(tmp_path_factory.mktemp("broker"))
    yield opened
    opened.stop()


DIGEST = bytes(32)
OTHERS = (
    topics.report("roof-2"),
    topics.online("roof-2"),
    topics.log("roof-2"),
    topics.telemetry("roof-2"),
    topics.marker("roof-2"),
    "ota/v1/device/roof-2/desired",
    "ota/v1/online/a/b/c/roof-2",
)
SIGNED = (topics.root(1), topics.desired("lab"), topics.manifest(DIGEST), topics.blob_index(DIGEST), topics.blob_chunk(DIGEST, 0))
ENROLMENT = (topics.enrolment_request("0011"), topics.enrolment_answer("0011"))
ELSE = ("ota/v1/group/others/desired", "ota/v1/check/x", "in/x", "anything", "$SYS/broker/clients/connected")


@pytest.fixture(scope="module")
def operator(site):
    """An operator's client; everything that a board might want to read is there."""
    made = Client(site, 8885, password="of the operator")
    assert made.refused is None
    for topic in (*OTHERS, *SIGNED, *ENROLMENT, "ota/v1/group/others/desired", "ota/v1/check/x"):
        assert made.publish(topic, b"secret of the operator") == 0
    yield made
    made.close()


@pytest.fixture(scope="module")
def board(site, operator):
    made = site.client("roof-1")
    assert made.refused is None
    yield made
    made.close()


@pytest.mark.parametrize("topic", [*OTHERS, *SIGNED, *ENROLMENT, *ELSE])
def test_a_board_writes_nothing_that_is_not_its_own(board, operator, topic):
    assert board.publish(topic, b"forged") == DENIED
    assert (topic, b"forged") not in operator.reads(topic)


@pytest.mark.parametrize("topic", [*OTHERS, *ENROLMENT, "ota/v1/group/others/desired", "ota/v1/check/x"])
def test_a_board_reads_nothing_of_another_board_or_group(board, topic):
    assert board.reads(topic) == []


@pytest.mark.parametrize("wide", ["#", "+/#", "ota/#", "ota/v1/+/+/+", "ota/v1/device/+/report", "ota/v1/device/#", "$SYS/#"])
def test_wildcards_bring_a_board_no_more_than_it_may_read(board, wide):
    allowed = (*SIGNED, *(t for t in (topics.report("roof-1"), topics.online("roof-1"), topics.log("roof-1"))))
    assert {topic for topic, _ in board.reads(wide)} <= set(allowed)


@pytest.mark.parametrize("topic", SIGNED)
def test_a_board_reads_what_is_signed(board, topic):
    assert board.reads(topic) == [(topic, b"secret of the operator")]


def test_a_board_writes_its_own_and_the_operator_reads_it(board, operator):
    for topic in (topics.report("roof-1"), topics.online("roof-1"), topics.log("roof-1"), "ota/v1/online/a/b/c/roof-1"):
        assert board.publish(topic, b"mine") == 0
        assert (topic, b"mine") in operator.reads(topic)


def test_a_will_on_the_topic_of_another_board_is_not_published(site, operator):
    hostile = Client.__new__(Client)
    original = mqtt.Client.connect

    def with_will(self, *arguments, **named):
        self.will_set(topics.online("roof-2"), b"forged", 1, True)
        return original(self, *arguments, **named)

    mqtt.Client.connect = with_will
    try:
        hostile.__init__(site, 8883, certificate=site.certificate("roof-3"))
    finally:
        mqtt.Client.connect = original
    if hostile.refused is None:
        hostile._client.loop_stop()
        hostile._client._sock_close()  # without a DISCONNECT, so that the will is due
    time.sleep(0.5)
    assert (topics.online("roof-2"), b"forged") not in operator.reads(topics.online("roof-2"))


def test_a_client_identifier_of_another_board_gives_nothing_of_that_board(site, operator):
    """It is the certificate that counts."""
    thief = site.client("roof-4", identifier="roof-2")
    assert thief.refused is None
    assert thief.publish(topics.report("roof-2"), b"forged") == DENIED
    thief.close()


def test_without_a_certificate_of_the_authority_nobody_comes_to_the_boards_listener(site, tmp_path):
    assert Client(site, 8883).refused is not None
    other = tmp_path / "other"
    assert main(["-C", str(other), "init", "--broker", "mqtt://localhost"]) == 0
    key, file = tmp_path / "k", tmp_path / "c"
    file.write_bytes(CertificateAuthority(Workspace.open(other)).sign(signing_request(key, "roof-1"), "roof-1"))
    assert Client(site, 8883, certificate=(file, key)).refused is not None


def test_a_certificate_of_a_board_does_not_make_a_broker(site):
    """Boards ask for a server's certificate with the host's name in it."""
    file, key = site.certificate("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    believing = ssl.create_default_context(cafile=str(site.operator / "trust/ca.pem"))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    client_in, client_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = believing.wrap_bio(client_in, client_out, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError):
        for _ in range(5):
            for one in (client, server):
                with contextlib.suppress(ssl.SSLWantReadError):
                    one.do_handshake()
                incoming.write(client_out.read())
                client_in.write(outgoing.read())


def test_the_listener_for_enrolment_gives_nothing_but_enrolment(site, operator):
    stranger = Client(site, 8884)
    assert stranger.refused is None
    for topic in (*OTHERS, *SIGNED, *ELSE, topics.enrolment_answer("0011")):
        assert stranger.publish(topic, b"forged") == DENIED
    for topic in (*OTHERS, *SIGNED, topics.enrolment_request("0011")):
        assert stranger.reads(topic) == []
    assert stranger.publish(topics.enrolment_request("0022"), b"request", retain=False) == 0
    stranger.close()


def test_an_operator_without_the_password_is_not_let_in(site):
    assert Client(site, 8885, password="wrong").refused is not None
    assert Client(site, 8885).refused is not None


@pytest.fixture
def empty(tmp_path):
    """A broker on which nothing was published yet."""
    opened = Site(tmp_path)
    yield opened
    opened.stop()


def test_a_real_agent_enrols_and_is_updated_at_this_broker(empty, capsys, tmp_path):
    """The operator's commands and an agent, each through its own listener; and all of it is there after a restart of the broker."""
    site = empty
    settings = tmp_path / "b"
    boards, enrolment = (f"mqtts://boards.example:{site.ports[each]}" for each in (8883, 8884))
    made = ("settings", "roof-9", "--board", "generic-aarch64", "--broker", boards, "--enrol-at", enrolment, "--group", "lab")
    assert site.run(*made, "-o", str(settings)) == 0
    toml = settings / "agent.toml"
    text = toml.read_text().replace("boards.example", "127.0.0.1").replace("/var/lib/wamr-ota", str(tmp_path / "store"))
    toml.write_text(text.replace('board = "generic-aarch64"', 'board = "generic"'))
    with (tmp_path / "agent.log").open("wb") as log:
        command = [sys.executable, "-m", "device_agent", "--log-format", "text", "--config", str(toml)]
        agent = subprocess.Popen(command, stderr=log)
    try:
        assert site.run("enrol", "--once", "--seconds", "30") == 0
        assert site.run("publish", str(ROOT / "build/modules/monitor-v1.wasm"), "--wait", "60") == 0, capsys.readouterr().err
        assert site.run("status") == 0
        assert "roof-9" in capsys.readouterr().out
        site.stop()
        site.start()
        assert site.run("status") == 0
        assert "roof-9" in capsys.readouterr().out
    finally:
        agent.terminate()
        agent.wait(20)

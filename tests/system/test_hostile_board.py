"""The broker that `ota broker-config mosquitto` sets up, and a board with a good certificate that tries everything."""

import contextlib
import os
import queue
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from boards.ports import free_ports
from device_agent.broker.certificates import signing_request
from ota.cli.main import main
from ota.formats import topics
from ota.operator.broker_config import Site as BrokerSite
from ota.operator.broker_config import files
from ota.operator.ca import CertificateAuthority
from ota.operator.issued import retire
from ota.operator.workspace import Workspace
from tests.conftest import ROOT
from tests.support.lab import PATIENCE_S, Mosquitto

PAGE = (ROOT / "docs" / "broker.md").read_text()
pytestmark = pytest.mark.skipif(
    Mosquitto.command() is None,
    reason="mosquitto is needed",
)
DENIED, NOBODY_LISTENS = 0x87, 0x10
OURS = "the operator's"  # stands for the password that was made


def test_the_page_shows_what_the_command_writes():
    site = BrokerSite("broker.example.com", ("lab",), {"operator": "x", "enrolment": "the password of the user enrolment"})
    shown = dict(re.findall(r"<!-- file: (\S+) -->\n```conf\n(.*?)```", PAGE, re.DOTALL))
    assert shown == {name: text for name, text in files("mosquitto", site).items() if name != "operators.passwd"}


class Site:
    """An operator's workspace, and mosquitto as the page sets it up; folders and ports are this test's own."""

    def __init__(self, folder):
        self.folder, self.operator = folder, folder / "operator"
        assert main(["-C", str(self.operator), "init", "--broker", "mqtts://127.0.0.1:8885"]) == 0
        self.authority = CertificateAuthority(Workspace.open(self.operator))
        certificates, data = folder / "certs", folder / "data"
        data.mkdir()
        made = ("broker-config", "mosquitto", "--host", "127.0.0.1", "--group", "lab", "-o", str(folder), "--etc", str(folder))
        assert main(["-C", str(self.operator), *made]) == 0
        for secret in (certificates / "broker.key", folder / "operators.passwd", folder / "enrolment.conf"):
            assert secret.stat().st_mode & 0o077 == 0
        self.ports = dict(zip((8883, 8884, 8885), free_ports(3), strict=True))
        for name in ("mosquitto.conf", "enrolment.conf"):
            text = (folder / name).read_text().replace("/var/lib/mosquitto", str(data))
            for listed, ours in self.ports.items():
                text = text.replace(f"listener {listed}", f"listener {ours} 127.0.0.1").replace(
                    f"127.0.0.1:{listed}", f"127.0.0.1:{ours}"
                )
            root = "user root\n" if os.geteuid() == 0 else ""
            (folder / name).write_text(root + text)
        self.processes = []
        self.start()
        settings = (
            f'vendor = "example.com"\nbroker = "mqtts://127.0.0.1:{self.ports[8885]}"\ngroup = "lab"\n'
            f'username = "operator"\npassword_file = "keys/broker.password"\nca_file = "trust/ca.pem"\n'
        )
        (self.operator / "ota.toml").write_text(settings)

    @property
    def password(self):
        return (self.operator / "keys/broker.password").read_text().strip()

    def start(self):
        """The fleet's broker, then the one for enrolment."""
        for name, listed in (("mosquitto", 8885), ("enrolment", 8884)):
            with (self.folder / f"{name}.log").open("ab") as log:
                command = [Mosquitto.command(), "-c", str(self.folder / f"{name}.conf")]
                self.processes.append(subprocess.Popen(command, stderr=log, stdout=log))
            end = time.monotonic() + PATIENCE_S
            while not self._answers(listed):
                assert self.processes[-1].poll() is None, (self.folder / f"{name}.log").read_text()
                assert time.monotonic() < end, (self.folder / f"{name}.log").read_text()
                time.sleep(0.05)

    def _answers(self, listed):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.ports[listed])) == 0

    def stop(self):
        while self.processes:
            process = self.processes.pop()
            process.terminate()
            process.wait(60)

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

    def __init__(self, site, port, *, certificate=None, user="operator", password=None, identifier=""):
        self.messages, self._answers = queue.Queue(), queue.Queue()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, identifier, protocol=mqtt.MQTTv5)
        context = ssl.create_default_context(cafile=str(site.operator / "trust/ca.pem"))
        if certificate is not None:
            context.load_cert_chain(*certificate)
        self._client.tls_set_context(context)
        if password is not None:
            self._client.username_pw_set(user, password if password != OURS else site.password)
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
        if code := self._answers.get(timeout=PATIENCE_S):
            self.refused = code
            self.close()

    @staticmethod
    def _session():
        made = Properties(PacketTypes.CONNECT)
        made.SessionExpiryInterval = 0
        return made

    def publish(self, topic, payload=b"x", *, retain=True):
        """The broker's answer: 0 for one that was taken, whether or not anybody listens (0x10)."""
        self._client.publish(topic, payload, 1, retain)
        code = self._answers.get(timeout=PATIENCE_S)
        return 0 if code == NOBODY_LISTENS else code

    def reads(self, topic_filter):
        """What comes for a filter: all that is retained. mosquitto sends it before it answers the subscription that follows."""
        for each in (topic_filter, "a/fence"):
            self._client.subscribe(each, 0)
            self._answers.get(timeout=PATIENCE_S)
        found = []
        while not self.messages.empty():
            found.append(self.messages.get())
        self._client.unsubscribe(topic_filter)
        return found

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()


@contextlib.contextmanager
def ending_all_clients():
    """One that nobody ends tries to connect for ever, and leaves a socket behind whenever the broker ends in the middle of it."""

    def threads():
        return {each.name for each in threading.enumerate() if each.name.startswith("paho-mqtt-client")}

    before = threads()
    yield
    assert threads() == before


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    opened = Site(tmp_path_factory.mktemp("broker"))
    try:
        with ending_all_clients():
            yield opened
    finally:
        opened.stop()


DIGEST = bytes(32)
OTHERS = (
    topics.report("roof-2"),
    topics.online("roof-2"),
    topics.log("roof-2"),
    topics.telemetry("roof-2"),
    topics.marker("roof-2"),
    topics.renewal_request("roof-2"),
    topics.renewal_answer("roof-2"),
    "ota/v1/device/roof-2/desired",
    "ota/v1/online/a/b/c/roof-2",
    "devices/roof-2/readings/x",
    "devices/roof-2/cmd/x",
)
SIGNED = (topics.root(1), topics.desired("lab"), topics.manifest(DIGEST), topics.blob_index(DIGEST), topics.blob_chunk(DIGEST, 0))
ENROLMENT = (topics.enrolment_request("0011"), topics.enrolment_answer("0011"))
ELSE = (
    topics.device_desired("roof-1"),
    topics.renewal_answer("roof-1"),
    "ota/v1/group/others/desired",
    "ota/v1/check/x",
    "in/x",
    "groups/others/cmd/x",
    "anything",
    "$SYS/broker/clients/connected",
)


@pytest.fixture(scope="module")
def operator(site):
    """An operator's client; everything that a board might want to read is there."""
    made = Client(site, 8885, password=OURS)
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


@pytest.mark.parametrize(
    "wide", ["#", "+/#", "ota/#", "ota/v1/+/+/+", "ota/v1/device/+/report", "ota/v1/device/#", "devices/#", "groups/#", "$SYS/#"]
)
def test_wildcards_bring_a_board_no_more_than_it_may_read(board, wide):
    allowed = (*SIGNED, topics.device_desired("roof-1"))
    assert {topic for topic, _ in board.reads(wide)} <= set(allowed)


@pytest.mark.parametrize("topic", SIGNED)
def test_a_board_reads_what_is_signed(board, topic):
    assert board.reads(topic) == [(topic, b"secret of the operator")]


def test_a_board_writes_its_own_and_the_operator_reads_it(board, operator):
    own = (topics.report("roof-1"), topics.instance_report("roof-1", "blink"), topics.online("roof-1"), topics.log("roof-1"))
    for topic in (*own, "ota/v1/online/a/b/c/roof-1", "devices/roof-1/x"):
        assert board.publish(topic, b"mine") == 0
        assert (topic, b"mine") in operator.reads(topic)


def test_a_board_hears_commands_for_it_and_its_group_and_writes_none_for_the_group(board, operator):
    for topic in ("devices/roof-1/cmd/valve", "groups/lab/cmd/valve"):
        assert operator.publish(topic, b"open") == 0
        assert (topic, b"open") in board.reads(topic)
        assert operator.publish(topic, b"") == 0
    assert board.publish("groups/lab/cmd/valve", b"forged") == DENIED


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


def test_a_client_identifier_of_another_board_gives_nothing_of_that_board_and_does_not_disconnect_it(site, operator):
    """It is the certificate that counts."""
    owner = site.client("roof-2", identifier="wamr-ota-roof-2")
    thief = site.client("roof-4", identifier="wamr-ota-roof-2")
    assert thief.refused is None
    assert thief.publish(topics.report("roof-2"), b"forged") == DENIED
    assert owner.publish(topics.report("roof-2"), b"still here") == 0
    thief.close()
    owner.close()


@pytest.mark.parametrize("identifier", ["wamr-enrol-2", "wamr-ota-roof-2", "roof-2", "bridge:enrolment", ""])
def test_a_stranger_disconnects_nobody_by_taking_an_identifier(site, operator, identifier):
    owner = site.client("roof-2", identifier="wamr-ota-roof-2")
    stranger = Client(site, 8884, identifier=identifier)
    assert (stranger.refused is None) == (identifier == "wamr-enrol-2")
    assert owner.publish(topics.report("roof-2"), b"still here") == 0
    asking = stranger if stranger.refused is None else Client(site, 8884, identifier="wamr-enrol-5")
    request = topics.enrolment_request("wamr-enrol-2" if asking is stranger else "wamr-enrol-5")
    assert asking.publish(request, identifier.encode() or b"-") == 0
    end = time.monotonic() + PATIENCE_S
    while (request, identifier.encode() or b"-") not in operator.reads(request):
        assert time.monotonic() < end, "requests are not passed on any more"
    for each in {owner, stranger, asking}:
        each.close()


def test_without_a_certificate_of_the_authority_nobody_comes_to_the_boards_listener(site, tmp_path):
    assert Client(site, 8883).refused is not None
    other = tmp_path / "other"
    assert main(["-C", str(other), "init", "--broker", "mqtt://localhost"]) == 0
    key, file = tmp_path / "k", tmp_path / "c"
    file.write_bytes(CertificateAuthority(Workspace.open(other)).sign(signing_request(key, "roof-1"), "roof-1"))
    assert Client(site, 8883, certificate=(file, key)).refused is not None


def test_a_board_whose_certificate_was_taken_back_is_not_let_in(site):
    held = site.certificate("roof-8")
    assert lets_in(site, held)
    workspace = Workspace.open(site.operator)
    retire(workspace, "roof-8", int(time.time()))
    crl = CertificateAuthority(workspace).crl().pem
    (site.folder / "certs/crl.pem").write_bytes(crl)
    site.processes[0].send_signal(signal.SIGHUP)
    end = time.monotonic() + PATIENCE_S
    while lets_in(site, held):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert lets_in(site, site.certificate("roof-7"))


def lets_in(site, certificate):
    client = Client(site, 8883, certificate=certificate)
    try:
        return client.refused is None
    finally:
        client.close()


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
    stranger = Client(site, 8884, identifier="wamr-enrol-anything")
    assert stranger.refused is None
    for topic in (*OTHERS, *SIGNED, *ELSE, topics.enrolment_answer("0011")):
        assert stranger.publish(topic, b"forged") == DENIED
    for topic in (*OTHERS, *SIGNED, *ENROLMENT, topics.enrolment_answer("+")):
        assert stranger.reads(topic) == []
    assert stranger.publish(topics.enrolment_request("0011"), b"another's") == DENIED
    assert stranger.publish(topics.enrolment_request("wamr-enrol-anything"), b"request", retain=False) == 0
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
        assert site.run("enrol", "--once", "--seconds", str(PATIENCE_S)) == 0
        assert site.run("publish", str(ROOT / "build/modules/monitor-v1.wasm"), "--wait", "60") == 0, capsys.readouterr().err
        assert site.run("status") == 0
        assert "roof-9" in capsys.readouterr().out
        site.stop()
        site.start()
        assert site.run("status") == 0
        assert "roof-9" in capsys.readouterr().out
    finally:
        agent.terminate()
        agent.wait(PATIENCE_S)

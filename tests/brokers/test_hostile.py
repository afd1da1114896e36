"""RabbitMQ and HiveMQ as `ota broker-config` sets them up, and a board with a good certificate that tries everything."""

import contextlib
import queue
import time

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from boards.ports import free_ports
from device_agent.broker.certificates import signing_request
from ota.cli.main import main
from ota.formats import topics
from ota.operator.broker_config import hivemq_password
from ota.operator.ca import CertificateAuthority
from ota.operator.workspace import Workspace
from tests.support.brokers import HiveMq
from tests.support.lab import PATIENCE_S
from tests.support.rabbitmq import START_S, RabbitMq
from tests.system.test_hostile_board import ELSE, ENROLMENT, OTHERS, OURS, SIGNED, Client, ending_all_clients

pytestmark = pytest.mark.full
BOARDS, OPERATORS = 8883, 8885
LISTED = ("roof-1", "roof-2", "roof-3")
NEVER_S = 2.0  # for what must not come; what must come gets PATIENCE_S


class Site:
    """An operator's workspace, boards with certificates, and the broker."""

    KIND, ETC = "rabbitmq", "/etc/rabbitmq"

    def __init__(self, folder):
        self.folder, self.operator = folder, folder / "operator"
        assert main(["-C", str(self.operator), "init", "--broker", "mqtts://127.0.0.1:8885"]) == 0
        self.authority = CertificateAuthority(Workspace.open(self.operator))
        self._certificates = {name: self._certify(name) for name in LISTED}
        made = ("broker-config", self.KIND, "--host", "127.0.0.1", "--group", "lab", "-o", str(folder / "made"))
        assert main(["-C", str(self.operator), *made, "--etc", self.ETC or str(folder / "made")]) == 0
        self._certificates["late-1"] = self._certify("late-1")
        self.ports = dict(zip((BOARDS, OPERATORS), free_ports(2), strict=True))
        (folder / "broker").mkdir()
        self.broker = self._broker(folder)
        self.broker.start()

    def _broker(self, folder):
        return RabbitMq(folder / "broker", folder / "made", self.ports)

    def _certify(self, name):
        key, file = self.folder / f"{name}.key", self.folder / f"{name}.pem"
        file.write_bytes(self.authority.sign(signing_request(key, name), name))
        return file, key

    @property
    def password(self):
        return (self.operator / "keys/broker.password").read_text().strip()

    def known(self, name):
        """What a board of this name shows."""
        return {"certificate": self._certificates[name]}

    def client(self, name, kind=Client, **how):
        """Connected as a board of this name."""
        return kind(self, BOARDS, **{"identifier": topics.client_id(name)} | self.known(name) | how)


class HiveMqSite(Site):
    """HiveMQ's extension knows boards by passwords, which the operator adds to the file, and not by certificates."""

    KIND, ETC = "hivemq", ""

    def _broker(self, folder):
        config, credentials = folder / "made/config.xml", folder / "made/credentials.xml"
        text = config.read_text()
        for listed, ours in self.ports.items():
            assert f"<port>{listed}</port><bind-address>0.0.0.0<" in text
            text = text.replace(f"<port>{listed}</port><bind-address>0.0.0.0<", f"<port>{ours}</port><bind-address>127.0.0.1<")
        config.write_text(text)
        user = "<user><name>{}</name><password>{}</password><roles><id>board</id></roles></user>"
        users = "".join(user.format(name, hivemq_password(f"of {name}", name.encode())) for name in LISTED)
        credentials.write_text(credentials.read_text().replace("</users>", f"{users}</users>"))
        made = HiveMq(folder / "broker", folder / "made")
        made.wait = lambda: self._wait(made)
        return made

    def _wait(self, made):
        end = time.monotonic() + START_S
        while "ready" not in (log := (made.folder / "broker.log").read_text()):
            assert made._process.poll() is None, log
            assert time.monotonic() < end, log
            time.sleep(0.1)

    def known(self, name):
        return super().known(name) | {"user": name, "password": f"of {name}"}


@pytest.fixture(scope="module", params=[Site, HiveMqSite], ids=["rabbitmq", "hivemq"])
def site(request, tmp_path_factory):
    opened = request.param(tmp_path_factory.mktemp("broker"))
    try:
        with ending_all_clients():
            yield opened
    finally:
        opened.broker.stop()


@pytest.fixture(scope="module")
def operator(site):
    made = Client(site, OPERATORS, password=OURS)
    assert made.refused is None
    for topic in (*OTHERS, *SIGNED, *ENROLMENT, "ota/v1/group/others/desired", "ota/v1/check/x"):
        assert made.publish(topic, b"secret of the operator") == 0
    yield made
    made.close()


@pytest.fixture
def board(site, operator):
    made = site.client("roof-1")
    assert made.refused is None
    yield made
    made.close()


def reads(client, topic, payload, timeout_s=NEVER_S):
    """Whether this comes for an exact topic, retained."""
    client._client.subscribe(topic, 1)
    if client._answers.get(timeout=PATIENCE_S) not in (0, 1):
        return False
    with contextlib.suppress(queue.Empty):
        while client.messages.get(timeout=timeout_s) != (topic, payload):
            pass
        return True
    return False


def hears(site, topic_filter, topic):
    """Whether a board hears what is published now, under a filter. RabbitMQ closes the connection at one that it refuses."""
    board, operator = site.client("roof-1"), Client(site, OPERATORS, password=OURS)
    try:
        board._client.subscribe(topic_filter, 1)
        if board._answers.get(timeout=PATIENCE_S) not in (0, 1):
            return False
        own = "devices/roof-1/cmd/fence"
        board._client.subscribe(own, 1)
        board._answers.get(timeout=PATIENCE_S)
        operator.publish(topic, b"now", retain=False)
        operator.publish(own, b"fence", retain=False)
        found = []
        while own not in found:
            found.append(board.messages.get(timeout=PATIENCE_S)[0])
        return topic in found
    finally:
        board.close()
        operator.close()


@pytest.mark.parametrize("topic", [each for each in (*OTHERS, *SIGNED, *ENROLMENT, *ELSE) if not each.startswith("$")])
def test_a_board_writes_nothing_that_is_not_its_own(site, board, operator, topic):
    assert board.publish(topic, b"forged") != 0
    reader = Client(site, OPERATORS, password=OURS)
    assert not reads(reader, topic, b"forged")
    reader.close()


@pytest.mark.parametrize("topic", [*OTHERS, *ENROLMENT, "ota/v1/group/others/desired", "ota/v1/check/x"])
def test_a_board_reads_nothing_of_another_board_or_group(site, operator, topic):
    assert not hears(site, topic, topic)


@pytest.mark.parametrize("wide", ["#", "+/#", "ota/#", "ota/v1/device/+/report", "ota/v1/device/#", "devices/#", "groups/#"])
def test_wildcards_bring_a_board_nothing_of_another_board(site, operator, wide):
    assert not hears(site, wide, topics.report("roof-2"))


@pytest.mark.parametrize("topic", SIGNED)
def test_a_board_reads_what_is_signed(board, topic):
    assert reads(board, topic, b"secret of the operator", PATIENCE_S)


def test_a_board_writes_its_own_and_the_operator_reads_it(board, operator):
    own = (topics.report("roof-1"), topics.instance_report("roof-1", "blink"), topics.online("roof-1"), topics.log("roof-1"))
    for topic in (*own, "ota/v1/online/a/b/c/roof-1", "devices/roof-1/x"):
        assert board.publish(topic, b"mine") == 0
        assert reads(operator, topic, b"mine", PATIENCE_S)


def test_a_board_hears_commands_for_its_group_and_writes_none(site, operator):
    assert hears(site, "groups/lab/cmd/valve", "groups/lab/cmd/valve")


def test_a_will_on_the_topic_of_another_board_is_not_published(site, operator):
    connect = mqtt.Client.connect

    def with_will(self, *arguments, **named):
        self.will_set(topics.online("roof-2"), b"forged", 1, True)
        return connect(self, *arguments, **named)

    mqtt.Client.connect = with_will
    try:
        hostile = site.client("roof-3")
    finally:
        mqtt.Client.connect = connect
    if hostile.refused is None:
        hostile._client.loop_stop()
        hostile._client._sock_close()
    time.sleep(1)
    assert not reads(operator, topics.online("roof-2"), b"forged")


@pytest.mark.parametrize("password", ["", "x", "wrong"])
@pytest.mark.parametrize("name", ["roof-1", "operator", "enrolment", "guest"])
def test_without_a_certificate_a_name_alone_opens_nothing(site, name, password):
    assert Client(site, BOARDS, user=name, password=password).refused is not None


def test_without_a_certificate_and_a_name_nobody_comes_in(site):
    assert Client(site, BOARDS).refused is not None


def test_a_certificate_of_another_authority_opens_nothing(site, tmp_path):
    other = tmp_path / "other"
    assert main(["-C", str(other), "init", "--broker", "mqtt://localhost"]) == 0
    key, file = tmp_path / "k", tmp_path / "c"
    file.write_bytes(CertificateAuthority(Workspace.open(other)).sign(signing_request(key, "roof-1"), "roof-1"))
    assert site.client("roof-1", certificate=(file, key)).refused is not None


def test_a_board_that_the_file_does_not_list_is_not_let_in(site):
    assert site.client("late-1").refused is not None


class Keeping(Client):
    """One whose session outlives its connection, and goes on with the one that is there."""

    @staticmethod
    def _session():
        made = Properties(PacketTypes.CONNECT)
        made.SessionExpiryInterval = 600
        return made


def _connected(site, name, identifier):
    connect = mqtt.Client.connect
    mqtt.Client.connect = lambda self, *each, **named: connect(self, *each, clean_start=False, **named)
    try:
        return site.client(name, Keeping, identifier=identifier)
    finally:
        mqtt.Client.connect = connect


@pytest.mark.parametrize("taken", [topics.client_id("roof-2"), "another"])
def test_a_board_that_takes_the_identifier_of_another_gets_nothing_of_its_session(site, operator, taken):
    """What waits for roof-2 is not given to roof-3, who comes under the identifier of its session."""
    if site.KIND == "hivemq":
        pytest.skip("HiveMQ gives a session to whoever names it, as docs/broker.md says")
    secret, own = "devices/roof-2/cmd/door", topics.client_id("roof-2")
    owner = _connected(site, "roof-2", own)
    owner._client.subscribe(secret, 1)
    assert owner._answers.get(timeout=PATIENCE_S) == 1
    owner._client.loop_stop()
    owner._client._sock_close()
    assert operator.publish(secret, b"open", retain=False) == 0
    thief = _connected(site, "roof-3", taken)
    try:
        if thief.refused is None:
            thief._client.subscribe("devices/roof-3/cmd/x", 1)
            thief._answers.get(timeout=PATIENCE_S)
            operator.publish(secret, b"again", retain=False)
            operator.publish("devices/roof-3/cmd/x", b"fence", retain=False)
            with pytest.raises(queue.Empty):
                while True:
                    assert thief.messages.get(timeout=3)[0] != secret
    finally:
        thief.close()
    again = _connected(site, "roof-2", own)
    assert again.messages.get(timeout=PATIENCE_S) == (secret, b"open")
    again.close()

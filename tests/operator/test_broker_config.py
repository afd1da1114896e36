"""Configurations of four brokers: each says what the rules say, for every topic that a hostile board tries."""

import hashlib
import json
import re
import xml.etree.ElementTree as ElementTree
from base64 import b64decode

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs12

from ota.formats import topics
from ota.operator.access import BOARD, ENROLMENT, OPERATOR, RESERVED, allows, rules
from ota.operator.broker_config import KINDS, Site, files, hivemq_password, mosquitto_password
from ota.operator.ca import CertificateAuthority, RequestRefused
from ota.operator.key_stores import PASSWORD
from tests.operator.test_ca import request_for
from tests.support.operator import ota

GROUPS = ("lab", "roof")
DEVICE, OTHER = "roof-1", "roof-2"
SITE = Site("broker.example.com", GROUPS, {user: f"of-the-{user}" for user in RESERVED}, devices=(DEVICE, OTHER))
USERS = {BOARD: DEVICE, OPERATOR: OPERATOR, ENROLMENT: ENROLMENT}
DIGEST = bytes(32)
TOPICS = [
    topic
    for device in (DEVICE, OTHER)
    for topic in (
        topics.report(device),
        topics.instance_report(device, "blink"),
        topics.log(device),
        topics.telemetry(device),
        topics.marker(device),
        topics.online(device),
        topics.device_desired(device),
        topics.renewal_request(device),
        topics.renewal_answer(device),
        f"devices/{device}/readings/x",
    )
] + [
    topics.root(1),
    topics.desired("lab"),
    topics.desired("others"),
    topics.manifest(DIGEST),
    topics.blob_index(DIGEST),
    topics.blob_chunk(DIGEST, 0),
    topics.enrolment_request("0011"),
    topics.enrolment_answer("0011"),
    "groups/lab/cmd/x",
    "groups/others/cmd/x",
    "ota/v1/check/x",
    "anything",
    "$SYS/broker/version",
]


def _matches(pattern, topic):
    return topics.covers(pattern, topic)


def mosquitto(made, who, topic, write):
    acl = made["boards.acl" if who == BOARD else "operators.acl"]
    user = None
    for line in acl.splitlines():
        words = line.split()
        if not words or words[0] == "#":
            continue
        if words[0] == "user":
            user = words[1]
        elif (
            ((words[0] == "pattern" and who == BOARD) or user == USERS[who])
            and words[1] in (("write", "readwrite") if write else ("read", "readwrite"))
            and _matches(words[2].replace("%u", USERS[who]), topic)
        ):
            return True
    return False


def emqx(made, who, topic, write):
    """The first rule that fits decides."""
    for line in made["acl.conf"].splitlines():
        if (found := re.fullmatch(r'\{(allow|deny), (all|\{user, "(\w+)"\}), (\w+), \["(.*)"\]\}\.', line)) is None:
            assert not line or line.startswith("%%") or line == "{deny, all}."
            continue
        verdict, _, user, access, pattern = found.groups()
        fits = user in (None, USERS[who]) and access in ("all", "publish" if write else "subscribe")
        if fits and (pattern == "#" or _matches(pattern.replace("${username}", USERS[who]), topic)):
            return verdict == "allow"
    return False


def hivemq(made, who, topic, write):
    tree = ElementTree.fromstring(made["credentials.xml"])
    (role,) = [each for each in tree.iter("role") if each.findtext("id") == who]
    return any(
        each.findtext("activity") in ("ALL", "PUBLISH" if write else "SUBSCRIBE")
        and _matches(each.findtext("topic").replace("${{username}}", USERS[who]), topic)
        for each in role.iter("permission")
    )


def rabbitmq(made, who, topic, write):
    found = json.loads(made["definitions.json"])["topic_permissions"]
    (mine,) = [each for each in found if each["user"] == USERS[who]]
    pattern = mine["write" if write else "read"].replace("{username}", USERS[who])
    return re.search(pattern, topic.translate(str.maketrans("/.", "./"))) is not None


READERS = {"mosquitto": mosquitto, "emqx": emqx, "hivemq": hivemq, "rabbitmq": rabbitmq}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("who", [BOARD, OPERATOR, ENROLMENT])
def test_each_configuration_allows_what_the_rules_allow_and_nothing_else(kind, who):
    made = files(kind, SITE)
    for topic in TOPICS:
        for write in (False, True):
            allowed = allows(rules(GROUPS), who, USERS[who], topic, write=write)
            assert READERS[kind](made, who, topic, write) == allowed, (topic, write)


def test_a_dot_in_a_name_fits_no_other_name_at_rabbitmq():
    made = files("rabbitmq", Site("broker.example.com", GROUPS, SITE.passwords, devices=("roof.1", "roof-1")))
    (mine,) = [each for each in json.loads(made["definitions.json"])["topic_permissions"] if each["user"] == "roof.1"]
    pattern = re.compile(mine["write"].replace("{username}", "roof.1"))
    assert pattern.search("ota.v1.device.roof/1.report")
    assert not pattern.search("ota.v1.device.roof-1.report")


def test_the_rules_let_a_board_write_its_own_alone():
    written = {topic for topic in TOPICS if allows(rules(GROUPS), BOARD, DEVICE, topic, write=True)}
    assert written
    assert all(f"/{DEVICE}" in topic for topic in written)
    read = {topic for topic in TOPICS if allows(rules(GROUPS), BOARD, DEVICE, topic, write=False)}
    assert not [topic for topic in read if OTHER in topic or "others" in topic or "enrol" in topic]


@pytest.mark.parametrize("kind", KINDS)
def test_boards_come_with_a_certificate_and_nobody_without_one_or_a_password(kind):
    made = "".join(files(kind, SITE).values())
    wanted = {
        "mosquitto": ("require_certificate true", "use_identity_as_username true", "allow_anonymous false", "crlfile"),
        "emqx": ("verify = verify_peer, fail_if_no_peer_cert = true", "peer_cert_as_username = cn", "no_match = deny"),
        "hivemq": ("<client-authentication-mode>REQUIRED</client-authentication-mode>",),
        "rabbitmq": ("ssl_options.verify = verify_peer", "mqtt.allow_anonymous = false", "mqtt.listeners.tcp = none"),
    }
    for each in wanted[kind]:
        assert each in made


def test_passwords_are_written_as_mosquitto_has_them():
    """PBKDF2 with HMAC and SHA-512, as its own tool writes it."""
    assert re.fullmatch(r"\$7\$10000\$AAAA\$[A-Za-z0-9+/]{86}==", mosquitto_password("x", bytes(3)))


def test_passwords_are_written_as_the_extension_of_hivemq_has_them():
    """Salt, iterations, PBKDF2 with HMAC and SHA-512: by default it takes no others, and lets nobody in."""
    assert re.fullmatch(r"AAAA:10000:[A-Za-z0-9+/]{86}==", hivemq_password("x", bytes(3)))
    for user in ElementTree.fromstring(files("hivemq", SITE)["credentials.xml"]).iter("user"):
        salt, iterations, digest = user.findtext("password").split(":")
        given = SITE.passwords[user.findtext("name")].encode()
        assert b64decode(digest) == hashlib.pbkdf2_hmac("sha512", given, b64decode(salt), int(iterations), 64)


def test_stores_for_java_have_the_brokers_key_and_the_authorities(quick, tmp_path):
    out = tmp_path / "hivemq"
    assert ota(quick.folder, "broker-config", "hivemq", "--host", "192.0.2.1", "-o", out, "--etc", "/srv/hivemq") == 0
    named = re.findall(r"<path>/srv/hivemq/(.*?)</path>", (out / "config.xml").read_text())
    assert sorted(set(named)) == ["certs/boards.p12", "certs/broker.p12"]
    store = pkcs12.load_pkcs12((out / "certs/broker.p12").read_bytes(), PASSWORD.encode())
    assert store.cert.certificate.public_key() == store.key.public_key()
    assert (out / "certs/broker.p12").stat().st_mode & 0o077 == 0
    trusted = pkcs12.load_pkcs12((out / "certs/boards.p12").read_bytes(), PASSWORD.encode()).additional_certs
    authorities = x509.load_pem_x509_certificates((quick.folder / "trust/ca.pem").read_bytes())
    assert [each.certificate for each in trusted] == authorities


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_no_board_gets_a_certificate_for_the_name_of_a_user_at_the_broker(quick, name):
    with pytest.raises(RequestRefused, match="a user at the broker"):
        CertificateAuthority(quick.workspace).sign(request_for(name), name)


def test_the_command_keeps_passwords_and_can_keep_the_certificate(quick, tmp_path, capsys):
    out = tmp_path / "broker"
    assert ota(quick.folder, "broker-config", "mosquitto", "--host", "192.0.2.1", "-o", out) == 0
    password = (quick.folder / "keys/broker.password").read_bytes()
    first = (out / "certs/broker.pem").read_bytes()
    assert ota(quick.folder, "broker-config", "mosquitto", "-o", out, "--keep-certificate") == 0
    assert (quick.folder / "keys/broker.password").read_bytes() == password
    assert (out / "certs/broker.pem").read_bytes() == first
    for secret in ("certs/broker.key", "enrolment.conf"):
        assert (out / secret).stat().st_mode & 0o077 == 0
    capsys.readouterr()
    assert ota(quick.folder, "broker-config", "emqx", "-o", tmp_path / "emqx", "--json") == 0
    assert "acl.conf" in json.loads(capsys.readouterr().out)["files"]

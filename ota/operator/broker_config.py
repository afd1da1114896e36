"""Configurations of brokers: TLS, users by certificate, and the rules of `ota.operator.access`, for boards, operators and enrolment
apart from each other.

mosquitto's, RabbitMQ's and HiveMQ's are run against a hostile board (tests/system/test_hostile_board.py,
tests/brokers/test_hostile.py). EMQX's are compared with the rules and have not been run: no package registry has it.
"""

import hashlib
import json
import re
import secrets
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ota.formats import topics
from ota.formats.fields import is_name
from ota.operator.access import BOARD, ENROLMENT, OPERATOR, RESERVED, Rule, rules
from ota.operator.key_stores import PASSWORD

__all__ = ["KINDS", "Site", "files", "hivemq_password", "mosquitto_password", "new_password"]

BOARDS_PORT, ENROLMENT_PORT, OPERATORS_PORT = 8883, 8884, 8885
PASSWORD_BYTES = 24
MESSAGE_BYTES, PACKET_BYTES = 1_500_000, 2_000_000  # the largest message of ours has 1 MiB
QUEUED, IN_FLIGHT = 10_000, 100
ITERATIONS = 10_000  # of PBKDF2, at each connection of an operator
SALT_BYTES = 12
STRANGERS_BYTES = 50_000_000


@dataclass(frozen=True)
class Site:
    """Where a broker runs, and for whom."""

    host: str  # as boards and operators reach it, and as its certificate says
    groups: Sequence[str]
    passwords: Mapping[str, str]  # of the users OPERATOR and ENROLMENT
    folder: str = ""  # where the files will lie; "": where the broker's package has them
    devices: Sequence[str] = ()  # boards with a certificate, for brokers that need a list


def new_password() -> str:
    """For a user that has no certificate."""
    return secrets.token_urlsafe(PASSWORD_BYTES)


def files(kind: str, site: Site) -> dict[str, str]:
    """The files of a kind of broker, by name. `kind` is one of KINDS."""
    assert all(map(is_name, site.groups)), "groups are names"
    return KINDS[kind](site)


def _commented(found: Sequence[Rule], mark: str, line: Callable[[Rule], str]) -> str:
    lines: list[str] = []
    for rule in found:
        if rule.about:
            lines += [""] * bool(lines) + [f"{mark} {rule.about}"]
        lines.append(line(rule))
    return "\n".join(lines) + "\n"


def _of(site: Site, who: str) -> list[Rule]:
    return [each for each in rules(site.groups) if each.who == who]


# -- mosquitto


def mosquitto_password(password: str, salt: bytes) -> str:
    """As `mosquitto_passwd` writes it: PBKDF2 with HMAC and SHA-512."""
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS, 64)
    return f"$7${ITERATIONS}${b64encode(salt).decode()}${b64encode(digest).decode()}"


def _mosquitto(site: Site) -> dict[str, str]:
    folder = site.folder or "/etc/mosquitto"
    tls = f"certfile {folder}/certs/broker.pem\nkeyfile {folder}/certs/broker.key"
    passwords = "".join(
        f"{user}:{mosquitto_password(site.passwords[user], secrets.token_bytes(SALT_BYTES))}\n" for user in sorted(RESERVED)
    )
    return {
        "mosquitto.conf": f"""per_listener_settings true

# Boards that have a certificate. The name in it is the user of the rules.
listener {BOARDS_PORT}
{tls}
cafile {folder}/certs/ca.pem
crlfile {folder}/certs/crl.pem
require_certificate true
use_identity_as_username true
# And the client identifier: nobody disconnects another board by taking its identifier.
use_username_as_clientid true
acl_file {folder}/boards.acl

# Operators, with a password.
listener {OPERATORS_PORT}
{tls}
allow_anonymous false
password_file {folder}/operators.passwd
acl_file {folder}/operators.acl

# What was retained survives a restart. Without autosave_interval mosquitto saves every half hour, and a broker that is killed
# forgets everything since then.
persistence true
persistence_location /var/lib/mosquitto/
autosave_interval 60

# A board asks for up to 100 chunks at once, `ota status` for thousands of reports. Messages beyond this limit are dropped silently.
max_queued_messages {QUEUED}
max_inflight_messages {IN_FLIGHT}
# The largest message of ours has 1 MiB.
message_size_limit {MESSAGE_BYTES}
max_packet_size {PACKET_BYTES}
set_tcp_nodelay true
""",
        "boards.acl": _commented(_of(site, BOARD), "#", lambda rule: f"pattern {_access(rule)} {rule.of('%u')}"),
        "operators.acl": "\n".join(
            f"user {who}\n" + _commented(_of(site, who), "#", lambda rule: f"topic {_access(rule)} {rule.filter}")
            for who in (OPERATOR, ENROLMENT)
        ),
        "operators.passwd": passwords,
        "enrolment.conf": f"""listener {ENROLMENT_PORT}
{tls}
allow_anonymous true
acl_file {folder}/enrolment.acl
# So begins the identifier of an agent that asks. Nobody takes the identifier of a board, or of the connection below.
clientid_prefixes wamr-enrol-
# A stranger can fill this much, here and at the fleet's broker.
message_size_limit 20000
memory_limit {STRANGERS_BYTES}

connection enrolment
address {site.host}:{OPERATORS_PORT}
bridge_cafile {folder}/certs/ca.pem
bridge_protocol_version mqttv50
remote_clientid bridge:enrolment
remote_username {ENROLMENT}
remote_password {site.passwords[ENROLMENT]}
cleansession true
notifications false
"""
        + "".join(f"topic {rule.filter} {'out' if rule.write else 'in'} 1\n" for rule in _of(site, ENROLMENT)),
        # The address of a request is the identifier of the client that asks.
        "enrolment.acl": "".join(f"pattern {_access(rule)} {rule.filter.replace('+', '%c')}\n" for rule in _of(site, ENROLMENT)),
    }


def _access(rule: Rule) -> str:
    return "readwrite" if rule.read and rule.write else "read" if rule.read else "write"


# -- EMQX 5


def _emqx(site: Site) -> dict[str, str]:
    folder = site.folder or "/opt/emqx/etc"
    certificates = f'certfile = "{folder}/certs/broker.pem", keyfile = "{folder}/certs/broker.key"'
    boards = f'cacertfile = "{folder}/certs/ca.pem", verify = verify_peer, fail_if_no_peer_cert = true'
    return {
        "emqx.conf": f"""# Boards: user and client identifier are the name in the certificate.
listeners.ssl.boards {{
  bind = "0.0.0.0:{BOARDS_PORT}"
  enable_authn = false
  ssl_options {{ {certificates}, {boards}, enable_crl_check = false }}
}}
# Operators, with a password.
listeners.ssl.operators {{
  bind = "0.0.0.0:{OPERATORS_PORT}"
  ssl_options {{ {certificates} }}
}}
listeners.ssl.default.enable = false
listeners.tcp.default.enable = false
listeners.ws.default.enable = false
listeners.wss.default.enable = false

mqtt {{
  peer_cert_as_username = cn
  peer_cert_as_clientid = cn
  max_packet_size = {PACKET_BYTES}B
  max_inflight = {IN_FLIGHT}
  max_mqueue_len = {QUEUED}
}}
# What was retained survives a restart. Beyond a rate EMQX delivers and does not retain: many chunks are published at once.
retainer {{
  backend {{ type = built_in_database, storage_type = disc }}
  max_payload_size = {MESSAGE_BYTES}B
  max_publish_rate = infinity
}}

authentication = [{{
  mechanism = password_based, backend = built_in_database, user_id_type = username
  password_hash_algorithm {{ name = pbkdf2, mac_fun = sha512, iterations = {ITERATIONS} }}
  bootstrap_file = "{folder}/operators.csv", bootstrap_type = plain
}}]
authorization {{
  no_match = deny
  deny_action = ignore
  sources = [{{ type = file, enable = true, path = "{folder}/acl.conf" }}]
}}
""",
        "acl.conf": _commented(
            [*_of(site, OPERATOR), *_of(site, ENROLMENT)],
            "%%",
            lambda rule: f'{{allow, {{user, "{rule.who}"}}, {_emqx_access(rule)}, ["{rule.filter}"]}}.',
        )
        + "".join(f'{{deny, {{user, "{user}"}}, all, ["#"]}}.\n' for user in sorted(RESERVED))
        + "\n"
        + _commented(_of(site, BOARD), "%%", lambda rule: f'{{allow, all, {_emqx_access(rule)}, ["{rule.of("${username}")}"]}}.')
        + "{deny, all}.\n",
        "operators.csv": "user_id,password,is_superuser\n"
        + "".join(f"{user},{site.passwords[user]},false\n" for user in sorted(RESERVED)),
    }


def _emqx_access(rule: Rule) -> str:
    return "all" if rule.read and rule.write else "subscribe" if rule.read else "publish"


# -- HiveMQ CE, with the File RBAC extension


def hivemq_password(password: str, salt: bytes) -> str:
    """As the extension's own tool writes it: PBKDF2 with HMAC and SHA-512. It takes no plain ones unless it is told to."""
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS, 64)
    return f"{b64encode(salt).decode()}:{ITERATIONS}:{b64encode(digest).decode()}"


def _hivemq(site: Site) -> dict[str, str]:
    folder = f"{site.folder or '/opt/hivemq/conf'}/certs"
    lock = f"<password>{PASSWORD}</password>"
    store = f"<path>{folder}/broker.p12</path>{lock}<private-key-password>{PASSWORD}</private-key-password>"

    def permission(rule: Rule) -> str:
        activity = "ALL" if rule.read and rule.write else "SUBSCRIBE" if rule.read else "PUBLISH"
        return f"<permission><topic>{rule.of('${{username}}')}</topic><activity>{activity}</activity></permission>"

    roles = "".join(
        f"    <role><id>{who}</id><permissions>\n      "
        + "\n      ".join(permission(rule) for rule in _of(site, who))
        + "\n    </permissions></role>\n"
        for who in (BOARD, OPERATOR, ENROLMENT)
    )
    hashed = {user: hivemq_password(site.passwords[user], secrets.token_bytes(SALT_BYTES)) for user in (OPERATOR, ENROLMENT)}
    users = "".join(
        f"    <user><name>{user}</name><password>{password}</password><roles><id>{user}</id></roles></user>\n"
        for user, password in hashed.items()
    )
    return {
        "config.xml": f"""<?xml version="1.0"?>
<hivemq>
  <listeners>
    <tls-tcp-listener>
      <port>{BOARDS_PORT}</port><bind-address>0.0.0.0</bind-address><name>boards</name>
      <tls>
        <keystore>{store}</keystore>
        <truststore><path>{folder}/boards.p12</path>{lock}</truststore>
        <client-authentication-mode>REQUIRED</client-authentication-mode>
      </tls>
    </tls-tcp-listener>
    <tls-tcp-listener>
      <port>{OPERATORS_PORT}</port><bind-address>0.0.0.0</bind-address><name>operators</name>
      <tls><keystore>{store}</keystore><client-authentication-mode>NONE</client-authentication-mode></tls>
    </tls-tcp-listener>
  </listeners>
  <mqtt>
    <queued-messages><max-queue-size>{QUEUED}</max-queue-size></queued-messages>
    <receive-maximum><server-receive-maximum>{IN_FLIGHT}</server-receive-maximum></receive-maximum>
    <packets><max-packet-size>{PACKET_BYTES}</max-packet-size></packets>
  </mqtt>
  <anonymous-usage-statistics><enabled>false</enabled></anonymous-usage-statistics>
</hivemq>
""",
        "credentials.xml": f"""<?xml version="1.0"?>
<!-- conf/credentials.xml of the File RBAC extension, which knows passwords only. Each board needs a user of its name with the role
     board, and its password as the extension's tool writes it: java -jar hivemq-file-rbac-extension-VERSION.jar -p PASSWORD -->
<file-rbac>
  <users>
{users}  </users>
  <roles>
{roles}  </roles>
</file-rbac>
""",
    }


# -- RabbitMQ 4 (MQTT 5 came with 3.13)


def _rabbitmq(site: Site) -> dict[str, str]:
    folder = site.folder or "/etc/rabbitmq"
    users = [{"name": user, "password": site.passwords[user], "tags": []} for user in sorted(RESERVED)]
    users += [{"name": device, "password_hash": "", "tags": []} for device in site.devices]
    everything = dict.fromkeys(("configure", "write", "read"), ".*")
    topic_permissions = [
        {
            "user": user,
            "vhost": "/",
            "exchange": "amq.topic",
            "write": _amqp(_of(site, who), user, write=True),
            "read": _amqp(_of(site, who), user, write=False),
        }
        for user, who in [*((each, each) for each in sorted(RESERVED)), *((each, BOARD) for each in site.devices)]
    ]
    definitions = {
        "vhosts": [{"name": "/"}],
        "users": users,
        "permissions": [
            *({"user": user, "vhost": "/"} | everything for user in sorted(RESERVED)),
            *({"user": device, "vhost": "/"} | _amqp_of_client(device) for device in site.devices),
        ],
        "topic_permissions": topic_permissions,
    }
    return {
        "rabbitmq.conf": f"""# Both listeners take a certificate where there is one, and a password else.
# There are two, so that a firewall can tell boards and operators apart.
listeners.tcp = none
mqtt.listeners.tcp = none
mqtt.listeners.ssl.boards = 0.0.0.0:{BOARDS_PORT}
mqtt.listeners.ssl.operators = 0.0.0.0:{OPERATORS_PORT}
ssl_options.certfile = {folder}/certs/broker.pem
ssl_options.keyfile = {folder}/certs/broker.key
ssl_options.cacertfile = {folder}/certs/ca.pem
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = false
mqtt.ssl_cert_login = true
ssl_cert_login_from = common_name
mqtt.allow_anonymous = false
mqtt.max_packet_size_authenticated = {PACKET_BYTES}
mqtt.retained_message_store = rabbit_mqtt_retained_msg_store_dets
load_definitions = {folder}/definitions.json
""",
        "enabled_plugins": "[rabbitmq_mqtt,rabbitmq_auth_mechanism_ssl].\n",
        "definitions.json": json.dumps(definitions, indent=1) + "\n",
    }


def _amqp_of_client(device: str) -> dict[str, str]:
    """What a board may do with queues and exchanges: its own session's alone.

    Who connects with the identifier of another client gets its queue with it, and what is in there.
    """
    own = rf"mqtt-(subscription|will)-{re.escape(topics.client_id(device))}(qos[01])?"
    return {"configure": f"^{own}$"} | dict.fromkeys(("write", "read"), rf"^(amq\.topic|{own})$")


def _amqp(found: Sequence[Rule], device: str, *, write: bool) -> str:
    """A pattern of routing keys: `/` is `.` there, and `.` in a name is `/`; `+` is `*` in a subscription.

    The name is written out: RabbitMQ puts it in place of `{username}` as it is, where the `.` of one name fits others.
    """
    patterns = []
    for rule in found:
        if not (rule.write if write else rule.read):
            continue
        levels = [_amqp_level(level) for level in rule.of(device).split("/")]
        tail = levels.pop() if levels[-1] == "(?:\\..*)?" else ""
        patterns.append("\\.".join(levels) + tail)
    return f"^(?:{'|'.join(patterns)})$" if patterns else "^$"


def _amqp_level(level: str) -> str:
    if level == "+":
        return "[^.]+"
    if level == "#":
        return "(?:\\..*)?"
    return level.replace(".", "/").replace("$", "\\$")


KINDS: Mapping[str, Callable[[Site], dict[str, str]]] = {
    "mosquitto": _mosquitto,
    "emqx": _emqx,
    "hivemq": _hivemq,
    "rabbitmq": _rabbitmq,
}

"""Provisions a board: settings, the root of trust, the broker's CA certificate, a certificate or a token, its group's keys."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ota.errors import OtaError
from ota.formats.broker_url import BrokerUrl
from ota.formats.capabilities import Capabilities
from ota.formats.enrolment import is_pattern
from ota.formats.fields import is_name
from ota.formats.reasons import Refused
from ota.operator import acts
from ota.operator.group_keys import GroupKeys
from ota.operator.workspace import Workspace
from ota.token_keys import TokenError, TokenUri
from ota.toml_file import parse_toml

__all__ = ["BoardSettings", "ProvisionError", "read_policy"]

LOCAL = ("localhost", "127.0.0.1", "::1")
# What the file of a policy may say; the rest is for the operator's workspace to say.
POLICY = (
    *("policy", "instances", "topics", "bus", "sources", "trial", "failures", "fetch", "health", "report", "limits"),
    *("bundles", "updates"),
)
REQUIRED = """[policy]
confinement = "required"
"""
DEFAULT_POLICY = """[sources.readings]
kind = "proc"
period_s = 10.0

# What modules may do on this board. A module gets what its signed manifest asks for AND what is granted here.
[policy.grants.logging]

[policy.grants.clock]

[policy.grants.messaging]
subscribe = ["sys/#", "in/#"]
publish = ["readings/#", "alerts/#"]
"""


_SERVER = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}(:[0-9]{1,5})?")


class ProvisionError(OtaError):
    """A board cannot be given settings as asked."""


def read_policy(path: Path) -> str:
    """The part of an agent.toml that says what a board's modules may do, and when. Raises ProvisionError, TomlError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ProvisionError(f"{path}: {error.strerror}") from error
    value = parse_toml(content, path)
    try:
        Capabilities.parse(value.get("policy", {}).get("grants", {}), "policy.grants")
    except Refused as error:
        raise ProvisionError(f"{path}: {error.detail}") from error
    for section in value:
        if section not in POLICY:
            raise ProvisionError(f"{path}: [{section}] is not a part of a policy, but one of {', '.join(POLICY)}")
    return content.decode()


def check_time_server(text: str) -> None:
    """Raises ProvisionError."""
    if not _SERVER.fullmatch(text):
        raise ProvisionError(f"{text!r} is no time server: HOST or HOST:PORT")


def check_board_key(text: str) -> None:
    """The URI of a key in a board's token. Raises ProvisionError."""
    try:
        uri = TokenUri.parse(text)
    except TokenError as error:
        raise ProvisionError(str(error)) from error
    if not (uri.label and uri.pin_file and "module-path=" in text):
        raise ProvisionError(f"{text}: a board's key needs object=, module-path= and pin-source=file:, as they are on the board")


@dataclass(frozen=True)
class BoardSettings:
    """The settings of one board, or of a batch whose names have their serial numbers in them.

    `board` names its definition, `cpus` the processors that images may be for, best first.
    """

    device: str
    group: str
    board: str
    broker: BrokerUrl | None  # None: the board works alone, and gets bundles
    cpus: tuple[str, ...] = ()
    policy: str = DEFAULT_POLICY
    storage: str = "/var/lib/wamr-ota"
    ntp: tuple[str, ...] = ()  # servers, HOST or HOST:PORT, for a system that `ota image build` made
    key: str = ""  # the URI of the board's key in a PKCS#11 token (RFC 7512); "": the agent makes a file

    def check(self) -> None:
        """Raises ProvisionError."""
        for what, name in (("device", self.device), ("group", self.group), ("board", self.board)):
            if not is_name(name) and not (what == "device" and is_pattern(name)):
                raise ProvisionError(f"{name!r} is not a name for a {what}")
        for server in self.ntp:
            check_time_server(server)
        if self.key:
            check_board_key(self.key)
        if self.broker is not None and self.broker.host in LOCAL:
            raise ProvisionError(f"boards can't reach the broker at {self.broker.host}: give the address for boards with --broker")

    def files(
        self, workspace: Workspace, *, certificate: bytes = b"", token: str = "", enrolment: BrokerUrl | None = None
    ) -> Mapping[str, bytes]:
        """The files of its settings, with a certificate, or with a token to get one. Raises ProvisionError, AuditError.

        `enrolment` is the broker for boards without a certificate, or with one that has expired.
        """
        self.check()
        files = {"root.cbor": workspace.root_documents()[1]}
        if workspace.settings.ca_file is not None and self.broker is not None:
            files["broker-ca.pem"] = workspace.settings.ca_file.read_bytes()
        if keys := GroupKeys(workspace).of(self.group):
            about = {"group": self.group, "device": self.device, "keys": ", ".join(each.key_id.hex() for each in keys.values())}
            acts.record(workspace, "hand-out-group-keys", about)
        files |= {path.name: key.to_bytes() for path, key in keys.items()}
        if certificate:
            files["device.pem"] = certificate
        if self.ntp:
            files["ntp-servers"] = "".join(f"{each}\n" for each in self.ntp).encode()
        if token:
            files["enrolment.token"] = token.encode() + b"\n"
        if self.key:
            files["device.key"] = self.key.encode() + b"\n"
        files["agent.toml"] = self._toml(
            authority="broker-ca.pem" in files, identity=bool(certificate or token), token=bool(token), enrolment=enrolment
        ).encode()
        return files

    def _toml(self, *, authority: bool, identity: bool, token: bool, enrolment: BrokerUrl | None) -> str:
        cpus = ", ".join(f'"{each}"' for each in self.cpus)
        # The policy first: what stands outside its tables must not fall into ours.
        lines = [self.policy, *(["", REQUIRED] if _has_room(self.policy) else [])]
        lines += ["", "[device]", f'id = "{self.device}"', f'group = "{self.group}"', f'board = "{self.board}"']
        lines += [f"cpus = [{cpus}]"] if cpus else []
        lines += ["", "[broker]", f'url = "{self.broker}"'] if self.broker is not None else []
        lines += ['ca_file = "broker-ca.pem"'] if authority else []
        lines += ['certificate_file = "device.pem"', 'key_file = "device.key"'] if identity else []
        if identity and (token or enrolment):
            lines += ["", "[enrolment]", *(['token_file = "enrolment.token"'] if token else [])]
            lines += [f'url = "{enrolment}"'] if enrolment else []
        lines += ["", "[storage]", f'folder = "{self.storage}"', "", "[trust]", 'root = "root.cbor"', ""]
        return "\n".join(lines)


def _has_room(policy: str) -> bool:
    """Whether a policy has no table `[policy]` of its own; the agent requires confinement where that does not say otherwise."""
    try:
        tomllib.loads(f"{policy}\n{REQUIRED}")
    except tomllib.TOMLDecodeError:
        return False
    return True

"""The agent's one configuration file, TOML; device_agent/agent.example.toml shows every setting with its default."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from device_agent.channel.users import USERS
from ota.errors import OtaError
from ota.formats.broker_url import BrokerUrl
from ota.formats.capabilities import Capabilities
from ota.formats.fields import is_name
from ota.formats.reasons import Refused
from ota.toml_file import read_toml

T = TypeVar("T")
_USERS = re.compile(r"([0-9]{1,10})-([0-9]{1,10})")
LAST_USER = 0x7FFF_FFFF  # what lies above is read as a negative number by some programs
_PROCESSOR = re.compile(r"(?=.)[A-Za-z0-9._-]{0,64}(\+[a-z0-9.-]{1,31}){0,16}")


class ConfigError(OtaError):
    """The configuration file is missing or says something that is not possible."""


@dataclass(frozen=True)
class BrokerConfig:
    """How to reach the broker."""

    url: BrokerUrl
    ca_file: Path | None = None
    username: str = ""
    password_file: Path | None = None
    certificate_file: Path | None = None  # with key_file: how the board shows the broker who it is
    key_file: Path | None = None
    keepalive_s: int = 30
    session_expiry_s: int = (
        3600  # how long the broker keeps subscriptions and QoS 1 messages while the board is away; 0: not at all
    )


@dataclass(frozen=True)
class Config:
    """Everything that is set. Times in seconds."""

    device: str
    group: str
    board: str
    storage: Path
    trust_root: Path
    broker: BrokerConfig | None
    cpus: tuple[str, ...] = ()
    factory: Path | None = None
    enrolment_token: Path | None = None
    enrolment_url: BrokerUrl | None = None
    confinement_required: bool = True
    worker_users: range = USERS
    grants: Capabilities = field(default_factory=lambda: Capabilities({}))
    module_config: Mapping[str, str] = field(default_factory=dict)
    trial_s: float = 10.0
    trial_max_s: float = 86_400.0
    forget_s: float = 3600.0
    fetch_timeout_s: float = 60.0
    retry_s: float = 60.0
    health_s: float = 30.0
    report_s: float = 30.0
    proc_period_s: float = 0.0  # 0: no readings
    event_queue: int = 10_000
    event_queue_bytes: int = 8 << 20
    outbox_messages: int = 100_000
    outbox_bytes: int = 32 << 20
    free_bytes: int = 4 << 20

    @property
    def wants_enrolment(self) -> bool:
        """Whether this board has a token and no certificate yet."""
        if self.broker is None or self.broker.certificate_file is None or self.enrolment_token is None:
            return False
        return self.enrolment_token.exists() and not self.broker.certificate_file.exists()


def load(path: Path) -> Config:
    """Raises TomlError, and ConfigError naming the file, the setting and what it must be. Paths are relative to the file."""
    return _Reader(read_toml(path), path).config()


class _Reader:
    def __init__(self, value: dict[str, Any], path: Path) -> None:
        self._value = value
        self._path = path
        self._known: set[str] = {"grants", "config"}

    def config(self) -> Config:
        config = Config(
            device=self._name("device.id"),
            group=self._name("device.group"),
            board=self._name("device.board", "generic"),
            cpus=self._cpus(),
            storage=self._file("storage.folder"),
            trust_root=self._file("trust.root"),
            broker=self._broker(),
            factory=self._file("factory.folder") if self._has("factory.folder") else None,
            enrolment_token=self._file("enrolment.token_file") if self._has("enrolment.token_file") else None,
            enrolment_url=self._url("enrolment.url") if self._has("enrolment.url") else None,
            confinement_required=self._confinement_required(),
            worker_users=self._worker_users(),
            grants=self._grants(),
            module_config=self._module_config(),
            trial_s=self._number("trial.seconds", 10.0, 0.05),
            trial_max_s=self._number("trial.max_s", 86_400.0, 0.05),
            forget_s=self._number("failures.forget_s", 3600.0, 1.0),
            fetch_timeout_s=self._number("fetch.timeout_s", 60.0, 0.1),
            retry_s=self._number("fetch.retry_s", 60.0, 0.1),
            health_s=self._number("health.period_s", 30.0, 0.1),
            report_s=self._number("report.period_s", 30.0, 0.1),
            proc_period_s=self._number("sources.proc_period_s", 0.0, 0.0),
            event_queue=int(self._number("limits.event_queue", 10_000, 1)),
            event_queue_bytes=int(self._number("limits.event_queue_bytes", 8 << 20, 4096)),
            outbox_bytes=int(self._number("limits.outbox_bytes", 32 << 20, 4096)),
            outbox_messages=int(self._number("limits.outbox_messages", 100_000, 1)),
            free_bytes=int(self._number("limits.free_bytes", 4 << 20, 0)),
        )
        self._refuse_unknown()
        return config

    def _broker(self) -> BrokerConfig | None:
        if not self._has("broker.url"):
            return None
        if self._has("broker.certificate_file") != self._has("broker.key_file"):
            raise self._wrong("broker.certificate_file", "there together with broker.key_file")
        return BrokerConfig(
            url=self._url("broker.url"),
            certificate_file=self._file("broker.certificate_file") if self._has("broker.certificate_file") else None,
            key_file=self._file("broker.key_file") if self._has("broker.key_file") else None,
            ca_file=self._file("broker.ca_file") if self._has("broker.ca_file") else None,
            username=self._get("broker.username", str) if self._has("broker.username") else "",
            password_file=self._file("broker.password_file") if self._has("broker.password_file") else None,
            keepalive_s=int(self._number("broker.keepalive_s", 30, 1)),
            session_expiry_s=int(self._number("broker.session_expiry_s", 3600, 0)),
        )

    def _url(self, name: str) -> BrokerUrl:
        try:
            return BrokerUrl.parse(self._get(name, str))
        except ValueError as error:
            raise self._wrong(name, str(error)) from None

    def _cpus(self) -> tuple[str, ...]:
        if not self._has("device.cpus"):
            return ()
        value = self._get("device.cpus", list)
        if not all(isinstance(each, str) and _PROCESSOR.fullmatch(each) for each in value):
            raise self._wrong("device.cpus", 'names of processors as LLVM has them, such as "cortex-a72" or "cortex-a53+crc"')
        return tuple(value)

    def _confinement_required(self) -> bool:
        if not self._has("policy.confinement"):
            return True
        value = self._get("policy.confinement", str)
        if value not in ("required", "best-effort"):
            raise self._wrong("policy.confinement", '"required" or "best-effort"')
        return value == "required"

    def _worker_users(self) -> range:
        if not self._has("policy.worker_users"):
            return USERS
        found = _USERS.fullmatch(self._get("policy.worker_users", str))
        if found is None or not 0 < int(found[1]) <= int(found[2]) <= LAST_USER:
            raise self._wrong("policy.worker_users", f'numbers of users, "{USERS[0]}-{USERS[-1]}" by default')
        return range(int(found[1]), int(found[2]) + 1)

    def _grants(self) -> Capabilities:
        try:
            return Capabilities.parse(self._value.get("grants", {}), "grants")
        except Refused as error:
            raise ConfigError(f"{self._path}: {error.detail}") from error

    def _module_config(self) -> dict[str, str]:
        value = self._value.get("config", {})
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            raise self._wrong("config", "text by name")
        return value

    def _refuse_unknown(self) -> None:
        for section, content in self._value.items():
            if section in self._known:
                continue
            if not isinstance(content, dict):
                raise ConfigError(
                    f"{self._path}: there is no setting {section} outside of a section; a section is written [{section}]"
                )
            for key in content:
                if f"{section}.{key}" not in self._known:
                    raise ConfigError(f"{self._path}: there is no setting {section}.{key}")

    def _has(self, name: str) -> bool:
        self._known.add(name)
        section, key = name.split(".")
        content = self._value.get(section, {})
        return isinstance(content, dict) and key in content

    def _get(self, name: str, kind: type[T]) -> T:
        if not self._has(name):
            raise ConfigError(f"{self._path}: {name} is missing")
        section, key = name.split(".")
        value = self._value[section][key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self._wrong(name, "text" if kind is str else "a list" if kind is list else "a number")
        return value

    def _name(self, name: str, default: str = "") -> str:
        if default and not self._has(name):
            return default
        value = self._get(name, str)
        if not is_name(value):
            raise self._wrong(name, "1 to 64 letters, digits, - _ or .")
        return value

    def _file(self, name: str) -> Path:
        return self._path.parent / self._get(name, str)

    def _number(self, name: str, default: float, low: float) -> float:
        if not self._has(name):
            return default
        section, key = name.split(".")
        value = self._value[section][key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < 1e12:
            raise self._wrong(name, f"a number of at least {low}")
        return float(value)

    def _wrong(self, name: str, expected: str) -> ConfigError:
        return ConfigError(f"{self._path}: {name} must be {expected}")

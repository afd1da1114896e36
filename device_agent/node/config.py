"""The agent's one configuration file, TOML; device_agent/agent.example.toml shows every setting with its default."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from device_agent.broker.settings import BrokerConfig, RenewalConfig
from device_agent.channel.users import USERS
from device_agent.desired.watch import WatchSettings
from device_agent.instance.owner import AT_ONCE, NO_RULES, Owner, Rule
from device_agent.instance.services import InstancePolicy, Times
from device_agent.node.serial_number import serial_number, serial_of
from device_agent.sources.kinds import parse_all
from device_agent.sources.source import Source, SourceError
from ota.errors import OtaError
from ota.formats.broker_url import BrokerUrl
from ota.formats.capabilities import Capabilities
from ota.formats.deployment import AGENT, checked_config
from ota.formats.enrolment import SERIAL, is_pattern
from ota.formats.fields import is_name
from ota.formats.reasons import Refused
from ota.formats.report import INSTANCES
from ota.formats.text import nearest
from ota.formats.topics import Template
from ota.toml_file import read_toml

T = TypeVar("T")
_USERS = re.compile(r"([0-9]{1,10})-([0-9]{1,10})")
LAST_USER = 0x7FFF_FFFF  # what lies above is read as a negative number by some programs
_PROCESSOR = re.compile(r"(?=.)[A-Za-z0-9._-]{0,64}(\+[a-z0-9.-]{1,31}){0,16}")


OF_DEVICE, OF_GROUP = Template("devices/{device}/{topic}"), Template("groups/{group}/{topic}")


class ConfigError(OtaError):
    """The configuration file is missing or says something that is not possible."""


@dataclass(frozen=True)
class InstanceConfig:
    """What `[instances.NAME]` says. A limit of 0 is not set."""

    grants: Capabilities | None = None  # None: those of `[policy.grants]`
    config: Mapping[str, str] = field(default_factory=dict)
    factory: Path | None = None
    memory_pages: int = 0
    messages_per_s: int = 0
    log_lines_per_s: int = 0
    event_queue: int = 0
    event_queue_bytes: int = 0


@dataclass(frozen=True)
class TopicsConfig:
    """Where on the broker the topics of modules lie."""

    publish: Template = OF_DEVICE
    subscribe: tuple[Template, ...] = (OF_DEVICE, OF_GROUP)
    batches: bool = False  # many messages in one packet, on a topic of ours


@dataclass(frozen=True)
class BusConfig:
    """How instances of this board speak with each other."""

    durable: bool = True  # what is said outlives a power cut
    hops: int = 8  # from instance to instance to instance, at most


@dataclass(frozen=True)
class Config:
    """Everything that is set. Times in seconds."""

    device: str
    group: str
    board: str
    storage: Path
    trust_root: Path
    broker: BrokerConfig | None
    group_keys: Path = Path()  # a folder
    cpus: tuple[str, ...] = ()
    enrolment_token: Path | None = None
    enrolment_url: BrokerUrl | None = None
    renewal: RenewalConfig = field(default_factory=RenewalConfig)
    confinement_required: bool = True
    worker_users: range = USERS
    instances_max: int = 16
    memory_bytes: int = 0  # of all modules' memories in sum; 0: no limit
    messages_per_s: int = 1000  # of an instance that has no limit of its own, whatever its manifest asks for
    log_lines_per_s: int = 100  # likewise
    grants: Capabilities = field(default_factory=lambda: Capabilities({}))  # of instances that have none of their own
    instances: Mapping[str, InstanceConfig] = field(default_factory=dict)
    topics: TopicsConfig = field(default_factory=TopicsConfig)
    bus: BusConfig = field(default_factory=BusConfig)
    bundles: WatchSettings = field(default_factory=WatchSettings)
    sources: Mapping[str, Source] = field(default_factory=dict)
    trial_s: float = 10.0
    trial_max_s: float = 86_400.0
    agent_trial_s: float = 300.0
    forget_s: float = 3600.0
    fetch_timeout_s: float = 60.0
    retry_s: float = 60.0
    health_s: float = 30.0
    report_s: float = 30.0
    event_queue: int = 10_000
    event_queue_bytes: int = 8 << 20
    outbox_messages: int = 100_000
    outbox_bytes: int = 32 << 20
    free_bytes: int = 4 << 20
    clock_trusted: bool = False
    owner: Owner = NO_RULES  # what updates may do

    @property
    def times(self) -> Times:
        """Those that instances need."""
        return Times(self.trial_s, self.trial_max_s, self.forget_s, self.health_s)

    def policy(self, instance: str) -> InstancePolicy:
        """What is set for an instance, by its name or for all."""
        own = self.instances.get(instance, InstanceConfig())
        return InstancePolicy(
            grants=self.grants if own.grants is None else own.grants,
            config=own.config,
            factory=own.factory,
            memory_pages=own.memory_pages,
            messages_per_s=own.messages_per_s or self.messages_per_s,
            log_lines_per_s=own.log_lines_per_s or self.log_lines_per_s,
            event_queue=own.event_queue or self.event_queue,
            event_queue_bytes=own.event_queue_bytes or self.event_queue_bytes,
        )

    @property
    def wants_enrolment(self) -> bool:
        """Whether this board has a token and no certificate yet."""
        if self.broker is None or self.broker.certificate_file is None or self.enrolment_token is None:
            return False
        return self.enrolment_token.exists() and not self.broker.certificate_file.exists()


def load(path: Path) -> Config:
    """Raises TomlError, and ConfigError naming the file, the setting and what it must be. Paths are relative to the file."""
    if not path.exists():
        raise ConfigError(f"{path} is not there: name the configuration file with --config")
    return _Reader(read_toml(path), path).config()


class _Reader:
    def __init__(self, value: dict[str, Any], path: Path) -> None:
        self._value = value
        self._path = path
        self._known: set[str] = {"instances", "sources", "policy.grants"}

    def config(self) -> Config:
        config = Config(
            device=self._device(),
            group=self._name("device.group"),
            board=self._name("device.board", "generic"),
            cpus=self._cpus(),
            storage=self._file("storage.folder"),
            trust_root=self._file("trust.root"),
            broker=self._broker(),
            group_keys=self._path.parent,
            enrolment_token=self._file("enrolment.token_file") if self._has("enrolment.token_file") else None,
            enrolment_url=self._url("enrolment.url") if self._has("enrolment.url") else None,
            renewal=RenewalConfig(
                self._number("renewal.period_s", 3600.0, 0.1), new_key=self._flag("renewal.new_key", default=True)
            ),
            confinement_required=self._confinement_required(),
            worker_users=self._worker_users(),
            instances_max=int(self._number("policy.instances", 16, 1, INSTANCES)),
            memory_bytes=int(self._number("policy.memory_mb", 0, 0)) << 20,
            messages_per_s=int(self._number("policy.messages_per_s", 1000, 1)),
            log_lines_per_s=int(self._number("policy.log_lines_per_s", 100, 1)),
            grants=self._grants(self._value.get("policy", {}), "policy.grants") or Capabilities({}),
            instances=self._instances(),
            topics=self._topics(),
            bus=BusConfig(self._flag("bus.durable", default=True), int(self._number("bus.hops", 8, 1, 255))),
            bundles=self._bundles(),
            sources=self._sources(),
            trial_s=self._number("trial.seconds", 10.0, 0.05),
            trial_max_s=self._number("trial.max_s", 86_400.0, 0.05),
            agent_trial_s=self._number("trial.agent_s", 300.0, 1.0, 86_400.0),
            forget_s=self._number("failures.forget_s", 3600.0, 1.0),
            fetch_timeout_s=self._number("fetch.timeout_s", 60.0, 0.1),
            retry_s=self._number("fetch.retry_s", 60.0, 0.1),
            health_s=self._number("health.period_s", 30.0, 0.1),
            report_s=self._number("report.period_s", 30.0, 0.1),
            event_queue=int(self._number("limits.event_queue", 10_000, 1)),
            event_queue_bytes=int(self._number("limits.event_queue_bytes", 8 << 20, 4096)),
            outbox_bytes=int(self._number("limits.outbox_bytes", 32 << 20, 4096)),
            outbox_messages=int(self._number("limits.outbox_messages", 100_000, 1)),
            free_bytes=int(self._number("limits.free_bytes", 4 << 20, 0)),
            clock_trusted=self._flag("clock.trusted", default=False),
            owner=Owner(self._rule("updates.functional"), self._rule("updates.security")),
        )
        self._refuse_unknown()
        return config

    def _device(self) -> str:
        """The board's name, its serial number in the place of {serial}."""
        name = self._get("device.id", str)
        own = self._file("device.serial_file") if self._has("device.serial_file") else None
        if not is_pattern(name):
            return self._name("device.id")
        if not (found := serial_number() if own is None else serial_of(own)):
            raise ConfigError(
                f"{self._path}: device.id is {name!r}, and this board has no serial number:"
                " name a file that holds one with device.serial_file"
            )
        if not is_name(made := name.replace(SERIAL, found)):
            raise ConfigError(f"{self._path}: device.id is {name!r}, and {made!r} is no name of 1 to 64 letters, digits, - _ or .")
        return made

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
            keepalive_s=int(self._number("broker.keepalive_s", 30, 1, 0xFFFF)),
            session_expiry_s=int(self._number("broker.session_expiry_s", 3600, 0, 0xFFFF_FFFF)),
        )

    def _url(self, name: str) -> BrokerUrl:
        try:
            return BrokerUrl.parse(self._get(name, str))
        except ValueError as error:
            raise ConfigError(f"{self._path}: {name}: {error}") from None

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

    def _rule(self, name: str) -> Rule:
        if not self._has(name):
            return AT_ONCE
        try:
            return Rule.parse(self._get(name, str))
        except ValueError as error:
            raise self._wrong(name, str(error)) from None

    def _grants(self, section: Any, name: str) -> Capabilities | None:
        if not isinstance(section, dict) or "grants" not in section:
            return None
        try:
            return Capabilities.parse(section["grants"], name)
        except Refused as error:
            raise ConfigError(f"{self._path}: {error.detail}") from error

    def _instances(self) -> dict[str, InstanceConfig]:
        found = self._value.get("instances", {})
        if not isinstance(found, dict):
            raise self._wrong("instances", "sections [instances.NAME]")
        for name in found:
            if not is_name(name) or name == AGENT:
                raise self._wrong(f"instances.{name}", f'named with 1 to 64 letters, digits, - _ or ., other than "{AGENT}"')
        return {name: self._instance(f"instances.{name}", section) for name, section in found.items()}

    def _instance(self, name: str, section: Any) -> InstanceConfig:
        if not isinstance(section, dict):
            raise self._wrong(name, f"a section [{name}]")
        for key in section:
            if key not in (known := ("factory", "grants", "config", "limits")):
                raise ConfigError(f"{self._path}: there is no setting {name}.{key}{nearest(key, known)}")
        factory, limits = section.get("factory"), section.get("limits", {})
        if factory is not None and not isinstance(factory, str):
            raise self._wrong(f"{name}.factory", "text")
        try:
            config = checked_config(section.get("config", {}), f"{name}.config")
        except Refused as error:
            raise ConfigError(f"{self._path}: {error.detail}") from error
        return InstanceConfig(
            grants=self._grants(section, f"{name}.grants"),
            config=config,
            factory=self._path.parent / factory if factory is not None else None,
            **self._limits(f"{name}.limits", limits),
        )

    def _limits(self, name: str, section: Any) -> dict[str, int]:
        lowest = {"memory_pages": 1, "messages_per_s": 1, "log_lines_per_s": 1, "event_queue": 1, "event_queue_bytes": 4096}
        if not isinstance(section, dict):
            raise self._wrong(name, f"a section [{name}]")
        for key, value in section.items():
            if key not in lowest:
                raise ConfigError(f"{self._path}: there is no setting {name}.{key}{nearest(key, lowest)}")
            if type(value) is not int or not lowest[key] <= value < 1 << 40:
                raise self._wrong(f"{name}.{key}", f"a whole number of at least {lowest[key]}")
        return section

    def _topics(self) -> TopicsConfig:
        defaults = TopicsConfig()
        return TopicsConfig(
            publish=self._template("topics.publish", self._get("topics.publish", str))
            if self._has("topics.publish")
            else defaults.publish,
            subscribe=tuple(self._template("topics.subscribe", each) for each in self._get("topics.subscribe", list))
            if self._has("topics.subscribe")
            else defaults.subscribe,
            batches=self._flag("topics.batches", default=False),
        )

    def _bundles(self) -> WatchSettings:
        watch = self._get("bundles.watch", list) if self._has("bundles.watch") else []
        if not all(isinstance(each, str) and each.startswith("/") for each in watch):
            raise self._wrong("bundles.watch", 'folders from / on, such as "/media/*"')
        led = self._get("bundles.led", str) if self._has("bundles.led") else ""
        if "/" in led or led.startswith("."):
            raise self._wrong("bundles.led", "a name in /sys/class/leds")
        return WatchSettings(tuple(watch), led, self._file("bundles.console") if self._has("bundles.console") else None)

    def _template(self, name: str, value: Any) -> Template:
        try:
            if not isinstance(value, str):
                raise ValueError("text is expected")
            return Template.parse(value)
        except ValueError as error:
            raise ConfigError(f"{self._path}: {name}: {value!r}: {error}") from None

    def _sources(self) -> dict[str, Source]:
        try:
            return parse_all(self._value.get("sources", {}))
        except SourceError as error:
            raise ConfigError(f"{self._path}: {error}") from None

    def _refuse_unknown(self) -> None:
        for section, content in self._value.items():
            if section in self._known:
                continue
            if not isinstance(content, dict):
                raise ConfigError(
                    f"{self._path}: there is no setting {section} outside of a section; a section is written [{section}]"
                )
            for key in content:
                if (name := f"{section}.{key}") not in self._known:
                    there = [each for each in self._known if each.startswith(f"{section}.")]
                    near = nearest(key, [each.partition(".")[2] for each in there]) if there else nearest(name, self._known)
                    raise ConfigError(f"{self._path}: there is no setting {name}{near}")

    def _has(self, name: str) -> bool:
        self._known.add(name)
        section, key = name.split(".")
        content = self._value.get(section, {})
        return isinstance(content, dict) and key in content

    def _get(self, name: str, kind: type[T]) -> T:
        section, key = name.split(".")
        if not self._has(name):
            near = [
                each for each in self._value.get(section, {}) if f"{section}.{each}" not in self._known and nearest(each, (key,))
            ]
            instead = f", and there is no setting {section}.{near[0]}" if near else ""
            raise ConfigError(f"{self._path}: {name} is missing{instead}")
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

    def _flag(self, name: str, *, default: bool) -> bool:
        if not self._has(name):
            return default
        section, key = name.split(".")
        value = self._value[section][key]
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def _number(self, name: str, default: float, low: float, high: float = 1e12) -> float:
        if not self._has(name):
            return default
        section, key = name.split(".")
        value = self._value[section][key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise self._wrong(name, f"a number of at least {low}" if high >= 1e12 else f"a number from {low} to {high}")
        return float(value)

    def _wrong(self, name: str, expected: str) -> ConfigError:
        return ConfigError(f"{self._path}: {name} must be {expected}")

"""What the broker's side needs to be told: how to reach the broker, and what a certificate is asked for with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ota.formats.broker_url import BrokerUrl

__all__ = ["BrokerConfig", "Enrolling", "RenewalConfig"]


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
class RenewalConfig:
    """How the board renews its certificate."""

    period_s: float = 3600.0  # between looks at it
    new_key: bool = True  # a key of its own for each certificate


class Enrolling(Protocol):
    """A board that wants a certificate (device_agent.node.config.Config is one)."""

    @property
    def device(self) -> str:
        """Its name."""

    @property
    def broker(self) -> BrokerConfig | None:
        """The broker that it will talk to with the certificate."""

    @property
    def enrolment_token(self) -> Path | None:
        """The file of its token."""

    @property
    def enrolment_url(self) -> BrokerUrl | None:
        """Where to ask; None: at its broker."""


@dataclass(frozen=True)
class Session:
    """What a CONNECT says beside the name and the password."""

    clean: bool
    expiry_s: int
    will: tuple[str, bytes] | None

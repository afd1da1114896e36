"""The files of a board's key, certificate and the broker's authorities, and of those that are to take their place.

Beside each file lies its successor, FILE.new, from the time that it is made until it is proved. A request is made of device.key.new
and device.pem.request; the answer is put into the other two, the certificate last. So what there is says how far a renewal got, and
after a power cut at any instruction `settle` leaves a key and a certificate that fit each other:

key.new  request  pem.new
yes      any      no       a request may have been sent: it is sent again
yes      yes      yes      a candidate: it is proved again
no       any      yes      it was proved, and promotion had begun: `settle` ends it

X.509 is not needed here, but for keys in a token.
"""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from device_agent.broker.identity import TOKEN, IdentityError, device_key, make_successor, write_durably
from device_agent.broker.settings import BrokerConfig
from ota.durable import sync_folder

__all__ = ["Pair"]

logger = logging.getLogger(__name__)


def _beside(file: Path, ending: str) -> Path:
    return file.with_name(f"{file.name}.{ending}")


@dataclass(frozen=True)
class Pair:
    """The files of one board."""

    certificate: Path
    key: Path
    authorities: Path | None  # of the broker; None where the system's are believed

    @classmethod
    def of(cls, broker: BrokerConfig | None) -> "Pair | None":
        """None for a board that shows no certificate."""
        if broker is None or not broker.url.tls or broker.certificate_file is None or broker.key_file is None:
            return None
        return cls(broker.certificate_file, broker.key_file, broker.ca_file)

    @property
    def next_key(self) -> Path:
        """The key that a certificate is asked for."""
        return _beside(self.key, "new")

    @property
    def next_certificate(self) -> Path:
        """The candidate."""
        return _beside(self.certificate, "new")

    @property
    def request(self) -> Path:
        """The signing request: asking again is the same request."""
        return _beside(self.certificate, "request")

    @property
    def refused(self) -> Path:
        """A candidate that the broker refused, or that would not fit."""
        return _beside(self.certificate, "refused")

    @property
    def next_authorities(self) -> Path | None:
        """The broker's authorities that came with the candidate."""
        return _beside(self.authorities, "new") if self.authorities is not None else None

    @property
    def has_request(self) -> bool:
        """Whether a next certificate was asked for, and there is no candidate yet."""
        return self.next_key.exists() and self.request.exists() and not self.next_certificate.exists()

    @property
    def has_candidate(self) -> bool:
        """Whether there is one that is not promoted yet."""
        return self.next_certificate.exists() and self.next_key.exists()

    def candidate(self, broker: BrokerConfig) -> BrokerConfig:
        """How to reach the broker with the candidate."""
        authorities = self.next_authorities
        return replace(
            broker,
            certificate_file=self.next_certificate,
            key_file=self.next_key,
            ca_file=authorities if authorities is not None and authorities.exists() else broker.ca_file,
        )

    def begin(self, request: Callable[[Path], bytes], *, new_key: bool) -> None:
        """Makes the next key, or takes the present one, and the request for it out of `request`. Raises IdentityError, OSError."""
        self.request.unlink(missing_ok=True)  # before there is another key: it is for the last one
        sync_folder(self.request.parent)
        self.next_key.unlink(missing_ok=True)
        if new_key:
            make_successor(self.key, self.next_key)
        else:
            write_durably(self.next_key, self.key.read_bytes())
        write_durably(self.request, request(self.next_key))

    def keep_candidate(self, certificate: bytes, authorities: bytes) -> None:
        """Keeps what an answer holds, for the key that was asked for. Raises IdentityError."""
        if self.next_authorities is not None:
            self.next_authorities.unlink(missing_ok=True)  # of a candidate before
            if authorities:
                write_durably(self.next_authorities, authorities)
        write_durably(self.next_certificate, certificate)

    def promote(self) -> None:
        """Puts the candidate into place, once it is proved. Raises OSError."""
        self.next_key.replace(self.key)
        sync_folder(self.key.parent)
        self.settle()

    def recover(self) -> None:
        """`settle` at the start of the agent, which goes on without it."""
        try:
            self.settle()
        except OSError as error:
            logger.error("a renewal of the certificate that power cut off can't be ended: %s", error)

    def settle(self) -> bool:
        """Ends a promotion that had begun; returns whether one had. Raises OSError."""
        if self.next_key.exists() or not self.next_certificate.exists() or not _fits(self.next_certificate, self.key):
            return False
        if self.next_authorities is not None and self.authorities is not None and self.next_authorities.exists():
            self.next_authorities.replace(self.authorities)
            sync_folder(self.authorities.parent)
        for each in (self.request, self.refused):
            each.unlink(missing_ok=True)
        self.next_certificate.replace(self.certificate)
        sync_folder(self.certificate.parent)
        return True

    def give_up(self) -> None:
        """Puts the candidate away. Another key is asked for later. Raises OSError."""
        self.next_certificate.replace(self.refused)
        sync_folder(self.certificate.parent)
        for each in (self.next_authorities, self.request, self.next_key):
            if each is not None:
                each.unlink(missing_ok=True)
        sync_folder(self.key.parent)


def _fits(certificate: Path, key: Path) -> bool:
    """Whether a certificate is for a key. Raises OSError where the key's token does not say."""
    if key.exists() and key.read_bytes().startswith(TOKEN):
        return _fits_token(certificate, key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key)
    except OSError:  # ssl.SSLError is one
        return False
    return True


def _fits_token(certificate: Path, key: Path) -> bool:
    from device_agent.broker.certificates import is_for  # X.509: boards with a token do with it

    try:
        return is_for(certificate.read_bytes(), device_key(key, make=False))
    except IdentityError as error:
        raise OSError(f"{key}: {error}") from error

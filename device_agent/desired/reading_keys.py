"""The keys that this board decrypts with: its own, and those of groups that somebody put beside its settings.

encryption.pem  below the storage folder: the board's own key on P-256, made by the agent, mode 0600
group-*.key     beside agent.toml: keys of groups, as `ota group-keys` makes them

Files are read anew each time, so that one can be added or taken away while the agent runs. Keys of the board's group that came over
the air are kept elsewhere (device_agent.desired.delivered_keys), and used beside them.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from device_agent.broker.identity import IdentityError, device_key
from ota.formats.encryption import KEY_LIMIT_BYTES, EncryptionInfo, GroupKey, ReadingKeys, public_cose_key
from ota.formats.manifest import AnyManifest, AotImage, Manifest
from ota.formats.reasons import Refused

__all__ = ["OWN_KEY", "PATTERN", "ContentKey", "KeyFiles", "read_group_key"]

OWN_KEY = "encryption.pem"
PATTERN = "group-*.key"
GROUP_KEYS = 16  # that are read
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ContentKey:
    """What decrypts one blob."""

    secret: bytes = field(repr=False)
    iv: bytes


def read_group_key(path: Path) -> GroupKey:
    """The key in a file. Raises OSError, Refused TOO_LARGE, MALFORMED."""
    with path.open("rb") as file:
        return GroupKey.from_bytes(file.read(KEY_LIMIT_BYTES + 1))


class KeyFiles:
    """The keys of one board. Makes its own where there is none yet."""

    def __init__(self, settings: Path, storage: Path) -> None:
        """`settings`: the folder with keys of groups."""
        self._settings = settings
        self.delivered: Mapping[bytes, GroupKey] = {}
        self._in_files: tuple[bytes, ...] = ()  # identifiers, as they were read last
        self.own: ec.EllipticCurvePrivateKey | None = None
        try:
            self.own = device_key(storage / OWN_KEY)
        except (IdentityError, OSError) as error:
            logger.error("nothing can be encrypted for this board alone: %s", error)
        self._groups()

    @property
    def public(self) -> bytes:
        """The public half of the board's own key, an encoded COSE_Key; empty where there is none."""
        return public_cose_key(self.own.public_key()) if self.own is not None else b""

    @property
    def group_key_ids(self) -> tuple[bytes, ...]:
        """Identifiers of the keys of groups that the board has, in order."""
        return tuple(sorted({*self.delivered, *self._in_files}))

    def deliver(self, keys: Mapping[bytes, GroupKey]) -> None:
        """The group has these keys now, beside those in files."""
        self.delivered = keys

    def content_key(self, wanted: AnyManifest | AotImage) -> ContentKey | None:
        """What decrypts a blob, None for one that is not encrypted. Waits for the disk.

        Raises Refused RECIPIENT_MISSING, DECRYPTION_FAILED, ENCRYPTION_UNSUPPORTED.
        """
        if not isinstance(wanted, (Manifest, AotImage)) or wanted.ciphertext is None:
            return None
        info = EncryptionInfo.from_bytes(wanted.ciphertext.info)
        return ContentKey(ReadingKeys(self._groups(), self.own).content_key(info), info.iv)

    def _groups(self) -> dict[bytes, GroupKey]:
        found: dict[bytes, GroupKey] = {}
        for path in sorted(self._settings.glob(PATTERN))[:GROUP_KEYS]:
            try:
                key = read_group_key(path)
            except (OSError, Refused) as error:
                logger.warning("%s is not used: %s", path, error)
                continue
            found[key.key_id] = key
        self._in_files = tuple(found)
        return found | dict(self.delivered)

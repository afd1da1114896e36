"""An operator's folder: settings, keys, trust documents, and the numbers that must never go back.

ota.toml          vendor, broker, default group
keys/*.pem        one private key a role, and the certificate authority's (ota.operator.ca), mode 0600
trust/root.N.cbor the chain of root documents
state.json        last sequence number, last deployment epoch of each group
published/        updates that were signed or deployed (ota.operator.updates)
ledger.json       what was put where (ota.operator.ledger)
tokens.json       enrolment tokens (ota.operator.enrolment), mode 0600
devices/*.pem     certificates of devices
"""

import contextlib
import fcntl
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ota.durable import sync_folder, write_durably
from ota.errors import OtaError
from ota.formats.broker_url import BrokerUrl
from ota.formats.fields import is_name
from ota.formats.reasons import naming
from ota.formats.signed import Role
from ota.formats.trust import ROLES, ROOT_TYPE, Root, first_root, next_root
from ota.keyring import KeyLockedError, SigningKey, sign_document
from ota.operator.shapes import fault
from ota.toml_file import parse_toml

SETTINGS = "ota.toml"
STAGING = ".ota-init"  # where `create` makes everything before it moves it into place
_PARTS = (Path("trust", "root.1.cbor"), Path("keys"), Path(SETTINGS))  # in this order: with the last one it is a workspace
_DOMAIN = re.compile(
    r"(?=.{1,253}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9][a-z0-9-]{0,61}[a-z0-9]", re.IGNORECASE | re.ASCII
)
YEAR_S = 365 * 86_400
MAX_SEQUENCE = 1 << 34  # seconds since 1970, in the year 2514: no clock has led to a higher one
MAX_EPOCH_STEP = 1_000_000  # documents of one group that somebody else may have published
DEFAULT_KEEP_UPDATES, MAX_KEEP_UPDATES = 10, 1000


class WorkspaceError(OtaError):
    """The folder is no workspace, already one, or damaged."""


@dataclass(frozen=True)
class Settings:
    """The content of ota.toml."""

    vendor: str
    broker: BrokerUrl
    group: str
    ca_file: Path | None = None
    username: str = ""
    password_file: Path | None = None
    keep_updates: int = DEFAULT_KEEP_UPDATES  # of each module


class Workspace:
    """An opened operator folder."""

    def __init__(self, folder: Path, settings: Settings, passphrase: bytes | None = None) -> None:
        self.folder = folder
        self.settings = settings
        self.passphrase = passphrase
        self.ask_passphrase: Callable[[Path], bytes] | None = None  # where somebody can be asked, for a key that is locked

    @classmethod
    def create(cls, folder: Path, settings: Settings, now_s: int, algorithm: str, passphrase: bytes | None = None) -> "Workspace":
        """Makes keys and the first root. Raises WorkspaceError when the folder is a workspace already, and changes nothing."""
        if (folder / SETTINGS).exists():
            raise WorkspaceError(f"{folder} is a workspace already; its keys are not overwritten")
        _check_group(settings.group)
        if not _DOMAIN.fullmatch(settings.vendor):
            raise WorkspaceError(f"{settings.vendor!r} is not a domain name, such as example.com")
        if passphrase == b"":
            raise WorkspaceError("the passphrase is empty: give a passphrase of at least one character, or --no-passphrase")
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        _discard_interrupted(folder)
        for part in (Path("keys"), Path("trust", "root.1.cbor")):
            if (folder / part).exists():
                raise WorkspaceError(f"{folder} has {part} and no {SETTINGS}: move keys and trust away if they are not needed")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            cls._fill(folder / STAGING, settings, now_s, algorithm, passphrase)
            (folder / "trust").mkdir(exist_ok=True)
            for part in _PARTS:
                (folder / STAGING / part).replace(folder / part)
            shutil.rmtree(folder / STAGING)
            sync_folder(folder)
        except BaseException:  # nobody has seen these keys: half of a workspace is of no use
            _discard(folder)
            for empty in (folder / "trust", *missing):
                with contextlib.suppress(OSError):
                    empty.rmdir()
            raise
        return cls(folder, settings, passphrase)

    @staticmethod
    def _fill(folder: Path, settings: Settings, now_s: int, algorithm: str, passphrase: bytes | None) -> None:
        folder.mkdir()
        (folder / "trust").mkdir()
        (folder / "keys").mkdir(mode=0o700)
        keys = {}
        for role in ROLES:
            keys[role] = SigningKey.generate(algorithm)
            keys[role].save(folder / "keys" / f"{role}.pem", passphrase)
        roles = {role: Role({key.public.key_id: key.public}, 1) for role, key in keys.items()}
        root = Root(1, now_s, now_s + 10 * YEAR_S, settings.vendor, roles)
        document = sign_document(root.to_payload(), ROOT_TYPE, [keys["root"]])
        write_durably(folder / "trust" / "root.1.cbor", document)
        write_durably(folder / SETTINGS, _settings_text(settings).encode())

    @classmethod
    def open(cls, folder: Path, passphrase: bytes | None = None) -> "Workspace":
        """Raises WorkspaceError when it is not one."""
        try:
            content = (folder / SETTINGS).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise WorkspaceError(
                f"{folder.absolute()} is not a workspace: run `ota init` first, or name it with -C or OTA_WORKSPACE"
            ) from None
        return cls(folder, _settings(parse_toml(content, folder / SETTINGS), folder), passphrase)

    def key(self, role: str) -> SigningKey:
        """The private key of a role. Raises KeyFileError."""
        path = self.folder / "keys" / f"{role}.pem"
        try:
            return SigningKey.load(path, self.passphrase)
        except KeyLockedError:
            if self.ask_passphrase is None:
                raise
            self.passphrase = self.ask_passphrase(path)
        return SigningKey.load(path, self.passphrase)

    def role_key(self, role: str) -> SigningKey:
        """The key of a role, which the newest root must name. Raises KeyFileError, WorkspaceError, Refused."""
        key, root = self.key(role), self.root()
        if key.public.key_id not in root.roles[role].keys:
            raise WorkspaceError(
                f"{self.folder / 'keys' / role}.pem is not a {role} key of root {root.number}, the newest: boards would refuse it"
            )
        return key

    def root_documents(self) -> dict[int, bytes]:
        """The chain of root documents by number."""
        found = {}
        for number in range(1, 10_000):
            path = self.folder / "trust" / f"root.{number}.cbor"
            if not path.exists():
                break
            found[number] = path.read_bytes()
        if not found:
            raise WorkspaceError(f"{self.folder / 'trust'} has no root.1.cbor")
        return found

    def root(self) -> Root:
        """The newest root, its chain verified. Raises Refused."""
        root: Root | None = None
        for number, document in self.root_documents().items():
            with naming(self.folder / "trust" / f"root.{number}.cbor"):
                root = first_root(document) if root is None else next_root(root, document)
        assert root is not None
        return root

    def next_sequence(self, now_s: int) -> int:
        """A manifest sequence number above every earlier one: seconds since 1970, or one more than the last.

        The caller has looked at the clock (ota.operator.clock): a number that is too high stays for ever.
        """
        with self.record() as state:
            last = state.get("sequence", 0)
            state["sequence"] = max(int(last) + 1, now_s)
            return int(state["sequence"])

    def adopt(self, *, sequence: int = 0, epochs: Mapping[str, int] | None = None) -> bool:
        """Raises the numbers to what is known to be signed with these keys already; True when one of them was lower here.

        Raises WorkspaceError for numbers that no operator comes to: they stay for ever, so whoever stole a key would choose them.
        """
        with self.record() as state:
            known = state.setdefault("epochs", {})
            if sequence > max(int(state.get("sequence", 0)), MAX_SEQUENCE):
                raise _implausible("release", f"sequence {sequence}")
            for group, epoch in (epochs or {}).items():
                if epoch > int(known.get(group, 0)) + MAX_EPOCH_STEP:
                    raise _implausible("deploy", f"epoch {epoch} of group {group}")
            raised = sequence > int(state.get("sequence", 0))
            state["sequence"] = max(sequence, int(state.get("sequence", 0)))
            for group, epoch in (epochs or {}).items():
                raised |= epoch > int(known.get(group, 0))
                known[group] = max(epoch, int(known.get(group, 0)))
            return raised

    def signed(self, now_s: int) -> None:
        """Records when something was signed last, to compare the clock with (ota.operator.clock)."""
        with self.record() as state:
            state["signed_s"] = now_s

    def last_signed_s(self) -> int:
        """When something was signed last, in seconds since 1970."""
        return max(self.root().issued_s, int(self.read().get("signed_s", 0)))

    def next_epoch(self, group: str) -> int:
        """A deployment epoch for a group above every earlier one."""
        with self.record() as state:
            epochs = state.setdefault("epochs", {})
            epochs[group] = int(epochs.get(group, 0)) + 1
            return int(epochs[group])

    def add_root(self, number: int, document: bytes) -> None:
        """Adds the next root document to the chain, once it is verified. Raises Refused."""
        next_root(self.root(), document)
        write_durably(self.folder / "trust" / f"root.{number}.cbor", document)

    def read(self, name: str = "state.json") -> dict[str, Any]:
        """What a JSON file of the workspace holds; nothing when there is none. Raises WorkspaceError."""
        path = self.folder / name
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError) as error:
            raise WorkspaceError(f"{path} is damaged ({error}): restore it from a backup of the workspace") from error
        if found := fault(name, value):
            raise WorkspaceError(f"{path} is damaged ({found}): restore it from a backup of the workspace")
        return dict(value)

    @contextmanager
    def record(self, name: str = "state.json", mode: int = 0o644) -> Iterator[dict[str, Any]]:
        """A JSON file of the workspace, for one process at a time; written back durably at the end. Raises WorkspaceError."""
        path = self.folder / name
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.read(name)
            yield state
            path.parent.mkdir(exist_ok=True)
            write_durably(path, json.dumps(state).encode() + b"\n", mode)  # indenting is slow for thousands of boards


def _discard_interrupted(folder: Path) -> None:
    """Removes what an `init` left that was cut off before the settings were in place, so that nobody has used its keys."""
    if (folder / STAGING / SETTINGS).exists():
        _discard(folder)
    elif (folder / STAGING).exists():
        shutil.rmtree(folder / STAGING)


def _discard(folder: Path) -> None:
    for part in reversed(_PARTS):
        if (folder / part).is_dir():
            shutil.rmtree(folder / part, ignore_errors=True)
        else:
            (folder / part).unlink(missing_ok=True)
    shutil.rmtree(folder / STAGING, ignore_errors=True)


def _check_group(group: str) -> None:
    if not is_name(group):
        raise WorkspaceError(f"{group!r} is not a name for a group: 1 to 64 letters, digits, - _ or .")


def _implausible(role: str, what: str) -> WorkspaceError:
    return WorkspaceError(
        f"{what} is signed with a {role} key of this workspace, and is not plausible: the key may be stolen."
        " Replace it in a new root"
    )


def _settings_text(settings: Settings) -> str:
    return f'''# An operator's workspace: the folder that `ota -C` names.
vendor = "{settings.vendor}"       # a domain name; boards accept modules of this vendor only
broker = "{settings.broker}"
group = "{settings.group}"         # default of `ota publish --group`
# ca_file = "ca.pem"               # for mqtts://
# username = "operator"
# password_file = "broker.password"
# keep_updates = {DEFAULT_KEEP_UPDATES}                # signed updates of each module that stay in published/
'''


def _settings(value: dict[str, object], folder: Path) -> Settings:
    keep = value.pop("keep_updates", DEFAULT_KEEP_UPDATES)
    if not isinstance(keep, int) or not 1 <= keep <= MAX_KEEP_UPDATES:
        raise WorkspaceError(f"{folder / SETTINGS}: keep_updates is {keep!r}, not a number from 1 to {MAX_KEEP_UPDATES}")
    known = ("vendor", "broker", "group", "ca_file", "username", "password_file")
    for key, each in value.items():
        if key not in known or not isinstance(each, str):
            raise WorkspaceError(f"{folder / SETTINGS}: {key!r} is not a setting, or not text")
    texts = {key: str(each) for key, each in value.items()}
    try:
        _check_group(texts["group"])
        return Settings(
            vendor=texts["vendor"],
            broker=BrokerUrl.parse(texts["broker"]),
            group=texts["group"],
            ca_file=folder / texts["ca_file"] if "ca_file" in texts else None,
            username=texts.get("username", ""),
            password_file=folder / texts["password_file"] if "password_file" in texts else None,
            keep_updates=keep,
        )
    except KeyError as error:
        raise WorkspaceError(f"{folder / SETTINGS}: {error} is missing") from None
    except (ValueError, WorkspaceError) as error:
        raise WorkspaceError(f"{folder / SETTINGS}: {error}") from None

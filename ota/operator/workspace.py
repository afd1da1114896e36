"""An operator's folder: settings, keys, trust documents, and the numbers that must never go back.

ota.toml          vendor, broker, default group
keys/*.pem        private keys of roles, and the certificate authority's (ota.operator.ca), mode 0600
keys.toml         where the private half of each role's key is (ota.operator.keys)
trust/root.N.cbor the chain of root documents
state.json        last sequence number, last deployment epoch of each group and device
audit.log         who signed and deployed what, chained and signed (ota.operator.audit)
published/        updates that were signed or deployed (ota.operator.updates)
ledger.json       what was put where (ota.operator.ledger)
tokens.json       enrolment tokens (ota.operator.enrolment), mode 0600
group-keys/       keys that groups share, to encrypt for them (ota.operator.group_keys), mode 0600
devices/          certificates of devices (ota.operator.issued)
retired.json      devices that were retired, clones.json names that two keys asked for (ota.operator.issued)
roster.json       boards that were seen (ota.operator.roster)
signers.json      the keys that boards sign with (ota.operator.signers)
"""

import contextlib
import fcntl
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ota.durable import sync_folder, write_durably
from ota.errors import OtaError
from ota.formats.broker_url import BrokerUrl
from ota.formats.fields import is_name
from ota.formats.reasons import Refused, naming
from ota.formats.signed import Role
from ota.formats.text import nearest
from ota.formats.trust import ROLES, ROOT_TYPE, Root, first_root, next_root
from ota.formats.window import Window
from ota.keyring import Signer, SigningKey, sign_document
from ota.operator.keys import HEAD, INDEX, KeyMissingError, Keys, index_line
from ota.operator.scope import Scope
from ota.operator.shapes import fault
from ota.references import Secrets, open_file
from ota.tokens import in_token, make_key
from ota.toml_file import parse_toml

SETTINGS = "ota.toml"
STAGING = ".ota-init"  # where `create` makes everything before it moves it into place
_PARTS = (
    Path("trust", "root.1.cbor"),
    Path("keys"),
    Path(INDEX),
    Path(SETTINGS),
)  # in this order: with the last one it is a workspace
_DOMAIN = re.compile(
    r"(?=.{1,253}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9][a-z0-9-]{0,61}[a-z0-9]", re.IGNORECASE | re.ASCII
)
YEAR_S = 365 * 86_400
MAX_SEQUENCE = 1 << 34  # of manifests, and epoch of deployments: seconds since 1970, in the year 2514; no clock led to a higher one
DEFAULT_KEEP_UPDATES = 10
DEFAULT_CERTIFICATE_DAYS, DEFAULT_GRACE_DAYS = 90, 365
_NUMBERS = {  # settings that are numbers: the default, the lowest, the highest
    "keep_updates": (DEFAULT_KEEP_UPDATES, 1, 1000),
    "board_certificate_days": (DEFAULT_CERTIFICATE_DAYS, 1, 3650),
    "renewal_grace_days": (DEFAULT_GRACE_DAYS, 0, 3650),
}


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
    window: Window | None = None  # of new deployments, unless the command line says otherwise
    board_certificate_days: int = DEFAULT_CERTIFICATE_DAYS
    renewal_grace_days: int = DEFAULT_GRACE_DAYS  # after the end of a certificate, in which its key still renews it


class Workspace:
    """An opened operator folder."""

    def __init__(self, folder: Path, settings: Settings, passphrase: bytes | None = None) -> None:
        self.folder = folder
        self.settings = settings
        self.secrets = Secrets(passphrase)
        self.keys = Keys(folder, self.secrets)

    @classmethod
    def create(
        cls, folder: Path, settings: Settings, now_s: int, algorithm: str, passphrase: bytes | None = None, token: str = ""
    ) -> "Workspace":
        """Makes keys, in the PKCS#11 token of a URI or in files, and the first root.

        Raises WorkspaceError when the folder is a workspace already, and changes nothing.
        """
        if (folder / SETTINGS).exists():
            raise WorkspaceError(f"{folder} is a workspace already; its keys are not overwritten")
        _check_group(settings.group)
        check_vendor(settings.vendor)
        if passphrase == b"":
            raise WorkspaceError("the passphrase is empty: give a passphrase of at least one character, or --no-passphrase")
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        _discard_interrupted(folder)
        for part in (Path("keys"), Path("trust", "root.1.cbor")):
            if (folder / part).exists():
                raise WorkspaceError(f"{folder} has {part} and no {SETTINGS}: move keys and trust away if they are not needed")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            cls._fill(folder / STAGING, settings, now_s, algorithm, Secrets(passphrase), token)
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
    def _fill(folder: Path, settings: Settings, now_s: int, algorithm: str, secrets: Secrets, token: str) -> None:
        folder.mkdir()
        (folder / "trust").mkdir()
        (folder / "keys").mkdir(mode=0o700)
        keys, references = {}, {}
        for role in ROLES:
            references[role] = in_token(token, role) if token else f"keys/{role}.pem"
            if token:
                keys[role] = make_key(references[role], secrets, algorithm)
            else:
                keys[role] = SigningKey.generate(algorithm)
                keys[role].save(folder / references[role], secrets.given)
        roles = {role: Role({key.public.key_id: key.public}, 1) for role, key in keys.items()}
        root = Root(1, now_s, now_s + 10 * YEAR_S, settings.vendor, roles)
        document = sign_document(root.to_payload(), ROOT_TYPE, [keys["root"]])
        write_durably(folder / "trust" / "root.1.cbor", document)
        lines = [index_line(key.public.key_id, references[role]) for role, key in keys.items()]
        write_durably(folder / INDEX, (HEAD + "".join(lines)).encode())
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

    def key(self, name: str) -> SigningKey:
        """The private key of the file keys/NAME.pem. Raises KeyFileError."""
        return open_file(self.folder / "keys" / f"{name}.pem", self.secrets)

    def role_keys(self, role: str) -> list[Signer]:
        """Keys of a role under the newest root: as many as it needs, or all that are at hand, one at least.

        Raises KeyFileError for keys that are here and can't be used, WorkspaceError when there is none, Refused.
        """
        root = self.root()
        found, errors = self.keys.enough(root.roles[role])
        if root.roles[role].lacks([each.public.key_id for each in found]):
            for error in errors:
                if not isinstance(error, KeyMissingError):
                    raise error
        if not found:
            raise WorkspaceError(f"no {role} key of root {root.number}, the newest, is at hand: {'; '.join(map(str, errors))}")
        return found

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
        return self.roots()[-1]

    def roots(self) -> list[Root]:
        """The chain of roots, verified. Raises Refused."""
        found: list[Root] = []
        for number, document in self.root_documents().items():
            with naming(self.folder / "trust" / f"root.{number}.cbor"):
                found.append(next_root(found[-1], document) if found else first_root(document))
        return found

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
            for key, epoch in (epochs or {}).items():
                if epoch > max(int(known.get(key, 0)), MAX_SEQUENCE):
                    raise _implausible("deploy", f"epoch {epoch} of {Scope.from_key(key)}")
            raised = sequence > int(state.get("sequence", 0))
            state["sequence"] = max(sequence, int(state.get("sequence", 0)))
            for key, epoch in (epochs or {}).items():
                raised |= epoch > int(known.get(key, 0))
                known[key] = max(epoch, int(known.get(key, 0)))
            return raised

    def signed(self, now_s: int) -> None:
        """Records when something was signed last, to compare the clock with (ota.operator.clock)."""
        with self.record() as state:
            state["signed_s"] = now_s

    def last_signed_s(self) -> int:
        """When something was signed last, in seconds since 1970."""
        return max(self.root().issued_s, int(self.read().get("signed_s", 0)))

    def next_epoch(self, key: str, now_s: int) -> int:
        """An epoch for a group's or device's document above every earlier one; see `Scope.key`.

        Like a sequence it is the time, or one more than the last: so it is above those of a workspace that was lost, too.
        """
        with self.record() as state:
            epochs = state.setdefault("epochs", {})
            epochs[key] = max(int(epochs.get(key, 0)) + 1, now_s)
            return int(epochs[key])

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

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """While an update may be on the broker that no deployment names yet. Waits until `cleaning` has ended."""
        with (self.folder / ".publishing").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield

    @contextmanager
    def cleaning(self) -> Iterator[None]:
        """While what no deployment names is looked for and removed. Raises WorkspaceError while somebody is `publishing`."""
        with (self.folder / ".publishing").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WorkspaceError(
                    f"{self.folder}: an update is being published, or cleaned: try again when that ended"
                ) from None
            yield


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


def check_vendor(text: str) -> None:
    """Raises WorkspaceError for what is no domain name."""
    if not _DOMAIN.fullmatch(text):
        raise WorkspaceError(f"{text!r} is not a domain name, such as example.com")


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
# window = "mon-fri 02:00 2h"      # when boards may change what they run, unless `ota publish` says otherwise
# keep_updates = {DEFAULT_KEEP_UPDATES}                # signed updates of each module that stay in published/
# board_certificate_days = {DEFAULT_CERTIFICATE_DAYS}      # boards renew their certificates after two thirds of it
# renewal_grace_days = {DEFAULT_GRACE_DAYS}         # how long after its end a certificate can still be renewed
'''


def _settings(value: dict[str, object], folder: Path) -> Settings:
    numbers = {name: _number(value, name, folder) for name in _NUMBERS}
    known = ("vendor", "broker", "group", "ca_file", "username", "password_file", "window")
    for key, each in value.items():
        if key not in known:
            raise WorkspaceError(f"{folder / SETTINGS}: {key!r} is not a setting{nearest(key, (*known, *_NUMBERS))}")
        if not isinstance(each, str):
            raise WorkspaceError(f"{folder / SETTINGS}: {key} is {each!r}, not text")
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
            window=Window.from_text(texts["window"]) if "window" in texts else None,
            **numbers,
        )
    except KeyError as error:
        raise WorkspaceError(f"{folder / SETTINGS}: {error} is missing") from None
    except (ValueError, WorkspaceError, Refused) as error:
        raise WorkspaceError(f"{folder / SETTINGS}: {error}") from None


def _number(value: dict[str, object], name: str, folder: Path) -> int:
    default, low, high = _NUMBERS[name]
    found = value.pop(name, default)
    if type(found) is not int or not low <= found <= high:
        raise WorkspaceError(f"{folder / SETTINGS}: {name} is {found!r}, not a number from {low} to {high}")
    return found

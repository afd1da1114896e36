"""The private keys that a workspace has at hand, by the identifiers of their public halves.

keys.toml      where the private half of each key is: identifier = "reference" (ota.references)
keys/ROLE*.pem are looked into as well, for keys that keys.toml does not name
"""

import fcntl
from collections.abc import Collection
from pathlib import Path

from ota.durable import write_durably
from ota.errors import KeyFileError, OtaError
from ota.formats.cose import VerifyKey
from ota.formats.signed import Role
from ota.formats.trust import ROLES
from ota.keyring import Signer, SigningKey
from ota.references import SCHEMES, Secrets, open_key
from ota.toml_file import TomlError, read_toml

__all__ = ["HEAD", "INDEX", "KeyMissingError", "Keys", "index_line", "short"]

INDEX = "keys.toml"
HEAD = "# Where the private half of each key is, by the key's identifier. `ota keys list` shows them.\n"
ID_BYTES = 32


class KeyMissingError(OtaError):
    """The private half of a key is not here."""


class Keys:
    """The keys of one workspace. What was opened once is not asked for again."""

    def __init__(self, folder: Path, secrets: Secrets) -> None:
        self._folder, self._secrets = folder, secrets
        self._opened: dict[bytes, Signer] = {}

    @property
    def index(self) -> Path:
        """The file that says where keys are."""
        return self._folder / INDEX

    def references(self) -> dict[bytes, str]:
        """Where keys are, by identifier, as keys.toml says. Raises TomlError."""
        path = self._folder / INDEX
        if not path.exists():
            return {}
        found: dict[bytes, str] = {}
        for name, reference in read_toml(path).items():
            try:
                key_id = bytes.fromhex(name)
            except ValueError:
                key_id = b""
            if len(key_id) != ID_BYTES or not isinstance(reference, str):
                raise TomlError(f"{path}: {name!r} is not a key's identifier in {2 * ID_BYTES} hexadecimal digits, or has no text")
            found[key_id] = reference
        return found

    def open(self, reference: str) -> Signer:
        """The key of a reference. Raises KeyFileError."""
        key = open_key(reference, self._folder, self._secrets)
        self._opened[key.public.key_id] = key
        return key

    def note(self, key_id: bytes, reference: str) -> None:
        """Adds a line to keys.toml, unless it is there. What people wrote there stays."""
        path = self._folder / INDEX
        with (self._folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = self.references()
            if known.get(key_id) == reference:
                return
            if key_id in known:
                raise KeyFileError(f"{path} names {known[key_id]} for key {short(key_id)}: change it there to {reference}")
            before = path.read_text(encoding="utf-8") if path.exists() else HEAD
            write_durably(path, f"{before.rstrip()}\n{index_line(key_id, reference)}".encode())

    def make(self, role: str, algorithm: str) -> SigningKey:
        """A new key in keys/, locked as the others are where their passphrase is known."""
        key = SigningKey.generate(algorithm)
        reference = f"keys/{role}-{key.public.key_id.hex()[:8]}.pem"
        key.save(self._folder / reference, self._secrets.given)
        self.note(key.public.key_id, reference)
        self._opened[key.public.key_id] = key
        return key

    def find(self, key_id: bytes) -> Signer:
        """The private half of a key. Raises KeyMissingError where it is not here, KeyFileError for one that can't be used."""
        if key_id in self._opened:
            return self._opened[key_id]
        reference = self.references().get(key_id)
        why = f"neither {INDEX} names it nor is it in {self._folder / 'keys'}"
        if reference is not None:
            if not reference.startswith(tuple(SCHEMES)) and not (self._folder / reference).exists():
                why = f"{self._folder / reference} is not there"
            elif (found := self.open(reference).public.key_id) != key_id:
                why = f"{self._folder / reference} holds another, {short(found)}"
        errors = self._look_around(key_id)
        if key_id not in self._opened:
            if errors:
                raise errors[0]
            raise KeyMissingError(f"key {short(key_id)}: {why}")
        return self._opened[key_id]

    def enough(self, role: Role, beside: Collection[bytes] = ()) -> tuple[list[Signer], list[OtaError]]:
        """As few keys as the role needs besides those that signed already, and why others can't be had."""
        found: list[Signer] = []
        errors: list[OtaError] = []
        have = set(beside) & role.keys.keys()
        for key_id in _in_turns(role):
            if not (lack := role.lacks(have)):
                break
            if key_id in have or role.lacks({*have, key_id}) == lack:
                continue
            try:
                found.append(self.find(key_id))
                have.add(key_id)
            except OtaError as error:
                errors.append(error)
        return found, errors

    def where(self, key_id: bytes) -> str:
        """Where a key is, for people; "" when that is not known here. Opens nothing."""
        reference = self.references().get(key_id, "")
        if not reference or reference.startswith(tuple(SCHEMES)) or (self._folder / reference).exists():
            return reference
        return f"{reference} (not there)"

    def _look_around(self, wanted: bytes) -> list[KeyFileError]:
        """Opens the files in keys/ that keys.toml does not name, until a key is found; those that can't be used."""
        errors: list[KeyFileError] = []
        named = {self._folder / reference for reference in self.references().values()}
        for role in ROLES:
            for path in sorted((self._folder / "keys").glob(f"{role}*.pem")):
                if wanted in self._opened:
                    return []
                if path in named or not path.is_file():
                    continue
                try:
                    self.open(str(path.relative_to(self._folder)))
                except KeyFileError as error:
                    errors.append(error)
        return errors


def _in_turns(role: Role) -> list[bytes]:
    """The keys of a role so that the first ones are of different families."""
    turns: dict[bytes, int] = {}
    for key_id, key in role.keys.items():
        turns[key_id] = sum(role.keys[each].algorithm.family == key.algorithm.family for each in turns)
    return sorted(role.keys, key=lambda each: turns[each])


def index_line(key_id: bytes, reference: str) -> str:
    """A line of keys.toml."""
    quoted = reference.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{key_id.hex()}" = "{quoted}"\n'


def short(key: bytes | VerifyKey) -> str:
    """How a key is named to people: the beginning of its identifier."""
    return (key if isinstance(key, bytes) else key.key_id).hex()[:16]

"""The keys that a workspace encrypts modules with: those of groups, and the boards' own as their reports had them.

group-keys/GROUP/group-ID.key   a group's key, a COSE_Key, mode 0600; boards have it beside agent.toml, under the same name

A group has one key, or while it is changed two: what is published meanwhile can be read with either.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from ota.author.encryption import Readers
from ota.durable import write_durably
from ota.errors import OtaError
from ota.formats.audit import Row
from ota.formats.encryption import KEY_BYTES, KEY_LIMIT_BYTES, GroupKey, read_public_key
from ota.formats.reasons import naming
from ota.operator import acts
from ota.operator.audit import Audit
from ota.operator.roster import Roster
from ota.operator.scope import Scope
from ota.operator.workspace import Workspace

__all__ = ["FOLDER", "GroupKeys", "of_scopes", "own_keys", "readers", "told_of"]

FOLDER = "group-keys"
MAX_KEYS = 8  # of a group


@dataclass(frozen=True)
class GroupKeys:
    """The keys of one workspace."""

    workspace: Workspace

    def groups(self) -> list[str]:
        """Those that have a key."""
        folder = self.workspace.folder / FOLDER
        return sorted(each.name for each in folder.iterdir() if self._files(each.name)) if folder.is_dir() else []

    def of(self, group: str) -> dict[Path, GroupKey]:
        """A group's keys by their files. Raises OtaError for a file that others can read, Refused for one that is none."""
        found = {}
        for path in self._files(group):
            if path.stat().st_mode & 0o077:
                raise OtaError(f"{path} can be read by others than its owner: chmod 600 {path}")
            with path.open("rb") as file, naming(path):
                found[path] = GroupKey.from_bytes(file.read(KEY_LIMIT_BYTES + 1))
        return found

    def make(self, group: str) -> Path:
        """A key more for a group; returns its file. Raises OtaError."""
        if len(self.of(group)) >= MAX_KEYS:
            raise OtaError(f"group {group} has {MAX_KEYS} keys, which is the limit: remove those that no board needs")
        key = GroupKey(os.urandom(KEY_BYTES))
        acts.record(self.workspace, "make-group-key", {"group": group, "key": key.key_id.hex()})
        folder = self.workspace.folder / FOLDER / group
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"group-{key.key_id.hex()}.key"
        write_durably(path, key.to_bytes(), 0o600)
        return path

    def remove(self, group: str, key: str) -> Path:
        """Nothing is encrypted with a key any more, named by the beginning of its identifier; one whose file is gone already is
        noted as removed. Raises OtaError.
        """
        files = {each.key_id.hex(): path for path, each in self.of(group).items()}
        found = _begin_with(key, files)
        if not found:
            found = _begin_with(key, [each for of, each in told_of(Audit(self.workspace).rows()) if of == group])
        if len(found) != 1:
            raise OtaError(f"{key!r} is not the beginning (4 digits at least) of the identifier of one key of group {group}")
        acts.record(self.workspace, "remove-group-key", {"group": group, "key": found[0]})
        folder = self.workspace.folder / FOLDER / group
        path = files.get(found[0], folder / f"group-{found[0]}.key")
        path.unlink(missing_ok=True)
        if not self._files(group):
            shutil.rmtree(folder, ignore_errors=True)
        return path

    def _files(self, group: str) -> list[Path]:
        return sorted((self.workspace.folder / FOLDER / group).glob("group-*.key"))


def _begin_with(key: str, known: Iterable[str]) -> list[str]:
    return [each for each in known if len(key) >= 4 and each.startswith(key)]


def told_of(rows: Iterable[Row]) -> set[tuple[str, str]]:
    """The keys that there should be by the audit log, each with its group."""
    found = set[tuple[str, str]]()
    for row in rows:
        if row.action == "make-group-key":
            found.add((row.about.get("group", ""), row.about.get("key", "")))
        elif row.action == "remove-group-key":
            found.discard((row.about.get("group", ""), row.about.get("key", "")))
    return found


def readers(workspace: Workspace, groups: Iterable[str], boards: Iterable[str]) -> Readers:
    """The keys of these groups, and the boards' own. Raises OtaError where a group or a board has none, Refused."""
    store, keys = GroupKeys(workspace), list[GroupKey]()
    for group in groups:
        if not (found := store.of(group)):
            raise OtaError(f"group {group} has no key: `ota group-keys new {group}` makes one, or encrypt for boards by name")
        keys += found.values()
    return Readers(keys, own_keys(Roster(workspace), boards))


def own_keys(roster: Roster, boards: Iterable[str]) -> list[ec.EllipticCurvePublicKey]:
    """The boards' own keys. Raises OtaError for a board that has not said its key."""
    found = []
    for name in boards:
        if not (known := roster.encryption_key(name)):
            raise OtaError(f"the key of board {name} is not known: `ota status` reads it from the board's report")
        with naming(f"the key of board {name}"):
            found.append(read_public_key(known))
    return found


def of_scopes(workspace: Workspace, wanted: Iterable[Scope], *, groups: bool, boards: Iterable[str]) -> Readers:
    """For whom a publication to these groups or devices is to be encrypted: with `groups` for them, and for `boards`."""
    scopes = list(wanted) if groups else []
    names = [each.device for each in scopes if each.device]
    return readers(workspace, [each.group for each in scopes if each.group], dict.fromkeys([*names, *boards]))

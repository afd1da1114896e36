"""The next root, while it is made: trust/draft.cbor. Each change of it drops the signatures that it had.

A key that the next root does not name is revoked. No key has two roles: who steals one would have both.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ota.durable import sync_folder, write_durably
from ota.errors import OtaError
from ota.formats.cose import VerifyKey
from ota.formats.reasons import Refused
from ota.formats.signed import Role
from ota.formats.trust import MAX_KEYS, ROLES, Root
from ota.operator.keys import short
from ota.operator.signing import Signable, read_file
from ota.operator.workspace import YEAR_S, Workspace

__all__ = [
    "DRAFT",
    "DraftError",
    "added",
    "discard",
    "edit",
    "find_key",
    "load",
    "publishable",
    "revoked",
    "rotated",
    "save",
    "threshold",
]

DRAFT = Path("trust", "draft.cbor")
LIFETIME_S = 10 * YEAR_S
Change = Callable[[Root], Root]


class DraftError(OtaError):
    """The next root can't be so."""


def load(workspace: Workspace) -> Signable | None:
    """The draft, None where there is none. Raises DraftError for one that does not follow the newest root."""
    path = workspace.folder / DRAFT
    if not path.exists():
        return None
    draft, newest = read_file(path), workspace.root().number
    if not isinstance(draft.content, Root) or draft.content.number != newest + 1:
        raise DraftError(
            f"{path} is {draft.label}, and the newest root is {newest}: somebody published one since."
            " `ota root edit --discard` removes the draft; make its changes again"
        )
    return draft


def edit(workspace: Workspace, change: Change, now_s: int) -> tuple[Root, int]:
    """Changes the draft, or begins one; returns it and how many signatures it lost. Raises DraftError."""
    before = load(workspace)
    newest = workspace.root()
    base = before.content if before is not None else replace(newest, number=newest.number + 1, expires_s=now_s + LIFETIME_S)
    assert isinstance(base, Root)
    root = _checked(change(replace(base, issued_s=now_s)))
    save(workspace, Signable.of_root(root))
    return root, len(before.signatures) if before is not None else 0


def save(workspace: Workspace, draft: Signable) -> None:
    """Writes a draft with the signatures that it has."""
    write_durably(workspace.folder / DRAFT, draft.data)


def discard(workspace: Workspace) -> bool:
    """Removes the draft; False where there was none."""
    path = workspace.folder / DRAFT
    if not path.exists():
        return False
    path.unlink()
    sync_folder(path.parent)
    return True


def added(role: str, key: VerifyKey) -> Change:
    """A key more for a role."""

    def change(root: Root) -> Root:
        for name, each in root.roles.items():
            if key.key_id in each.key_ids:
                raise DraftError(f"key {short(key)} is a {name} key already: a key has one role")
        return _with(root, role, lambda found: replace(found, keys={**found.keys, key.key_id: key}))

    return change


def revoked(role: str, key_id: bytes) -> Change:
    """A key less. Raises DraftError, as it is used, where the threshold needs it."""

    def change(root: Root) -> Root:
        left = len(root.roles[role].key_ids) - 1
        if left < root.roles[role].threshold:
            raise DraftError(
                f"role {role} would have {left} key{'s' * (left != 1)} and threshold {root.roles[role].threshold}:"
                f" add another first (`ota keys add {role}`), take its place (`ota keys rotate {role}`) or lower the threshold"
                f" (`ota keys threshold {role} N`)"
            )
        return _with(root, role, lambda found: _without(found, key_id))

    return change


def rotated(role: str, old: bytes, new: VerifyKey) -> Change:
    """A new key in the place of an old one."""
    return lambda root: _with(added(role, new)(root), role, lambda found: _without(found, old))


def threshold(role: str, number: int, mixed: bool | None = None) -> Change:
    """How many of a role's keys must sign, and whether keys of every family."""

    def change(root: Root) -> Root:
        count = len(root.roles[role].key_ids)
        if not 1 <= number <= count:
            raise DraftError(f"role {role} has {count} key{'s' * (count != 1)}: its threshold is from 1 to {count}, not {number}")
        return _with(root, role, lambda found: replace(found, threshold=number, mixed=found.mixed if mixed is None else mixed))

    return change


def find_key(root: Root, role: str, text: str) -> bytes:
    """The key of a role whose identifier begins so; where `text` is empty, its only one. Raises DraftError."""
    ids = sorted(root.roles[role].key_ids)
    found = [each for each in ids if each.hex().startswith(text.lower())]
    if len(found) == 1 and (len(text) >= 4 or len(ids) == 1):
        return found[0]
    names = ", ".join(map(short, ids))
    if not text:
        raise DraftError(f"role {role} has {len(ids)} keys: name one of {names}")
    raise DraftError(f"{text!r} is not the beginning (4 digits at least) of one {role} key's identifier: there are {names}")


def publishable(workspace: Workspace, draft: Signable) -> None:
    """Raises DraftError for a draft that boards would refuse, and says who has to sign yet, and which signatures are wrong."""
    if wrong := draft.wrong(workspace.root()):
        raise DraftError(
            f"{draft.label} can't be published: {'; '.join(wrong)}. Any change of it (`ota root edit`) drops its signatures"
        )
    if lacks := draft.lacks(workspace.root()):
        raise DraftError(
            f"{draft.label} can't be published yet: {'; '.join(lacks)}. `ota root sign` signs with the keys that are here;"
            f" others sign a copy of {workspace.folder / DRAFT} with `ota sign FILE`, and `ota root publish FILE` takes it in"
        )


def _with(root: Root, role: str, change: Callable[[Role], Role]) -> Root:
    return replace(root, roles={**root.roles, role: change(root.roles[role])})


def _without(role: Role, key_id: bytes) -> Role:
    keys = {each: key for each, key in role.keys.items() if each != key_id}
    return replace(role, keys=keys, unusable={each: key for each, key in role.unusable.items() if each != key_id})


def _checked(root: Root) -> Root:
    """As boards will read it. Raises DraftError."""
    if (count := sum(len(root.roles[role].key_ids) for role in ROLES)) > MAX_KEYS:
        raise DraftError(f"root {root.number} would have {count} keys, the limit is {MAX_KEYS}")
    try:
        return Root.from_payload(root.to_payload())
    except Refused as error:
        raise DraftError(f"boards would refuse this root: {error}") from error

"""Which root of trust a board starts with: the newest that verifies, of the configured file and the roots that it followed.

The configured file is trusted because it was put there, a stored root because it was verified before it was stored. Damage to
one of them never keeps the agent from starting: it is named, and what is left is used. Without any root nothing is accepted, and
what was confirmed goes on running.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from device_agent.storage.store import Store
from ota.errors import OtaError
from ota.formats import trust
from ota.formats.reasons import Refused

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """The root to start with, and what is wrong with others, as "code: text" by number, that of the configured file under 0."""

    root: trust.Root
    problems: Mapping[int, str] = field(default_factory=dict)


def load(file: Path, store: Store) -> Start:
    """Reads the configured root and the stored ones, and stores the configured one where it belongs to another chain or none."""
    try:
        configured: bytes | str = file.read_bytes()
    except OSError as error:
        configured = str(error.strerror)
    stored = store.roots()
    start = newest(configured, stored, str(file))
    for problem in start.problems.values():
        logger.error("%s", problem)
    try:
        _store(configured, stored, store)
        if start.root.number:
            store.settle_floors(start.root.roles["release"].key_ids, start.root.roles["deploy"].key_ids)
    except OtaError as error:
        logger.warning("roots and floors are not stored: %s", error)
    return start


def newest(configured: bytes | str, stored: Mapping[int, bytes], name: str) -> Start:
    """`configured`: the content of the file called `name`, or why it can't be read. `stored`: documents by number."""
    problems: dict[int, str] = {}
    root = _first(configured, name, problems)
    if root is None:
        return Start(_latest(stored, 0, problems) or trust.NOBODY, problems)
    ours = _verified(stored.get(root.number)) == root or _is_left_out(root, stored)
    while (document := stored.get(root.number + 1)) is not None:
        try:
            root = trust.next_root(root, document)
        except Refused as error:
            problems[root.number + 1] = f"root-damaged: stored root {root.number + 1}: {error}"
            break
    if ours:  # of one chain: roots behind a gap were verified before they were stored
        root = _latest(stored, root.number, problems) or root
    return Start(root, problems)


def _is_left_out(root: trust.Root, stored: Mapping[int, bytes]) -> bool:
    """Whether a root is of the stored chain, which keeps the first and the newest ones alone: it has a key of theirs.

    One that is older than all of them is so by its vendor's name: the keys between may all be others by now.
    """
    if root.number in stored or root.number > max(stored, default=0):
        return False
    others = [each for each in map(_verified, stored.values()) if each is not None and each.vendor == root.vendor]
    if others and root.number < min(stored):
        return True
    return not _key_ids(root).isdisjoint(key_id for each in others for key_id in _key_ids(each))


def _key_ids(root: trust.Root) -> set[bytes]:
    return {key_id for role in root.roles.values() for key_id in role.key_ids}


def _first(configured: bytes | str, name: str, problems: dict[int, str]) -> trust.Root | None:
    try:
        if isinstance(configured, bytes):
            return trust.first_root(configured)
        problems[0] = f"root-damaged: {name}: {configured}"
    except Refused as error:
        problems[0] = f"root-damaged: {name}: {error}"
    return None


def _latest(stored: Mapping[int, bytes], above: int, problems: dict[int, str]) -> trust.Root | None:
    """The stored root with the highest number that verifies by itself."""
    for number in sorted((each for each in stored if each > above), reverse=True):
        root = _verified(stored[number])
        if root is not None and root.number == number:
            return root
        problems.setdefault(number, f"root-damaged: stored root {number} does not verify")
    return None


def _verified(document: bytes | None) -> trust.Root | None:
    try:
        return trust.first_root(document) if document is not None else None
    except Refused:
        return None


def _store(configured: bytes | str, stored: Mapping[int, bytes], store: Store) -> None:
    """Keeps a copy, against damage to the file. Stored roots of another chain are deleted: they would block this one's."""
    root = _verified(configured) if isinstance(configured, bytes) else None
    if root is None or not isinstance(configured, bytes):
        return
    copy = _verified(stored.get(root.number))
    if copy is not None and copy != root:
        logger.warning("the configured root %d is another than the stored one: roots of the other chain are dropped", root.number)
        store.drop_roots(root.number)
    if copy != root:
        store.add_root(root.number, configured)

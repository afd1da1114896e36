"""Reports of boards, and what is wanted of them."""

from dataclasses import replace

from ota.formats.deployment import Deployment, Entry
from ota.formats.window import Window

ENTRY = Entry(b"m" * 32, b"o" * 16, 1_700_000_000)


OURS = Deployment("lab", 3, 1_700_000_000, {"m": ENTRY})


NIGHT = Window(frozenset(range(7)), 120, 60)


def removing(deployment: Deployment = OURS) -> Deployment:
    return changed(deployment, manifest_digest=b"")


def changed(deployment: Deployment = OURS, instance: str = "m", **changes) -> Deployment:
    entries = {**deployment.entries, instance: replace(deployment.entries.get(instance, ENTRY), **changes)}
    return replace(deployment, entries=entries)

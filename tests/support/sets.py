"""Sets on a lab's board: instances that change all at once or not at all."""

import os
import time
from collections.abc import Mapping

from device_agent.storage.store import Store
from ota.author.build import Update
from ota.operator.publish import artifacts
from tests.support.lab import Lab, echo


def members(lab: Lab, names: tuple[str, ...], version: int, **changes) -> dict[str, Update]:
    """An update of each instance to an echo module of this version, which is named as the instance."""
    return {name: lab.signer.update(echo(version, **changes), name=name, version=f"{version}.0.0") for name in names}


def deploy_together(lab: Lab, updates: Mapping[str, Update | None], **changes) -> bytes:
    """Publishes a set, None for an instance that is to go; returns the deployment's identifier."""
    for update in updates.values():
        if update is not None:
            lab.put(artifacts(update))
    deployment, now_s = os.urandom(16), int(time.time())
    values = {"now_s": now_s, "deployment_id": deployment, "together": tuple(sorted(updates))} | changes
    lab.enter({name: lab.signer.entry(each.digest if each is not None else b"", **values) for name, each in updates.items()})
    return deployment


def wait_all(lab: Lab, names: tuple[str, ...], deployment: bytes, *states: str) -> dict[str, str]:
    """Waits until the update of each has ended in one of the states; returns them by instance."""
    return {name: lab.wait_state(*states, deployment=deployment, instance=name).attempt.state for name in names}


def confirmed(lab: Lab, names: tuple[str, ...]) -> set[bytes]:
    """What lies on disk: the releases that instances would start with. The agent must not run."""
    store = Store(lab.folder / "store")
    try:
        assert store.journal_is_whole()
        slots = {name: store.slots(name).get("confirmed") for name in names}
        for slot in slots.values():
            assert slot is None or store.envelope(slot.envelope) is not None
        return {name.encode() + b" " + slot.release if slot is not None else b"" for name, slot in slots.items()}
    finally:
        store.close()

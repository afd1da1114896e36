"""Waits until boards have a document that has no entry for some instances any more, and follow their groups again.

A board says in its report which documents it has, by epoch. What it does then is its group's entry, where that has one for it: a
device's document is withdrawn to that. Without one the board keeps what it runs, and there is nothing more to wait for.
"""

import contextlib
from collections.abc import Collection, Mapping, Sequence

from ota.formats import topics
from ota.formats.deployment import Deployment, verify
from ota.formats.reasons import Refused
from ota.formats.trust import Root
from ota.operator.broker import Broker
from ota.operator.reports import Device
from ota.operator.roster import Roster
from ota.operator.waiting import UNTOLD, Kind, Standing, Waiting, judge, not_yet, refused

__all__ = ["Withdrawing", "judge_withdrawn"]


def judge_withdrawn(
    device: Device, instance: str, deployment: Deployment, group: Deployment | None, since_s: float, root: int = 0
) -> Standing:
    """As `judge`, of an instance for which `deployment` has no entry. `group`: the document that a device follows again, if any."""
    if device.unknown:
        return Standing(Kind.UNKNOWN, "unreadable" if device.unreadable else "unknown", detail=device.unknown)
    if device.report is None:
        return Standing(Kind.SILENT, "never-reported")
    if (standing := refused(device, deployment, since_s, root)) is not None:
        return standing
    entry = group.entries.get(instance) if group is not None else None
    follows = entry is not None and entry.includes(device.name) and not entry.paused
    said = device.report.documents
    if said is not None and said.get("device" if deployment.device else "group", 0) < deployment.epoch:
        return not_yet(device)
    if follows and group is not None:
        return judge(device, instance, group, since_s, root)
    if said is None:
        return Standing(Kind.UNKNOWN, UNTOLD, detail="its agent does not say which deployments it has")
    return Standing(Kind.CONFIRMED, "withdrawn")


class Withdrawing(Waiting):
    """Waits for documents without entries for these instances."""

    def __init__(
        self,
        broker: Broker,
        roster: Roster,
        root: Root,
        deployments: Sequence[Deployment],
        instances: Collection[str],
        *,
        groups: Mapping[str, Deployment],
        only_online: bool = False,
    ) -> None:
        """`groups`: what devices follow again, by device, where their groups have a document."""
        self._groups = dict(groups)
        also = {topics.desired(each.group) for each in groups.values()}
        super().__init__(broker, roster, root, deployments, instances, only_online=only_online, also=also)

    def _standing(self, device: Device, instance: str, deployment: Deployment, since_s: float) -> Standing:
        return judge_withdrawn(device, instance, deployment, self._groups.get(device.name), since_s, self._root.number)

    def _heard(self, topic: str, document: bytes) -> None:
        for name, group in self._groups.items():
            if topic == topics.desired(group.group):
                with contextlib.suppress(Refused):  # the boards refuse it, too
                    present = verify(document, self._root, group=group.group)
                    self._groups[name] = present if present.epoch >= group.epoch else group
                    self._stale = True
        super()._heard(topic, document)

    def _compare(self, topic: str, ours: Deployment, present: Deployment) -> None:
        """One that has the instance again takes the place of the withdrawal; any other newer one is without it as well."""
        for name in self._instances:
            if (entry := present.entries.get(name)) is not None:
                self.outcome.superseded = f"deployment {entry.deployment_id.hex()[:12]} of instance {name}"

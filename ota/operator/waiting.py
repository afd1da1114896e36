"""Waits for what was published: tracks the state of every instance that it is for, on every board.

What it is for is either a group's document or documents of single devices, and in each of them the entries of some instances.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from ota.formats import topics
from ota.formats.deployment import CLOCK_REASONS, Deployment, Entry, config_digest, verify
from ota.formats.fields import is_name
from ota.formats.reasons import Reason, Refused
from ota.formats.report import Attempt, InstanceReport, Refusal, Running, stepped_down
from ota.formats.trust import ROOT_REASONS, Root
from ota.operator.broker import Broker
from ota.operator.reports import Device, View
from ota.operator.roster import Roster

__all__ = ["UNTOLD", "Kind", "Outcome", "Standing", "Waiting", "judge", "not_yet", "refused"]

ENDED_BADLY = ("rejected", "failed", "rolled-back")
UNTOLD = "untold"  # an agent that says nothing of it, and will not
WORKING = ("offered", "fetching", "staged", "starting", "trial", "passed")
_CLOCK = frozenset(each.value for each in CLOCK_REASONS)
_ROOT = frozenset(each.value for each in ROOT_REASONS)
_WINDOW = (Reason.WINDOW_CLOSED.value, Reason.WINDOW_UNKNOWN.value, Reason.UPDATE_POSTPONED.value)


class Kind(Enum):
    """What is known of a board, in the words of the summary. Of several instances the first in this order is the board's."""

    FAILED = "failed"
    UNKNOWN = "unknown"
    PENDING = "not ended"
    WAITING = "waiting for the window or the owner"
    OFFLINE = "offline"
    SILENT = "never heard of"
    CONFIRMED = "confirmed it"
    OVERRIDDEN = "with a deployment of their own"  # they don't count


@dataclass(frozen=True)
class Standing:
    """How an instance of a board stands to its entry."""

    kind: Kind
    state: str  # of its attempt, or the kind in one word
    reason: str = ""
    detail: str = ""
    done_chunks: int = 0
    chunks: int = 0


def judge(device: Device, instance: str, deployment: Deployment, since_s: float, root: int = 0) -> Standing:
    """`since_s` is when it was published: a refusal of a document that could not be read is of this one if it came later.

    `root`: number of the root in force. A board that says that it has an older one follows it, and looks again.
    """
    if device.unknown:
        return Standing(Kind.UNKNOWN, "unreadable" if device.unreadable else "unknown", detail=device.unknown)
    if device.report is None:
        return Standing(Kind.SILENT, "never-reported")
    seen = device.instances.get(instance)
    if seen is not None and seen.unknown:
        return Standing(Kind.UNKNOWN, "unreadable" if seen.unreadable else "unknown", detail=seen.unknown)
    entry = deployment.entries[instance]
    report = seen.report if seen is not None else None
    if report is not None and report.attempt.deployment == entry.deployment_id:
        standing = _stepped_down(report, entry) or _attempted(report.attempt, _passing(device, root))
        if standing is not None:
            return standing
    if (standing := refused(device, deployment, since_s, root)) is not None:
        return standing
    if report is not None and _runs(report.running, entry):
        return Standing(Kind.CONFIRMED, "confirmed")  # it ran this already
    if entry.absent and report is None and all(each.name != instance for each in device.report.instances):
        return Standing(Kind.CONFIRMED, "absent")  # there was nothing to remove
    return not_yet(device)


def refused(device: Device, deployment: Deployment, since_s: float, root: int) -> Standing | None:
    """How every instance stands where the board refused the document as a whole; None where it did not."""
    refusal = _refusal(device, deployment, since_s)
    if refusal is None:
        return None
    waits = refusal.reason in _passing(device, root)
    return Standing(Kind.PENDING if waits else Kind.FAILED, "waiting" if waits else "rejected", refusal.reason, refusal.detail)


def not_yet(device: Device) -> Standing:
    """Of a board that has said nothing of it."""
    return Standing(Kind.PENDING, "pending") if device.online or device.live else Standing(Kind.OFFLINE, "offline")


def _passing(device: Device, root: int) -> frozenset[str]:
    """Reasons for which a board looks again by itself."""
    return _CLOCK | _ROOT if device.report is not None and 0 < device.report.root < root else _CLOCK


def _stepped_down(report: InstanceReport, entry: Entry) -> Standing | None:
    """Of a board that confirmed it, and runs an older module since, because this one fails again and again."""
    running = report.running
    if entry.absent or not stepped_down(report.attempt.state, running.slot) or running.manifest == entry.manifest_digest:
        return None
    module = f"{running.name} {running.version}"
    return Standing(Kind.FAILED, "stepped-down", detail=f"it was confirmed, and failed again and again: {module} runs instead")


def _attempted(attempt: Attempt, passing: frozenset[str]) -> Standing | None:
    """By an attempt of this deployment; None when it says nothing. `passing`: reasons for which the board looks again by itself."""
    why = (attempt.reason, attempt.detail)
    if attempt.state == "confirmed":
        return Standing(Kind.CONFIRMED, "confirmed")
    if attempt.reason in passing:
        return Standing(Kind.PENDING, "waiting", *why)  # until its clock is set, or it has the root
    if attempt.state in ENDED_BADLY:
        return Standing(Kind.FAILED, attempt.state, *why)
    if attempt.state == "staged" and attempt.reason in _WINDOW:
        return Standing(Kind.WAITING, "staged", *why)
    if attempt.state in WORKING:
        return Standing(Kind.PENDING, attempt.state, *why, min(attempt.done_chunks, attempt.chunks), attempt.chunks)
    return None


def _runs(running: Running, entry: Entry) -> bool:
    if entry.absent:
        return not running.manifest
    same = (running.manifest, running.config) == (entry.manifest_digest, config_digest(entry.config))
    return same and running.slot == "confirmed"


def _refusal(device: Device, deployment: Deployment, since_s: float) -> Refusal | None:
    """The board's refusal of the document as a whole. What could not be read claims epoch 0; a root is refused before either."""
    assert device.report is not None
    recent = device.live or device.came_s >= since_s
    kind = "device" if deployment.device else "group"
    for each in device.report.refusals:
        if each.document == kind and (each.epoch == deployment.epoch or (not each.epoch and recent)):
            return each
        if each.document == "root" and recent:
            return each
    return None


@dataclass
class Outcome:
    """What became of it: the standing of each instance that it is for, by board."""

    standings: dict[str, dict[str, Standing]] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)  # why there may be more boards
    superseded: str = ""  # by what there is another deployment now
    only_online: bool = False  # boards that are offline do not count
    left_out: set[str] = field(default_factory=set)  # boards of the group, of which the fraction or the names include none

    @property
    def boards(self) -> dict[str, Kind]:
        """How each board stands: as its worst instance."""
        order = list(Kind)
        return {name: min((each.kind for each in found.values()), key=order.index) for name, found in self.standings.items()}

    @property
    def counts(self) -> Counter[Kind]:
        """How many boards stand how."""
        return Counter(self.boards.values())

    @property
    def confirmed(self) -> bool:
        """Whether it is known that every board that counts runs all of it, and at least one does."""
        return bool(self.counts[Kind.CONFIRMED]) and self._everyone(Kind.CONFIRMED)

    @property
    def staged(self) -> bool:
        """Whether every board that counts runs it, or has it and waits for its window, and at least one waits."""
        return bool(self.counts[Kind.WAITING]) and self._everyone(Kind.CONFIRMED, Kind.WAITING)

    def _everyone(self, *kinds: Kind) -> bool:
        counts = self.counts
        excused = (Kind.OFFLINE, Kind.SILENT) if self.only_online else ()
        everyone = sum(counts[kind] for kind in (*kinds, *excused, Kind.OVERRIDDEN)) == counts.total()
        return everyone and not self.gaps and not self.superseded

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come soon from the boards that are online, of which at least one has ended, or waits.

        What could not be read is read again.
        """
        if not self.standings:
            return bool(self.left_out)
        every = [each for found in self.standings.values() for each in found.values()]
        open_yet = any(each.kind is Kind.PENDING or each.state == "unknown" for each in every)
        return any(each.kind in _ENDED or each.state == UNTOLD for each in every) and not open_yet

    def summary(self) -> str:
        """For a person."""
        counts = self.counts
        rest = ", ".join(f"{counts[kind]} {kind.value}" for kind in _SHOWN if counts[kind])
        if self.left_out:
            rest = ", ".join([*([rest] if rest else []), f"{len(self.left_out)} of the group not part of it"])
        text = f"{counts[Kind.CONFIRMED]} of {counts.total() - counts[Kind.OVERRIDDEN]} boards confirmed it"
        return f"{text}; {rest}" if rest else text


_SHOWN = (Kind.FAILED, Kind.PENDING, Kind.WAITING, Kind.OFFLINE, Kind.SILENT, Kind.UNKNOWN, Kind.OVERRIDDEN)
_ENDED = frozenset((Kind.CONFIRMED, Kind.FAILED, Kind.WAITING, Kind.OVERRIDDEN))
_OVERRIDDEN = Standing(Kind.OVERRIDDEN, "overridden", detail="the board has a deployment of its own")
Changed = Callable[[str, str, Standing], None]


def _ignored(device: str, instance: str, standing: Standing) -> None:
    """Nobody wants to know."""


class Waiting:
    """Waits until every instance that is waited for has ended on every online board, or has another deployment."""

    def __init__(
        self,
        broker: Broker,
        roster: Roster,
        root: Root,
        deployments: Sequence[Deployment],
        instances: Collection[str],
        *,
        only_online: bool = False,
        also: Collection[str] = (),
    ) -> None:
        """`deployments`: what was published, one document of a group, or documents of devices; `instances`: whose entries count.

        `also`: more topics for `_heard`.
        """
        self._root, self._roster = root, roster
        self._instances = sorted(instances)
        self._present = {_topic(each): each for each in deployments}
        self._devices = {each.device for each in deployments if each.device}
        self._own: dict[str, Mapping[str, Entry]] = {}  # of boards with a document of their own, while a group is waited for
        self._stale = False  # a document came: boards that said nothing new may stand otherwise
        self.outcome = Outcome(only_online=only_online)
        self._view = View(
            broker,
            roster,
            also={*self._present, *also},
            of_board=lambda name: () if self._devices else (topics.device_desired(name),),
            instances=self._instances,
            heard=self._heard,
            only=self._devices or None,
        )
        named = [each.entries[one].boards for each in deployments for one in self._instances if one in each.entries]
        self._view.expect({name for boards in named for name in boards})

    def run(
        self, timeout_s: float, since_s: float, changed: Changed = _ignored, enough: Callable[[Outcome], bool] = lambda _: False
    ) -> Outcome:
        """`changed` gets board, instance and its standing when that is another. `enough` is asked about every second, when every
        board that is known has been looked at, whether to end early. Raises BrokerError.
        """
        outcome = self.outcome
        for device in self._view.follow(timeout_s, self._concerns):
            if device is not None:
                self._judge(device, since_s, changed)
                continue
            if self._stale:
                self._stale = False
                for each in filter(self._concerns, list(self._view.devices.values())):
                    self._judge(each, since_s, changed)
            outcome.gaps = self._view.gaps
            if outcome.ended or outcome.superseded or enough(outcome):
                break
        self._view.remember()
        return outcome

    def _judge(self, device: Device, since_s: float, changed: Changed) -> None:
        found = self.outcome.standings.setdefault(device.name, {})
        deployment = self._deployment(device)
        if deployment is None:  # it was in the group when we began
            del self.outcome.standings[device.name]
            self.outcome.left_out.discard(device.name)
            changed(device.name, "", Standing(Kind.UNKNOWN, "moved", detail="the board is in another group now"))
            return
        for instance in self._instances:
            standing = self._standing(device, instance, deployment, since_s)
            if standing is None:
                continue
            if found.get(instance) != standing:
                found[instance] = standing
                changed(device.name, instance, standing)
        self.outcome.left_out.discard(device.name)
        if not found:
            del self.outcome.standings[device.name]
            if device.report is not None:
                self.outcome.left_out.add(device.name)

    def _standing(self, device: Device, instance: str, deployment: Deployment, since_s: float) -> Standing | None:
        """None where it is not for this board."""
        if not deployment.entries[instance].includes(device.name):
            return None
        own = self._own.get(device.name, {}).get(instance)
        overridden = own is not None and own.includes(device.name)
        return _OVERRIDDEN if overridden else judge(device, instance, deployment, since_s, self._root.number)

    def _deployment(self, device: Device) -> Deployment | None:
        """The document that is waited for on a board; None when it is for others."""
        if self._devices:
            return self._present.get(topics.device_desired(device.name))
        (deployment,) = self._present.values()
        group = device.report.group if device.report is not None else self._roster.group_of(device.name)
        return deployment if group in (deployment.group, "") else None

    def _concerns(self, device: Device) -> bool:
        return self._deployment(device) is not None or device.name in self.outcome.standings

    def _heard(self, topic: str, document: bytes) -> None:
        """What is retained for the group or a device now."""
        if topic in self._present:
            self._now_desired(topic, document)
        elif is_name(name := topic.split("/")[-2]) and topic == topics.device_desired(name):
            try:
                self._own[name] = verify(document, self._root, device=name).entries if document else {}
            except Refused:
                self._own[name] = {}  # the board refuses it, too
            self._stale = True

    def _now_desired(self, topic: str, document: bytes) -> None:
        """The same, widened perhaps or with other instances changed, or another."""
        ours = self._present[topic]
        if not document:
            self.outcome.superseded = f"nothing: the broker has no deployment for {ours.scope} any more"
            return
        try:
            present = verify(document, self._root, group=ours.group, device=ours.device)
        except Refused as error:
            self.outcome.superseded = f"a document that our keys did not sign ({error})"
            return
        if present.epoch >= ours.epoch:  # boards refuse others
            self._compare(topic, ours, present)

    def _compare(self, topic: str, ours: Deployment, present: Deployment) -> None:
        """With what is retained now, which is not older."""
        for name in self._instances:
            entry = present.entries.get(name)
            if entry is None:
                self.outcome.superseded = f"a document without instance {name}"
                return
            if entry.deployment_id != ours.entries[name].deployment_id:
                self.outcome.superseded = f"deployment {entry.deployment_id.hex()[:12]} of instance {name}"
                return
        self._stale |= present != ours
        self._present[topic] = present


def _topic(deployment: Deployment) -> str:
    return topics.device_desired(deployment.device) if deployment.device else topics.desired(deployment.group)

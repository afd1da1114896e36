"""Waits for a deployment: tracks the state of every board of the group."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from ota.formats import topics
from ota.formats.deployment import CLOCK_REASONS, Deployment, verify
from ota.formats.reasons import Refused
from ota.formats.trust import Root
from ota.operator.broker import Broker
from ota.operator.reports import Device, View
from ota.operator.roster import Roster

ENDED_BADLY = ("rejected", "failed", "rolled-back")
WORKING = ("offered", "fetching", "staged", "trial")


class Kind(Enum):
    """What is known of a board, in the words of the summary."""

    CONFIRMED = "confirmed it"
    FAILED = "failed"
    PENDING = "not ended"
    OFFLINE = "offline"
    SILENT = "never heard of"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Standing:
    """How a board stands to the deployment."""

    kind: Kind
    state: str  # of its attempt, or the kind in one word
    reason: str = ""
    detail: str = ""
    done_chunks: int = 0
    chunks: int = 0


def judge(device: Device, deployment: Deployment, since_s: float) -> Standing:
    """`since_s` is when the deployment was published: a refusal that names no deployment is of this one if it came later."""
    report = device.report
    if device.unknown:
        return Standing(Kind.UNKNOWN, "unreadable" if device.unreadable else "unknown", detail=device.unknown)
    if report is None:
        return Standing(Kind.SILENT, "never-reported")
    attempt = report.attempt
    ours = attempt.deployment == deployment.deployment_id
    why = (attempt.reason, attempt.detail)
    if ours and attempt.state == "confirmed":
        return Standing(Kind.CONFIRMED, "confirmed")
    if attempt.state == "rejected" and not attempt.deployment and (device.live or device.came_s >= since_s):
        ours = True
    if ours and attempt.reason in [each.value for each in CLOCK_REASONS]:
        return Standing(Kind.PENDING, "waiting", *why)  # it looks again once its clock is set
    if ours and attempt.state in ENDED_BADLY:
        return Standing(Kind.FAILED, attempt.state, *why)
    if ours and attempt.state in WORKING:
        return Standing(Kind.PENDING, attempt.state, *why, min(attempt.done_chunks, attempt.chunks), attempt.chunks)
    if report.running.manifest == deployment.manifest_digest and report.running.slot == "confirmed":
        return Standing(Kind.CONFIRMED, "confirmed")  # it ran this already
    if device.online or device.live:
        return Standing(Kind.PENDING, "pending")
    return Standing(Kind.OFFLINE, "offline")


@dataclass
class Outcome:
    """What became of a deployment: the standing of each board of the group that is part of it."""

    standings: dict[str, Standing] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)  # why there may be more boards
    superseded: str = ""  # by what the group has another deployment now
    only_online: bool = False  # boards that are offline do not count

    @property
    def counts(self) -> Counter[Kind]:
        """How many boards stand how."""
        return Counter(each.kind for each in self.standings.values())

    @property
    def confirmed(self) -> bool:
        """Whether it is known that every board that counts runs it, and at least one does."""
        counts = self.counts
        excused = counts[Kind.OFFLINE] + counts[Kind.SILENT] if self.only_online else 0
        everyone = counts[Kind.CONFIRMED] + excused == counts.total()
        return bool(counts[Kind.CONFIRMED]) and everyone and not self.gaps and not self.superseded

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come from the boards that are online, of which at least one has ended.

        A board that could not be read is read again.
        """
        counts = self.counts
        open_yet = counts[Kind.PENDING] or any(each.state == "unknown" for each in self.standings.values())
        return bool(counts[Kind.CONFIRMED] or counts[Kind.FAILED]) and not open_yet

    def summary(self) -> str:
        """For a person."""
        counts = self.counts
        rest = ", ".join(f"{counts[kind]} {kind.value}" for kind in Kind if counts[kind] and kind is not Kind.CONFIRMED)
        text = f"{counts[Kind.CONFIRMED]} of {counts.total()} boards confirmed it"
        return f"{text}; {rest}" if rest else text


class Waiting:
    """Waits until every online board of the group has ended, or another deployment takes the place of this one."""

    def __init__(self, broker: Broker, roster: Roster, root: Root, deployment: Deployment, *, only_online: bool = False) -> None:
        self._root, self._roster = root, roster
        self.deployment = deployment
        self.outcome = Outcome(only_online=only_online)
        self._desired = topics.desired(deployment.group)
        self._view = View(broker, roster, (self._desired,), self._now_desired)

    def run(
        self, timeout_s: float, since_s: float, changed: Callable[[str, Standing], None] = lambda name, standing: None
    ) -> Outcome:
        """`changed` gets each board's standing when it is another. Raises BrokerError."""
        outcome, judged_for = self.outcome, self.deployment
        for device in self._view.follow(timeout_s, self._concerns):
            if device is not None:
                self._judge(device, since_s, changed)
                continue
            if self.deployment != judged_for:  # it was widened: boards that said nothing new are part of it now
                judged_for = self.deployment
                for each in filter(self._concerns, list(self._view.devices.values())):
                    self._judge(each, since_s, changed)
            outcome.gaps = self._view.gaps
            if outcome.ended or outcome.superseded:
                break
        self._roster.save()
        return outcome

    def _judge(self, device: Device, since_s: float, changed: Callable[[str, Standing], None]) -> None:
        if not self.deployment.includes(device.name):
            return
        if not self._in_group(device):  # it was, when we began
            del self.outcome.standings[device.name]
            changed(device.name, Standing(Kind.UNKNOWN, "moved", detail="the board is in another group now"))
            return
        standing = judge(device, self.deployment, since_s)
        if self.outcome.standings.get(device.name) != standing:
            self.outcome.standings[device.name] = standing
            changed(device.name, standing)

    def _concerns(self, device: Device) -> bool:
        return self._in_group(device) or device.name in self.outcome.standings

    def _in_group(self, device: Device) -> bool:
        group = device.report.group if device.report is not None else self._roster.group_of(device.name)
        return group in (self.deployment.group, "")

    def _now_desired(self, topic: str, document: bytes) -> None:
        """What is retained for the group now: the same, widened perhaps, or another."""
        if not document:
            self.outcome.superseded = "nothing: the broker has no deployment for the group any more"
            return
        try:
            present = verify(document, self._root, self.deployment.group)
        except Refused as error:
            self.outcome.superseded = f"a document that our keys did not sign ({error})"
            return
        if present.deployment_id == self.deployment.deployment_id:
            self.deployment = present
        elif present.epoch >= self.deployment.epoch:
            self.outcome.superseded = f"deployment {present.deployment_id.hex()[:12]}"

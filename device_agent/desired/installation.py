"""One bundle, from its first root to the end of what it brings. Roots and deployments in it are judged as those of a broker are."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from device_agent.desired.bundles import Bundles, OpenBundle
from device_agent.desired.desired import Desired, Setting
from device_agent.desired.trust import Trust
from device_agent.instance.snapshot import Snapshot
from ota.formats import topics, trust
from ota.formats.deployment import Deployment, Entry, config_digest, verify
from ota.formats.reasons import Reason, Refused

__all__ = ["Answer", "Board", "Installation", "Outcome", "Result", "refused"]

ENDED = {"confirmed": "confirmed", "rejected": "refused", "failed": "failed", "rolled-back": "failed", "waiting": "waiting"}


class Result(Enum):
    """What became of a bundle, the worst of what became of its instances."""

    INSTALLING = "installing"
    NOTHING = "nothing-to-do"  # none of its entries is for this board
    CONFIRMED = "confirmed"
    WAITING = "waiting"  # all of it is on the disk, and its time has not come
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True)
class Outcome:
    """Of one instance."""

    instance: str
    state: str
    runs: str = ""  # module and version
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Answer:
    """For people and machines: what became of a bundle."""

    bundle: str  # its file's name
    device: str
    result: Result
    reason: str = ""
    detail: str = ""
    instances: tuple[Outcome, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether it is not going to change by itself soon."""
        return self.result is not Result.INSTALLING

    @property
    def replaced(self) -> bool:
        """Whether the board has a newer deployment, or one for it alone: nothing is going to change for this bundle."""
        reasons = {each.reason for each in self.instances if each.state != "confirmed"}
        return self.reason == Reason.DEPLOYMENT_REPLAYED.value or reasons == {Reason.DEPLOYMENT_STOPPED.value}

    @property
    def speaks(self) -> bool:
        """Whether it has a say where there are others: one of another group's bundle, or of an older one, has not."""
        return self.reason != Reason.GROUP_MISMATCH.value and not self.replaced

    def as_json(self) -> dict[str, Any]:
        """For json.dumps."""
        return asdict(self) | {"result": self.result.value}

    def __str__(self) -> str:
        why = f": {self.reason}: {self.detail}" if self.reason else ""
        parts = "; ".join(
            f"{each.instance}: {each.state}{f' ({each.reason}: {each.detail})' if each.reason else ''}" for each in self.instances
        )
        return f"{self.bundle}: {self.result.value}{why}{f' ({parts})' if parts else ''}"


@dataclass(frozen=True)
class Board:
    """What an installation needs of the agent."""

    setting: Setting
    held: Trust
    desired: Desired
    bundles: Bundles
    snapshots: Callable[[], Mapping[str, Snapshot]]  # of each instance, as reports have it


class Installation:
    """`begin` takes what is for this board, `look` says what has become of it."""

    def __init__(self, board: Board, bundle: OpenBundle) -> None:
        self._board, self._bundle = board, bundle
        self._deployments: list[Deployment] = []
        self._before: dict[str, int] = {}  # numbers of updates from before it came: what fails of them is tried again with it
        self._brought_root = False

    async def begin(self) -> Answer:
        """Takes roots and deployments; updates are fetched from the bundle from then on."""
        desired = self._board.desired
        try:
            await self._take_roots()
            await self._board.bundles.add(self._bundle)
            self._before = {name: desired.update(name).number for name in self._board.snapshots()}
            await self._take_deployments()
        except Refused as error:
            return refused(self._bundle.path.name, self._board.setting.device, error)
        return self.look()

    def look(self) -> Answer:
        """What has become of it until now."""
        snapshots, device = self._board.snapshots(), self._board.setting.device
        entries = {name: entry for each in self._deployments for name, entry in each.entries.items()}  # the device's come last
        outcomes = tuple(
            self._outcome(name, entry, snapshots.get(name, Snapshot(name)))
            for name, entry in sorted(entries.items())
            if entry.includes(device)
        )
        results = [Result(ENDED.get(each.state, Result.INSTALLING.value)) for each in outcomes]
        result = next((each for each in reversed(Result) if each in results), Result.NOTHING)
        if Result.INSTALLING in results:
            result = Result.INSTALLING
        lost = self._bundle.lost if result in (Result.FAILED, Result.REFUSED) else None
        why = (lost.reason.value, lost.detail) if lost is not None else ("", "")
        return Answer(self._bundle.path.name, device, result, *why, outcomes)

    def _outcome(self, name: str, entry: Entry, snapshot: Snapshot) -> Outcome:
        attempt, runs = snapshot.attempt, f"{snapshot.running.name} {snapshot.running.version}".strip()
        wanted = (entry.deployment_id, entry.manifest_digest, config_digest(entry.config))
        if (attempt.deployment, attempt.manifest, attempt.config) != wanted:
            if self._is_replaced(name, entry):
                return Outcome(name, "rejected", runs, Reason.DEPLOYMENT_STOPPED.value, "another deployment has replaced it")
            return Outcome(name, "offered", runs)
        update = self._board.desired.update(name)
        of_root = update.reason in trust.ROOT_REASONS
        again = self._brought_root if of_root else attempt.state == "failed"
        if again and update.retryable and self._before.get(name) == update.number:
            return Outcome(name, "offered", runs)  # it failed before this bundle came
        waits = attempt.state == "staged" and bool(attempt.reason)
        return Outcome(name, "waiting" if waits else attempt.state, runs, attempt.reason, attempt.detail)

    def _is_replaced(self, name: str, entry: Entry) -> bool:
        """Whether the board wants another update than this bundle's: a newer one, or one for this device alone."""
        now = self._board.desired.entry(name)
        return now is not None and (now.deployment_id, now.manifest_digest, now.config) != (
            entry.deployment_id,
            entry.manifest_digest,
            entry.config,
        )

    async def _read(self, topic: str) -> bytes:
        payload: bytes | None = await self._board.bundles.run(self._bundle.read, topic)
        assert payload is not None, "it is in the contents"
        return payload

    # -- documents

    async def _take_roots(self) -> None:
        """Each is stored before the next is looked at. Raises Refused."""
        held, numbers = self._board.held, self._bundle.contents.roots
        if not numbers:
            return
        if numbers[0] > held.root.number + 1:
            raise Refused(Reason.ROOT_NOT_NEXT, f"the bundle begins with root {numbers[0]}, this board has root {held.root.number}")
        if held.root.number in numbers:
            self._check_chain(trust.first_root(await self._read(topics.root(held.root.number))))
        for number in numbers:
            if number == held.root.number + 1:
                await self._board.desired.take(topics.root(number), await self._read(topics.root(number)))
                self._brought_root = True

    def _check_chain(self, theirs: trust.Root) -> None:
        """Raises Refused VENDOR_MISMATCH for roots that are not this board's."""
        ours = self._board.held.root
        if theirs != ours:
            whose = f"of vendor {theirs.vendor}" if theirs.vendor != ours.vendor else "of another workspace"
            raise Refused(Reason.VENDOR_MISMATCH, f"the bundle is {whose}: its root {ours.number} is not this board's")

    async def _take_deployments(self) -> None:
        """Those of this board, and of its group. Raises Refused."""
        setting = self._board.setting
        for topic, device in ((topics.desired(setting.group), ""), (topics.device_desired(setting.device), setting.device)):
            if self._bundle.contents.find(topic) is not None:
                document = await self._read(topic)
                await self._board.desired.take(topic, document)
                found = verify(document, self._board.held.root, group=setting.group, device=device)
                self._deployments.append(found)
        if not self._deployments:
            raise Refused(Reason.GROUP_MISMATCH, f"the bundle has nothing for group {setting.group} or device {setting.device}")


def refused(bundle: str, device: str, error: Refused) -> Answer:
    """The answer to a bundle that is not taken."""
    return Answer(bundle, device, Result.REFUSED, error.reason.value, error.detail)

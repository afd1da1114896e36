"""500 boards through a rotation of every key, some of them asleep for a part of it, or all of it: none is lost.

Roots and trust are the agent's own, with its database and its files; what is simulated is the broker, the power and sleep.
"""

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from device_agent.storage import floors
from ota.formats import deployment as deployments
from ota.formats import topics
from ota.formats.cbor import sha256
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import Role
from ota.formats.trust import ROLES, ROOT_TYPE, Root
from ota.keyring import SigningKey, sign_document
from tests.agent.test_walk import Board, Shelf
from tests.support.signing import INSTANCE, NOW_S, VENDOR, Signer

DAY_S = 86_400


@dataclass
class Operator:
    """Two keys a role; both root keys sign, one of the others is enough. Every rotation replaces one key of each role."""

    keys: dict[str, list[SigningKey]] = field(
        default_factory=lambda: {role: [SigningKey.generate() for _ in range(2)] for role in ROLES}
    )
    documents: list[bytes] = field(default_factory=list)
    now_s: int = NOW_S
    epoch: int = 0
    sequence: int = 0

    def publish_root(self, *beside: SigningKey) -> None:
        roles = {
            name: Role({each.public.key_id: each.public for each in keys}, 2 if name == "root" else 1)
            for name, keys in self.keys.items()
        }
        root = Root(len(self.documents) + 1, self.now_s, self.now_s + 30 * DAY_S, VENDOR, roles)
        self.documents.append(sign_document(root.to_payload(), ROOT_TYPE, [*beside, *self.keys["root"]]))

    def rotate(self) -> None:
        """The older key of each role goes. The root that goes signs once more."""
        self.now_s += 20 * DAY_S
        old = self.keys["root"][0]
        self.keys = {role: [keys[1], SigningKey.generate()] for role, keys in self.keys.items()}
        self.publish_root(old)

    def release(self):
        """An update and the deployment of it, signed with the newest keys; no expiry."""
        self.epoch, self.sequence = self.epoch + 1, self.sequence + 1
        signer = Signer({role: keys[-1] for role, keys in self.keys.items()}, self.sequence, self.epoch, self.now_s)
        update = signer.update(b"\0asm\1\0\0\0" + self.sequence.to_bytes(2), version=f"{self.sequence}.0.0")
        self.sequence = signer.sequence
        _, document = signer.deployment(update.digest, now_s=self.now_s, expires_s=0)
        self.epoch = signer.epoch
        return update, document


class Sleeper(Board):
    """A board of the fleet. `install` is what `Desired` and an instance do: judge, keep the floors, keep what was confirmed."""

    def __init__(self, folder, operator: Operator) -> None:
        self.shelf = Shelf(operator.documents)
        super().__init__(folder, operator.documents[0], self.shelf)
        self.runs = b""

    async def wakes(self, operator: Operator) -> None:
        """Connects and follows what the broker has."""
        self.shelf.retained |= {topics.root(number): each for number, each in enumerate(operator.documents, 1)}
        self.walk.start()
        await self.until(len(operator.documents))
        assert self.refused == []

    def judges(self, document: bytes, envelope: bytes) -> None:
        """Raises Refused for a deployment or an update that this board does not take."""
        root, mark = self.trust.root, floors.DEPLOYMENT + "lab"
        found = deployments.verified(document, root, group="lab")
        if found.deployment.epoch < self.store.floor(mark, root.roles["deploy"].keys).value:
            raise Refused(Reason.DEPLOYMENT_REPLAYED, "older")
        entry = found.deployment.entries[INSTANCE]
        deployments.may_start(entry, found.deployment.issued_s, root, found.deployment.issued_s)
        assert entry.manifest_digest == sha256(envelope)
        self.trust.check_signers(self.trust.verify(envelope))
        self.store.lift_floor(mark, found.signers, found.deployment.epoch, found.digest)
        self.runs = envelope

    def restarts(self) -> None:
        """The process ends and begins: what is on the disk is what is left."""
        self.store.close()
        Board.__init__(self, self.file.parent, b"", self.shelf)


def rehearse(tmp_path, count: int, rotations: int) -> None:
    chance = random.Random(count)

    async def main() -> None:
        operator = Operator()
        operator.publish_root()
        fleet = [Sleeper(tmp_path / f"b{number}", operator) for number in range(count)]
        asleep = {board: (chance.randint(0, rotations), chance.randint(0, rotations + 1)) for board in fleet}
        begin = {role: {key.public.key_id for key in keys} for role, keys in operator.keys.items()}
        update, document = operator.release()
        for board in fleet:
            board.judges(document, update.envelope)
        for turn in range(1, rotations + 1):
            before = update, document
            operator.rotate()
            update, document = operator.release()
            for board in fleet:
                first, last = asleep[board]
                if first <= turn < last:
                    continue
                await board.wakes(operator)
                if chance.random() < 0.2:
                    board.restarts()
                board.judges(document, update.envelope)
                with pytest.raises(Refused) as refused:
                    board.judges(before[1], before[0].envelope)
                assert refused.value.reason in (Reason.DEPLOYMENT_REPLAYED, Reason.SIGNER_UNKNOWN)
        for board in fleet:
            await board.wakes(operator)
            board.judges(document, update.envelope)
            assert board.trust.root.number == rotations + 1
            assert all(not begin[role] & found.key_ids for role, found in board.trust.root.roles.items())
            board.restarts()
            assert board.trust.root.number == rotations + 1
            board.store.close()
        assert all(board.runs == update.envelope for board in fleet)

    asyncio.run(main())


def test_a_fleet_goes_through_a_rotation_of_every_key_asleep_or_awake_and_no_board_is_lost(tmp_path):
    rehearse(tmp_path, 20, 3)


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_a_fleet_of_500_boards_goes_through_a_rotation_of_every_key_and_no_board_is_lost(tmp_path):
    rehearse(tmp_path, 500, 4)

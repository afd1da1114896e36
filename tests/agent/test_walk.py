"""A board that was away while roots changed follows them one by one: bounded, durable, and never past a hole."""

import asyncio
import random
from dataclasses import replace

import pytest

from device_agent.desired import roots
from device_agent.desired.trust import Trust
from device_agent.desired.walk import ROOTS_A_SESSION, RootWalk
from device_agent.storage.documents import ROOTS_KEPT
from device_agent.storage.store import Store
from ota.formats import topics, trust
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import Role
from ota.formats.trust import ROLES, ROOT_TYPE, Root
from ota.keyring import SigningKey, sign_document
from tests.support.signing import NOW_S, VENDOR


def role_of(threshold: int, *keys: SigningKey) -> Role:
    return Role({each.public.key_id: each.public for each in keys}, threshold)


def chain(length: int) -> list[bytes]:
    """Root documents in which every role's key changes with each number."""
    keys = [{role: SigningKey.generate() for role in ROLES}]
    documents = []
    for number in range(1, length + 1):
        keys.append({role: SigningKey.generate() for role in ROLES} if number % 10 == 0 else keys[-1])
        before, now = keys[-2], keys[-1]
        root = Root(number, NOW_S, NOW_S + 10, VENDOR, {role: role_of(1, key) for role, key in now.items()})
        signers = [now["root"]] if number == 1 or before is now else [before["root"], now["root"]]
        documents.append(sign_document(root.to_payload(), ROOT_TYPE, signers))
    return documents


class Shelf:
    """A broker's retained root documents: what is subscribed to is delivered, later."""

    def __init__(self, documents: list[bytes]) -> None:
        self.retained = {topics.root(number): each for number, each in enumerate(documents, 1)}
        self.subscribed: set[str] = set()
        self.asked = 0
        self.deliver = lambda topic, payload: None

    def subscribe(self, topic: str) -> None:
        self.subscribed.add(topic)
        self.asked += 1
        if topic in self.retained:
            asyncio.get_running_loop().call_soon(self.deliver, topic, self.retained[topic])

    def unsubscribe(self, topic: str) -> None:
        self.subscribed.discard(topic)


class Board:
    """Trust, storage and walk of a board; its process may end and begin again."""

    def __init__(self, folder, first: bytes, shelf: Shelf | None, retry_s: float = 0.01) -> None:
        self.file = folder / "root.cbor"
        if not self.file.exists():
            folder.mkdir(exist_ok=True)
            self.file.write_bytes(first)
        self.store = Store(folder / "store")
        self.trust = Trust(roots.load(self.file, self.store), self.store, "generic")
        self.adopted: list[int] = []
        self.refused: list[tuple[int, Reason]] = []
        self.tasks: list[asyncio.Task] = []
        self.walk = RootWalk(
            self,
            self.trust,
            shelf,
            retry_s,
            lambda: self.adopted.append(self.trust.root.number),
            lambda number, error: self.refused.append((number, error.reason)),
        )
        if shelf is not None:
            shelf.deliver = self.walk.received

    async def on_writer(self, function, *values):
        await asyncio.sleep(0)
        return function(*values)

    def spawn_supervised(self, work) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    async def until(self, number: int) -> None:
        while self.trust.root.number < number:
            await asyncio.sleep(0.001)
            for each in [each for each in self.tasks if each.done()]:
                each.result()
                self.tasks.remove(each)

    async def receives(self, number: int, document: bytes) -> Reason | None:
        """What becomes of one document: a reason, or None where it is followed."""
        self.refused.clear()
        self.walk.received(topics.root(number), document)
        await asyncio.gather(*self.tasks)
        return self.refused[-1][1] if self.refused else None


@pytest.fixture(scope="module")
def long_chain():
    return chain(ROOTS_A_SESSION + 44)


def test_a_board_that_was_away_for_hundreds_of_roots_arrives_in_two_sessions(tmp_path, long_chain):
    async def main():
        shelf = Shelf(long_chain)
        board = Board(tmp_path, long_chain[0], shelf, retry_s=3600)
        board.walk.start()
        await board.until(1 + ROOTS_A_SESSION)
        for _ in range(20):
            await asyncio.sleep(0)
        assert board.trust.root.number == 1 + ROOTS_A_SESSION  # and no further in this session
        assert shelf.subscribed == set()
        board.walk.start()  # as after the pause
        await board.until(len(long_chain))
        assert board.refused == []
        assert board.adopted == list(range(2, len(long_chain) + 1))
        assert shelf.subscribed == {topics.root(len(long_chain) + 1)}
        kept = board.store.roots()
        assert sorted(kept) == [1, *range(len(long_chain) - ROOTS_KEPT + 1, len(long_chain) + 1)]
        board.store.close()

    asyncio.run(main())


def test_the_walk_goes_on_by_itself_after_its_pause(tmp_path, long_chain):
    async def main():
        board = Board(tmp_path, long_chain[0], Shelf(long_chain), retry_s=0.01)
        board.walk.start()
        await board.until(len(long_chain))
        board.store.close()

    asyncio.run(main())


def test_each_step_is_durable_whenever_the_power_goes(tmp_path):
    documents = chain(40)
    random.seed(7)

    async def stretch(steps: int) -> int:
        board = Board(tmp_path, documents[0], Shelf(documents))
        begun = board.trust.root.number
        board.walk.start()
        await board.until(min(begun + steps, len(documents)))
        reached = board.trust.root.number
        for each in board.tasks:
            each.cancel()
        await asyncio.gather(*board.tasks, return_exceptions=True)
        board.store.close()
        return reached

    reached = 1
    while reached < len(documents):
        before = reached
        reached = asyncio.run(stretch(random.randint(1, 7)))
        assert reached > before
    board_store = Store(tmp_path / "store")
    assert roots.load(tmp_path / "root.cbor", board_store).root.number == len(documents)
    board_store.close()


def test_a_root_that_is_skipped_is_not_followed(tmp_path):
    async def main():
        documents = chain(3)
        board = Board(tmp_path, documents[0], None)
        assert not board.walk.received(topics.root(3), documents[2])
        assert await board.receives(2, documents[2]) is Reason.ROOT_NOT_NEXT  # root 3 under the topic of root 2
        assert board.trust.root.number == 1

    asyncio.run(main())


def test_a_root_that_is_replayed_is_not_followed(tmp_path):
    async def main():
        documents = chain(2)
        board = Board(tmp_path, documents[0], None)
        assert await board.receives(2, documents[0]) is Reason.ROOT_NOT_NEXT  # root 1 under the topic of root 2
        assert await board.receives(2, documents[1]) is None
        assert not board.walk.received(topics.root(2), documents[1])
        assert await board.receives(3, documents[1]) is Reason.ROOT_NOT_NEXT
        assert board.trust.root.number == 2

    asyncio.run(main())


def test_a_flood_of_roots_is_one_document_at_work_and_one_that_waits(tmp_path):
    """Endless data."""

    async def main():
        documents = chain(2)
        board = Board(tmp_path, documents[0], None)
        for number in range(1000):
            board.walk.received(topics.root(2), bytes([number % 256]) * 1000)
        board.walk.received(topics.root(2), documents[1])
        assert len(board.tasks) == 1
        await asyncio.gather(*board.tasks)
        assert board.trust.root.number == 2
        assert len(board.refused) <= 1

    asyncio.run(main())


def test_a_root_that_came_twice_is_followed_once(tmp_path):
    async def main():
        documents = chain(2)
        board = Board(tmp_path, documents[0], None)
        for _ in range(3):
            board.walk.received(topics.root(2), documents[1])
        await asyncio.gather(*board.tasks)
        assert (board.adopted, board.refused) == ([2], [])

    asyncio.run(main())


def test_an_expired_root_is_a_step_like_any_other(tmp_path):
    """Expiry gates the start of an installation and nothing else: the roots of a chain expire while a board sleeps."""

    async def main():
        keys = {role: SigningKey.generate() for role in ROLES}
        documents = []
        for number in (1, 2, 3):
            roles = {role: role_of(1, key) for role, key in keys.items()}
            root = Root(number, NOW_S, NOW_S + number, VENDOR, roles)
            documents.append(sign_document(root.to_payload(), ROOT_TYPE, [keys["root"]]))
        board = Board(tmp_path, documents[0], Shelf(documents))
        board.walk.start()
        await board.until(3)
        board.store.close()

    asyncio.run(main())


def test_a_key_that_a_root_left_out_is_revoked_at_once(tmp_path):
    """Revocation by absence, for each role."""
    keys = {role: SigningKey.generate() for role in ROLES}
    first = Root(1, NOW_S, NOW_S + 9, VENDOR, {role: role_of(1, key) for role, key in keys.items()})
    new = {role: SigningKey.generate() for role in ROLES}
    second = replace(first, number=2, roles={role: role_of(1, key) for role, key in new.items()})

    async def main():
        documents = [sign_document(first.to_payload(), ROOT_TYPE, [keys["root"]])]
        documents.append(sign_document(second.to_payload(), ROOT_TYPE, [keys["root"], new["root"]]))
        board = Board(tmp_path, documents[0], None)
        assert await board.receives(2, documents[1]) is None
        third = sign_document(replace(first, number=3).to_payload(), ROOT_TYPE, [keys["root"]])
        assert await board.receives(3, third) is Reason.SIGNER_UNKNOWN
        assert keys["release"].public.key_id not in board.trust.root.roles["release"].key_ids

    asyncio.run(main())


# -- thresholds change


def rooted(number: int, threshold: int, keys, others) -> Root:
    roles = {"root": role_of(threshold, *keys)} | {role: role_of(1, key) for role, key in others.items()}
    return Root(number, NOW_S, NOW_S + 10, VENDOR, roles)


@pytest.mark.parametrize(("threshold", "count"), [(t, n) for n in range(1, 6) for t in range(1, n + 1)])
def test_root_keys_rotate_from_each_threshold_to_each(count, threshold):
    """Rotation of 1 of 3 to 5 of 5, and of every other pair: all needed signatures, or refused with one less of either."""
    others = {role: SigningKey.generate() for role in ("release", "deploy")}
    old = [SigningKey.generate() for _ in range(count)]
    current = rooted(1, threshold, old, others)
    for then in (1, 3, 5):
        new = [SigningKey.generate() for _ in range(5)]
        payload = rooted(2, then, new, others).to_payload()
        enough = [*old[:threshold], *new[:then]]
        assert trust.next_root(current, sign_document(payload, ROOT_TYPE, enough)).number == 2
        for lacking in (enough[1:], enough[:-1]):
            with pytest.raises(Refused) as refused:
                trust.next_root(current, sign_document(payload, ROOT_TYPE, lacking))
            assert refused.value.reason in (Reason.SIGNER_THRESHOLD, Reason.SIGNER_UNKNOWN)


def test_one_key_under_two_identifiers_is_no_root():
    key, others = SigningKey.generate(), {role: SigningKey.generate() for role in ("release", "deploy")}
    twice = Role({key.public.key_id: key.public, bytes(32): key.public}, 2)
    root = replace(rooted(1, 1, [key], others), roles={"root": twice, **{role: role_of(1, each) for role, each in others.items()}})
    with pytest.raises(Refused) as refused:
        trust.first_root(sign_document(root.to_payload(), ROOT_TYPE, [key, key]))
    assert refused.value.reason is Reason.MALFORMED
    assert "a key is not listed under its own identifier" in refused.value.detail


def test_one_signature_counted_twice_is_too_few():
    keys = [SigningKey.generate() for _ in range(2)]
    others = {role: SigningKey.generate() for role in ("release", "deploy")}
    root = rooted(1, 2, keys, others)
    with pytest.raises(Refused) as refused:
        trust.first_root(sign_document(root.to_payload(), ROOT_TYPE, [keys[0], keys[0]]))
    assert refused.value.reason is Reason.SIGNER_THRESHOLD


def test_an_extraneous_key_signs_nothing():
    """A key that is listed and has no role, or one that an unknown role has."""
    from ota.formats import cbor

    keys = {role: SigningKey.generate() for role in ROLES}
    stranger = SigningKey.generate()
    root = Root(1, NOW_S, NOW_S + 9, VENDOR, {role: role_of(1, key) for role, key in keys.items()})
    content = cbor.decode(root.to_payload(), "root", 1 << 20)
    content[6][stranger.public.key_id] = stranger.public.to_cose_key()
    content[7]["visitor"] = [[stranger.public.key_id], 1]
    payload = cbor.encode(content)
    found = trust.first_root(sign_document(payload, ROOT_TYPE, [keys["root"]]))
    assert all(stranger.public.key_id not in role.key_ids for role in found.roles.values())
    with pytest.raises(Refused) as refused:
        trust.first_root(sign_document(payload, ROOT_TYPE, [stranger]))
    assert refused.value.reason is Reason.SIGNER_UNKNOWN


def test_a_key_with_two_roles_makes_no_root():
    """Key reuse across roles."""
    keys = {role: SigningKey.generate() for role in ROLES}
    keys["deploy"] = keys["root"]
    root = Root(1, NOW_S, NOW_S + 9, VENDOR, {role: role_of(1, key) for role, key in keys.items()})
    with pytest.raises(Refused) as refused:
        trust.first_root(sign_document(root.to_payload(), ROOT_TYPE, [keys["root"]]))
    assert refused.value.reason is Reason.KEY_REUSED


def test_after_an_error_in_the_walk_the_next_root_is_followed_all_the_same(tmp_path, long_chain):
    class Full(list):
        def append(self, _):
            raise Refused(Reason.DISK_FULL, "no room for this either")

    async def main():
        board = Board(tmp_path, long_chain[0], None)
        board.refused = Full()
        board.walk.received(topics.root(2), b"no root")
        with pytest.raises(Refused):
            await board.tasks.pop()
        board.refused = []
        assert await board.receives(2, long_chain[1]) is None
        assert board.trust.root.number == 2
        board.store.close()

    asyncio.run(main())

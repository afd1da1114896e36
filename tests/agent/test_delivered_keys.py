"""Keys of a group as they reach a board: what happens while the disk is waited for, and when it is full."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from device_agent.desired.delivered_keys import DeliveredKeys
from device_agent.desired.desired import Setting
from device_agent.desired.reading_keys import KeyFiles
from device_agent.desired.trust import Trust
from device_agent.storage.store import Store
from ota.author.encryption import sealed_for
from ota.formats import key_delivery, topics, trust
from ota.formats.encryption import GroupKey
from ota.formats.key_delivery import DELIVERY_TYPE, KeyDelivery
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import Role
from ota.keyring import SigningKey, sign_document
from tests.support.sealing import KEY, OTHER_KEY
from tests.support.signing import NOW_S, Signer

DEVICE, GROUP = "board", "lab"


class Board:
    """Its keys, its storage, and a writer that waits until it is let go."""

    def __init__(self, folder, signer: Signer) -> None:
        (folder / "storage").mkdir(exist_ok=True)
        self.signer, self.store, self.go = signer, Store(folder / "storage"), asyncio.Event()
        self.files = KeyFiles(folder, folder / "storage")
        self.held = Trust(SimpleNamespace(root=trust.first_root(signer.root_document()), problems={}), self.store, "generic")
        self.came = 0
        services = SimpleNamespace(store=self.store, on_writer=self.write, spawn_supervised=asyncio.ensure_future)
        told = SimpleNamespace(keys_came=self.tell)
        setting = Setting(DEVICE, GROUP, 0.01)
        self.keys = DeliveredKeys(setting, services, self.held, None, self.files, told, lambda: self.keys.consider())

    def tell(self) -> None:
        self.came += 1

    async def write(self, function, *values):
        await self.go.wait()
        return function(*values)

    def document(self, *keys: GroupKey, epoch: int = 10, key: SigningKey | None = None, **changes) -> bytes:
        found = {each.key_id: each for each in keys}
        info, sealed = sealed_for(key_delivery.plaintext(found), self.files.own.public_key())
        made = KeyDelivery(DEVICE, GROUP, epoch, 5, tuple(sorted(found)), info.to_bytes(), sealed)
        return sign_document(replace(made, **changes).to_payload(), DELIVERY_TYPE, [key or self.signer.keys["deploy"]])

    def receives(self, document: bytes) -> None:
        assert self.keys.received(topics.group_keys(DEVICE), document)

    async def until(self, condition) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.01)

    def has(self, *keys: GroupKey):
        return lambda: set(self.files.delivered) == {each.key_id for each in keys}


@pytest.fixture
def signer():
    return Signer(now_s=NOW_S)


@pytest.mark.parametrize("reason", [Reason.DISK_FULL, Reason.STORAGE_UNWRITABLE])
def test_keys_that_found_no_room_on_the_disk_are_kept_once_there_is_some(tmp_path, signer, reason):
    """The broker sends them once for each connection, which may last for months."""

    async def main():
        board = Board(tmp_path, signer)
        board.go.set()
        full, keep = True, board.store.keep_document

        def keep_or_not(*values):
            if full:
                raise Refused(reason, "no room")
            keep(*values)

        board.store.keep_document = keep_or_not
        board.receives(board.document(KEY))
        await board.until(lambda: board.keys.refusal is not None)
        assert (board.keys.refusal.reason, board.came) == (reason.value, 0)
        full = False
        await board.until(board.has(KEY))
        assert (board.keys.refusal, board.came) == (None, 1)

    asyncio.run(main())


def test_keys_that_an_older_root_refused_while_the_next_one_came_are_judged_by_that(tmp_path, signer):
    async def main():
        board, fresh = Board(tmp_path, signer), SigningKey.generate()
        board.receives(board.document(KEY, key=fresh))
        await asyncio.sleep(0)
        root = signer.root()
        board.held.root = signer.root(2, roles=dict(root.roles) | {"deploy": Role({fresh.public.key_id: fresh.public}, 1)})
        board.keys.consider()
        board.go.set()
        await board.until(board.has(KEY))
        assert board.keys.refusal is None

    asyncio.run(main())


def test_keys_of_a_signer_who_loses_the_role_meanwhile_are_not_used(tmp_path, signer):
    async def main():
        board, fresh = Board(tmp_path, signer), SigningKey.generate()
        root = signer.root()
        later = signer.root(2, roles=dict(root.roles) | {"deploy": Role({fresh.public.key_id: fresh.public}, 1)})
        write, looks = board.write, []

        async def change(function, *values):
            found = await write(function, *values)
            looks.append(values[-1].number)
            board.held.root = later  # while the disk was waited for
            return found

        board.keys._services.on_writer = change
        board.receives(board.document(KEY))
        board.go.set()
        await board.until(lambda: board.keys.refusal is not None)
        assert board.keys.refusal.reason == "signer-unknown"
        assert looks == [1]
        assert board.files.delivered == {}

    asyncio.run(main())


def test_of_many_documents_the_last_one_counts(tmp_path, signer):
    async def main():
        board = Board(tmp_path, signer)
        for epoch in range(10, 20):
            board.receives(board.document(OTHER_KEY if epoch == 19 else KEY, epoch=epoch))
        board.go.set()
        await board.until(board.has(OTHER_KEY))

    asyncio.run(main())


@pytest.mark.parametrize("changes", [{"device": "roof-9"}, {"group": "others"}])
def test_keys_for_another_board_or_group_are_refused(tmp_path, signer, changes):
    async def main():
        board = Board(tmp_path, signer)
        board.go.set()
        board.receives(board.document(KEY, **changes))
        await board.until(lambda: board.keys.refusal is not None)
        assert board.keys.refusal.reason == "group-mismatch"
        assert board.files.delivered == {}

    asyncio.run(main())


def test_kept_keys_of_a_group_that_the_board_has_left_are_not_used(tmp_path, signer):
    async def main():
        board = Board(tmp_path, signer)
        board.go.set()
        board.receives(board.document(KEY))
        await board.until(board.has(KEY))
        board.files.deliver({})
        board.keys._setting = Setting(DEVICE, "others", 1)
        await board.keys.restore()
        assert board.files.delivered == {}
        board.keys._setting = Setting(DEVICE, GROUP, 1)
        await board.keys.restore()
        assert board.has(KEY)()

    asyncio.run(main())


def test_after_an_error_in_a_look_the_next_keys_are_looked_at_all_the_same(tmp_path, signer):
    class Failing(Board):
        def tell(self) -> None:
            super().tell()
            if self.came == 1:
                raise Refused(Reason.DISK_FULL, "no room for what the keys decrypt")

    async def main():
        board = Failing(tmp_path, signer)
        board.go.set()
        board.receives(board.document(KEY))
        await board.until(lambda: board.came == 1)
        await asyncio.sleep(0)
        board.receives(board.document(KEY, OTHER_KEY, epoch=11))
        await board.until(board.has(KEY, OTHER_KEY))
        assert board.came == 2

    asyncio.run(main())

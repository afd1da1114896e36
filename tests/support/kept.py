"""What the tests of the store keep."""

from device_agent.storage.store import Slot, Store, Version

M, M2 = Version("i", "m", b"1" * 32), Version("i", "m", b"2" * 32)
SIGNERS = frozenset((b"key",))


def slot(envelope, sequence, epoch, *rest, name="confirmed", instance="i", config=b""):
    return Slot(instance, name, "m", envelope, config, sequence, epoch, *rest)


def again(store, tmp_path):
    store.close()
    return Store(tmp_path / "store")

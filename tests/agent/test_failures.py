"""How often a module has failed, as an instance counts it."""

import asyncio

import pytest

from device_agent.instance.failures import START_TRIES, Failures
from device_agent.storage.store import Slot, Store
from ota.formats.reasons import Reason, Refused

SLOT = Slot("i", "confirmed", "blink", b"e" * 32, b"", 1, 0)


class Counted:
    """The failures of an instance whose slot `confirmed` holds a module."""

    def __init__(self, monkeypatch, store: Store) -> None:
        self.now_s, self.slots, self.written, self.full = 1000.0, {"confirmed": SLOT}, [], False
        monkeypatch.setattr(store, "slots", lambda instance: self.slots)
        monkeypatch.setattr(store, "set_failures", self._write)
        self.failures = Failures("i", store, self._on_writer, 60.0, lambda: self.now_s)

    async def _on_writer(self, function, *values):
        return function(*values)

    def _write(self, instance, name, failures, failed_s):
        if self.full:
            raise Refused(Reason.DISK_FULL, "full")
        self.written.append((name, failures, failed_s))


@pytest.fixture
def counted(monkeypatch, tmp_path):
    store = Store(tmp_path)
    yield Counted(monkeypatch, store)
    store.close()


def test_failures_are_counted_and_forgotten_a_time_after_the_last_one(counted):
    async def main():
        found = counted.failures
        assert [await found.add("confirmed"), await found.add("confirmed")] == [1, 2]
        counted.now_s += 59
        assert await found.count("confirmed") == 2
        counted.now_s += 1
        assert await found.count("confirmed") == 0
        assert counted.written == [("confirmed", 1, 1000), ("confirmed", 2, 1000), ("confirmed", 0, 1060)]

    asyncio.run(main())


def test_failures_of_a_clock_that_went_back_are_forgotten_and_an_empty_slot_has_none(counted):
    async def main():
        found = counted.failures
        await found.exhaust("confirmed")
        assert await found.count("confirmed") == START_TRIES == 3
        counted.now_s -= 1
        assert await found.count("confirmed") == 0
        assert [await found.add("previous"), await found.count("previous")] == [0, 0]
        await found.exhaust("previous")
        assert [name for name, _, _ in counted.written] == ["confirmed", "confirmed"]

    asyncio.run(main())


def test_another_module_in_the_slot_begins_without_failures_and_a_full_disk_forgets_none(counted):
    async def main():
        found = counted.failures
        counted.full = True
        assert [await found.add("confirmed"), await found.count("confirmed")] == [1, 1]
        counted.slots = {"confirmed": Slot("i", "confirmed", "blink", b"f" * 32, b"", 2, 0)}
        assert await found.count("confirmed") == 0
        await found.forget("confirmed")
        assert counted.written == []  # nothing to write: there was none

    asyncio.run(main())

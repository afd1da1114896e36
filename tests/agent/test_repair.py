"""What a slot has lost is fetched again: when, and how often."""

import asyncio
from types import SimpleNamespace

from device_agent.desired import repair
from device_agent.desired.repair import Repair
from ota.formats.reasons import Reason, Refused
from tests.support.lab import PATIENCE_S

RETRY_S = 0.02


def test_what_nobody_has_is_asked_for_ever_later_until_the_link_is_new_or_something_else_is_lost(monkeypatch):
    monkeypatch.setattr(repair, "RETRY_GROWTH", 4)

    async def main():
        asked: list[tuple[bytes, float]] = []
        news = asyncio.Condition()

        async def manifest(digest: bytes) -> bytes:
            async with news:
                asked.append((digest, mending._wait_s / RETRY_S))
                news.notify_all()
            raise Refused(Reason.MANIFEST_MISSING, "the broker has lost it")

        async def until(count: int) -> None:
            async with asyncio.timeout(60), news:
                await news.wait_for(lambda: len(asked) >= count)

        async def on_writer(function, *values):
            return function(*values)

        slots = {"confirmed": SimpleNamespace(envelope=b"c"), "previous": SimpleNamespace(envelope=b"p")}
        store = SimpleNamespace(slots=lambda instance: slots)
        mending = Repair(SimpleNamespace(manifest=manifest), store, on_writer, RETRY_S, lambda *_: None)
        running = asyncio.ensure_future(mending.run())
        mending.want("lamp", "confirmed")
        await until(5)
        assert asked[:5] == [(b"c", 1), (b"c", 2), (b"c", 4), (b"c", 4), (b"c", 4)]
        mending.want("lamp", "confirmed")  # each start of the module finds it missing
        mending.poke()
        before = len(asked)
        await until(before + 2)
        assert asked[before : before + 2] == [(b"c", 1), (b"c", 2)]
        mending.want("lamp", "previous")
        await until(len(asked) + 4)
        assert (b"p", 1) in asked
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


def test_what_is_found_to_be_lost_while_something_else_is_fetched_waits_for_no_retry():
    """Instances start at the same time, and a damaged disk has damaged more than one."""

    async def main():
        asked, gone = [], asyncio.Event()

        async def manifest(digest: bytes) -> bytes:
            asked.append(digest)
            if len(asked) == 1:
                mending.want("lamp", "previous")
            else:
                gone.set()
            raise Refused(Reason.MANIFEST_MISSING, "the broker has lost it")

        async def on_writer(function, *values):
            return function(*values)

        slots = {"confirmed": SimpleNamespace(envelope=b"c"), "previous": SimpleNamespace(envelope=b"p")}
        store = SimpleNamespace(slots=lambda instance: slots)
        mending = Repair(SimpleNamespace(manifest=manifest), store, on_writer, 3600.0, lambda *_: None)
        running = asyncio.ensure_future(mending.run())
        mending.want("lamp", "confirmed")
        async with asyncio.timeout(PATIENCE_S):
            await gone.wait()
        assert asked == [b"c", b"p"]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())

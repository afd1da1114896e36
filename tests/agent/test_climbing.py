"""The way up again, to a module that was mended or has served its time, when it comes up at a bad moment."""

import asyncio
from types import SimpleNamespace

import pytest

from device_agent.instance.instance import RESTART_MAX_S, Instance
from device_agent.instance.kept import Kept
from device_agent.instance.services import InstancePolicy, Services, Times
from device_agent.instance.states import ON_TRIAL, Phase
from device_agent.instance.updates import Update
from device_agent.storage.store import Store


class Bench:
    """An instance with no module, whose tasks run when they are awaited, and whose timers are only noted."""

    def __init__(self, folder, phase: Phase) -> None:
        store = Store(folder)

        async def on_writer(function, *values):
            return function(*values)

        services = Services(
            store,
            on_writer,
            asyncio.ensure_future,
            lambda spec, died: None,
            lambda: None,
            lambda envelope: None,
            lambda verified: None,
            lambda vendor: (),
            Kept(store, on_writer, lambda: None),
            Times(),
            lambda: 0.0,
            lambda: 0,
        )
        hooks = SimpleNamespace(moved=lambda name: None, follow=lambda name: None)
        self.instance = Instance("m", InstancePolicy(), services, hooks, Update(phase, b"d" * 16, b"m" * 32))
        self.instance._timers = SimpleNamespace(later=self.later, cancel=lambda what: False)
        self.timers: list[tuple[str, float]] = []

    def later(self, what: str, delay_s: float, work) -> None:
        self.timers.append((what, delay_s))


@pytest.mark.parametrize("phase", ON_TRIAL)
def test_a_module_that_is_mended_while_another_is_on_trial_is_looked_at_again(tmp_path, phase):
    """The trial may fail, and then nothing else would bring it back before the agent starts anew."""

    async def main():
        bench = Bench(tmp_path, phase)
        await bench.instance.mended("confirmed")
        assert bench.timers == [("climb", RESTART_MAX_S)]

    asyncio.run(main())


def test_with_no_trial_it_is_looked_at_at_once(tmp_path):
    async def main():
        bench = Bench(tmp_path, Phase.ROLLED_BACK)
        await bench.instance.mended("confirmed")
        assert bench.timers == []

    asyncio.run(main())

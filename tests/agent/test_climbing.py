"""The way up again, to a module that was mended or has served its time, when it comes up at a bad moment."""

import asyncio
import contextlib
from types import SimpleNamespace

import pytest

from device_agent.channel.frames import KeyWrite
from device_agent.channel.workers import Worker, WorkerFailed
from device_agent.instance import slots
from device_agent.instance.instance import RESTART_MAX_S, Instance
from device_agent.instance.kept import Kept, version_of
from device_agent.instance.services import InstancePolicy, Services, Times
from device_agent.instance.states import ON_TRIAL, Offered, Phase
from device_agent.instance.updates import Update
from device_agent.storage.messages import Bounds, Outcome
from device_agent.storage.store import Store
from ota.formats.reasons import Reason, Refused
from ota.formats.report import Running
from tests.support.signing import Signer
from tests.support.worker_rig import counting, spec


@contextlib.contextmanager
def full(store: Store):
    """Its disk has no room for a transaction."""

    def transaction(**_):
        raise Refused(Reason.DISK_FULL, "no room")

    store._transaction = transaction
    yield
    del store._transaction


class Bench:
    """An instance with no module, whose tasks run when they are awaited, and whose timers are only noted."""

    def __init__(self, folder, phase: Phase, policy: InstancePolicy = InstancePolicy()) -> None:  # noqa: B008  (it is frozen)
        store = self.store = Store(folder)

        async def flush() -> bool:
            return True

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
            Kept(store, on_writer, flush),
            Times(),
            lambda: 0.0,
            lambda: 0,
        )
        hooks = SimpleNamespace(moved=lambda name: None, follow=lambda name: None)
        self.instance = Instance("m", policy, services, hooks, Update(phase, b"d" * 16, b"m" * 32))
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


def test_a_trial_that_fails_takes_nothing_from_what_its_release_had_before(tmp_path):
    """An image's factory module is often the first one that is published, too; or an old configuration is tried once more."""

    async def main():
        tried = Signer().update(counting(1))
        bench = Bench(tmp_path / "store", Phase.ROLLED_BACK)
        module = slots.module_spec("m", tried.manifest, tried.digest, {}, bench.instance.policy, tmp_path / "blob")
        version, kept = version_of(module), bench.instance._services.kept
        bench.store.add_outcomes([Outcome(version, [KeyWrite("count", b"7")])], Bounds())
        bench.store.save_state(version, b"state")
        assert await kept.begin_trial(module, None, None) == (b"", {})
        kept.note(module, (write := KeyWrite("count", b"8"),))
        bench.store.add_outcomes([Outcome(version, [write])], Bounds())
        await bench.instance.supervisor.roll_back(Worker(module, lambda *_: None))
        assert await kept.load(module) == (b"state", {"count": b"7"})

    asyncio.run(main())


def test_a_module_starts_on_a_full_disk_though_what_it_had_before_a_trial_is_still_aside(tmp_path):
    async def main():
        tried = Signer().update(counting(1))
        bench = Bench(tmp_path / "store", Phase.ROLLED_BACK)
        module = slots.module_spec("m", tried.manifest, tried.digest, {}, bench.instance.policy, tmp_path / "blob")
        bench.store.save_state(version_of(module), b"state")
        kept = bench.instance._services.kept
        await kept.begin_trial(module, None, None)
        with full(bench.store):
            assert await kept.load(module) == (b"", {})
        assert await kept.load(module) == (b"state", {})

    asyncio.run(main())


def test_a_module_that_has_failed_is_in_doubt_until_it_proves_itself(tmp_path):
    async def main():
        bench = Bench(tmp_path, Phase.CONFIRMED)
        instance, proofs = bench.instance, []
        instance._timers.later = lambda what, _, work: proofs.append(work) if what == "proof" else None
        worker = instance.supervisor._current = Worker(spec(tmp_path, counting(1)), lambda *_: None)
        assert not instance.steady, "it is on its first trial: after a restart there is nothing to run"
        instance.running = Running("m", slot="confirmed")
        assert instance.steady
        instance._worker_failed(worker, WorkerFailed(Reason.TRAPPED, "unreachable"))
        assert instance.alive  # its successor, by now
        assert not instance.steady
        instance._prove_later("confirmed")
        await proofs[0]()
        assert instance.steady
        worker.kill()

    asyncio.run(main())


def test_an_instance_that_was_just_offered_something_is_not_empty(tmp_path):
    """Else a document that comes within the next moment, and does not name it, would forget an instance that goes on by itself."""

    async def main():
        instance = Bench(tmp_path, Phase.IDLE).instance
        assert instance.empty
        instance.post(Offered(b"d" * 16, b"m" * 32))
        assert not instance.empty

    asyncio.run(main())

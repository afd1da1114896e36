"""The agent's event loop: nothing of a whole life waits for the disk there, and nothing keeps it from stopping."""

import asyncio
import os
import signal
import sqlite3
import sys
import threading

from device_agent.broker.link import Link
from device_agent.channel import workers
from device_agent.channel.zygote import Zygote
from device_agent.instance.instance import Instance
from device_agent.node import config
from device_agent.node.node import Node
from device_agent.storage.store import Store
from tests.support.lab import PATIENCE_S, echo
from tests.support.signing import INSTANCE


class Running:
    """An agent in a thread of this process."""

    def __init__(self, lab) -> None:
        self._lab, self._began = lab, threading.Event()
        (lab.folder / "agent.toml").write_text(lab.config(lab.broker.url, "store"))
        self.failed = True
        self.thread = threading.Thread(target=asyncio.run, args=(self._live(),))

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._node = Node(config.load(self._lab.folder / "agent.toml"))
        self._began.set()
        await self._node.run()
        self.failed = self._node.failed

    @property
    def module_pid(self) -> int:
        return self._node._instances.module(INSTANCE).supervisor.current.pid

    def __enter__(self) -> "Running":
        self.thread.start()
        assert self._began.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._node.stop)
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


def test_nothing_reads_the_store_on_the_loop(lab, monkeypatch):
    """From the first report on: an update, one that is refused, and one more."""
    by_thread: list[tuple[str, str]] = []
    real = Store._database.fget

    def database(store: Store) -> sqlite3.Connection:
        by_thread.append((threading.current_thread().name, sys._getframe(1).f_code.co_name))
        return real(store)

    with Running(lab) as running:
        lab.observer.wait(lambda: lab.observer.report is not None, lab.patience_s, "a first report")
        monkeypatch.setattr(Store, "_database", property(database))
        lab.install(1)
        lab.wait_state("rejected", deployment=lab.deploy(lab.signer.update(echo(9), sequence=1, name="echo", version="0.9.0")))
        lab.install(2)
        monkeypatch.undo()
    assert not running.failed
    assert len(by_thread) > 20
    assert {(thread, function) for thread, function in by_thread if not thread.startswith("writer")} == set()


def test_modules_run_again_before_the_rest_of_the_agent_takes_the_processor(lab, monkeypatch):
    """After a restart, as by the agent's own update: until then no instance handles an event."""
    with Running(lab):
        lab.observer.wait(lambda: lab.observer.report is not None, lab.patience_s, "a first report")
        lab.install(1)
    began: list[str] = []
    run_best, run = Instance.run_best, Link.run

    async def slowly(instance: Instance) -> None:
        await asyncio.sleep(0.2)
        await run_best(instance)
        began.append("module")

    async def connect(link: Link) -> None:
        began.append("link")
        await run(link)

    monkeypatch.setattr("device_agent.node.node.MODULES_FIRST_S", PATIENCE_S)
    monkeypatch.setattr(Instance, "run_best", slowly)
    monkeypatch.setattr(Link, "run", connect)
    lab.observer.forget_reports()
    with Running(lab) as running:
        lab.observer.wait(lambda: lab.observer.report is not None, lab.patience_s, "a report")
    assert not running.failed
    assert began[:2] == ["module", "link"]


def test_a_module_that_does_not_begin_keeps_no_board_from_its_operator(lab, monkeypatch):
    with Running(lab):
        lab.observer.wait(lambda: lab.observer.report is not None, lab.patience_s, "a first report")
        lab.install(1)

    async def never(_: Instance) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("device_agent.node.node.MODULES_FIRST_S", 0.1)
    monkeypatch.setattr(Instance, "run_best", never)
    lab.observer.forget_reports()
    with Running(lab) as running:
        lab.observer.wait(lambda: lab.observer.report is not None, lab.patience_s, "a report")
    assert not running.failed


def test_an_agent_stops_while_the_process_for_workers_takes_long_to_load(lab, monkeypatch):
    """As on a board that is busy: what it loads here never ends."""
    monkeypatch.setenv("HANG", "1")
    slow = Zygote("tests.support.busy")
    monkeypatch.setattr("device_agent.node.node.zygote", slow)
    monkeypatch.setattr(workers, "zygote", slow)
    monkeypatch.setattr("device_agent.channel.zygote.ANSWER_S", 600.0)
    with Running(lab) as running:
        loading = threading.Event()
        for _ in range(1000):
            if slow._awaited is not None:
                loading.set()
                break
            loading.wait(0.01)
        assert loading.is_set()
    assert not running.failed
    slow.close()


def test_an_agent_without_a_process_for_workers_is_there_for_its_operator(lab, monkeypatch):
    broken = Zygote("tests.support.no_such_module")
    monkeypatch.setattr("device_agent.node.node.zygote", broken)
    monkeypatch.setattr(workers, "zygote", broken)
    with Running(lab) as running:
        lab.observer.wait(lambda: lab.observer.report is not None, lab.patience_s, "a first report")
        lab.wait_state("failed", deployment=lab.deploy(lab.signer.update(echo(1), name="echo", version="1.0.0")))
        assert lab.report.attempt.reason == "process-unavailable"
    assert not running.failed


def test_a_board_that_can_make_no_process_for_a_while_does_not_step_down(lab, monkeypatch):
    """As when it has no memory left: more failures than a module may have, then it runs again."""
    tried: list[bool] = []
    real = workers.zygote.fork
    monkeypatch.setattr("device_agent.instance.instance.RESTART_MIN_S", 0.005)

    def fork(channel):
        tried.append(True)
        if len(tried) <= 6:
            raise OSError("no memory")
        return real(channel)

    with Running(lab) as running:
        lab.observer.wait(lambda: lab.observer.report is not None, lab.patience_s, "a first report")
        lab.install(1)
        lab.install(2)
        monkeypatch.setattr(workers.zygote, "fork", fork)
        os.kill(running.module_pid, signal.SIGKILL)
        lab.observer.wait(lambda: len(tried) > 6, lab.patience_s, "the last try")
        report = lab.running("2.0.0")
        lab.observer.wait(lambda: lab.report.time_s > report.time_s, lab.patience_s, "another report")
        assert lab.report.running.slot == "confirmed"
        assert not any(each.startswith("process-unavailable") for each in lab.report.problems)
    assert not running.failed

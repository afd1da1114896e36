"""How an agent makes the next one ready: what it leaves for it, and what stops it."""

import asyncio
import contextlib
import errno
import os
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from device_agent.node import launcher as launchers
from device_agent.node.agent_target import AgentTarget, check_about
from device_agent.node.launcher import Expectation, Launcher
from device_agent.storage import schema
from ota.formats.reasons import Reason, Refused
from tests.support.agent_world import ABOUT, OURS, World, manifest, release, signed
from tests.support.lab import PATIENCE_S


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.store.close()


def expectation():
    return Expectation(b"\7" * 32, "new", "old", frozenset(), online=True)


def test_the_launcher_knows_which_process_waits_before_its_trial_can_begin(world, monkeypatch, tmp_path):
    """Else it starts a second one, should this agent die behind the pointer."""
    note, known = tmp_path / "warm", []
    monkeypatch.setattr(launchers, "WARM_NOTE", note)

    async def step(*_):
        known.append(note.read_text())

    monkeypatch.setattr(Launcher, "_step", step)
    launcher = world.launcher("old")
    launcher.next.append(SimpleNamespace(pid=4712))
    asyncio.run(launcher.begin(expectation(), 30))
    assert known == ["new 4712\n"]


def test_a_module_that_fails_again_and_again_is_not_expected_of_the_new_agent(world, monkeypatch):
    """By chance it runs just then. What fails, or mends itself, while the new agent gets ready counts."""
    target, expected = world.target("old"), []
    world.board.running = frozenset({"lamp", "trap", "late"})
    world.board.steady = lambda _: frozenset({"lamp", "late"})

    async def warm(*_):
        world.board.steady = lambda _: frozenset({"lamp"})

    async def begin(_, expectation, __):
        expected.append(expectation.instances)

    monkeypatch.setattr(Launcher, "warm", warm)
    monkeypatch.setattr(Launcher, "begin", begin)
    asyncio.run(target.enter(release()))
    assert expected == [{"lamp"}]
    assert world.board.handed_over


@pytest.mark.parametrize(("pointer", "begun"), [("new", True), ("", False), ("flashed", False)])
def test_a_step_that_ends_behind_the_pointer_has_put_the_agent_on_trial(world, monkeypatch, tmp_path, pointer, begun):
    """The next start sees the pointer: an update that had ended by then would be tried by an agent that knows nothing of it."""

    async def step(*_):
        world.begin()
        (world.base / "trial").unlink()
        if pointer:
            (world.base / "versions" / pointer).mkdir(exist_ok=True)
            world.point("trial", pointer)
        raise Refused(Reason.AGENT_FAILED, "the new agent was not ready within 60 s")

    monkeypatch.setattr(Launcher, "_step", step)
    monkeypatch.setattr(launchers, "WARM_NOTE", tmp_path / "warm")
    with contextlib.nullcontext() if begun else pytest.raises(Refused, match="agent-failed"):
        asyncio.run(world.launcher("old").begin(expectation(), 30))


def test_the_note_of_an_agent_that_is_not_to_begin_goes_with_it(world, monkeypatch, tmp_path):
    """Else the launcher would take a later process of that number for it, and end it."""
    monkeypatch.setattr(launchers, "WARM_NOTE", note := tmp_path / "warm")
    note.write_text("new 1\n")
    launcher = world.launcher("old")
    launcher.next.append(subprocess.Popen(("sleep", "60"), stdin=subprocess.PIPE))
    launcher.cool()
    assert not note.exists()


def test_a_full_disk_ends_the_update_and_not_the_agent(world, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(launchers, "write_durably", full)
    with pytest.raises(Refused, match="disk-full"):
        asyncio.run(world.launcher("old").begin(expectation(), 30))
    monkeypatch.setattr(launchers.subprocess, "Popen", full)
    with pytest.raises(Refused, match="disk-full"):
        asyncio.run(world.launcher("old").warm("new", 30))


def test_an_agent_that_leaves_no_way_back_is_refused(world):
    about = replace(ABOUT, schema=schema.SCHEMA + 1, readable_by=schema.SCHEMA + 1)
    with pytest.raises(Refused, match="schema-mismatch"):
        world.target("old").verify(signed(manifest(about)))


def test_without_a_launcher_nothing_is_fetched(world):
    with pytest.raises(Refused, match="launcher-missing"):
        AgentTarget(None, world.board, world.services, 30).verify(signed(manifest()))


def test_an_agent_that_waits_goes_on_before_the_process_of_the_other_one_has_ended(world, tmp_path, monkeypatch):
    began, python = tmp_path / "began", tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho ready\ncat\ntouch {began}\n")
    python.chmod(0o755)
    monkeypatch.setattr("device_agent.node.launcher.sys.executable", str(python))

    async def scenario() -> None:
        launcher = world.launcher("old")
        await launcher.warm("new", 30)
        assert not began.exists()
        launcher.let_begin()
        (process,) = launcher.next
        with process:
            assert process.wait(30) == 0

    asyncio.run(scenario())
    assert began.exists()


@pytest.mark.parametrize("name", ["version", "architecture", "python", "libc", "schema", "reads", "readable_by"])
def test_a_tarball_that_is_not_what_its_manifest_says_is_refused(name):
    about = {
        "version": ABOUT.version,
        "architecture": OURS.architecture,
        "python": OURS.python,
        "libc": OURS.libc,
        "schema": ABOUT.schema,
        "reads": ABOUT.reads,
        "readable_by": ABOUT.readable_by,
    }
    check_about(about, ABOUT)
    for wrong in (about | {name: "another"}, {key: value for key, value in about.items() if key != name}):
        with pytest.raises(Refused, match=f"agent-invalid: the tarball says {name}"):
            check_about(wrong, ABOUT)


def lives(pid: str) -> bool:
    with contextlib.suppress(OSError):
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


@pytest.mark.parametrize("late_s", [0, 1])
def test_a_step_that_is_stopped_ends_with_all_that_it_has_started(world, tmp_path, monkeypatch, late_s):
    """As a new agent that hangs while it is imported; also one that runs before this process has heard of it."""
    create = asyncio.create_subprocess_exec

    async def slowly(*words, **how):
        process = await create(*words, **how)
        await asyncio.sleep(late_s)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slowly)
    pids = tmp_path / "pids"
    hangs = f"#!/bin/sh\nsleep 1000 &\necho $$ $! > {pids}.new && mv {pids}.new {pids}\nwait\n"
    (tmp_path / "python").write_text(hangs)
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr("device_agent.node.launcher.sys.executable", str(tmp_path / "python"))

    async def stop():
        task = asyncio.ensure_future(world.launcher("old").prepare(tmp_path, "new", 1))
        while not pids.exists():
            await asyncio.sleep(0.02)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(stop())
    end = time.monotonic() + PATIENCE_S
    while left := [each for each in pids.read_text().split() if lives(each)]:
        assert time.monotonic() < end, left
        time.sleep(0.02)


def test_an_agent_that_is_stopped_while_another_one_gets_ready_waits_for_nothing_more(world):
    package = world.base / "versions/new/lib/device_agent"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import sys, time\nprint('here', file=sys.stderr, flush=True)\ntime.sleep(60)\n")

    async def scenario() -> None:
        task = asyncio.ensure_future(world.launcher("old").warm("new", 30))
        while not (world.base / "trial.said").exists() or not (world.base / "trial.said").read_text():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    for each in threading.enumerate():
        if isinstance(each, threading.Timer):
            assert each.finished.is_set(), "a timer goes on"


def test_the_launcher_is_taken_the_place_of_only_by_who_has_its_place(world, monkeypatch):
    taken = []
    monkeypatch.setattr(os, "execv", lambda *command: taken.append(command))
    world.launcher("new").hand_over()
    assert not taken
    world.launcher("new", WAMR_OTA_PARENT=str(os.getpid())).hand_over()
    assert taken == [("/bin/sh", ["sh", "/opt/wamr-ota/launch", str(world.config)])]


def test_a_step_of_a_newer_agent_that_refuses_by_a_reason_unknown_here_is_a_refusal():
    answer = b'{"good": false, "reason": "of-a-later-version", "why": "words"}'
    with pytest.raises(Refused) as caught:
        launchers._answer(answer, "nothing said")
    assert (caught.value.reason, caught.value.detail) == (Reason.AGENT_FAILED, "of-a-later-version: words")

"""How an agent updates itself: what it leaves for the next one, when that confirms itself, and what the one before it finds out."""

import asyncio
import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from boards.onboard import versions
from device_agent.instance.services import Times
from device_agent.instance.states import Phase
from device_agent.instance.targets import Release
from device_agent.instance.updates import Update
from device_agent.node import launcher as launchers
from device_agent.node.agent_target import TIMED_OUT, AgentTarget, check_about
from device_agent.node.launcher import Expectation, Launcher, host
from device_agent.node.own_agent import OwnAgent
from device_agent.storage import floors, schema
from device_agent.storage.store import Store
from ota.formats import suit
from ota.formats.agent import ABI, AgentDescription, AgentManifest, Platform
from ota.formats.cbor import sha256
from ota.formats.classes import ANY_BOARD, class_id, vendor_id
from ota.formats.reasons import Reason, Refused
from tests.support.signing import VENDOR, Signer

SIGNER = Signer()
ENVIRONMENT = {
    "WAMR_OTA_LAUNCH": "/opt/wamr-ota/launch",
    "WAMR_OTA_LAUNCHER": "1",
    "WAMR_OTA_PARENT": "4711",
    "WAMR_OTA_TARBALL": "new",
}
OURS = host().platforms()[0]
ABOUT = AgentDescription("new", OURS, schema.SCHEMA, 1, schema.READABLE_BY, 1000)


def manifest(about=ABOUT, sequence=5) -> AgentManifest:
    vendor = vendor_id(VENDOR)
    identifier = class_id(vendor, ANY_BOARD, about.platform.text, ABI)
    return AgentManifest(sequence, vendor, identifier, sha256(b"tarball"), 6, b"\2" * 32, about)


def signed(made: AgentManifest) -> bytes:
    encoded = made.to_bytes()
    return suit.encode_envelope(encoded, [SIGNER.keys["release"].sign1(suit.signed_digest(encoded))])


class Board:
    """The rest of an agent."""

    classes = (ANY_BOARD,)
    root = SIGNER.root()

    def __init__(self) -> None:
        self.steady = frozenset({"lamp"})
        self.running, self.online, self.acknowledges, self.handed_over, self.reports = frozenset(), True, True, False, 0
        self.expects_link = True

    async def report_acknowledged(self) -> bool:
        self.reports += 1
        return self.acknowledges

    def hand_over(self) -> None:
        self.handed_over = True


async def on_writer(function, *values):
    return await asyncio.to_thread(function, *values)


class World:
    """A board's folder of agents, the database, and an agent that the launcher has started."""

    def __init__(self, folder: Path) -> None:
        self.base = folder / "base"
        for name in ("old", "new"):
            (self.base / "versions" / name).mkdir(parents=True)
        self.point("confirmed", "old")
        self.store, self.board = Store(folder / "store"), Board()
        self.services = SimpleNamespace(
            store=self.store,
            on_writer=on_writer,
            spawn_supervised=asyncio.ensure_future,
            new_fetcher=lambda: SimpleNamespace(progress=lambda _: (0, 0)),
            check_signers=lambda _: None,
            times=Times(trial_s=0.05),
            now_s=lambda: 1_800_000_000,
        )
        self.hooks = SimpleNamespace(**dict.fromkeys(("moved", "began", "ended", "confirmed"), lambda _: None))

    def point(self, pointer: str, name: str) -> None:
        versions.point(self.base / pointer, name)

    def launcher(self, running: str, **more) -> Launcher:
        environment = ENVIRONMENT | {"WAMR_OTA_BASE": str(self.base), "WAMR_OTA_TARBALL": running} | more
        found = Launcher.here(environment, Path("/etc/agent.toml"))
        assert found is not None
        return found

    def target(self, running: str, **more) -> AgentTarget:
        return AgentTarget(self.launcher(running, **more), self.board, self.services, 30)

    def begin(self, *, instances=("lamp",), online=True, digest=b"\7" * 32) -> None:
        """What the old agent leaves, and the launcher has begun."""
        expected = Expectation(digest, "new", "old", frozenset(instances), online)
        (self.base / "trial.expects").write_bytes(expected.to_bytes())
        (self.base / "trial.air").write_text("new\n")
        self.point("trial", "new")

    def confirm_when_passed(self) -> None:
        """What the launcher does."""
        if (self.base / "trial.passed").exists():
            self.point("confirmed", "new")
            (self.base / "trial").unlink(missing_ok=True)


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.store.close()


def on_trial(world):
    return world.target("new", WAMR_OTA_TRIAL="new")


def release(digest=b"\7" * 32):
    return Release(SimpleNamespace(manifest=manifest(), envelope_digest=digest), {})


async def watch(world, target, changes=lambda: None, turns=40):
    """Lets a trial go on for a while; its verdict, None if it has none by then."""
    task = asyncio.ensure_future(target.watch(release(), lambda: None))
    for _ in range(turns):
        await asyncio.sleep(0.05)
        changes()
        world.confirm_when_passed()
        if task.done():
            return task.result()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return None


def said(world):
    return (world.base / "trial.said").read_text()


@pytest.mark.parametrize("missing", [*ENVIRONMENT, "WAMR_OTA_BASE"])
def test_an_agent_that_no_launcher_of_its_protocol_started_has_none(missing):
    environment = ENVIRONMENT | {"WAMR_OTA_BASE": "/opt/wamr-ota"}
    assert Launcher.here(environment) is not None
    assert Launcher.here(environment | {missing: ""}) is None
    assert Launcher.here(environment | {"WAMR_OTA_LAUNCHER": "2"}) is None


def test_this_machine_takes_what_is_built_for_it():
    ours = host()
    assert Platform(ours.architecture, f"cp3{sys.version_info[1]}", "glibc-2.17") in ours.platforms()
    assert not [each for each in ours.platforms() if each.python == f"py3{sys.version_info[1] + 1}"]


def test_an_agent_confirms_itself_when_all_runs_again_and_its_report_was_acknowledged(world):
    world.begin()
    world.board.online = False

    def changes():
        world.board.running = frozenset(("lamp", "another"))
        world.board.online = True

    verdict = asyncio.run(watch(world, on_trial(world), changes))
    assert verdict is not None
    assert verdict.reason is None
    assert world.board.reports == 1
    assert "it waited for lamp to run again and a connection to the broker" in said(world)


def test_a_new_agent_waits_for_the_link_of_the_board_unless_none_is_expected(world):
    target = world.target("old")
    assert target.why_wait() is None
    world.board.online = False
    assert target.why_wait().reason is Reason.LINK_AWAITED
    world.board.expects_link = False
    assert target.why_wait() is None


@pytest.mark.parametrize(
    ("running", "online", "acknowledges", "why"),
    [
        ((), True, True, "it waited for lamp to run again"),
        (("lamp",), False, True, "it waited for a connection to the broker"),
        (("lamp",), True, False, "the broker has not acknowledged its report"),
    ],
)
def test_an_agent_that_is_not_as_good_as_the_one_before_does_not_confirm_itself(world, running, online, acknowledges, why):
    world.begin()
    world.board.running, world.board.online, world.board.acknowledges = frozenset(running), online, acknowledges
    assert asyncio.run(watch(world, on_trial(world), turns=10)) is None
    assert not (world.base / "trial.passed").exists()
    assert why in said(world)


def test_where_the_board_was_offline_no_connection_is_asked_for(world):
    world.begin(online=False)
    world.board.running, world.board.online = frozenset(("lamp",)), False
    assert asyncio.run(watch(world, on_trial(world))) is not None
    assert world.board.reports == 0


def test_an_agent_that_the_launcher_has_confirmed_commits_at_once(world):
    """The power was cut between the two."""
    world.begin()
    world.point("confirmed", "new")
    (world.base / "trial").unlink()
    target = world.target("new")
    assert target.is_on_trial(Update(Phase.TRIAL, manifest=b"\7" * 32))
    assert asyncio.run(watch(world, target)) is not None


def test_an_agent_that_a_flasher_has_on_trial_does_not_confirm_itself(world):
    world.begin()
    (world.base / "trial.air").unlink()
    assert not on_trial(world).is_on_trial(Update(Phase.TRIAL, manifest=b"\7" * 32))


def test_the_agent_before_finds_out_why_a_trial_failed(world):
    world.begin()
    (world.base / "trial.failed").write_text("new\nit ended with status 1\n\nTraceback\nOSError: no such instruction\n")
    update = Update(Phase.TRIAL, manifest=b"\7" * 32)
    target = world.target("old")
    assert not target.is_on_trial(update)
    verdict = target.after_restart(update)
    assert verdict.reason is Reason.AGENT_FAILED
    assert verdict.detail == ("new: it ended with status 1; it said last: Traceback / OSError: no such instruction; old runs again")


ONLINE = "it waited for a connection to the broker"


@pytest.mark.parametrize(
    ("failed", "resumptions", "again"),
    [
        (f"it did not confirm itself within 30 s\n{ONLINE}", 0, True),
        (f"it did not confirm itself within 30 s\n{ONLINE}", 1, True),
        (f"it did not confirm itself within 30 s\n{ONLINE}", 2, False),
        (f"it did not confirm itself within 30 s\n{ONLINE}\nall runs; it waits for its trial to last", 0, False),
        ("it did not confirm itself within 30 s\nit waited for lamp to run again and a connection to the broker", 0, False),
        (f"it ended with status 1\n{ONLINE}", 0, False),
    ],
)
def test_a_trial_that_lacked_the_link_alone_begins_again_a_few_times(world, failed, resumptions, again):
    """The link may have gone for reasons of its own."""
    world.begin()
    (world.base / "trial.failed").write_text(f"new\n{failed}\n")
    verdict = world.target("old").after_restart(Update(Phase.TRIAL, manifest=b"\7" * 32, resumptions=resumptions))
    assert (verdict is None) == again
    assert again or verdict.reason is Reason.AGENT_FAILED


def test_launcher_and_agent_say_what_the_agent_before_reads(world):
    world.begin()
    world.board.running, world.board.online = frozenset(("lamp",)), False
    assert asyncio.run(watch(world, on_trial(world), turns=4)) is None
    assert said(world).splitlines()[-1] == ONLINE
    assert f'why="{TIMED_OUT} within $limit s"' in (Path(versions.__file__).parent / "launch").read_text()


def test_a_trial_without_a_verdict_begins_again(world):
    """The power was cut before it began, or in its middle."""
    update = Update(Phase.TRIAL, manifest=b"\7" * 32)
    assert world.target("old").after_restart(update) is None
    world.begin()
    assert world.target("old").after_restart(update) is None
    (world.base / "trial.failed").write_text("another\nit ended with status 1\n")
    assert world.target("old").after_restart(update) is None
    world.begin(digest=b"\10" * 32)  # of another update
    assert world.target("flashed").after_restart(update) is None


def test_an_agent_that_was_flashed_in_the_middle_ends_the_trial(world):
    world.begin()
    verdict = world.target("flashed").after_restart(Update(Phase.TRIAL, manifest=b"\7" * 32))
    assert (verdict.reason, verdict.detail) == (Reason.AGENT_FAILED, "flashed was flashed meanwhile")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"manifest": 3}', b'{"manifest": "x"}', b"\xff"])
def test_a_damaged_note_of_what_is_expected_is_none(world, damage):
    world.begin()
    (world.base / "trial.expects").write_bytes(damage)
    assert on_trial(world).launcher.expectation is None
    assert not on_trial(world).is_on_trial(Update(Phase.TRIAL, manifest=b"\7" * 32))


def test_the_floors_of_an_agent_are_no_modules(world):
    envelope = signed(manifest(sequence=5))
    target = world.target("old")
    keys = frozenset(SIGNER.root().roles["release"].keys)
    assert target.verify(envelope).manifest == manifest(sequence=5)
    world.store.lift_floor(floors.SEQUENCE + "agent", keys, 9, b"")  # of a module that is called so
    assert target.verify(envelope)
    world.store.lift_floor(floors.SEQUENCE + "@agent", keys, 5, b"")
    with pytest.raises(Refused, match="sequence-too-old"):
        target.verify(envelope)


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
    world.board.steady = frozenset({"lamp", "late"})

    async def warm(*_):
        world.board.steady = frozenset({"lamp"})

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
    end = time.monotonic() + 10
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


def test_the_tarball_of_an_update_under_way_is_kept_and_no_longer(world):
    async def check():
        envelope = signed(manifest())
        world.store.add_envelope(envelope)
        update = Update(Phase.TRIAL, b"d" * 16, sha256(envelope))
        mine = OwnAgent("agent", on_trial(world), world.hooks, update)
        assert mine.needs(crowded=True).blobs == {manifest().digest}
        assert sha256(envelope) in mine.needs(crowded=True).manifests
        mine.runner.update = replace(update, phase=Phase.FAILED, reason=Reason.AGENT_ON_TRIAL)
        assert mine.needs(crowded=False).blobs == {manifest().digest}
        assert not mine.needs(crowded=True).blobs
        mine.runner.update = replace(update, phase=Phase.CONFIRMED)
        assert not mine.needs(crowded=False).blobs

    asyncio.run(check())


@pytest.mark.parametrize("ends", ["passes", "fails", "power cut"])
def test_a_trial_crosses_the_restart(world, ends):
    """The update goes on in the journal where another process has left it."""
    envelope = signed(manifest())
    digest = sha256(envelope)
    world.store.add_envelope(envelope)
    world.begin(digest=digest)
    world.board.running = frozenset(("lamp",))
    target = on_trial(world) if ends == "passes" else world.target("old")
    if ends == "fails":
        (world.base / "trial.failed").write_text("new\nit ended with status 1\n")

    async def go_on():
        mine = OwnAgent("agent", target, world.hooks, Update(Phase.TRIAL, b"d" * 16, digest))
        running = asyncio.ensure_future(mine.runner.run())
        mine.runner._fetch_manifest = lambda *_: asyncio.sleep(1000)
        await mine.runner.resume()
        for _ in range(60):
            await asyncio.sleep(0.05)
            world.confirm_when_passed()
            if mine.update.ended or mine.update.resumptions:
                break
        running.cancel()
        await asyncio.gather(running, mine.runner._task or asyncio.sleep(0), return_exceptions=True) if ends == "passes" else None
        if mine.runner._task is not None:
            mine.runner._task.cancel()
        return mine.update

    update = asyncio.run(go_on())
    keys = frozenset(SIGNER.root().roles["release"].keys)
    floor = world.store.floor(floors.SEQUENCE + "@agent", keys).value
    if ends == "passes":
        assert (update.phase, floor) == (Phase.CONFIRMED, 5)
        assert world.store.slots("agent")["confirmed"].envelope == digest
    elif ends == "fails":
        assert (update.phase, update.reason, floor) == (Phase.ROLLED_BACK, Reason.AGENT_FAILED, 0)
    else:
        assert (update.phase, update.resumptions, floor) == (Phase.OFFERED, 1, 0)


def test_the_launcher_is_taken_the_place_of_only_by_who_has_its_place(world, monkeypatch):
    taken = []
    monkeypatch.setattr(os, "execv", lambda *command: taken.append(command))
    world.launcher("new").hand_over()
    assert not taken
    world.launcher("new", WAMR_OTA_PARENT=str(os.getpid())).hand_over()
    assert taken == [("/bin/sh", ["sh", "/opt/wamr-ota/launch", "/etc/agent.toml"])]


def test_a_step_of_a_newer_agent_that_refuses_by_a_reason_unknown_here_is_a_refusal():
    answer = b'{"good": false, "reason": "of-a-later-version", "why": "words"}'
    with pytest.raises(Refused) as caught:
        launchers._answer(answer, "nothing said")
    assert (caught.value.reason, caught.value.detail) == (Reason.AGENT_FAILED, "of-a-later-version: words")

"""How an agent that was updated confirms itself on trial, and what the one before it finds out."""

import asyncio
import contextlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from boards.onboard import versions
from device_agent.instance.states import Phase
from device_agent.instance.updates import Update
from device_agent.node.agent_target import TIMED_OUT
from device_agent.node.launcher import Launcher, host
from device_agent.node.own_agent import OwnAgent
from device_agent.storage import floors
from ota.formats.agent import Platform
from ota.formats.cbor import sha256
from ota.formats.reasons import Reason, Refused
from tests.support.agent_world import ENVIRONMENT, SIGNER, World, manifest, on_trial, release, signed

ONLINE = "it waited for a connection to the broker"


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.store.close()


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


def test_a_new_agent_waits_for_settings_that_an_agent_can_start_with(world):
    target, good = world.target("old"), world.config.read_text()
    for bad in (good + "[policy]\ninstance = 3\n", "[device", ""):
        world.config.write_text(bad)
        why = target.why_wait()
        assert why.reason is Reason.SETTINGS_INVALID
        assert str(world.config) in why.detail
    world.config.unlink()
    assert target.why_wait().reason is Reason.SETTINGS_INVALID
    world.config.write_text(good)
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

"""Sets on a real board: all members change or none, whatever fails and whenever the power goes."""

import os
import random
import time

import pytest

from ota.formats.window import Window
from ota.operator.publish import artifacts
from tests.support.lab import DEVICE, Lab, open_lab
from tests.support.rumqttd import Rumqttd
from tests.support.sets import confirmed, deploy_together, members, wait_all

NAMES = ("lamp", "meter", "pump")
POISON = "unreachable"


@pytest.fixture
def lab(tmp_path):
    """A board that runs version 1 of all members."""
    lab = open_lab(tmp_path, retry=0.5)
    try:
        lab.start()
        wait_all(lab, NAMES, deploy_together(lab, members(lab, NAMES, 1)), "confirmed")
        yield lab
    finally:
        lab.close()


def versions(lab: Lab) -> list[str]:
    return [lab.of(name).running.version for name in NAMES]


def test_a_set_is_confirmed_as_a_whole(lab):
    wait_all(lab, NAMES, deploy_together(lab, members(lab, NAMES, 2)), "confirmed")
    for name in NAMES:
        lab.running("2.0.0", name)
    lab.kill()
    lab.start()
    assert [lab.running("2.0.0", name).running.slot for name in NAMES] == ["confirmed"] * len(NAMES)


def test_a_member_that_traps_takes_all_back_and_is_named(lab):
    updates = members(lab, NAMES, 2) | members(lab, ("meter",), 2, before=POISON)
    deployment = deploy_together(lab, updates)
    assert wait_all(lab, NAMES, deployment, "rolled-back", "failed") == {
        "lamp": "rolled-back",
        "meter": "rolled-back",
        "pump": "failed",
    }
    assert lab.of("meter").attempt.reason == "trapped"
    for name in ("lamp", "pump"):
        assert lab.of(name).attempt.reason == "set-failed"
        assert "meter" in lab.of(name).attempt.detail
    for name in NAMES:
        lab.running("1.0.0", name)


def test_a_member_for_another_class_of_boards_ends_the_set_before_anything_changes(lab):
    updates = members(lab, NAMES, 2)
    updates["meter"] = lab.signer.update(b"\0asm", name="meter", version="2.0.0", board="another")
    wait_all(lab, NAMES, deploy_together(lab, updates), "rejected", "failed")
    assert lab.of("meter").attempt.reason == "class-mismatch"
    assert "class-mismatch" in lab.of("lamp").attempt.detail
    assert [lab.of(name).counters["swaps"] for name in NAMES] == [1, 1, 1]
    assert versions(lab) == ["1.0.0"] * 3


def test_a_member_whose_bytes_come_late_keeps_the_others_waiting_and_the_set_goes_on(lab):
    lab.settings["fetch_timeout"] = 1
    lab.kill()
    lab.start()
    updates = members(lab, NAMES, 2)
    late = updates["meter"]
    for each in (updates["lamp"], updates["pump"]):
        lab.put(artifacts(each))
    deployment, entries = os.urandom(16), {}
    for name, each in updates.items():
        entries[name] = lab.signer.entry(each.digest, now_s=int(time.time()), deployment_id=deployment, together=NAMES)
    lab.enter(entries)
    lab.wait_state("failed", deployment=deployment, instance="meter")
    lab.wait_state("staged", deployment=deployment, instance="lamp")
    lab.observer.wait(lambda: "meter" in lab.of("lamp").attempt.detail, lab.patience_s, "what the lamp waits for")
    lab.put(artifacts(late))
    wait_all(lab, NAMES, deployment, "confirmed")


def test_a_set_removes_one_instance_with_the_others_changed(lab):
    updates = members(lab, NAMES, 2)
    deployment = deploy_together(lab, {**updates, "pump": None})
    wait_all(lab, NAMES, deployment, "confirmed")
    lab.observer.wait(lambda: lab.of("pump").running.version == "", lab.patience_s, "the pump's module gone")
    lab.kill()
    assert b"" in confirmed(lab, NAMES)
    lab.start()
    lab.running("2.0.0", "lamp")


def test_a_set_that_fails_keeps_the_instance_that_was_to_be_removed(lab):
    updates = members(lab, NAMES, 2, before=POISON)
    deployment = deploy_together(lab, {**updates, "lamp": None})
    wait_all(lab, NAMES, deployment, "rolled-back", "failed")
    assert [lab.running("1.0.0", name).running.slot for name in NAMES] == ["confirmed"] * 3


def test_a_member_that_runs_the_wanted_release_already_counts_as_passed(lab):
    first = members(lab, ("lamp",), 2)
    lab.entries[""].clear()  # the set of before
    lab.wait_state("confirmed", deployment=lab.deploy(first["lamp"], "lamp"), instance="lamp")
    wait_all(lab, NAMES, deploy_together(lab, first | members(lab, ("meter", "pump"), 2)), "confirmed")
    assert lab.of("lamp").counters["swaps"] == 2


def test_a_set_of_which_a_device_has_a_member_of_its_own_is_held_back_until_it_is_whole(lab):
    lab.settings["extra"] += "[clock]\ntrusted = true\n"
    lab.kill()
    lab.start()
    own = members(lab, ("meter",), 3)["meter"]  # of a lower sequence than the set's
    deployment = deploy_together(lab, members(lab, NAMES, 4), window=later())
    wait_all(lab, NAMES, deployment, "staged")
    lab.put(artifacts(own))
    lab.enter({"meter": lab.signer.entry(own.digest, now_s=int(time.time()))}, device=DEVICE)
    lab.running("3.0.0", "meter")
    for name in ("lamp", "pump"):
        assert lab.wait_state("failed", deployment=deployment, instance=name).attempt.reason == "set-incomplete"
    lab.entries[DEVICE].clear()
    lab.enter({}, device=DEVICE)
    wait_all(lab, NAMES, deployment, "staged")


def later() -> Window:
    """It opens in half a day."""
    time_of_day = time.gmtime(time.time() + 12 * 3600)
    return Window(frozenset(range(7)), time_of_day.tm_hour * 60, 60, utc=True)


def test_a_set_waits_for_its_window_with_all_bytes_on_disk(lab):
    lab.settings["extra"] += "[clock]\ntrusted = true\n"
    lab.kill()
    lab.start()
    updates = members(lab, NAMES, 2)
    deployment = deploy_together(lab, updates, window=later())
    wait_all(lab, NAMES, deployment, "staged")
    lab.observer.wait(
        lambda: all("window" in lab.of(name).attempt.detail for name in NAMES), lab.patience_s, "what the set waits for"
    )
    assert versions(lab) == ["1.0.0"] * 3
    now = {"deployment_id": deployment, "now_s": int(time.time()), "together": NAMES}
    lab.enter({name: lab.signer.entry(each.digest, **now) for name, each in updates.items()})
    wait_all(lab, NAMES, deployment, "confirmed")


MANY = [pytest.param(100, number, marks=pytest.mark.full) for number in range(1, 6)]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("cuts", "number"), [(4, 0), *MANY])
def test_power_cuts_at_random_moments_of_a_set_end_in_all_new_or_all_old(tmp_path, cuts, number):
    seed = int(os.environ.get("WAMR_OTA_SEED", time.time_ns() % 2**32))
    chance = random.Random(seed)
    broker = Rumqttd(tmp_path)
    broker.start()
    lab = Lab(tmp_path, broker, trial=0.1, retry=0.5)
    done, ends = 0, []
    try:
        lab.start()
        old = members(lab, NAMES, 1)
        wait_all(lab, NAMES, deploy_together(lab, old), "confirmed")
        version = 1
        while done < cuts:
            version = version % 250 + 1
            new = members(lab, NAMES, version, padding=chance.choice((0, 20_000)))
            deployment = deploy_together(lab, new)
            for _ in range(chance.randint(1, 3)):
                time.sleep(chance.uniform(0, 1.2))
                lab.kill()
                assert confirmed(lab, NAMES) in (releases(old), releases(new))
                lab.start()
                done += 1
            found = wait_all(lab, NAMES, deployment, "confirmed", "rolled-back", "failed")
            ends.append(set(found.values()))
            if "confirmed" in ends[-1]:
                assert ends[-1] == {"confirmed"}, found
                old = new
        for name in NAMES:
            wait_all(lab, NAMES, deploy_together(lab, members(lab, NAMES, 251)), "confirmed")
            lab.running("251.0.0", name)
    except BaseException as error:
        error.add_note(f"seed {seed}, {done} cuts; the agent's log ends:\n{lab.log()[-3000:]}")
        raise
    finally:
        lab.close()
    assert done >= cuts
    assert {"confirmed"} in ends


def releases(updates) -> set[bytes]:
    return {name.encode() + b" " + each.digest for name, each in updates.items()}

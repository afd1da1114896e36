"""Windows on a real board: everything is downloaded before, and nothing changes outside of them."""

import os
import time
from pathlib import Path

import pytest

from device_agent.node.board_clock import RTC, SYNCHRONISED
from device_agent.storage.store import Store
from ota.author.build import Update
from ota.formats.window import Window
from ota.operator.publish import artifacts
from tests.support.lab import INSTANCE, Lab, echo, open_lab

EVERY_DAY = frozenset(range(7))
KNOWS_THE_TIME = SYNCHRONISED.exists() or any(RTC.glob("*/since_epoch"))


@pytest.fixture
def lab(tmp_path):
    """A board whose owner vouches for its clock, and that runs version 1."""
    lab = open_lab(tmp_path, extra="[clock]\ntrusted = true\n")
    try:
        lab.start()
        lab.install(1)
        yield lab
    finally:
        lab.close()


def later(minutes: int, **changes) -> Window:
    """One that opens in so many minutes, for an hour."""
    time_of_day = time.gmtime(time.time() + 60 * minutes)
    return Window(EVERY_DAY, time_of_day.tm_hour * 60 + time_of_day.tm_min, 60, utc=True, **changes)


def enter(lab: Lab, update: Update | None, deployment: bytes, **changes) -> None:
    """Publishes an entry of this deployment."""
    values = {"now_s": int(time.time()), "deployment_id": deployment} | changes
    lab.enter({INSTANCE: lab.signer.entry(update.digest if update is not None else b"", **values)})


def staged(lab: Lab, **changes) -> tuple[Update, bytes]:
    """An update that waits, with its deployment's identifier."""
    update, deployment = lab.signer.update(echo(2), name="echo", version="2.0.0"), os.urandom(16)
    lab.put(artifacts(update))
    enter(lab, update, deployment, **changes)
    lab.wait_state("staged", deployment=deployment)
    return update, deployment


def waits_for(lab: Lab, what: str) -> None:
    lab.observer.wait(lambda: what in lab.report.attempt.detail, lab.patience_s, f"a report that says {what}")


def test_an_update_waits_for_its_window_and_begins_at_once_when_that_is_taken_away(lab):
    update, deployment = staged(lab, window=later(600))
    waits_for(lab, "window")
    assert lab.report.attempt.done_chunks == lab.report.attempt.chunks > 0
    lab.still_answers(1)
    enter(lab, update, deployment)
    lab.wait_state("confirmed", deployment=deployment)
    lab.still_answers(2)


def test_an_update_that_waits_is_paused_and_goes_on_when_that_is_over(lab):
    update, deployment = staged(lab, window=later(600))
    enter(lab, update, deployment, paused=True)
    assert lab.wait_state("failed", deployment=deployment).attempt.reason == "deployment-stopped"
    enter(lab, update, deployment, paused=True, window=later(0))
    lab.still_answers(1)
    enter(lab, update, deployment, window=later(0))
    lab.wait_state("confirmed", deployment=deployment)


def test_a_removal_waits_for_its_window_too(lab):
    deployment = os.urandom(16)
    enter(lab, None, deployment, window=later(600))
    lab.wait_state("staged", deployment=deployment)
    lab.still_answers(1)
    enter(lab, None, deployment, window=later(0))
    lab.wait_state("confirmed", deployment=deployment)
    lab.observer.wait(lambda: lab.report.running.version == "", lab.patience_s, "no module")


@pytest.mark.skipif(KNOWS_THE_TIME, reason="this machine has a clock that an agent believes")
def test_a_board_that_does_not_know_the_time_waits_and_says_so_unless_the_entry_lets_it_begin(lab):
    lab.settings["extra"] = ""
    lab.kill()
    lab.start()
    update, deployment = staged(lab, window=later(0))
    waits_for(lab, "time to be known")
    enter(lab, update, deployment, window=later(0, without_clock=True))
    lab.wait_state("confirmed", deployment=deployment)


@pytest.mark.full
def test_a_window_opens_for_a_board_that_lost_its_power_and_its_network(lab):
    _, deployment = staged(lab, window=later(2 if time.gmtime().tm_sec > 30 else 1))
    lab.kill()
    lab.broker.stop()
    lab.start(wait=False)
    end = time.monotonic() + 150
    while "trial to confirmed" not in lab.log().split("update ")[-1]:
        assert time.monotonic() < end, lab.log()[-2000:]
        time.sleep(1)
    lab.kill()
    store = Store(Path(lab.folder / "store"))
    try:
        assert (store.last_update(INSTANCE).deployment, store.last_update(INSTANCE).phase.value) == (deployment, "confirmed")
    finally:
        store.close()

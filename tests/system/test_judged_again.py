"""What a board did not take as it was, and takes after its owner has changed something and the agent has started again."""

import os
import sqlite3
import time
import tty
from pathlib import Path

import pytest

from device_agent.instance.updates import MAX_RESUMPTIONS
from tests.support.keeper import KeeperLab, keeper
from tests.support.lab import echo
from tests.support.sets import deploy_together, wait_all

GRANT = "[policy.grants.clock]\n"
ASKED = {"messaging": {"subscribe": ["in/#"], "publish": ["out/#"]}, "clock": {}}


def restart(lab, extra: str = "") -> None:
    lab.kill()
    lab.settings["extra"] = extra
    lab.start()


def test_a_capability_that_is_granted_later_lets_the_same_deployment_in(lab):
    lab.start()
    deployment = lab.deploy(lab.signer.update(echo(2), capabilities=ASKED))
    assert lab.wait_state("rejected", deployment=deployment).attempt.reason == "capability-denied"
    restart(lab)
    assert lab.wait_state("rejected", deployment=deployment).attempt.reason == "capability-denied"
    restart(lab, GRANT)
    lab.wait_state("confirmed", deployment=deployment)


def test_an_update_that_the_board_went_down_in_too_often_is_tried_again_once_it_stays_up(lab):
    lab.start()
    lab.install(1)
    lab.settings |= {"trial": 10, "forget": 3}
    restart(lab)
    deployment = lab.deploy(lab.signer.update(echo(2), name="echo", version="2.0.0"))
    for resumptions in range(MAX_RESUMPTIONS + 1):
        wait_until_on_trial(lab, resumptions)
        lab.kill()
        lab.start(wait=False)
    report = lab.wait_state("rolled-back", deployment=deployment)
    assert report.attempt.reason == "trial-interrupted"
    lab.wait_state("confirmed", deployment=deployment)


def wait_until_on_trial(lab, resumptions: int) -> None:
    end = time.monotonic() + lab.patience_s
    while time.monotonic() < end:
        with sqlite3.connect(f"file:{lab.folder}/store/agent.sqlite?mode=ro", uri=True) as database:
            (found,) = database.execute("select phase, resumptions from journal order by id desc limit 1").fetchall()
        database.close()
        if found == ("trial", resumptions):
            return
        time.sleep(0.05)
    raise AssertionError(f"it is {found}, and was to be on trial after {resumptions} restarts")


@pytest.fixture
def port():
    """The name of a serial port that is not there yet."""
    path = Path(f"/dev/shm/wamr-ota-port-{os.getpid()}")
    yield path
    path.unlink(missing_ok=True)


def test_a_device_that_is_plugged_in_later_lets_the_same_deployment_in(lab, port):
    board = KeeperLab(lab, {"serial": {"ports": [f"{port}:115200"]}})
    lab.start()
    deployment = board.deploy(1, wasm=keeper(1, port=str(port)))
    assert lab.wait_state("failed", deployment=deployment).attempt.reason == "device-unavailable"
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    port.symlink_to(os.ttyname(theirs))
    lab.kill()
    lab.start()
    lab.wait_state("confirmed", deployment=deployment)
    for each in (ours, theirs):
        os.close(each)


def test_a_set_of_which_one_was_not_granted_comes_in_whole_once_it_is(lab):
    lab.start()
    updates = {
        "left": lab.signer.update(echo(1), name="left"),
        "right": lab.signer.update(echo(1), name="right", capabilities=ASKED),
    }
    deployment = deploy_together(lab, updates)
    assert wait_all(lab, tuple(updates), deployment, "failed", "rejected") == {"left": "failed", "right": "rejected"}
    restart(lab, GRANT)
    wait_all(lab, tuple(updates), deployment, "confirmed")

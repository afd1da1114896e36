"""What modules keep through updates, rollbacks, steps down and up; what stops an update; what a trial has seen."""

import itertools
import os
import signal
import sqlite3
import time

import pytest

from ota.formats import topics
from ota.formats.module import Limits
from tests.support.keeper import POISONED, KeeperLab, keeper
from tests.support.lab import GROUP, PATIENCE_S

COUNTED = Limits(memory_pages=4, deadline_ms=2000, trial_events=3)


@pytest.fixture
def board(lab):
    return KeeperLab(lab)


def test_an_update_takes_state_and_keys_over(board):
    board.lab.start()
    board.install(1)
    assert board.ask(b"s") == (1, 1, 1)
    board.install(2)
    assert board.ask() == (2, 2, 1)


def test_a_fix_for_a_module_that_does_not_start_any_more_gets_its_state_and_keys(board):
    board.lab.start()
    board.install(1, wasm=keeper(1, init=POISONED))
    assert board.ask() == (1, 1, 0)
    assert board.ask(b"x") == (1, 2, ord("x"))
    os.kill(board.lab.agent.pid, signal.SIGTERM)  # the state is kept in good order
    board.lab.agent.wait(PATIENCE_S)
    board.lab.start()
    board.slot("none")
    board.install(2)
    assert board.ask() == (2, 3, ord("x"))


def test_a_rollback_leaves_what_the_old_version_kept(board):
    board.lab.start()
    board.install(1)
    assert board.ask(b"s") == (1, 1, 1)
    deployment = board.deploy(2, limits=Limits(memory_pages=4, deadline_ms=2000, trial_events=100))
    board.slot("trial")
    assert board.ask(b"s") == (2, 2, 2)
    board.tell(b"t")
    board.lab.wait_state("rolled-back", deployment=deployment)
    version, _, key = board.ask()
    assert (version, key) == (1, 1)
    board.lab.kill()
    board.lab.start()
    version, _, key = board.ask()
    assert (version, key) == (1, 1)
    board.install(3)
    assert board.ask()[2] == 1


def test_a_step_down_finds_what_the_previous_version_kept_and_the_way_up_what_the_newer_one_did(board):
    board.lab.settings["retry"] = 0.5
    board.lab.start()
    board.install(1)
    assert board.ask(b"s") == (1, 1, 1)
    update = board.update(2)
    board.lab.wait_state("confirmed", deployment=board.lab.deploy(update))
    assert board.ask(b"s") == (2, 2, 2)
    chunks = [(topics.blob_chunk(update.index.digest, number), b"") for number in range(len(update.index.digests))]
    board.lab.put(chunks)  # the broker has lost them
    os.kill(board.lab.agent.pid, signal.SIGTERM)
    board.lab.agent.wait(PATIENCE_S)
    board.damage(update.blob)
    board.lab.start()
    board.slot("previous")
    board.lab.observer.wait(lambda: board.lab.report.problems, board.lab.patience_s, "the problem in the board's report")
    (problem,) = board.lab.report.problems
    assert problem.startswith("blob-digest-mismatch: ")
    assert "the confirmed module" in problem
    assert board.ask()[::2] == (1, 1)
    board.lab.put([(topic, update.blob[1024 * n : 1024 * (n + 1)]) for n, (topic, _) in enumerate(chunks)])
    board.slot("confirmed")
    board.lab.observer.wait(lambda: board.lab.report.problems == (), board.lab.patience_s, "a report without problems")
    assert board.ask() == (2, 3, 2)


def test_the_confirmed_release_offered_again_is_confirmed_for_its_new_deployment(board):
    board.lab.start()
    update = board.update(1)
    board.lab.wait_state("confirmed", deployment=board.lab.deploy(update))
    swaps = board.lab.report.counters["swaps"]
    report = board.lab.wait_state("confirmed", deployment=board.lab.deploy(update))
    assert (report.attempt.reason, report.counters["swaps"]) == ("", swaps)
    older = board.update(2, sequence=0)
    report = board.lab.wait_state("rejected", deployment=board.lab.deploy(older))
    assert (report.attempt.reason, report.attempt.detail) == ("sequence-too-old", "sequence 0 is not above 1, which is committed")
    board.lab.wait_state("confirmed", deployment=board.lab.deploy(update))
    board.lab.kill()
    board.lab.start()
    assert board.lab.report.attempt.state == "confirmed"


def test_a_paused_deployment_stops_its_transfer_and_goes_on_with_the_same_id(board):
    lab = board.lab
    lab.settings["fetch_timeout"] = 60
    lab.start()
    board.install(1)
    update = board.update(2)
    missing = topics.blob_chunk(update.index.digest, 0)
    deployment = lab.deploy(update, leave_out=(missing,))
    lab.wait_state("fetching", deployment=deployment)
    lab.put([(topics.desired(GROUP), paused(lab, update, deployment, paused=True))])
    assert lab.wait_state("failed", deployment=deployment).attempt.reason == "deployment-stopped"
    lab.kill()
    lab.start()
    lab.put([(missing, update.blob[:1024])])
    lab.observer.wait(lambda: lab.report.counters.get("swaps", 0) == 0, lab.patience_s, "a report of the new start")
    assert lab.report.attempt.state == "failed"
    assert board.ask()[0] == 1
    lab.put([(topics.desired(GROUP), paused(lab, update, deployment, paused=False))])
    lab.wait_state("confirmed", deployment=deployment)
    assert board.ask()[0] == 2


def paused(lab, update, deployment, **changes) -> bytes:
    return lab.signer.deployment(update.digest, now_s=int(time.time()), deployment_id=deployment, **changes)[1]


def test_power_cuts_and_stops_are_not_held_against_a_confirmed_module(board):
    board.lab.start()
    board.install(1)
    board.install(2)
    board.lab.settings["trial"] = 60
    board.lab.kill()
    for number in range(5):
        board.lab.start()
        assert board.slot("confirmed").running.version == "2.0.0"
        if number % 2:
            board.lab.kill()
        else:
            os.kill(board.lab.agent.pid, signal.SIGTERM)
            board.lab.agent.wait(PATIENCE_S)
    board.lab.start()
    assert board.ask()[0] == 2


def step_down(board) -> None:
    """Makes the confirmed module fail three times, with two events that are each taken away after two tries: none waits then."""
    for number in (1, 2):
        board.tell(b"t")
        wait_dropped(board, number)
    board.slot("previous")


def wait_dropped(board, number: int) -> None:
    lab = board.lab
    lab.observer.wait(lambda: lab.report.counters.get("events_dropped", 0) >= number, lab.patience_s, f"dropped event {number}")


def test_a_module_that_was_stepped_down_from_gets_another_try_after_a_time(board):
    board.lab.settings |= {"forget": 4}
    board.lab.start()
    board.install(1)
    board.install(2)
    board.lab.settings["trial"] = 3
    board.lab.kill()
    board.lab.start()
    step_down(board)
    assert board.ask()[0] == 1
    board.slot("confirmed")
    assert board.ask()[0] == 2


def test_a_module_that_was_stepped_down_from_runs_again_when_the_operator_wants_it(board):
    board.lab.start()
    board.install(1)
    update = board.update(2)
    board.lab.wait_state("confirmed", deployment=board.lab.deploy(update))
    board.lab.settings["trial"] = 3
    board.lab.kill()
    board.lab.start()
    step_down(board)
    board.lab.deploy(update)
    board.slot("confirmed")
    assert board.ask()[0] == 2


def test_a_trial_without_an_event_says_so(board):
    board.lab.start()
    report = board.install(1)
    assert report.attempt.events == 0
    assert report.attempt.detail == "no event came during the trial: how the module handles one was not seen"


def test_a_trial_lasts_until_its_module_has_handled_what_its_manifest_asks_for(board):
    board.lab.start()
    deployment = board.deploy(1, limits=COUNTED)
    board.slot("trial")
    for _ in range(2):
        board.ask()
    assert board.lab.wait_state("trial", "confirmed", deployment=deployment).attempt.state == "trial"
    board.ask()
    report = board.lab.wait_state("confirmed", deployment=deployment)
    assert (report.attempt.events, report.attempt.detail) == (3, "")


def test_power_cuts_in_a_long_trial_are_not_held_against_its_module(board):
    """More of them than an update may have, each after the trial's time; it waits for events all the while."""
    lab = board.lab
    lab.start()
    deployment = board.deploy(1, limits=COUNTED)
    for _ in range(5):
        board.slot("trial")
        end = time.monotonic() + PATIENCE_S
        while journal_end(lab) != ("trial", 0) and time.monotonic() < end:
            time.sleep(0.05)
        assert journal_end(lab) == ("trial", 0)
        lab.kill()
        lab.start()
    board.slot("trial")
    for _ in range(3):
        board.ask()
    lab.wait_state("confirmed", deployment=deployment)


def journal_end(lab) -> tuple[str, int]:
    """Phase of the update and restarts that count against it, on disk."""
    with sqlite3.connect(f"file:{lab.folder}/store/agent.sqlite?mode=ro", uri=True) as connection:
        row = connection.execute("select phase, resumptions from journal order by id desc limit 1").fetchone()
    connection.close()
    return row


def test_a_trial_whose_events_do_not_come_is_rolled_back(board):
    board.lab.settings["trial_max"] = 1.5
    board.lab.start()
    board.install(1)
    report = board.lab.wait_state("rolled-back", deployment=board.deploy(2, limits=COUNTED))
    assert report.attempt.reason == "trial-silent"
    assert report.attempt.detail == "0 events were handled in 2 s, the manifest asks for 3"
    assert board.ask()[0] == 1


def test_a_stop_under_load_loses_and_repeats_no_event(lab):
    board = KeeperLab(lab)
    board.capabilities["messaging"] = {"subscribe": ["in/#", "sys/#"], "publish": ["out/#"]}
    lab.settings["proc"] = 0.01
    lab.start()
    board.install(1)
    for _ in range(2):
        time.sleep(0.5)
        os.kill(lab.agent.pid, signal.SIGTERM)
        lab.agent.wait(PATIENCE_S)
        lab.start()
    board.ask()
    counts = [each.payload[1] for _, each in sorted(lab.observer.messages.items()) if each.topic == "out/kept"]
    assert {(after - before) % 256 for before, after in itertools.pairwise(counts)} == {1}

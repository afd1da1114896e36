"""A new configuration of a module that runs: a swap to itself that keeps what the module keeps, and goes back where it fails."""

import os
import time

import pytest

from device_agent.storage.store import Store, Version
from ota.operator.publish import artifacts
from tests.support.keeper import KeeperLab, keeper
from tests.support.lab import INSTANCE, open_lab

# The configuration is "mode=…" by then; its first letter becomes the module's key, "b" is refused, "t" traps.
ON_CONFIGURATION = """(if (local.get 1) (then
    (i32.store8 (i32.const 210) (i32.load8_u offset=5 (local.get 0)))
    (if (i32.eq (i32.load8_u (i32.const 210)) (i32.const 98)) (then (return (i32.const 16))))
    (if (i32.eq (i32.load8_u (i32.const 210)) (i32.const 116)) (then unreachable))
    (call $set (i32.const 112) (i32.const 1) (i32.const 210) (i32.const 1) (i32.const 220))))"""


@pytest.fixture
def board(tmp_path):
    """A board with a module that has handled two events under the configuration mode=good."""
    lab = open_lab(tmp_path)
    keepers = KeeperLab(lab)
    try:
        lab.start()
        keepers.module = keepers.update(1, wasm=keeper(1, init=ON_CONFIGURATION))
        lab.wait_state("confirmed", deployment=lab.deploy(keepers.module, config={"mode": "good"}))
        assert keepers.ask() == (1, 1, ord("g"))
        assert keepers.ask() == (1, 2, ord("g"))
        yield keepers
    finally:
        lab.close()


def configure(board: KeeperLab, config: dict[str, str]) -> bytes:
    """Changes nothing but the configuration; returns the deployment's identifier."""
    deployment = os.urandom(16)
    values = {"now_s": int(time.time()), "deployment_id": deployment, "config": config}
    board.lab.enter({INSTANCE: board.lab.signer.entry(board.module.digest, **values)})
    return deployment


def test_a_new_configuration_reaches_the_module_that_keeps_its_state(board):
    lab = board.lab
    swaps, before = lab.report.counters["swaps"], lab.report.running
    lab.wait_state("confirmed", deployment=configure(board, {"mode": "other"}))
    assert board.ask() == (1, 3, ord("o"))
    assert lab.report.counters["swaps"] == swaps + 1
    assert (lab.report.running.manifest, lab.report.running.slot) == (before.manifest, "confirmed")
    assert lab.report.running.config != before.config
    lab.kill()
    lab.start()
    assert board.ask()[2] == ord("o")


@pytest.mark.parametrize(("mode", "reason"), [("bad", "start-failed"), ("trap", "trapped")])
def test_a_module_that_fails_on_a_configuration_goes_back_to_the_old_one_with_its_state(board, mode, reason):
    lab = board.lab
    before = lab.report.running
    assert lab.wait_state("failed", "rolled-back", deployment=configure(board, {"mode": mode})).attempt.reason == reason
    assert board.ask() == (1, 3, ord("g"))
    lab.observer.wait(lambda: lab.report.running == before, lab.patience_s, "the old configuration")
    lab.kill()
    lab.start()
    assert board.ask()[2] == ord("g")


def test_going_back_to_a_configuration_is_an_update_like_any_other(board):
    for mode in ("other", "good", "other"):
        board.lab.wait_state("confirmed", deployment=configure(board, {"mode": mode}))
        assert board.ask()[2] == ord(mode[0])


def test_the_configuration_that_is_there_already_changes_nothing(board):
    lab = board.lab
    swaps = lab.report.counters["swaps"]
    lab.wait_state("confirmed", deployment=configure(board, {"mode": "good"}))
    assert board.ask() == (1, 3, ord("g"))
    assert lab.report.counters["swaps"] == swaps


def test_a_version_and_a_configuration_travel_as_one(board):
    lab = board.lab
    new = board.update(2, wasm=keeper(2, init=ON_CONFIGURATION))
    lab.wait_state("failed", "rolled-back", deployment=lab.deploy(new, config={"mode": "bad"}))
    assert board.ask() == (1, 3, ord("g"))
    lab.wait_state("confirmed", deployment=lab.deploy(new, config={"mode": "other"}))
    assert board.ask() == (2, 4, ord("o"))


def test_a_configuration_of_before_that_is_tried_in_vain_leaves_what_the_module_had_kept_with_it(board):
    """It is what the previous slot starts with."""
    lab = board.lab
    lab.wait_state("confirmed", deployment=configure(board, {"mode": "other"}))
    assert board.ask() == (1, 3, ord("o"))
    fails = lab.signer.update(b"\0asm", name="other")
    lab.put(artifacts(fails))
    deployment, together = os.urandom(16), (INSTANCE, "other")
    values = {"now_s": int(time.time()), "deployment_id": deployment, "together": together}
    good = lab.signer.entry(board.module.digest, config={"mode": "good"}, **values)
    lab.enter({INSTANCE: good, "other": lab.signer.entry(fails.digest, **values)})
    assert lab.wait_state("rolled-back", deployment=deployment).attempt.reason == "set-failed"
    assert board.ask() == (1, 4, ord("o"))
    lab.stop()
    store = Store(lab.folder / "store")
    previous = store.slots(INSTANCE)["previous"]
    version = Version(INSTANCE, previous.module, previous.release)
    assert (previous.settings, store.state(version), store.keys(version)) == ({"mode": "good"}, b"\2\0\0\0", {"k": b"g"})
    store.close()

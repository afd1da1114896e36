"""The whole way with a real broker and a real agent: what must work, and each attack with its reason, the old module still
answering."""

import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from device_agent.instance.crash_loop import MAX_RESTARTS
from device_agent.instance.supervisor import MAX_TRIES
from ota.author.build import sign
from ota.formats import topics
from ota.formats.chunks import ChunkIndex
from ota.formats.manifest import MANIFEST_LIMIT_BYTES, vendor_id
from ota.formats.module import Limits
from ota.formats.trust import ROOT_TYPE
from ota.keyring import SigningKey, sign_document
from ota.operator.publish import artifacts
from tests.support.lab import GROUP, PATIENCE_S, Lab, Mosquitto, echo, open_lab
from tests.support.rumqttd import Rumqttd


@pytest.fixture
def board(lab):
    """A board that runs version 1."""
    lab.start()
    lab.install(1)
    return lab


@pytest.mark.parametrize("kind", [pytest.param(Rumqttd, marks=pytest.mark.full), Mosquitto])
def test_the_main_job(tmp_path, kind):
    lab = open_lab(tmp_path, kind)
    try:
        lab.start()
        assert lab.install(1).running.slot in ("trial", "confirmed")
        lab.install(2, padding=100_000)
        lab.still_answers(2)
        faulty = lab.signer.update(echo(3, before="unreachable"), name="echo", version="3.0.0")
        report = lab.wait_state("rolled-back", deployment=lab.deploy(faulty))
        assert report.attempt.reason == "trapped"
        lab.running("2.0.0")
        lab.still_answers(2)
        counters = lab.report.counters
        assert counters["swaps"] == 3
        assert counters["rollbacks"] == 1
        numbers = sorted(lab.observer.messages)
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    finally:
        lab.close()


def test_a_board_goes_on_from_its_own_disk_with_no_network(tmp_path):
    lab = open_lab(tmp_path, Mosquitto)  # it hands an observer that is back after the board what was said meanwhile
    try:
        lab.start()
        lab.install(1)
        lab.still_answers(1)
        lab.kill()
        last = max(lab.observer.messages)
        lab.broker.stop()
        lab.start(wait=False)
        time.sleep(1)
        lab.broker.start()
        lab.observer.wait(lambda: max(lab.observer.messages) > last + 10, lab.patience_s, "what was kept while offline")
        assert lab.running("1.0.0").running.slot == "confirmed"
        numbers = sorted(lab.observer.messages)
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    finally:
        lab.close()


def refused(lab: Lab, update, reason: str, states=("rejected", "failed"), **changes) -> str:
    """Deploys what must be refused; afterwards version 1 still answers, and a good update still works."""
    report = lab.wait_state(*states, deployment=lab.deploy(update, **changes))
    assert report.attempt.reason == reason
    lab.running("1.0.0")
    lab.still_answers(1)
    return report.attempt.detail


def flip(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 0x20
    return bytes(changed)


def test_a_flipped_bit_in_a_manifest_is_refused(board):
    update = board.signer.update(echo(2))
    assert refused(board, replace(update, envelope=flip(update.envelope, len(update.envelope) - 100)), "signature-invalid")


def test_a_truncated_manifest_is_refused(board):
    update = board.signer.update(echo(2))
    assert refused(board, replace(update, envelope=update.envelope[:-20]), "malformed")


def test_an_oversized_manifest_is_refused(board):
    update = board.signer.update(echo(2))
    assert refused(board, replace(update, envelope=update.envelope + bytes(MANIFEST_LIMIT_BYTES)), "too-large")


def test_a_manifest_swapped_on_the_broker_is_refused_and_tried_again(board):
    good, other = board.signer.update(echo(2)), board.signer.update(echo(3))
    assert refused(board, good, "manifest-digest-mismatch", change={topics.manifest(good.digest): other.envelope})


def test_an_unsigned_manifest_is_refused(board):
    update = board.signer.update(echo(2))
    assert refused(board, sign(update.manifest, update.blob, update.index, []), "signature-missing")


def test_a_manifest_by_a_strangers_key_is_refused(board):
    update = board.signer.update(echo(2))
    assert refused(board, sign(update.manifest, update.blob, update.index, [SigningKey.generate()]), "signer-unknown")


def test_an_older_sequence_is_refused(board):
    assert refused(board, board.signer.update(echo(2), name="echo", sequence=1), "sequence-too-old")


def test_a_manifest_for_another_class_is_refused(board):
    assert refused(board, board.signer.update(echo(2), board="toaster"), "class-mismatch")


def test_another_vendors_manifest_is_refused(board):
    assert refused(board, board.signer.update(echo(2), vendor=vendor_id("other.example")), "vendor-mismatch")


def test_a_capability_that_the_board_does_not_grant_is_refused(board):
    update = board.signer.update(echo(2), capabilities={"messaging": {"publish": ["admin/#"]}, "clock": {}})
    assert refused(board, update, "capability-denied") == "the board does not grant: clock, messaging.publish admin/#"


def test_a_chunk_with_another_content_is_refused(board):
    update = board.signer.update(echo(2, padding=5000))
    topic = topics.blob_chunk(update.index.digest, 2)
    assert refused(board, update, "chunk-digest-mismatch", change={topic: bytes(1024)})


def test_an_oversized_chunk_is_refused(board):
    update = board.signer.update(echo(2, padding=5000))
    assert refused(board, update, "chunk-digest-mismatch", change={topics.blob_chunk(update.index.digest, 0): bytes(100_000)})


def test_a_missing_chunk_is_reported(board):
    update = board.signer.update(echo(2, padding=5000))
    assert refused(board, update, "chunk-missing", leave_out=(topics.blob_chunk(update.index.digest, 3),))


def test_another_index_is_refused(board):
    update = board.signer.update(echo(2, padding=5000))
    other = ChunkIndex.of(update.blob, 2048).to_bytes()
    assert refused(board, update, "index-mismatch", change={topics.blob_index(update.index.digest): other})


def test_a_missing_manifest_is_reported(board):
    update = board.signer.update(echo(2))
    assert refused(board, update, "manifest-missing", leave_out=(topics.manifest(update.digest),))


def test_bytes_that_are_no_module_are_refused(board):
    assert refused(board, board.signer.update(b"\0asm\1\0\0\0 and then nothing of sense"), "module-invalid")


def test_an_undeclared_import_is_refused(board):
    assert refused(board, board.signer.update(echo(2), capabilities={"logging": {}}), "import-undeclared")


def test_a_module_that_traps_at_start_is_refused(board):
    from tests.support.wat import contract_module

    assert refused(board, board.signer.update(contract_module(more="(func $s unreachable) (start $s)")), "trapped")


def test_a_module_that_hangs_on_trial_is_rolled_back(board):
    update = board.signer.update(echo(2, before="(loop br 0)"), limits=Limits(memory_pages=4, deadline_ms=300))
    assert refused(board, update, "deadline-exceeded", states=("rolled-back",))


def test_a_module_that_is_not_well_is_rolled_back(board):
    from tests.support.wat import contract_module

    ill = contract_module(more='(func (export "device:module/health@0.1.0#check") (result i32) i32.const 16)')
    assert refused(board, board.signer.update(ill), "unhealthy", states=("rolled-back",)) == "no"


def test_a_worker_that_is_killed_on_trial_is_rolled_back(board):
    board.settings["trial"] = 5
    board.kill()
    board.start()
    deployment = board.deploy(board.signer.update(echo(2)))
    board.wait_state("trial", deployment=deployment)
    board.observer.wait(lambda: board.report.running.slot == "trial", board.patience_s, "the new module running on trial")
    victims = workers(board)
    os.kill(max(victims), signal.SIGKILL)
    report = board.wait_state("rolled-back", deployment=deployment)
    assert report.attempt.reason == "crashed"
    board.still_answers(1)


def workers(lab: Lab) -> list[int]:
    """The worker processes of the agent: those that hold a socket and were forked from the clean process."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getsid(int(entry.name)) == lab.agent.pid:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if parent != lab.agent.pid and int(entry.name) != lab.agent.pid:
                    found.append(int(entry.name))
        except (OSError, ProcessLookupError):
            continue
    return sorted(found)


def only_worker(lab: Lab) -> int:
    """The one worker, once it is there."""
    end = time.monotonic() + PATIENCE_S
    while len(found := workers(lab)) != 1 and time.monotonic() < end:
        time.sleep(0.02)
    (worker,) = found
    return worker


def test_a_confirmed_module_whose_worker_is_killed_is_started_again(board):
    for count in (1, 2):
        os.kill(only_worker(board), signal.SIGKILL)
        board.observer.wait(
            lambda count=count: board.report.counters.get("restarts", 0) == count,
            board.patience_s,
            f"{count} restarts in the report",
        )
        board.still_answers(1)
    assert board.report.running.version == "1.0.0"


def test_a_deployment_of_an_older_epoch_is_refused(board):
    update = board.signer.update(echo(2))
    _, replayed = board.signer.deployment(update.digest, now_s=int(time.time()))
    board.install(3)
    board.put([(topics.desired(GROUP), replayed)])
    board.wait_refusal("deployment-replayed")
    board.still_answers(3)


def test_an_expired_deployment_is_refused(board):
    board.deploy(board.signer.update(echo(2)), now_s=int(time.time()) - 5000)
    assert board.wait_state("rejected").attempt.reason == "deployment-expired"
    board.still_answers(1)


def test_a_deployment_by_a_strangers_key_is_refused(board):
    board.deploy(board.signer.update(echo(2)), keys=[SigningKey.generate()])
    board.wait_refusal("signer-unknown")
    board.still_answers(1)


def test_garbage_as_a_deployment_is_refused(board):
    board.put([(topics.desired(GROUP), os.urandom(300))])
    board.wait_refusal("malformed")
    board.still_answers(1)


def test_a_clock_in_1970_waits_and_says_so(lab):
    """The deployment claims to be issued in the far future: to the board that is the same as a clock that was never set."""
    lab.start()
    lab.install(1)
    lab.deploy(lab.signer.update(echo(2)), now_s=int(time.time()) + 50 * 365 * 86_400)
    assert lab.wait_state("rejected").attempt.reason == "clock-not-set"
    lab.still_answers(1)


def test_a_full_disk_is_reported(tmp_path):
    lab = open_lab(tmp_path)
    try:
        lab.start()
        lab.install(1)
        lab.kill()
        lab.settings["free_bytes"] = 9 * 10**11
        lab.start()
        detail = refused(lab, lab.signer.update(echo(2)), "disk-full")
        assert "bytes are free" in detail
    finally:
        lab.close()


def test_a_new_module_gets_the_topics_that_it_asks_for(board):
    capabilities = {"messaging": {"subscribe": ["in/two"], "publish": ["out/#"]}}
    update = board.signer.update(echo(2), name="echo", version="2.0.0", capabilities=capabilities)
    board.wait_state("confirmed", deployment=board.deploy(update))
    before = max(board.observer.messages)
    board.put([("in/other", b"not asked for"), ("sys/loadavg", b"a reading that the broker made up"), ("in/two", b"x")])
    board.observer.wait(lambda: max(board.observer.messages) > before, board.patience_s, "an answer to in/two")
    time.sleep(0.5)
    assert max(board.observer.messages) == before + 1


def test_a_board_outside_the_fraction_does_not_join(board):
    board.deploy(board.signer.update(echo(2)), fraction_ppm=0)
    time.sleep(1)
    assert board.running("1.0.0").attempt.state == "confirmed"


def test_a_failure_of_the_way_is_tried_again_until_it_works(lab):
    lab.settings["retry"] = 1
    lab.start()
    lab.install(1)
    update = lab.signer.update(echo(2, padding=5000), name="echo", version="2.0.0")
    missing = topics.blob_chunk(update.index.digest, 4)
    deployment = lab.deploy(update, leave_out=(missing,))
    assert lab.wait_state("failed", deployment=deployment).attempt.reason == "chunk-missing"
    lab.put([(missing, update.blob[4096:5120])])
    lab.wait_state("confirmed", deployment=deployment)


def test_a_broker_that_vanishes_in_mid_transfer_is_waited_for(tmp_path):
    lab = open_lab(tmp_path, Mosquitto)
    try:
        lab.start()
        lab.install(1)
        update = lab.signer.update(echo(2, padding=30_000), name="echo", version="2.0.0")
        missing = topics.blob_chunk(update.index.digest, 20)
        deployment = lab.deploy(update, leave_out=(missing,))
        lab.wait_state("fetching", deployment=deployment)
        time.sleep(1.2)
        lab.broker.stop()
        time.sleep(2)
        lab.broker.start()
        lab.put([(missing, update.blob[20 * 1024 : 21 * 1024])])
        lab.wait_state("confirmed", deployment=deployment)
        lab.still_answers(2)
        assert lab.report.attempt.done_chunks == lab.report.attempt.chunks > 20
    finally:
        lab.close()


def test_a_transfer_goes_on_after_a_restart_without_fetching_twice(lab):
    lab.settings["fetch_timeout"] = 30
    lab.start()
    lab.install(1)
    update = lab.signer.update(echo(2, padding=40_000), name="echo", version="2.0.0")
    missing = topics.blob_chunk(update.index.digest, 7)
    deployment = lab.deploy(update, leave_out=(missing,))
    parts = lab.folder / "store" / "blobs" / f"{update.index.digest.hex()}.part"
    lab.observer.wait(
        lambda: 0 < lab.report.attempt.done_chunks == lab.report.attempt.chunks - 1, lab.patience_s, "all chunks but one"
    )
    lab.kill()
    assert parts.exists()
    lab.put([(topics.blob_chunk(update.index.digest, number), b"gone") for number in range(3)])
    lab.put([(missing, update.blob[7 * 1024 : 8 * 1024])])
    lab.start()
    lab.wait_state("confirmed", deployment=deployment)
    lab.still_answers(2)


def test_the_board_steps_down_to_the_previous_and_then_to_the_factory_module(lab):
    factory = lab.signer.update(echo(9), name="echo", version="9.0.0", sequence=1)
    lab.signer.sequence = 1
    folder = factory.save(lab.folder / "factory")
    lab.settings["extra"] = f'[instances.module]\nfactory = "{folder}"\n'
    lab.start()
    lab.still_answers(9)
    assert lab.report.running.slot == "factory"
    updates = [lab.signer.update(echo(each), name="echo", version=f"{each}.0.0") for each in (1, 2)]
    for each in updates:
        lab.wait_state("confirmed", deployment=lab.deploy(each))
    lab.put([(topic, b"") for each in updates for topic, _ in artifacts(each)])  # the broker can mend nothing
    blobs = lab.folder / "store" / "blobs"
    lab.kill()
    damaged = [path for path in blobs.iterdir() if path.read_bytes() == echo(2)]
    damaged[0].write_bytes(b"bit rot")
    lab.start()
    lab.still_answers(1)
    assert lab.report.running.slot == "previous"
    lab.kill()
    shutil.rmtree(blobs)
    lab.start()
    lab.still_answers(9)
    assert lab.report.running.slot == "factory"


def test_a_module_that_fails_three_times_steps_down_without_a_network(lab):
    lab.settings["trial"] = 0.2
    lab.start()
    lab.install(1)
    lab.install(2, before="(if (i32.eq (i32.load8_u (local.get $topic)) (i32.const 105)) (then unreachable))")
    lab.settings["trial"] = 3
    lab.kill()
    lab.start()
    lab.still_answers(2)
    update_topic = "in/poison"
    for _ in range(8):
        lab.put([(update_topic, b"x")])
        time.sleep(0.2)
    lab.observer.wait(lambda: lab.report.running.slot == "previous", lab.patience_s, "the previous module")
    lab.still_answers(1)
    assert lab.report.running.version == "1.0.0"


def test_a_module_that_fails_again_and_again_steps_down_though_it_comes_up_each_time(lab):
    lab.settings["trial"] = 0.2
    lab.start()
    lab.install(1)
    lab.install(2, before="(if (i32.eq (i32.load8_u (local.get $topic)) (i32.const 105)) (then unreachable))")
    for restarts in range(0, MAX_RESTARTS, MAX_TRIES):
        assert lab.report.running.slot == "confirmed"
        has_proved_itself(lab)
        lab.put([("in/poison", b"x")])
        wait_restarts(lab, restarts + MAX_TRIES)
    lab.observer.wait(lambda: lab.report.running.slot == "previous", lab.patience_s, "the previous module")
    lab.still_answers(1)


def wait_restarts(lab: Lab, count: int) -> None:
    lab.observer.wait(lambda: lab.report.counters.get("restarts", 0) >= count, lab.patience_s, f"restart {count}")


def has_proved_itself(lab: Lab) -> None:
    """The module has run for longer than a trial since it started last, by the times that the board gives its messages."""
    ran_s = 3 * lab.settings["trial"]
    last = max(lab.observer.messages)

    def long_enough() -> bool:
        times = [each.time_s for number, each in lab.observer.messages.items() if number > last]
        return bool(times) and max(times) - min(times) > ran_s

    lab.observer.wait(long_enough, lab.patience_s, "messages over the time of a trial")


def test_a_rotated_root_is_followed_and_the_old_key_refused(board):
    signer = board.signer
    old_deploy, old_root = signer.keys["deploy"], signer.keys["root"]
    signer.keys["deploy"], signer.keys["root"] = SigningKey.generate(), SigningKey.generate()
    payload = signer.root(2).to_payload()
    board.put([(topics.root(2), sign_document(payload, ROOT_TYPE, [old_root, signer.keys["root"]]))])
    board.install(2)
    board.deploy(signer.update(echo(3)), keys=[old_deploy])
    board.wait_refusal("signer-unknown")
    board.kill()
    board.start()
    board.still_answers(2)


def test_ctrl_c_ends_the_agent_in_good_order_and_keeps_the_state(board):
    os.kill(board.agent.pid, signal.SIGINT)
    assert board.agent.wait(PATIENCE_S) == 0
    assert "Traceback" not in board.log()
    board.start()
    board.still_answers(1)


def test_a_second_agent_on_the_same_storage_is_refused(board):
    import subprocess
    import sys

    command = [sys.executable, "-m", "device_agent", "--config", str(board.folder / "agent.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("device-agent: another agent uses the storage folder ")
    assert done.stderr.count("\n") == 1

"""A board whose storage is damaged, read-only or full, against a real broker: its module runs, and the operator is told."""

import os
import subprocess

import pytest

from ota.formats import topics
from tests.support.lab import GROUP, echo


def says(lab, code: str) -> None:
    """The report has a problem of this code."""
    lab.observer.wait(
        lambda: any(each.startswith(f"{code}:") for each in lab.report.problems), lab.patience_s, f"{code} in the report"
    )


def damage(lab) -> None:
    (lab.folder / "store" / "agent.sqlite-wal").unlink()  # else it has the first page once more
    with (lab.folder / "store" / "agent.sqlite").open("r+b") as file:
        file.write(os.urandom(4096))


@pytest.fixture
def disk(lab):
    """Mounts a small file system at the board's storage; a function that mounts it again with other options."""
    place = lab.folder / "store"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "none", place], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)
    lab.kill()
    subprocess.run(["umount", "-l", place], check=True)


def test_a_damaged_database_neither_stops_the_module_nor_lets_old_releases_in(lab):
    lab.start()
    old = lab.signer.update(echo(7), name="echo", version="0.7.0")
    lab.install(1)
    lab.kill()
    damage(lab)
    lab.start()
    lab.running("1.0.0")
    lab.still_answers(1)
    says(lab, "storage-rebuilt")
    lab.wait_state("rejected", "failed", deployment=lab.deploy(old))
    assert lab.report.attempt.reason == "sequence-too-old"
    lab.install(2)
    lab.still_answers(2)


def test_what_a_damaged_database_said_of_the_update_is_not_needed_to_run_the_module(lab):
    """An instance that nothing names but the slots beside the database: no journal, and no document at the broker."""
    lab.start()
    lab.install(1, "pump")
    lab.kill()
    damage(lab)
    lab.put([(topics.desired(GROUP), b"")])
    lab.start()
    lab.running("1.0.0", "pump")
    says(lab, "storage-rebuilt")


def test_a_read_only_disk_runs_what_is_there_and_takes_the_update_once_it_can_be_written(lab, disk):
    lab.settings["retry"] = 1
    lab.start()
    lab.install(1)
    lab.kill()
    disk("ro")
    lab.start()
    lab.still_answers(1)
    says(lab, "storage-read-only")
    deployment = lab.deploy(lab.signer.update(echo(2), name="echo", version="2.0.0"))
    assert lab.wait_state("failed", deployment=deployment).attempt.reason == "storage-unwritable"
    lab.still_answers(1)
    disk("rw")
    lab.wait_state("confirmed", deployment=deployment)
    lab.still_answers(2)
    lab.observer.wait(lambda: not lab.report.problems, lab.patience_s, "an end of the problem")
    lab.kill()
    lab.start()
    lab.running("2.0.0")


def test_a_board_without_any_storage_runs_the_factory_module(lab):
    folder = lab.signer.update(echo(9), name="echo", version="9.0.0").save(lab.folder / "factory")
    lab.settings["extra"] = f'[instances.module]\nfactory = "{folder}"\n'
    (lab.folder / "store").write_bytes(b"a file where the folder should be")
    lab.start()
    lab.still_answers(9)
    says(lab, "storage-failing")
    deployment = lab.deploy(lab.signer.update(echo(1), name="echo", version="1.0.0"))
    assert lab.wait_state("failed", deployment=deployment).attempt.reason == "storage-unwritable"
    lab.still_answers(9)


def test_blobs_of_updates_that_failed_make_room_for_the_next(lab, disk):
    lab.settings["free_bytes"] = 200_000
    lab.start()
    lab.install(1)
    for version in (2, 3, 4):
        update = lab.signer.update(echo(version, padding=300_000), version=f"{version}.0.0", capabilities={"logging": {}})
        assert lab.wait_state("failed", "rejected", deployment=lab.deploy(update)).attempt.reason == "import-undeclared"
    unfinished = lab.signer.update(echo(5, padding=300_000), name="echo", version="5.0.0")
    deployment = lab.deploy(unfinished, leave_out=(topics.blob_chunk(unfinished.index.digest, 0),))
    lab.wait_state("failed", deployment=deployment)
    lab.install(6, padding=300_000)
    lab.still_answers(6)

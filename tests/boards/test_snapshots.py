"""Stories of boards, each from the same snapshot: what one test does to its board, the next does not see."""

import pytest

from tests.support.lab import echo

pytestmark = [pytest.mark.timeout(900), pytest.mark.emulated, pytest.mark.full]
ARCHITECTURES = ("aarch64", "armv7", "riscv64")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_published_module_is_reported_and_survives_a_power_cut(board, architecture):
    lab = board(architecture)
    lab.install(1)
    lab.kill()
    lab.start()
    assert lab.running("1.0.0").running.version == "1.0.0"
    lab.still_answers(1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_board_from_the_snapshot_knows_nothing_of_the_test_before(board, architecture):
    lab = board(architecture)
    assert lab.report.running.version == ""
    update = lab.signer.update(echo(2, before="unreachable"), name="echo", version="2.0.0")
    assert lab.wait_state("rolled-back", deployment=lab.deploy(update)).attempt.reason == "trapped"

"""The main job inside emulated boards of three architectures, started from the image that a card gets."""

import subprocess

import pytest

from tests.conftest import ROOT
from tests.support.board_lab import BoardLab
from tests.support.lab import echo

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", params=["aarch64", "armv7", "riscv64"])
def lab(request, tmp_path_factory):
    """A board that has booted for the first time and reported."""
    subprocess.run(["make", "-s", "wheels"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    opened = BoardLab(tmp_path_factory.mktemp(request.param), f"qemu-{request.param}")
    try:
        opened.start()
    except Exception:
        print(opened.board.console_log()[-3000:])
        opened.close()
        raise
    yield opened
    opened.close()


def test_an_update_is_swapped_in_and_a_faulty_one_rolled_back(lab):
    lab.install(1)
    lab.still_answers(1)
    lab.install(2, padding=100_000)
    lab.still_answers(2)
    faulty = lab.signer.update(echo(3, before="unreachable"), name="echo", version="3.0.0")
    report = lab.wait_state("rolled-back", deployment=lab.deploy(faulty))
    assert report.attempt.reason == "trapped"
    lab.running("2.0.0")
    lab.still_answers(2)


def test_power_cut_and_the_board_goes_on_with_what_it_confirmed(lab):
    lab.install(4)
    lab.kill()
    lab.start()
    lab.running("4.0.0")
    lab.still_answers(4)

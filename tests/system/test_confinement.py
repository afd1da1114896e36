"""A board that cannot confine its modules runs none of them, says why, and goes on where it was once it can."""

import os
import shutil

import pytest

from tests.support.lab import echo

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="takes privileges of root away by setpriv")
WITHOUT_SETUID = ["setpriv", "--bounding-set", "-setuid", "--"]


def test_a_confirmed_module_waits_until_its_board_can_confine_it(lab):
    lab.start()
    lab.install(1)
    lab.kill()
    lab.prefix = WITHOUT_SETUID
    lab.start()
    lab.observer.wait(
        lambda: lab.log().count("the confirmed module did not start: confinement-lacking") > 5,
        lab.patience_s,
        "more than 5 tries",
    )
    assert lab.report.running.name == ""
    lab.kill()
    lab.prefix = []
    lab.start()
    assert lab.running("1.0.0").running.slot == "confirmed"
    lab.still_answers(1)


def test_an_update_of_a_board_that_cannot_confine_it_fails_with_a_reason_and_is_tried_again(lab):
    lab.prefix = WITHOUT_SETUID
    lab.start()
    deployment = lab.deploy(lab.signer.update(echo(1), name="echo", version="1.0.0"))
    attempt = lab.wait_state("failed", deployment=deployment).attempt
    assert attempt.reason == "confinement-lacking"
    assert 'confinement = "best-effort"' in attempt.detail
    lab.kill()
    lab.prefix = []
    lab.start()
    lab.wait_state("confirmed", deployment=deployment)


def test_where_its_policy_says_so_the_board_runs_a_module_with_less_and_reports_it(lab):
    lab.prefix = WITHOUT_SETUID
    lab.settings["extra"] = '[policy]\nconfinement = "best-effort"\n'
    lab.start()
    lab.install(1)
    assert lab.report.running.lacking == ("own-user",)
    lab.still_answers(1)

"""A board's owner postpones updates, or takes none, whatever the operator says."""

import pytest

from ota.author.build import Update
from ota.formats.provenance import Kind
from tests.support.lab import Lab, echo, open_lab

RULES = '[clock]\ntrusted = true\n[updates]\nfunctional = "postpone 7d"\nsecurity = "{}"\n'


@pytest.fixture
def lab(tmp_path):
    lab = open_lab(tmp_path, extra=RULES.format("install"))
    try:
        lab.start()
        yield lab
    finally:
        lab.close()


def release(lab: Lab, version: int, kind: Kind) -> Update:
    return lab.signer.update(echo(version), name="echo", version=f"{version}.0.0", kind=kind)


def set_rules(lab: Lab, security: str, functional: str = "postpone 7d") -> None:
    lab.kill()
    lab.settings["extra"] = RULES.format(security).replace("postpone 7d", functional)
    lab.start()


def test_a_security_update_runs_at_once_and_a_functional_one_is_on_the_board_and_waits(lab):
    lab.wait_state("confirmed", deployment=lab.deploy(release(lab, 1, Kind.SECURITY)))
    lab.still_answers(1)
    deployment = lab.deploy(release(lab, 2, Kind.FUNCTIONAL))
    seen = lab.wait_state("staged", deployment=deployment)
    lab.observer.wait(lambda: lab.report.attempt.reason == "update-postponed", lab.patience_s, "a report that it is postponed")
    assert seen.attempt.done_chunks == seen.attempt.chunks > 0
    lab.still_answers(1)
    set_rules(lab, "install", functional="install")
    lab.wait_state("confirmed", deployment=deployment)
    lab.still_answers(2)


def test_a_security_flag_is_no_way_past_an_owner_who_takes_no_security_updates(lab):
    lab.wait_state("confirmed", deployment=lab.deploy(release(lab, 1, Kind.SECURITY)))
    set_rules(lab, "refuse")
    deployment = lab.deploy(release(lab, 2, Kind.SECURITY))
    assert lab.wait_state("rejected", deployment=deployment).attempt.reason == "owner-refused"
    lab.still_answers(1)
    set_rules(lab, "install")  # the owner changes the rules: the same deployment is tried again
    lab.wait_state("confirmed", deployment=deployment)


def test_another_configuration_of_a_security_update_is_no_security_update(lab):
    update = release(lab, 1, Kind.SECURITY)
    lab.wait_state("confirmed", deployment=lab.deploy(update))
    lab.wait_state("staged", deployment=lab.deploy(update, config={"site": "roof"}))
    lab.observer.wait(lambda: lab.report.attempt.reason == "update-postponed", lab.patience_s, "a report that it is postponed")

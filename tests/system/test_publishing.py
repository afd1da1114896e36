"""Publishing as boards see it: again, wider, after the broker lost everything, back to what was before. Real agent, real broker."""

import shutil

import pytest

from ota.formats import topics
from ota.operator.broker import Broker
from ota.operator.ledger import Ledger
from ota.operator.survey import verify_ours
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace
from tests.support.lab import GROUP, Mosquitto, open_lab
from tests.support.operator import ota
from tests.support.publishing import module


class Operator:
    """A board, and an operator with a workspace whose root of trust it has."""

    def __init__(self, tmp_path) -> None:
        self.lab = open_lab(tmp_path, Mosquitto)
        self.folder = tmp_path / "operator"
        assert ota(self.folder, "init", "--no-passphrase", "--vendor", "test.example", "--broker", self.lab.broker.url) == 0
        (tmp_path / "root.cbor").write_bytes(Workspace.open(self.folder).root_documents()[1])
        self.modules = [module(tmp_path, version) for version in (1, 2)]

    def publish(self, version: int, *words: object) -> None:
        assert ota(self.folder, "publish", self.modules[version - 1], *words) == 0

    @property
    def deployment(self) -> bytes:
        """The identifier of the group's deployment."""
        document = Ledger(Workspace.open(self.folder)).group(GROUP).document
        with Broker(self.lab.operator) as broker:
            assert broker.retained_one(topics.desired(GROUP)) == document
        return verify_ours(Workspace.open(self.folder), document, GROUP).deployment_id

    def empty_broker(self) -> None:
        """Everything that was retained is gone."""
        self.lab.broker.stop()
        for kept in self.lab.folder.glob("mosquitto.db*"):
            kept.unlink()
        self.lab.broker.start()


@pytest.fixture
def operator(tmp_path):
    opened = Operator(tmp_path)
    yield opened
    opened.lab.close()


def test_a_board_takes_what_was_republished_onto_an_emptied_broker(operator):
    operator.publish(1)
    wanted = operator.deployment
    operator.empty_broker()
    with Broker(operator.lab.operator) as broker:
        assert broker.retained_one(topics.desired(GROUP)) is None
    assert ota(operator.folder, "republish") == 0
    operator.lab.start()
    operator.lab.wait_state("confirmed", deployment=wanted)
    operator.lab.running("1.0.0")
    operator.lab.still_answers(1)


def test_a_board_that_runs_it_begins_nothing_when_it_is_published_again(operator):
    operator.lab.start()
    operator.publish(1)
    wanted = operator.deployment
    operator.lab.wait_state("confirmed", deployment=wanted)
    swaps = operator.lab.report.counters.get("swaps", 0)
    operator.publish(1)
    operator.empty_broker()
    assert ota(operator.folder, "republish") == 0
    operator.publish(1)
    assert operator.deployment == wanted
    operator.lab.still_answers(1)
    report = operator.lab.wait_state("confirmed", deployment=wanted)
    assert report.counters.get("swaps", 0) == swaps


def test_a_paused_deployment_starts_nowhere_and_goes_on_when_it_is_resumed(operator):
    operator.publish(1)
    assert ota(operator.folder, "pause", GROUP) == 0
    operator.lab.start()
    operator.lab.observer.wait(lambda: "refusals" in operator.lab.report.counters, 30, "a refusal")
    assert operator.lab.report.running.version != "1.0.0"
    assert ota(operator.folder, "resume", GROUP) == 0
    operator.lab.wait_state("confirmed", deployment=operator.deployment)


def test_a_board_goes_back_when_a_deployment_is_aborted(operator):
    operator.lab.start()
    operator.publish(1)
    operator.lab.running("1.0.0")
    operator.publish(2)
    operator.lab.wait_state("confirmed", deployment=operator.deployment)
    operator.lab.running("2.0.0")
    assert ota(operator.folder, "abort", GROUP, "--back") == 0
    operator.lab.wait_state("confirmed", deployment=operator.deployment)
    operator.lab.running("1.0.0")
    operator.lab.still_answers(1)


def test_a_board_takes_what_a_copied_workspace_publishes(operator, tmp_path):
    operator.lab.start()
    operator.publish(1)
    operator.lab.wait_state("confirmed", deployment=operator.deployment)
    shutil.copytree(operator.folder, tmp_path / "copy", ignore=lambda *_: ["published", "state.json", "ledger.json"])
    assert ota(tmp_path / "copy", "publish", operator.modules[1]) == 0
    operator.lab.running("2.0.0")
    assert Updates(Workspace.open(tmp_path / "copy")).newest("echo").version == "2.0.0"

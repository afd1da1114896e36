"""Publishing as boards see it: again, wider, after the broker lost everything, back to what was before. Real agent, real broker."""

import shutil

import pytest

from ota.formats import topics
from ota.formats.deployment import Entry, config_digest
from ota.operator.broker import Broker
from ota.operator.ledger import Ledger
from ota.operator.scope import Scope
from ota.operator.survey import verify_ours
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace
from tests.support.lab import DEVICE, GROUP, Mosquitto, open_lab
from tests.support.operator import ota
from tests.support.publishing import LAB, module


class Operator:
    """A board, and an operator with a workspace whose root of trust it has."""

    def __init__(self, tmp_path) -> None:
        self.lab = open_lab(tmp_path, Mosquitto)
        self.lab.observer.instance = "echo"
        self.folder = tmp_path / "operator"
        assert ota(self.folder, "init", "--no-passphrase", "--vendor", "test.example", "--broker", self.lab.broker.url) == 0
        (tmp_path / "root.cbor").write_bytes(Workspace.open(self.folder).root_documents()[1])
        self.modules = [module(tmp_path, version) for version in (1, 2)]

    def publish(self, version: int, *words: object) -> None:
        assert ota(self.folder, "publish", self.modules[version - 1], *words) == 0

    def ota(self, *words: object) -> None:
        """A command that does what it should."""
        assert ota(self.folder, *words) == 0

    def entry(self, instance: str = "echo", scope: Scope = LAB) -> Entry:
        """What is deployed to an instance."""
        document = Ledger(Workspace.open(self.folder)).record(scope).document
        with Broker(self.lab.operator) as broker:
            assert broker.retained_one(scope.topic) == document
        return verify_ours(Workspace.open(self.folder), document, scope).entries[instance]

    def confirmed(self, instance: str = "echo", scope: Scope = LAB) -> None:
        """Waits until the board has confirmed what is deployed to an instance."""
        self.lab.wait_state("confirmed", deployment=self.entry(instance, scope).deployment_id, instance=instance)

    @property
    def deployment(self) -> bytes:
        """The identifier of what is deployed to instance echo."""
        return self.entry().deployment_id

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
    operator.lab.wait_state("confirmed", deployment=wanted, instance="echo")
    operator.lab.running("1.0.0", "echo")
    operator.lab.still_answers(1)


def test_a_board_that_runs_it_begins_nothing_when_it_is_published_again(operator):
    operator.lab.start()
    operator.publish(1)
    wanted = operator.deployment
    operator.lab.wait_state("confirmed", deployment=wanted, instance="echo")
    swaps = operator.lab.report.counters.get("swaps", 0)
    operator.publish(1)
    operator.empty_broker()
    assert ota(operator.folder, "republish") == 0
    operator.publish(1)
    assert operator.deployment == wanted
    operator.lab.still_answers(1)
    report = operator.lab.wait_state("confirmed", deployment=wanted, instance="echo")
    assert report.counters.get("swaps", 0) == swaps


def test_a_paused_deployment_starts_nowhere_and_goes_on_when_it_is_resumed(operator):
    operator.publish(1)
    assert ota(operator.folder, "pause", GROUP) == 0
    operator.lab.start()
    held_back = operator.lab.wait_state("rejected", instance="echo")
    assert held_back.attempt.reason == "deployment-stopped"
    assert held_back.running.version != "1.0.0"
    assert ota(operator.folder, "resume", GROUP) == 0
    operator.confirmed()


def test_a_board_goes_back_when_a_deployment_is_aborted(operator):
    operator.lab.start()
    operator.publish(1)
    operator.lab.running("1.0.0", "echo")
    operator.publish(2)
    operator.confirmed()
    operator.lab.running("2.0.0", "echo")
    assert ota(operator.folder, "abort", GROUP, "--back") == 0
    operator.confirmed()
    operator.lab.running("1.0.0", "echo")
    operator.lab.still_answers(1)


def test_a_board_takes_what_a_copied_workspace_publishes(operator, tmp_path):
    operator.lab.start()
    operator.publish(1)
    operator.confirmed()
    shutil.copytree(operator.folder, tmp_path / "copy", ignore=lambda *_: ["published", "state.json", "ledger.json"])
    assert ota(tmp_path / "copy", "publish", operator.modules[1]) == 0
    operator.lab.running("2.0.0", "echo")
    assert Updates(Workspace.open(tmp_path / "copy")).newest("echo").version == "2.0.0"


def test_instances_of_one_module_and_of_others_live_beside_each_other(operator, tmp_path):
    operator.lab.start()
    operator.publish(1)
    operator.publish(1, "--instance", "twin")
    operator.ota("publish", module(tmp_path, 1, "other"))
    for instance in ("echo", "twin", "other"):
        operator.confirmed(instance)
    before = operator.entry("echo"), operator.entry("other")
    operator.publish(2, "--instance", "twin")
    operator.confirmed("twin")
    operator.lab.running("2.0.0", "twin")
    operator.lab.running("1.0.0", "echo")
    assert (operator.entry("echo"), operator.entry("other")) == before
    operator.ota("remove", "twin")
    operator.confirmed("twin")
    left = ["echo", "other"]
    operator.lab.observer.wait(
        lambda: [each.name for each in operator.lab.report.instances] == left, operator.lab.patience_s, "what is left"
    )
    operator.publish(2, "--instance", "twin")  # it may come back
    operator.confirmed("twin")


def test_a_device_has_its_own_until_that_is_withdrawn(operator):
    device = Scope(device=DEVICE)
    operator.lab.start()
    operator.publish(1)
    operator.confirmed()
    operator.publish(2, "--device", DEVICE)
    operator.confirmed(scope=device)
    operator.lab.running("2.0.0", "echo")
    operator.publish(1, "--new-sequence")  # the group's boards take it, this one does not
    assert operator.lab.of("echo").running.version == "2.0.0"
    operator.ota("withdraw", "echo", "--device", DEVICE, "--wait", "60")
    assert operator.lab.of("echo").running.version == "1.0.0"
    operator.ota("withdraw", "echo", "--wait", "60")  # from the group: the board has that document, and keeps what it runs
    assert operator.lab.of("echo").running.version == "1.0.0"


def test_a_configuration_is_taken_without_a_new_version_and_shown(operator, capsys):
    operator.lab.start()
    operator.publish(1, "--config", "a=1", "--config", "b=2")
    operator.confirmed()
    operator.ota("config", "echo", "a=3", "--unset", "b", "--wait", "60")
    report = operator.lab.of("echo")
    assert report.running.config == config_digest({"a": "3"})
    capsys.readouterr()
    operator.ota("config", "echo")
    assert capsys.readouterr().out == "a=3\n"
    operator.ota("config", "echo", "c=4", "--device", DEVICE)  # over what its group has
    operator.confirmed(scope=Scope(device=DEVICE))
    assert operator.entry(scope=Scope(device=DEVICE)).config == {"a": "3", "c": "4"}
    assert operator.entry().config == {"a": "3"}
    operator.publish(2, "--device", DEVICE)  # a new version keeps the configuration
    assert operator.entry(scope=Scope(device=DEVICE)).config == {"a": "3", "c": "4"}


def test_a_set_is_published_and_taken_back_as_a_whole(operator, tmp_path):
    lab = operator.lab
    lab.start()
    operator.ota("publish", module(tmp_path, 1, "left"), module(tmp_path, 1, "right"), "--wait", "60")
    second = [module(tmp_path, 2, name) for name in ("left", "right")]
    operator.ota("publish", *second, "--together", "--wait", "60")
    for name in ("left", "right"):
        lab.running("2.0.0", name)
    assert operator.entry("left").deployment_id == operator.entry("right").deployment_id
    operator.ota("abort", GROUP, "--back", "--instance", "left")
    for name in ("left", "right"):
        operator.confirmed(name)
        lab.running("1.0.0", name)
    assert operator.entry("right").together == ("left", "right")

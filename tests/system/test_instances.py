"""Many modules on one board, with a real broker: each is deployed, updated, configured, refused and removed by itself."""

import time

import pytest

from ota.formats import topics
from ota.formats.module import Limits
from ota.formats.report import InstanceReport
from tests.support.keeper import keeper
from tests.support.lab import DEVICE, echo

KEEPS = {"messaging": {"subscribe": ["in/#"], "publish": ["out/#"]}, "keyvalue": {"quota_bytes": 1000}, "config": {}}


@pytest.fixture
def two(lab):
    """A board that runs version 1 as "left" and version 2 as "right"."""
    lab.start()
    lab.install(1, "left")
    lab.install(2, "right")
    return lab


def answers(lab, instance: str, version: int) -> None:
    """The module of an instance handles new events."""
    last = max(lab.observer.messages, default=0)

    def answered() -> bool:
        fresh = [each for number, each in lab.observer.messages.items() if number > last]
        return any((each.instance, each.payload) == (instance, bytes((version,))) for each in fresh)

    lab.observer.wait(answered, lab.patience_s, f"an answer of version {version} from {instance}")


def names(lab) -> list[str]:
    return [each.name for each in lab.report.instances]


def test_an_update_of_one_instance_leaves_the_other_as_it_is(two):
    before = two.of("right")
    two.install(3, "left")
    answers(two, "left", 3)
    answers(two, "right", 2)
    after = two.of("right")
    assert (after.running, after.attempt.deployment) == (before.running, before.attempt.deployment)
    assert after.counters.get("swaps") == before.counters.get("swaps") == 1


def test_a_fault_in_one_instance_is_rolled_back_there_and_nowhere_else(two):
    faulty = two.signer.update(echo(9, before="unreachable"), name="echo", version="9.0.0")
    assert two.wait_state("rolled-back", deployment=two.deploy(faulty, "left"), instance="left").attempt.reason == "trapped"
    answers(two, "left", 1)
    answers(two, "right", 2)
    assert two.of("right").attempt.state == "confirmed"
    assert two.of("right").counters.get("failures", 0) == 0


def test_a_removed_instance_is_gone_also_after_a_restart_and_can_come_back(two):
    removal = two.remove("left")
    report = two.wait_state("confirmed", deployment=removal, instance="left")
    assert (report.running.name, report.attempt.manifest) == ("", b"")
    two.observer.wait(lambda: names(two) == ["right"], two.patience_s, "one instance in the board's report")
    answers(two, "right", 2)
    two.kill()
    two.start()
    two.running("2.0.0", "right")
    assert names(two) == ["right"]
    two.install(4, "left")
    answers(two, "left", 4)


def test_what_was_confirmed_once_does_not_go_back_in_another_instance_or_after_a_removal(two):
    two.install(5, "right")  # a sequence above that of "left"
    two.wait_state("confirmed", deployment=two.remove("right"), instance="right")
    old = two.signer.update(echo(1), name="echo", version="1.0.0", sequence=2)
    for instance in ("left", "right", "third"):
        report = two.wait_state("rejected", deployment=two.deploy(old, instance), instance=instance)
        assert report.attempt.reason == "sequence-too-old"
    answers(two, "left", 1)


def test_the_same_release_runs_in_two_instances(two):
    update = two.signer.update(echo(7), name="echo", version="7.0.0")
    for instance in ("left", "right"):
        two.wait_state("confirmed", deployment=two.deploy(update, instance), instance=instance)
    answers(two, "left", 7)
    answers(two, "right", 7)
    assert [two.of(each).running.manifest for each in ("left", "right")] == [update.digest] * 2


def test_a_device_document_overrides_its_group_entry_by_entry(two):
    own = two.signer.update(echo(8), name="echo", version="8.0.0")
    two.put([(topics.manifest(own.digest), own.envelope)])
    two.deploy(own, "unused")  # its chunks are on the broker
    entry = two.signer.entry(own.digest, now_s=int(time.time()))
    two.enter({"left": entry}, device=DEVICE)
    two.wait_state("confirmed", deployment=entry.deployment_id, instance="left")
    answers(two, "left", 8)
    answers(two, "right", 2)
    two.install(10, "right")
    two.deploy(two.signer.update(echo(6), name="echo", version="6.0.0"), "left")  # the group's entry is not for this board
    other = two.signer.update(echo(11), name="other", version="11.0.0")
    two.wait_state("confirmed", deployment=two.deploy(other, "unused"), instance="unused")
    assert two.of("left").running.version == "8.0.0"
    two.kill()
    two.start()
    two.running("8.0.0", "left")
    two.entries[DEVICE] = {}
    two.enter({}, device=DEVICE)
    two.running("6.0.0", "left")


def test_a_device_document_for_another_board_is_refused(two):
    _, document = two.signer.document({"left": two.signer.entry(bytes(32))}, device="board-2")
    two.put([(topics.device_desired(DEVICE), document)])
    two.wait_refusal("group-mismatch", "device")
    answers(two, "left", 1)
    assert (two.of("left").running.version, two.of("left").running.slot) == ("1.0.0", "confirmed")


def test_a_new_configuration_keeps_the_state_and_a_bad_one_goes_back(lab):
    lab.settings["proc"] = 0
    lab.settings["extra"] = "[policy.grants.keyvalue]\nquota_bytes = 1000\n[policy.grants.config]\n"
    lab.start()
    update = lab.signer.update(keeper(1), name="keeper", version="1.0.0", capabilities=KEEPS)
    lab.wait_state("confirmed", deployment=lab.deploy(update))
    lab.observer.publish("in/x", b"")
    lab.observer.wait(lambda: lab.observer.messages, lab.patience_s, "an answer")
    report = lab.wait_state("confirmed", deployment=lab.deploy(update, config={"site": "roof"}))
    assert report.running.config == report.attempt.config != b""
    last = max(lab.observer.messages)
    lab.observer.publish("in/x", b"")
    lab.observer.wait(lambda: max(lab.observer.messages) > last, lab.patience_s, "an answer with the new configuration")
    assert lab.observer.messages[max(lab.observer.messages)].payload[1] == 2, "events that it counted over the change"
    lab.kill()
    lab.start()
    assert lab.running("1.0.0").running.config == report.running.config


# -- what the policy has no room for


def test_one_instance_more_than_the_policy_allows_is_refused_until_another_goes(two):
    two.kill()
    two.settings["extra"] = "[policy]\ninstances = 2\n"
    two.start()
    deployment = two.deploy(two.signer.update(echo(3), name="echo", version="3.0.0"), "third")
    report = two.wait_state("rejected", deployment=deployment, instance="third")
    assert report.attempt.reason == "instances-exceeded"
    assert report.attempt.detail.endswith("this board runs 2 at most, left, right")
    two.remove("left")
    two.wait_state("confirmed", deployment=deployment, instance="third")
    answers(two, "third", 3)
    answers(two, "right", 2)


def test_memory_beyond_the_policy_is_refused_before_the_download(two):
    two.kill()
    two.settings["extra"] = "[policy]\nmemory_mb = 1\n[instances.right.limits]\nmemory_pages = 5\n"
    two.start()
    wide = two.signer.update(echo(3), name="echo", version="3.0.0", limits=Limits(memory_pages=13, deadline_ms=2000))
    blob = topics.blob_index(wide.index.digest)
    report = two.wait_state("rejected", deployment=two.deploy(wide, "left", leave_out=(blob,)), instance="left")
    assert (report.attempt.reason, report.attempt.chunks) == ("memory-exceeded", 0)
    assert report.attempt.detail.endswith("this board gives its modules 1024 KiB, and others have 256 KiB: right")
    own = two.signer.update(echo(4), name="echo", version="4.0.0", limits=Limits(memory_pages=6, deadline_ms=2000))
    report = two.wait_state("rejected", deployment=two.deploy(own, "right"), instance="right")
    assert report.attempt.detail == "the manifest asks for 6 pages of memory, instance right gets 5 on this board"
    answers(two, "left", 1)
    answers(two, "right", 2)


def test_a_device_of_a_source_is_refused_to_modules_before_the_download(lab):
    """Of two instances: tests/agent/test_admission.py, and on real lines tests/system/test_exclusive_devices.py."""
    port = "/dev/ttyNONE7:9600"
    lab.settings["extra"] = (
        f'[policy.grants.serial]\nports = ["{port}"]\n[sources.meter]\nkind = "serial"\nport = "{port}"\ntopic = "sys/meter"\n'
    )
    lab.start()
    asks = {"messaging": {"subscribe": ["in/#"]}, "serial": {"ports": [port]}}
    deployment = lab.deploy(lab.signer.update(echo(3), name="second", capabilities=asks), "second")
    report = lab.wait_state("rejected", deployment=deployment, instance="second")
    assert (report.attempt.reason, report.attempt.chunks) == ("device-claimed", 0)
    assert report.attempt.detail == "/dev/ttyNONE7, which instance second asks for, is source meter's"


def test_an_entry_for_the_agent_itself_is_refused_with_a_module(two):
    update = two.signer.update(echo(3), name="echo", version="3.0.0")
    report = two.wait_state("rejected", "failed", deployment=two.deploy(update, "agent"), instance="agent")
    assert report.attempt.reason == "launcher-missing"
    answers(two, "left", 1)


def test_an_entry_that_may_not_start_is_told_of_its_instance_alone(two):
    two.deploy(two.signer.update(echo(3), name="echo", version="3.0.0"), "third", now_s=int(time.time()) - 5000)
    assert two.wait_state("rejected", instance="third").attempt.reason == "deployment-expired"
    assert two.of("left").attempt.state == "confirmed"
    assert isinstance(two.observer.instances["third"], InstanceReport)
    answers(two, "right", 2)


def test_a_module_whose_grants_the_board_takes_back_is_not_started_again_and_the_reason_is_told(two):
    two.kill()
    two.settings["extra"] += "[instances.left.grants.logging]\n"
    two.start()
    two.observer.wait(
        lambda: any(each.startswith("capability-denied: the confirmed module") for each in two.report.problems),
        two.patience_s,
        "why left does not run",
    )
    answers(two, "right", 2)
    assert two.of("left").running.version == ""


def test_limits_that_become_narrower_stop_nothing_and_are_told(two):
    two.kill()
    two.settings["extra"] += "[policy]\ninstances = 1\n"
    two.start()
    two.observer.wait(
        lambda: any(each.startswith("instances-exceeded: ") for each in two.report.problems), two.patience_s, "the problem"
    )
    answers(two, "left", 1)
    answers(two, "right", 2)
    two.remove("left")
    two.observer.wait(lambda: not two.report.problems, two.patience_s, "no problem")

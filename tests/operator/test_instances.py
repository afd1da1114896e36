"""Entries of instances: named boards, windows, configurations, sets, removals, devices. Real brokers, no board."""

import json
import time

import pytest

from ota.formats import topics
from ota.formats.deployment import FRACTION_ALL, config_digest
from ota.formats.report import Running
from ota.formats.window import Window
from ota.operator.ledger import Ledger
from ota.operator.publish import artifacts
from ota.operator.scope import Scope
from ota.operator.updates import Updates
from ota.operator.workspace import MAX_SEQUENCE
from tests.support import fleet
from tests.support.operator import ota
from tests.support.publishing import GROUP, LAB

ROOF = Scope(device="roof-1")


def test_a_module_replaces_its_own_entry_and_leaves_the_others(quick):
    for name in ("a", "b"):
        assert ota(quick.folder, "publish", quick.module(1, name)) == 0
    before = quick.deployment()
    assert ota(quick.folder, "publish", quick.module(2, "a"), "--fraction", "10") == 0
    after = quick.deployment()
    assert after.entries["b"] == before.entries["b"]
    assert after.entries["a"].manifest_digest != before.entries["a"].manifest_digest
    assert after.epoch > before.epoch


def test_several_modules_are_one_document_each_with_a_deployment_of_its_own(quick, capsys):
    capsys.readouterr()
    assert ota(quick.folder, "publish", quick.module(1, "a"), quick.module(1, "b"), "--json") == 0
    published = json.loads(capsys.readouterr().out)["published"]
    assert [each["instance"] for each in published] == ["a", "b"]
    assert len({each["deployment"] for each in published}) == 2
    assert quick.entry("a").together == ()


def test_named_boards_come_first_and_stay_when_it_is_widened(quick):
    assert ota(quick.folder, "publish", quick.module(1), "--boards", "b2,b1") == 0
    assert (quick.entry().boards, quick.entry().fraction_ppm) == (("b1", "b2"), 0)
    assert ota(quick.folder, "widen", GROUP, "--boards", "b3") == 0
    assert quick.entry().boards == ("b1", "b2", "b3")
    assert ota(quick.folder, "widen", GROUP, "--fraction", "10") == 0
    assert ota(quick.folder, "publish", quick.module(1), "--fraction", "20") == 0
    assert (quick.entry().boards, quick.entry().fraction_ppm) == (("b1", "b2", "b3"), FRACTION_ALL // 5)


def test_a_window_goes_with_its_entry_and_now_takes_it_away(quick, capsys):
    assert ota(quick.folder, "publish", quick.module(1), "--window", "mon-fri 02:00 2h", "--utc", "--without-clock") == 0
    first = quick.entry()
    assert first.window == Window.from_text("mon-fri 02:00 2h utc", without_clock=True)
    assert ota(quick.folder, "publish", quick.module(1)) == 0  # as it is
    assert quick.entry() == first
    assert ota(quick.folder, "publish", quick.module(1), "--now") == 0
    assert (quick.entry().window, quick.entry().deployment_id) == (None, first.deployment_id)
    capsys.readouterr()
    assert ota(quick.folder, "publish", quick.module(1), "--window", "sat 04:00 1h") == 0
    assert "in window sat 04:00 1h" in capsys.readouterr().out


def test_the_workspace_may_have_a_window_for_new_deployments(quick):
    with (quick.folder / "ota.toml").open("a") as settings:
        settings.write('window = "mon-fri 02:00 2h"\n')
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    assert quick.entry().window == Window.from_text("mon-fri 02:00 2h")
    assert ota(quick.folder, "publish", quick.module(2), "--now") == 0
    assert quick.entry().window is None
    assert ota(quick.folder, "publish", quick.module(3), "--window", "sun 00:00 24h") == 0
    assert quick.entry().window == Window.from_text("sun 00:00 24h")


def test_a_configuration_travels_with_its_module_and_stays_with_its_instance(quick, capsys):
    assert ota(quick.folder, "publish", quick.module(1), "--config", "a=1", "--config", "b=x=y") == 0
    first = quick.entry()
    assert first.config == {"a": "1", "b": "x=y"}
    assert ota(quick.folder, "publish", quick.module(2)) == 0
    assert quick.entry().config == first.config
    assert ota(quick.folder, "config", "echo", "a=2", "--unset", "b") == 0
    second = quick.entry()
    assert (second.config, second.manifest_digest) == ({"a": "2"}, Ledger(quick.workspace).record(LAB).releases["echo"][1].manifest)
    assert second.deployment_id != first.deployment_id
    capsys.readouterr()
    assert ota(quick.folder, "config", "echo", "a=2", "--json") == 0  # nothing new
    assert json.loads(capsys.readouterr().out)["published"][0]["changed"] is False
    assert quick.entry() == second
    assert ota(quick.folder, "config", "echo") == 0
    assert capsys.readouterr().out == "a=2\n"
    assert ota(quick.folder, "abort", GROUP, "--back") == 0
    assert (quick.entry().config, quick.entry().manifest_digest) == (first.config, second.manifest_digest)
    assert ota(quick.folder, "publish", quick.module(1, "other"), "--instance", "echo") == 0
    assert quick.entry().config == {}  # it was another module's


def test_a_configuration_does_not_widen_a_deployment_by_the_way(quick, capsys):
    assert ota(quick.folder, "publish", quick.module(1), "--fraction", "10") == 0
    before = quick.entry()
    capsys.readouterr()
    assert ota(quick.folder, "config", "echo", "a=1") == 1
    assert "is deployed to 10 % of the boards so far: widen it first, or name --fraction" in capsys.readouterr().err
    assert ota(quick.folder, "pause", GROUP) == 0
    assert ota(quick.folder, "config", "echo", "a=1", "--fraction", "100") == 1
    assert quick.entry().manifest_digest == before.manifest_digest
    assert quick.entry().config == {}


def _set(site, version: int, *words: str) -> int:
    return ota(site.folder, "publish", site.module(version, "a"), site.module(version, "b"), *words)


def test_a_set_is_deployed_widened_paused_and_aborted_as_a_whole(quick):
    assert _set(quick, 1, "--together", "--fraction", "10") == 0
    first = quick.deployment().entries
    assert first["a"].together == first["b"].together == ("a", "b")
    assert first["a"].deployment_id == first["b"].deployment_id
    for words, share, paused in (
        (("widen", GROUP, "--fraction", "50"), FRACTION_ALL // 2, False),
        (("pause", GROUP), FRACTION_ALL // 2, True),
        (("resume", GROUP, "--instance", "b"), FRACTION_ALL // 2, False),
        (("abort", GROUP, "--instance", "a"), FRACTION_ALL // 2, True),
    ):
        assert ota(quick.folder, *words) == 0
        for name in ("a", "b"):
            entry = quick.entry(name)
            assert (entry.deployment_id, entry.fraction_ppm, entry.paused) == (first["a"].deployment_id, share, paused)
    assert _set(quick, 1, "--together") == 0  # after an abort, the same is a new deployment
    assert quick.entry("a").deployment_id == quick.entry("b").deployment_id != first["a"].deployment_id


def test_publishing_a_set_again_changes_nothing_also_when_one_of_it_is_named(quick):
    assert _set(quick, 1, "--together") == 0
    before = quick.retained(topics.desired(GROUP))
    assert _set(quick, 1, "--together") == 0
    assert ota(quick.folder, "publish", quick.module(1, "a")) == 0
    assert quick.retained(topics.desired(GROUP)) == before


@pytest.mark.parametrize("words", [("publish", "a2"), ("remove", "a")])
def test_a_member_leaves_its_set_only_when_that_is_said(quick, capsys, words):
    assert _set(quick, 1, "--together") == 0
    before = quick.deployment()
    words = (words[0], quick.module(2, "a")) if words[1] == "a2" else words
    capsys.readouterr()
    assert ota(quick.folder, *words) == 1
    assert "set-incomplete: a and b of group lab are a set" in capsys.readouterr().err
    assert quick.deployment() == before
    assert ota(quick.folder, *words, "--apart") == 0
    left, stayed = quick.entry("a"), quick.entry("b")
    assert left.together == stayed.together == ()
    assert (stayed.deployment_id, stayed.manifest_digest) == (
        before.entries["b"].deployment_id,
        before.entries["b"].manifest_digest,
    )


def test_a_configuration_of_a_member_deploys_its_set_again(quick):
    assert _set(quick, 1, "--together") == 0
    before = quick.deployment().entries
    assert ota(quick.folder, "config", "a", "key=value") == 0
    after = quick.deployment().entries
    assert (after["a"].config, after["b"].config) == ({"key": "value"}, {})
    assert [after[name].manifest_digest for name in "ab"] == [before[name].manifest_digest for name in "ab"]
    assert after["a"].deployment_id == after["b"].deployment_id != before["a"].deployment_id
    assert after["a"].together == after["b"].together == ("a", "b")


def test_a_set_goes_back_as_a_set(quick):
    assert _set(quick, 1) == 0
    one = {name: Updates(quick.workspace).find(quick.entry(name).manifest_digest).content for name in "ab"}
    assert _set(quick, 2, "--together") == 0
    assert ota(quick.folder, "abort", GROUP, "--instance", "b", "--back") == 0
    back = quick.deployment().entries
    assert {name: Updates(quick.workspace).find(back[name].manifest_digest).content for name in "ab"} == one
    assert back["a"].together == back["b"].together == ("a", "b")


def test_an_instance_is_removed_and_comes_back(quick, capsys):
    assert _set(quick, 1) == 0
    capsys.readouterr()
    assert ota(quick.folder, "remove", "a", "--window", "sun 02:00 1h", "--dry-run") == 0
    assert "instance a is to be removed" in capsys.readouterr().out
    assert not quick.entry("a").absent
    assert ota(quick.folder, "remove", "a", "--window", "sun 02:00 1h") == 0
    gone = quick.entry("a")
    assert (gone.absent, str(gone.window)) == (True, "sun 02:00 1h")
    assert ota(quick.folder, "remove", "a") == 0
    assert quick.entry("a") == gone  # it is to be removed already
    assert ota(quick.folder, "remove", "a", "--now") == 0
    assert (quick.entry("a").window, quick.entry("a").deployment_id) == (None, gone.deployment_id)
    assert ota(quick.folder, "pause", GROUP) == 0  # the only one that runs
    assert quick.entry("b").paused
    assert ota(quick.folder, "abort", GROUP, "--instance", "a", "--back") == 0
    assert not quick.entry("a").absent
    assert ota(quick.folder, "abort", GROUP, "--instance", "a", "--back") == 0  # to what was before: nothing
    assert quick.entry("a").absent


def test_a_removal_on_named_boards_is_widened_by_a_removal_on_more(quick, capsys):
    assert _set(quick, 1) == 0
    assert ota(quick.folder, "remove", "a", "--boards", "roof-1") == 0
    first = quick.entry("a")
    assert ota(quick.folder, "remove", "a", "--fraction", "100") == 0
    assert (quick.entry("a").fraction_ppm, quick.entry("a").deployment_id) == (FRACTION_ALL, first.deployment_id)
    capsys.readouterr()
    assert ota(quick.folder, "remove", "a", "--fraction", "50") == 1
    assert "the removal of a goes to 100 % of group lab already" in capsys.readouterr().err
    assert ota(quick.folder, "pause", GROUP, "--instance", "a") == 0
    assert ota(quick.folder, "remove", "a") == 1
    assert "the deployment of the removal of a to group lab is paused: `ota resume lab` continues it" in capsys.readouterr().err


def test_the_same_configuration_at_another_time_is_the_same_deployment(quick, capsys):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    assert ota(quick.folder, "config", "echo", "a=1", "--window", "sun 02:00 1h") == 0
    waiting = quick.entry()
    assert ota(quick.folder, "config", "echo", "a=1", "--now") == 0
    assert (quick.entry().window, quick.entry().deployment_id) == (None, waiting.deployment_id)
    assert ota(quick.folder, "abort", GROUP) == 0
    capsys.readouterr()
    assert ota(quick.folder, "config", "echo", "a=2") == 1
    assert "was aborted: publish an update, or the same one again" in capsys.readouterr().err


def test_a_member_leaves_its_set_with_the_configuration_that_it_has(quick):
    assert _set(quick, 1, "--together") == 0
    assert ota(quick.folder, "config", "a", "x=1") == 0
    assert ota(quick.folder, "config", "a", "x=1", "--apart") == 0
    assert (quick.entry("a").together, quick.entry("b").together) == ((), ())


def test_going_back_for_a_try_is_told_to_machines(quick, capsys):
    assert ota(quick.folder, "publish", quick.module(1), "--config", "a=1") == 0
    first = quick.entry()
    assert ota(quick.folder, "publish", quick.module(2), "--config", "a=2") == 0
    capsys.readouterr()
    assert ota(quick.folder, "abort", GROUP, "--back", "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["back_to"] == {"manifest": first.manifest_digest.hex(), "config": {"a": "1"}}
    assert (told["group"], told["instance"], told["sent"]) == (GROUP, "echo", False)
    assert ota(quick.folder, "pause", GROUP, "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["epoch"] is None  # no document was made


def test_several_instances_must_be_told_apart(quick, capsys):
    assert _set(quick, 1) == 0
    for words in (("pause", GROUP), ("widen", GROUP, "--fraction", "50"), ("abort", GROUP), ("abort", GROUP, "--back")):
        capsys.readouterr()
        assert ota(quick.folder, *words) == 1
        assert "group lab has several instances, so say which with --instance: a, b" in capsys.readouterr().err


def test_devices_have_documents_of_their_own_which_are_kept_like_those_of_groups(quick, capsys):
    module = quick.module(1, padding=20_000)
    assert ota(quick.folder, "publish", quick.module(2)) == 0
    assert ota(quick.folder, "publish", module, "--device", "roof-1,roof-2", "--config", "a=1") == 0
    assert quick.entry(device="roof-1").manifest_digest == quick.entry(device="roof-2").manifest_digest
    assert quick.deployment(device="roof-1").device == "roof-1"
    document = quick.retained(topics.device_desired("roof-1"))
    assert ota(quick.folder, "clean") == 0
    update = Updates(quick.workspace).load(quick.entry(device="roof-1").manifest_digest)
    with quick.connect() as broker:
        found = {each.topic: each.payload for each in broker.retained([topic for topic, _ in artifacts(update)], each_bytes=16_384)}
    assert found == dict(artifacts(update))
    quick.move()
    assert ota(quick.folder, "republish") == 0
    assert quick.retained(topics.device_desired("roof-1")) == document
    for words in (("pause",), ("resume",), ("abort",)):
        assert ota(quick.folder, *words, "--device", "roof-1") == 0
    assert quick.entry(device="roof-1").paused
    assert not quick.entry(device="roof-2").paused
    capsys.readouterr()
    assert ota(quick.folder, "withdraw", "echo", "--device", "roof-1,roof-2", "--json") == 0
    assert [each["deployment"] for each in json.loads(capsys.readouterr().out)["published"]] == [None, None]
    assert quick.deployment(device="roof-1").entries == {}
    assert ota(quick.folder, "clean") == 0
    assert quick.retained(topics.manifest(update.digest)) is None
    assert quick.retained(topics.manifest(quick.entry().manifest_digest)) is not None


def test_a_withdrawal_is_waited_for_as_other_changes_are(quick, capsys):
    quick.board("roof-1")
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    assert ota(quick.folder, "publish", quick.module(2), "--device", "roof-1") == 0
    for words in ((), ("--device", "roof-1")):
        assert ota(quick.folder, "config", "echo", "a=1", *words) == 0
    ours = quick.deployment().entries["echo"]
    capsys.readouterr()

    def board(documents: dict[str, int]) -> None:
        running = Running("echo", "1.0.0", ours.manifest_digest, config_digest(ours.config), 1, "confirmed")
        with quick.connect() as broker:
            fleet.leave(broker, ["roof-1"], documents=documents)
            fleet.leave_instance(broker, ["roof-1"], "echo", running=running)

    board({"device": MAX_SEQUENCE, "group": MAX_SEQUENCE})
    assert ota(quick.folder, "withdraw", "echo", "--device", "roof-1", "--wait", "60") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 1 boards confirmed it"
    board({"device": 0, "group": MAX_SEQUENCE})
    assert ota(quick.folder, "withdraw", "echo", "--wait", "60", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["confirmed"]
    assert found["published"] == [{"group": "lab", "instance": "echo", "deployment": None, "manifest": None}]
    assert found["boards"]["roof-1"]["instances"]["echo"]["state"] == "withdrawn"


def test_a_device_that_would_refuse_what_its_group_has_is_named_when_it_is_withdrawn(quick, capsys):
    quick.board("roof-1")
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    second = quick.module(2)
    assert ota(quick.folder, "publish", second, "--device", "roof-1") == 0
    capsys.readouterr()
    assert ota(quick.folder, "withdraw", "echo", "--device", "roof-1") == 0
    assert "device roof-1 may refuse what group lab has for instance echo (sequence-too-old)" in capsys.readouterr().err
    assert ota(quick.folder, "publish", second) == 0
    assert ota(quick.folder, "config", "echo", "a=1", "--device", "roof-1") == 0
    capsys.readouterr()
    assert ota(quick.folder, "withdraw", "echo", "--device", "roof-1") == 0
    assert "may refuse" not in capsys.readouterr().err


def test_clean_keeps_what_a_device_of_another_operator_needs(quick):
    module = quick.module(1, padding=20_000)
    assert ota(quick.folder, "publish", module) == 0
    copy = quick.copy("second")
    assert ota(copy, "publish", module, "--device", "roof-1") == 0
    assert ota(quick.folder, "publish", quick.module(2)) == 0
    assert ota(quick.folder, "clean") == 0
    assert quick.retained(topics.manifest(quick.entry(device="roof-1").manifest_digest)) is not None


def test_what_a_board_puts_under_its_own_topic_keeps_nobody_from_cleaning_and_republishing(quick, capsys):
    assert ota(quick.folder, "publish", quick.module(1, padding=20_000)) == 0
    old = quick.entry().manifest_digest
    assert ota(quick.folder, "publish", quick.module(1), "--device", "roof-1") == 0
    assert ota(quick.folder, "publish", quick.module(2)) == 0
    for forged in (b"forged", quick.retained(topics.desired(GROUP))):
        quick.put(topics.device_desired("roof-1"), forged)
        quick.put(topics.device_desired("roof-9"), forged)
        quick.put(topics.desired(GROUP), b"")
        capsys.readouterr()
        assert ota(quick.folder, "republish") == 1
        assert "the deployment of device roof-1 on the broker is not signed by this workspace's keys" in capsys.readouterr().err
        assert quick.retained(topics.desired(GROUP)) is not None
        assert ota(quick.folder, "clean") == 0
        assert quick.retained(topics.manifest(old)) is None
    assert ota(quick.folder, "publish", quick.module(1), "--device", "roof-1") == 1
    assert ota(quick.folder, "publish", quick.module(1), "--device", "roof-1", "--take-over") == 0
    assert ota(quick.folder, "republish") == 0


def test_a_dry_run_says_what_boards_would_refuse(quick, capsys):
    assert _set(quick, 1, "--together") == 0
    capsys.readouterr()
    assert ota(quick.folder, "publish", quick.module(2, "a"), "--dry-run") == 1
    assert "set-incomplete" in capsys.readouterr().err
    assert ota(quick.folder, "publish", quick.module(2, "c"), "--instance", "d", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["published"][0]["instance"] == "d"


def _claiming(site, name: str, *lines: str):
    """A module that asks for these GPIO lines."""
    path = site.module(1, name)
    path.with_suffix(".toml").write_text(
        path.with_suffix(".toml").read_text() + f"[capabilities.gpio]\noutputs = {json.dumps(lines)}\n"
    )
    return path


def test_two_instances_that_claim_one_line_are_refused_before_anything_is_sent(quick, capsys):
    assert ota(quick.folder, "publish", _claiming(quick, "a", "gpiochip0:4", "gpiochip0:5")) == 0
    before = quick.workspace.read()
    capsys.readouterr()
    for words in ((), ("--dry-run",)):
        assert ota(quick.folder, "publish", _claiming(quick, "b", "gpiochip0:5"), *words) == 1
        assert "device-claimed: instances b and a both claim /dev/gpiochip0:5" in capsys.readouterr().err
    assert quick.workspace.read()["epochs"] == before["epochs"]
    assert set(quick.deployment().entries) == {"a"}
    assert ota(quick.folder, "publish", _claiming(quick, "b", "gpiochip0:6")) == 0
    assert ota(quick.folder, "publish", _claiming(quick, "c", "gpiochip0:7"), _claiming(quick, "d", "gpiochip0:7")) == 1
    assert ota(quick.folder, "remove", "a") == 0
    assert ota(quick.folder, "publish", _claiming(quick, "c", "gpiochip0:5")) == 0  # it is free now
    phases = [("left", "b1"), ("right", "b2")]
    for name, board in phases:  # no board has both
        assert ota(quick.folder, "publish", _claiming(quick, name, "gpiochip0:9"), "--boards", board) == 0
    assert ota(quick.folder, "publish", _claiming(quick, "left", "gpiochip0:9"), "--boards", "b2") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--instance", "agent"), "instance-reserved: instance 'agent' is the agent itself"),
        (("--config", f"a={'x' * 5000}"), "config-too-large: instance echo: the configuration has 50"),
        (("--config", "a b=1"), "malformed: instance echo: configuration key 'a b' is no name"),
        (("--together",), "set-incomplete: a set has two members at least"),
    ],
)
def test_what_boards_would_refuse_is_refused_here_for_the_same_reason(quick, capsys, words, told):
    for more in ((), ("--dry-run",)):
        capsys.readouterr()
        assert ota(quick.folder, "publish", quick.module(1), *words, *more) == 1
        assert f"ota: {told}" in capsys.readouterr().err
    assert quick.retained(topics.desired(GROUP)) is None
    assert Updates(quick.workspace).all() == []


def test_a_window_that_does_not_open_before_the_deployment_expires_is_refused(quick, capsys):
    day = (time.gmtime().tm_wday + 4) % 7
    window = f"{('mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun')[day]} 12:00 1h"
    assert ota(quick.folder, "publish", quick.module(1), "--window", window, "--days", "1") == 1
    assert "window-never-opens: window" in capsys.readouterr().err
    assert ota(quick.folder, "publish", quick.module(1), "--window", window, "--days", "7") == 0


def test_a_module_of_another_vendor_is_refused(quick, capsys, tmp_path):
    other = tmp_path / "other"
    assert ota(other, "init", "--no-passphrase", "--vendor", "other.example") == 0
    assert ota(other, "build", quick.module(1), "-o", tmp_path / "dist") == 0
    capsys.readouterr()
    assert ota(quick.folder, "publish", tmp_path / "dist" / "echo-1.0.0") == 1
    assert "vendor-mismatch: echo 1.0.0 is not for vendor test.example" in capsys.readouterr().err


def test_a_set_whose_members_no_board_takes_together_is_refused(quick, capsys, tmp_path):
    for name, board in (("a", "raspberry-pi-4"), ("b", "generic-armv7")):
        assert ota(quick.folder, "build", quick.module(1, name), "--board", board, "-o", tmp_path / "dist") == 0
    capsys.readouterr()
    assert ota(quick.folder, "publish", tmp_path / "dist" / "a-1.0.0", tmp_path / "dist" / "b-1.0.0", "--together") == 1
    assert "class-mismatch: no board takes the whole set" in capsys.readouterr().err


def test_a_document_that_would_be_too_large_is_refused_before_anything_is_sent(quick, capsys):
    value = "x" * 4000
    for number in range(17):
        code = ota(quick.folder, "publish", quick.module(1), "--instance", f"i{number}", "--config", f"a={value}")
    assert code == 1
    assert "too-large" in capsys.readouterr().err
    assert len(quick.deployment().entries) == 16


def test_modules_for_one_instance_are_told_apart(quick, capsys):
    assert ota(quick.folder, "publish", quick.module(1), quick.module(2)) == 1
    assert "two of the modules are for instance echo" in capsys.readouterr().err
    assert ota(quick.folder, "withdraw", "a") == 1


def test_an_update_of_another_operator_stays_with_its_instance(quick):
    """What the first operator does not keep is not lost when it publishes something else."""
    copy = quick.copy("second")
    assert ota(copy, "publish", quick.module(1, "theirs")) == 0
    theirs = quick.entry("theirs")
    assert ota(quick.folder, "publish", quick.module(1, "ours")) == 0
    assert quick.entry("theirs") == theirs
    assert ota(quick.folder, "pause", GROUP, "--instance", "theirs") == 0
    assert ota(quick.folder, "clean") == 0
    assert quick.retained(topics.manifest(theirs.manifest_digest)) is not None

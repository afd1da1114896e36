"""Widening, pausing, aborting; a broker that lost what it had; cleaning up: real brokers, no board."""

import json
import time

import pytest

from device_agent.broker.certificates import signing_request
from ota.formats import topics
from ota.formats.deployment import FRACTION_ALL
from ota.formats.enrolment import Request
from ota.operator import publish
from ota.operator.ca import CertificateAuthority
from ota.operator.clean import clean
from ota.operator.enrolment import answer, new_token
from ota.operator.keeping import lost
from ota.operator.ledger import Ledger
from ota.operator.publish import artifacts
from ota.operator.scope import Scope
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace
from tests.support.operator import ota
from tests.support.publishing import GROUP, LAB


def everything(site, *groups: str) -> dict[str, bytes | None]:
    """What boards of these groups need, as it is on the broker."""
    wanted = [topics.root(1), *map(topics.desired, groups)]
    for group in groups:
        for releases in Ledger(site.workspace).record(Scope(group)).releases.values():
            wanted += [topic for topic, _ in artifacts(Updates(site.workspace).load(releases[0].manifest))]
    with site.connect() as broker:
        return {each.topic: each.payload for each in broker.retained(wanted, each_bytes=16_384)}


def test_widen_pause_and_resume_keep_the_deployment(site, capsys):
    assert ota(site.folder, "publish", site.module(1), "--fraction", "10") == 0
    first = site.entry()
    for words, fraction, paused in (
        (("widen", GROUP, "--fraction", "25"), 250_000, False),
        (("pause", GROUP), 250_000, True),
        (("widen", GROUP, "--fraction", "50"), 500_000, True),
        (("resume", GROUP), 500_000, False),
    ):
        before = site.deployment()
        capsys.readouterr()
        assert ota(site.folder, *words, "--dry-run") == 0
        said = capsys.readouterr().out
        assert "nothing was sent" in said
        assert "epoch" not in said  # it has none
        assert site.deployment() == before
        assert ota(site.folder, *words) == 0
        assert f"read back from {site.broker.url}" in capsys.readouterr().out
        now, entry = site.deployment(), site.entry()
        assert (entry.deployment_id, entry.manifest_digest) == (first.deployment_id, first.manifest_digest)
        assert now.epoch > before.epoch
        assert (entry.fraction_ppm, entry.paused) == (fraction, paused)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("widen", GROUP, "--fraction", "50"), "instance echo of group lab is deployed to 100 % of the boards already"),
        (("resume", GROUP), "instance echo of group lab is not paused"),
        (("pause", "other"), "group other: nothing was deployed to it, but to group lab"),
        (("abort", GROUP, "--back"), "knows of nothing that instance echo of group lab had before"),
        (("republish", "--group", "other"), "never published to group other"),
        (("republish", "--device", "roof-1"), "never published to device roof-1"),
        (("pause", GROUP, "--instance", "blink"), "group lab has no instance blink: it has echo"),
        (("remove", "blink"), "group lab has no instance blink: it has echo"),
        (("withdraw", "blink"), "group lab has no instance blink: it has echo"),
        (("config", "blink", "a=b"), "the deployment of group lab has no instance blink: it has echo"),
    ],
)
def test_what_makes_no_sense_is_refused(quick, capsys, words, told):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    before = quick.deployment()
    capsys.readouterr()
    assert ota(quick.folder, *words) == 1
    assert told in capsys.readouterr().err
    assert quick.deployment() == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("pause",), "name a group, or a board with --device"),
        (("pause", GROUP, "--device", "roof-1"), "name one group, or one board with --device"),
        (("widen", GROUP), "say how far: --fraction or --boards"),
        (("config", "echo", "ab"), "'ab' is not KEY=VALUE"),
        (("publish", "--device", "roof-1", "--fraction", "10", "x.wasm"), "--fraction and --boards are of a group's boards"),
        (("publish",), "nothing to publish"),
        (("publish", "x.wasm", "y.wasm", "--instance", "z"), "--instance, --config and --description are about one module"),
        (("publish", "x.wasm", "--config", "a=1", "--config", "a=2"), "a is given twice"),
        (("publish", "x.wasm", "--utc"), "--utc and --without-clock are about a window"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(workspace, capsys, words, told):
    assert ota(workspace, *words) == 2
    assert told in capsys.readouterr().err


def test_what_is_aborted_stays_so_until_it_is_published_again(quick, capsys):
    module = quick.module(1)
    assert ota(quick.folder, "publish", module) == 0
    first = quick.entry()
    assert ota(quick.folder, "abort", GROUP, "--json") == 0
    assert quick.entry().paused
    for words in (("resume", GROUP), ("widen", GROUP, "--fraction", "100"), ("abort", GROUP)):
        capsys.readouterr()
        assert ota(quick.folder, *words) == 1
        assert "was aborted: publish an update, or the same one again" in capsys.readouterr().err
    assert ota(quick.folder, "publish", module) == 0
    again = quick.entry()
    assert (again.manifest_digest, again.paused) == (first.manifest_digest, False)
    assert again.deployment_id != first.deployment_id


def test_what_is_paused_is_not_resumed_by_publishing_again(quick, capsys):
    module = quick.module(1)
    assert ota(quick.folder, "publish", module) == 0
    assert ota(quick.folder, "pause", GROUP) == 0
    assert ota(quick.folder, "publish", module) == 1
    assert "is paused: `ota resume lab` continues it" in capsys.readouterr().err


def test_aborting_may_go_back_to_what_was_before(quick):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    one = Updates(quick.workspace).find(quick.entry().manifest_digest)
    assert ota(quick.folder, "publish", quick.module(2), "--fraction", "10") == 0
    two = Updates(quick.workspace).find(quick.entry().manifest_digest)
    assert ota(quick.folder, "abort", GROUP, "--back", "--dry-run") == 0
    assert ota(quick.folder, "abort", GROUP, "--back") == 0
    now = quick.entry()
    back = Updates(quick.workspace).find(now.manifest_digest)
    assert (back.content, now.fraction_ppm, now.paused) == (one.content, FRACTION_ALL, False)
    assert back.sequence > two.sequence


def test_republish_brings_everything_to_an_emptied_broker_unchanged(site, capsys):
    assert ota(site.folder, "publish", site.module(1, padding=60_000)) == 0
    assert ota(site.folder, "publish", site.module(1, name="other"), "--group", "two") == 0
    assert ota(site.folder, "pause", "two") == 0
    before, state = everything(site, GROUP, "two"), site.workspace.read()
    assert None not in before.values()
    site.move()
    capsys.readouterr()
    assert ota(site.folder, "pause", GROUP) == 1
    assert "group lab: the broker has lost its deployment: `ota republish` puts it back" in capsys.readouterr().err
    assert ota(site.folder, "republish", "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["put_back"], done["there"]) == (len(before), 0)
    assert everything(site, GROUP, "two") == before
    assert ota(site.folder, "republish") == 0
    assert f"2 groups: 0 messages were put back and read back, {len(before)} were there" in capsys.readouterr().out
    assert site.workspace.read() == state


def test_only_one_group_is_put_back_where_that_is_asked_for(quick):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    assert ota(quick.folder, "publish", quick.module(1, name="other"), "--group", "two") == 0
    quick.move()
    assert ota(quick.folder, "republish", "--group", "two") == 0
    assert quick.retained(topics.desired("two")) is not None
    assert quick.retained(topics.desired(GROUP)) is None


def test_republish_never_replaces_a_newer_deployment_by_an_older_one(quick, capsys):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    old = quick.copy("backup")
    assert ota(quick.folder, "publish", quick.module(2)) == 0
    newer = quick.retained(topics.desired(GROUP))
    assert ota(old, "republish") == 0  # what the newer one names is not kept there, but it is on the broker
    assert quick.retained(topics.desired(GROUP)) == newer
    assert Ledger(Workspace.open(old)).record(LAB).document == newer
    update = Updates(quick.workspace).load(quick.entry().manifest_digest)
    for topic in (
        topics.blob_chunk(update.index.digest, 0),
        topics.blob_index(update.index.digest),
        topics.manifest(update.digest),
    ):
        quick.put(topic, b"")
        capsys.readouterr()
        assert ota(old, "republish") == 1
        assert "publish to group lab again: the update of instance echo is not kept here" in capsys.readouterr().err
    assert ota(quick.folder, "republish") == 0
    assert ota(old, "republish") == 0


def test_republish_does_not_write_onto_the_broker_of_another_workspace(quick, capsys, tmp_path):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    other = tmp_path / "other"
    quick.move()
    assert ota(other, "init", "--no-passphrase", "--broker", quick.broker.url) == 0
    assert ota(other, "publish", quick.module(2)) == 0
    capsys.readouterr()
    assert ota(quick.folder, "republish") == 1
    assert "belongs to another workspace" in capsys.readouterr().err


def test_what_the_broker_lost_is_named(quick):
    assert ota(quick.folder, "publish", quick.module(1, padding=40_000)) == 0
    update = Updates(quick.workspace).load(quick.entry().manifest_digest)
    with quick.connect() as broker:
        assert lost(quick.workspace, broker, chunks=True) == []
    for topic in (topics.root(1), topics.desired(GROUP), topics.blob_chunk(update.index.digest, 1), topics.manifest(update.digest)):
        quick.put(topic, b"")
    with quick.connect() as broker:
        told = lost(quick.workspace, broker, chunks=True)
    assert [each.split(":")[0] for each in told] == [
        "the broker lost 1 root document",
        "the broker lost the deployment of group lab",
        f"the broker lost 2 messages of echo 1.0.0 ({update.digest.hex()[:12]})",
    ]


@pytest.mark.parametrize("damage", ["{", '{"scopes": {"lab": {"document": "", "releases": {"echo": [["aa"]]}, "aborted": []}}}'])
def test_a_ledger_that_is_damaged_hides_no_board(quick, capsys, damage):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    quick.board("b1")
    (quick.folder / "ledger.json").write_text(damage)
    capsys.readouterr()
    assert ota(quick.folder, "status") == 1
    shown = capsys.readouterr()
    assert "b1" in shown.out
    assert "lost: what the broker lost is not known: " in shown.err
    assert "ledger.json is damaged (" in shown.err
    assert ota(quick.folder, "publish", quick.module(2)) == 1


def test_status_says_what_the_broker_lost(quick, capsys):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    quick.board("b1")
    assert ota(quick.folder, "status") == 0
    quick.put(topics.desired(GROUP), b"")
    capsys.readouterr()
    assert ota(quick.folder, "status") == 1
    captured = capsys.readouterr()
    assert "b1" in captured.out
    assert "lost: the broker lost the deployment of group lab: `ota republish` puts it back" in captured.err
    assert ota(quick.folder, "republish") == 0
    assert ota(quick.folder, "status", "--chunks") == 0


def test_clean_removes_what_no_deployment_names_and_nothing_else(site, capsys):
    padding = 60_000
    assert ota(site.folder, "publish", site.module(1, padding=padding)) == 0
    assert ota(site.folder, "publish", site.module(1, padding=padding), "--group", "two") == 0
    for version in (2, 3):
        assert ota(site.folder, "publish", site.module(version, padding=padding)) == 0
    second = Updates(site.workspace).load(Ledger(site.workspace).record(LAB).releases["echo"][1].manifest)
    site.board("silent")
    kept = everything(site, GROUP, "two") | {topics.report("silent"): site.retained(topics.report("silent"))}
    capsys.readouterr()
    assert ota(site.folder, "clean", "--dry-run", "--json") == 0
    planned = json.loads(capsys.readouterr().out)
    wanted = {topic for topic, _ in artifacts(second)}
    assert set(planned["topics"]) == wanted
    assert site.retained(topics.manifest(second.digest)) is not None
    assert ota(site.folder, "clean") == 0
    assert f"{len(wanted)} topics, {planned['bytes']} bytes were removed" in capsys.readouterr().out
    with site.connect() as broker:
        assert all(each.payload is None for each in broker.retained(wanted))
    assert everything(site, GROUP, "two") | {topics.report("silent"): site.retained(topics.report("silent"))} == kept
    assert ota(site.folder, "clean") == 0
    assert capsys.readouterr().out == "0 topics, 0 bytes were removed\n"


def test_clean_keeps_what_another_operator_with_the_same_keys_needs(quick):
    """The same module, signed and deployed from a copy of the workspace to a group that this one does not know."""
    module = quick.module(1, padding=20_000)
    assert ota(quick.folder, "publish", module) == 0
    copy = quick.copy("second")
    assert ota(copy, "publish", module, "--group", "theirs", "--new-sequence") == 0
    assert ota(quick.folder, "publish", quick.module(2)) == 0
    assert ota(quick.folder, "clean") == 0
    theirs = Updates(Workspace.open(copy)).load(quick.entry(group="theirs").manifest_digest)
    with quick.connect() as broker:
        found = {each.topic: each.payload for each in broker.retained([topic for topic, _ in artifacts(theirs)], each_bytes=16_384)}
    assert found == dict(artifacts(theirs))


def test_what_somebody_deploys_while_it_is_removed_is_told(quick, capsys, monkeypatch):
    module = quick.module(1, padding=20_000)
    assert ota(quick.folder, "publish", module) == 0
    copy = quick.copy("second")
    assert ota(quick.folder, "publish", quick.module(2)) == 0

    def overtaken(*arguments) -> None:
        assert ota(copy, "publish", module, "--group", "theirs") == 0
        clean(*arguments)

    monkeypatch.setattr("ota.cli.rollout.clean", overtaken)
    capsys.readouterr()
    assert ota(quick.folder, "clean") == 1
    assert "somebody deployed what was being removed (" in capsys.readouterr().err
    assert ota(copy, "status", "--chunks") == 1
    assert ota(copy, "republish", "--group", "theirs") == 0
    theirs = Updates(Workspace.open(copy)).load(quick.entry(group="theirs").manifest_digest)
    with quick.connect() as broker:
        assert all(each.payload is not None for each in broker.retained([topic for topic, _ in artifacts(theirs)]))


def test_clean_removes_enrolments_that_are_over(quick):
    now, where = int(time.time()), []
    authority = CertificateAuthority(quick.workspace)
    for name, age in (("a", 10 * 86_400), ("b", 0)):
        token = new_token(quick.workspace, name, now - age, 3600)
        request = Request.make(token, name, signing_request(quick.folder / f"{name}.key", name))
        where.append(answer(quick.workspace, authority, request.to_bytes(), now - age)[0])
        quick.put(topics.enrolment_answer(where[-1]), b"answer")
    assert ota(quick.folder, "clean") == 0
    assert quick.retained(topics.enrolment_answer(where[0])) is None
    assert quick.retained(topics.enrolment_answer(where[1])) == b"answer"


def test_clean_leaves_an_update_that_is_uploaded_and_that_no_deployment_names_yet(quick, capsys, monkeypatch):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    deploy = publish.publish_edit

    def cleaned_before(*arguments):
        capsys.readouterr()
        assert ota(quick.folder, "clean") == 1
        assert "an update is being published, or cleaned: try again when that ended" in capsys.readouterr().err
        return deploy(*arguments)

    monkeypatch.setattr(publish, "publish_edit", cleaned_before)
    assert ota(quick.folder, "publish", quick.module(2)) == 0
    assert quick.retained(topics.manifest(quick.entry().manifest_digest)) is not None
    assert ota(quick.folder, "clean") == 0

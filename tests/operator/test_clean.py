"""`ota clean` where the broker cuts the answers to wildcards, or gives none: what it can't see it says."""

import json
import time

import pytest

from ota.formats import topics
from ota.operator.discovery import NO_WILDCARDS
from ota.operator.ledger import Ledger
from ota.operator.publish import artifacts
from ota.operator.scope import Scope
from ota.operator.session import Limits
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace
from tests.support.operator import ota
from tests.support.publishing import GROUP, publish, sign_draft


@pytest.fixture
def outdated(quick) -> list[str]:
    """Topics of an update that no deployment names any more."""
    for version in (1, 2):
        assert ota(quick.folder, "publish", quick.module(version)) == 0
    (first,) = [each[1].manifest for each in Ledger(quick.workspace).record(Scope(GROUP)).releases.values()]
    return [topic for topic, _ in artifacts(Updates(quick.workspace).load(first))]


def left(site, wanted: list[str]) -> list[str]:
    with site.connect() as broker:
        return [each.topic for each in broker.retained(wanted) if each.payload is not None]


def hide_from_wildcards(monkeypatch) -> None:
    """As RabbitMQ does."""
    desired, online_in = topics.desired, topics.online_in
    monkeypatch.setattr(topics, "desired", lambda group: "elsewhere/+/desired" if group == "+" else desired(group))
    monkeypatch.setattr(topics, "online_in", lambda digits: online_in(digits).replace("online", "elsewhere"))
    monkeypatch.setattr("ota.operator.discovery._wildcards_work", lambda broker, found: False)


def test_a_broker_without_retained_wildcards_is_cleaned_by_exact_topics_and_told(quick, outdated, monkeypatch, capsys):
    quick.board("b1")
    hide_from_wildcards(monkeypatch)
    capsys.readouterr()
    assert ota(quick.folder, "clean", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert set(found["topics"]) == set(outdated)
    assert found["removed"]
    assert not found["complete"]
    assert found["reasons"][0] == NO_WILDCARDS
    assert found["reasons"][1].startswith("wildcards brought 0 of 1 known deployment: ")
    assert left(quick, outdated) == []
    assert quick.entry().manifest_digest


def test_the_operators_own_list_of_boards_leaves_nothing_to_discover(quick, outdated, monkeypatch, capsys, tmp_path):
    quick.board("b1")
    (tmp_path / "fleet.txt").write_text("b1\nb2\n")
    hide_from_wildcards(monkeypatch)
    capsys.readouterr()
    assert ota(quick.folder, "clean", "--devices", tmp_path / "fleet.txt", "--dry-run") == 1  # nobody knows the group of b2
    assert "incomplete: wildcards brought 0 of 1 known deployment: " in capsys.readouterr().err
    quick.board("b2")
    assert ota(quick.folder, "clean", "--devices", tmp_path / "fleet.txt", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["complete"], found["reasons"]) == (True, [])
    assert left(quick, outdated) == []


def test_wildcards_that_the_broker_announces_not_to_have_are_not_asked_for(quick, outdated, monkeypatch, capsys):
    """They would end the connection (MQTT 5, section 3.2.2.3.11)."""
    monkeypatch.setattr(Limits, "wildcards", False)
    real = Limits.from_properties.__func__

    def without(cls, properties):
        return cls(**{**vars(real(cls, properties)), "wildcards": False})

    monkeypatch.setattr(Limits, "from_properties", classmethod(without))
    capsys.readouterr()
    assert ota(quick.folder, "clean") == 1
    captured = capsys.readouterr()
    assert f"incomplete: {NO_WILDCARDS}" in captured.err
    assert f"{len(outdated)} topics, " in captured.out
    assert left(quick, outdated) == []


def test_a_reading_that_was_cut_is_told(quick, outdated, monkeypatch, capsys):
    """Of three groups with deployments one does not come."""
    for group in ("b", "c"):
        assert ota(quick.folder, "publish", quick.module(2), "--group", group) == 0
    monkeypatch.setattr("ota.operator.pages.FOUND_LIMIT", 2)
    capsys.readouterr()
    assert ota(quick.folder, "clean", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [each.partition(":")[0] for each in found["reasons"]] == ["wildcards brought 2 of 3 known deployments"]
    assert set(found["topics"]) == set(outdated)


def test_a_ciphertext_stays_that_an_update_of_another_workspace_needs(quick, capsys):
    assert ota(quick.folder, "group-keys", "new", GROUP) == 0
    assert ota(quick.folder, "publish", quick.module(1), "--encrypt") == 0
    first = Updates(quick.workspace).load(quick.entry().manifest_digest)
    other = Workspace.open(quick.copy("other"))
    again = sign_draft(other, first.draft, int(time.time()), anew=True)  # another manifest of the same ciphertext
    with quick.connect() as broker:
        publish(other, broker, again, scope=Scope("other"))
    assert ota(quick.folder, "publish", quick.module(2), "--plain") == 0
    capsys.readouterr()
    assert ota(quick.folder, "clean", "--json") == 0
    assert json.loads(capsys.readouterr().out)["topics"] == [topics.manifest(first.digest)]
    assert left(quick, [topic for topic, _ in artifacts(again)]) == [topic for topic, _ in artifacts(again)]

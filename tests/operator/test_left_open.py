"""Publications that end half way, that cross others, or that leave things behind: what is kept, told and gone back to."""

import json

import pytest

from ota.formats import topics
from ota.operator import document, publish
from ota.operator.document import ConflictError
from ota.operator.ledger import Ledger
from ota.operator.publish import artifacts
from ota.operator.scope import Scope
from ota.operator.updates import Updates
from tests.support.operator import ota
from tests.support.publishing import GROUP, LAB


def told(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def test_a_dry_run_has_the_shape_of_the_real_one(quick, capsys):
    assert ota(quick.folder, "publish", quick.module(1), "--json", "--dry-run") == 0
    rehearsed = told(capsys)
    assert ota(quick.folder, "publish", quick.module(1), "--json") == 0
    real = told(capsys)
    assert (rehearsed["sent"], real["sent"]) == (False, True)
    assert rehearsed.keys() == real.keys()
    assert rehearsed["published"][0].keys() == real["published"][0].keys()
    assert rehearsed["published"][0] | {"deployment": 0, "manifest": 0, "epoch": 0} == real["published"][0] | {
        "deployment": 0,
        "manifest": 0,
        "epoch": 0,
    }


def test_a_folder_that_is_no_build_is_named_with_what_is_expected(quick, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    assert ota(quick.folder, "publish", tmp_path / "empty") == 1
    said = capsys.readouterr().err
    assert f"{tmp_path / 'empty'} is not a build: it has no manifest.suit; name a .wasm, or a folder that `ota build` made" in said
    (tmp_path / "empty" / "blink.wasm").touch()
    assert ota(quick.folder, "publish", tmp_path / "empty") == 1
    assert f"; there is {tmp_path / 'empty' / 'blink.wasm'}\n" in capsys.readouterr().err
    assert ota(quick.folder, "run", tmp_path / "empty") == 1
    wanted = f"{tmp_path / 'empty'} is a folder: name the .wasm, .js or .ts in it; there is {tmp_path / 'empty' / 'blink.wasm'}\n"
    assert capsys.readouterr().err == f"ota: {wanted}"


def test_a_set_is_told_by_its_other_members(quick, capsys):
    assert ota(quick.folder, "publish", quick.module(1, "a"), quick.module(1, "b"), "--together") == 0
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first.endswith("together with b)")
    assert second.endswith("together with a)")


def test_a_conflict_at_the_second_device_says_that_the_first_has_it(quick, capsys, monkeypatch):
    real = publish.publish_edit

    def conflicting(workspace, broker, base, *rest):
        if base.device == "b":
            raise ConflictError("somebody else published to it")
        return real(workspace, broker, base, *rest)

    monkeypatch.setattr(publish, "publish_edit", conflicting)
    assert ota(quick.folder, "publish", quick.module(1), "--device", "a,b,c") == 1
    said = capsys.readouterr().err
    assert "somebody else published to it; published before that to device a, and not to device b, device c" in said
    assert quick.entry(device="a")


def test_what_was_never_on_the_broker_is_not_put_back(quick, monkeypatch, capsys):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    before = quick.retained(LAB.topic)
    monkeypatch.setattr(document._Publication, "_publish", _cut_off(document._Publication._publish))
    assert ota(quick.folder, "publish", quick.module(2)) == 1
    monkeypatch.undo()
    assert Ledger(quick.workspace).record(LAB).document != before
    quick.put(LAB.topic, b"")
    assert ota(quick.folder, "republish") == 0
    assert quick.retained(LAB.topic) == before
    assert ota(quick.folder, "publish", quick.module(2)) == 0
    assert Ledger(quick.workspace).record(LAB).kept == quick.retained(LAB.topic)
    capsys.readouterr()


def test_a_first_publication_that_failed_is_not_put_back_either(quick, monkeypatch):
    monkeypatch.setattr(document._Publication, "_publish", _cut_off(document._Publication._publish))
    assert ota(quick.folder, "publish", quick.module(1)) == 1
    monkeypatch.undo()
    assert ota(quick.folder, "republish") == 0
    assert quick.retained(LAB.topic) is None


def _cut_off(real):
    def until_sent(self, deployment, now_s):
        def lost(*_):
            raise document.BrokerError("the connection is lost")

        self._broker.publish_heard = lost
        real(self, deployment, now_s)

    return until_sent


def test_going_back_after_a_lost_race_does_not_go_back_to_what_was_to_be_left(quick, capsys):
    for version in (1, 2):
        assert ota(quick.folder, "publish", quick.module(version)) == 0
    good, bad = (Ledger(quick.workspace).record(LAB).releases["echo"][number].manifest for number in (1, 0))
    copy = quick.copy("second")
    Ledger(quick.workspace).leave(LAB, [bad])  # `abort --back` began, and lost
    assert ota(copy, "publish", quick.module(3)) == 0
    document = quick.retained(LAB.topic)
    Ledger(quick.workspace).deployed(LAB, document, quick.deployment())
    capsys.readouterr()
    assert ota(quick.folder, "abort", GROUP, "--back", "--dry-run", "--json") == 0
    assert told(capsys)["back_to"]["manifest"] == good.hex()


def test_what_was_aborted_is_not_gone_back_to_until_it_is_published_again(quick, capsys):
    for version in (1, 2):
        assert ota(quick.folder, "publish", quick.module(version)) == 0
    good, bad = (Ledger(quick.workspace).record(LAB).releases["echo"][number].manifest for number in (1, 0))
    assert ota(quick.folder, "abort", GROUP) == 0
    assert ota(quick.folder, "publish", quick.module(3)) == 0
    capsys.readouterr()
    assert ota(quick.folder, "abort", GROUP, "--back", "--dry-run", "--json") == 0
    assert told(capsys)["back_to"]["manifest"] == good.hex()
    assert Ledger(quick.workspace).record(LAB).left == {bad}


def test_a_device_that_takes_one_member_of_a_set_for_itself_is_warned_of(quick, capsys):
    members = [quick.module(1, "a"), quick.module(1, "b")]
    assert ota(quick.folder, "publish", *members, "--together") == 0
    quick.board("roof")
    assert ota(quick.folder, "status") == 0
    capsys.readouterr()
    for words in (("publish", quick.module(2, "a")), ("config", "a", "key=1")):
        assert ota(quick.folder, *words, "--device", "roof", "--dry-run" if words[0] == "config" else "--json") == 0
        said = capsys.readouterr().err
        assert "a, b of group lab are a set, of which device roof is to have a for itself" in said
        assert "until `ota withdraw a --device roof`" in said
    assert ota(quick.folder, "publish", quick.module(2, "b"), "--device", "roof") == 0
    assert "are a set" not in capsys.readouterr().err


def test_a_board_that_is_forgotten_leaves_no_deployment_of_its_own(quick):
    assert ota(quick.folder, "publish", quick.module(1), "--device", "old") == 0
    quick.board("old")
    assert ota(quick.folder, "status") == 0
    assert ota(quick.folder, "devices", "--forget", "old") == 0
    assert quick.retained(topics.device_desired("old")) is None
    assert Ledger(quick.workspace).record(Scope(device="old")) is None


def test_a_cleaning_of_another_workspace_takes_nothing_that_is_being_published(quick, monkeypatch):
    """It runs when the bytes are there and the document is not."""
    assert ota(quick.folder, "publish", quick.module(1, padding=20_000)) == 0
    assert ota(quick.folder, "publish", quick.module(2)) == 0
    copy = quick.copy("second")
    real = publish.publish_edit

    def cleaned_before(*arguments):
        assert ota(copy, "clean") == 0
        return real(*arguments)

    monkeypatch.setattr(publish, "publish_edit", cleaned_before)
    assert ota(quick.folder, "publish", quick.module(1, padding=20_000), "--new-sequence") == 0
    monkeypatch.undo()
    update = Updates(quick.workspace).load(quick.entry().manifest_digest)
    with quick.connect() as broker:
        assert [each.topic for each in broker.retained([topic for topic, _ in artifacts(update)]) if each.payload is None] == []


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("a b=1", "configuration key 'a b' is no name: 1 to 64 letters, digits"),
        ("=1", "KEY=VALUE"),
    ],
)
def test_a_configuration_key_that_is_none_is_named(quick, capsys, config, expected):
    assert ota(quick.folder, "publish", quick.module(1), "--config", config) in (1, 2)
    assert expected in capsys.readouterr().err

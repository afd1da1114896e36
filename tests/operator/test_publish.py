"""Publishing again, from a copy, onto a broker that was emptied, beside somebody else: real brokers, no board."""

import json
import shutil
import time
from dataclasses import replace

import pytest

from ota.author.build import prepare
from ota.cli.output import Bar
from ota.formats import topics
from ota.formats.deployment import DEPLOYMENT_TYPE, FRACTION_ALL
from ota.formats.signed import Role
from ota.formats.trust import ROOT_TYPE
from ota.keyring import SigningKey, sign_document
from ota.operator import publish as publishing
from ota.operator.broker import BrokerError, Limits
from ota.operator.document import ConflictError
from ota.operator.order import Item, Order
from ota.operator.presence import NotKeptError, put
from ota.operator.publish import sign_draft
from ota.operator.survey import look
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace
from tests.support.aot import aotc
from tests.support.operator import ota
from tests.support.publishing import GROUP, LAB


def test_the_same_content_again_changes_nothing(site, capsys):
    module = site.module(1)
    assert ota(site.folder, "publish", module) == 0
    first, document, state = site.entry(), site.retained(topics.desired(GROUP)), site.workspace.read()
    capsys.readouterr()
    assert ota(site.folder, "publish", module, "--json") == 0
    again = json.loads(capsys.readouterr().out)
    (entry,) = again["published"]
    assert (entry["changed"], again["put_back"], entry["deployment"]) == (False, 0, first.deployment_id.hex())
    assert (entry["group"], entry["instance"]) == (GROUP, "echo")
    assert site.retained(topics.desired(GROUP)) == document
    assert site.workspace.read() == state
    assert ota(site.folder, "publish", module) == 0
    assert "is published for group lab already" in capsys.readouterr().out


def test_only_what_the_broker_lost_is_put_back(site, capsys):
    module = site.module(1, padding=100_000)
    assert ota(site.folder, "publish", module) == 0
    update = Updates(site.workspace).load(site.entry().manifest_digest)
    everything = dict(publishing.artifacts(update))
    lost = [topics.blob_chunk(update.index.digest, 2), topics.blob_index(update.index.digest), topics.root(1)]
    for topic in lost:
        site.put(topic, b"")
    capsys.readouterr()
    assert ota(site.folder, "publish", module) == 0
    assert "3 messages that the broker had lost were put back" in capsys.readouterr().out
    assert {topic: site.retained(topic) for topic in everything} == everything


def test_a_wider_fraction_keeps_the_boards_that_have_it(site):
    module = site.module(1)
    assert ota(site.folder, "publish", module, "--fraction", "10") == 0
    first, epoch = site.entry(), site.deployment().epoch
    assert ota(site.folder, "publish", module, "--fraction", "50") == 0
    wider = site.entry()
    assert (wider.deployment_id, wider.manifest_digest) == (first.deployment_id, first.manifest_digest)
    assert site.deployment().epoch > epoch
    assert wider.fraction_ppm == FRACTION_ALL // 2
    names = [f"board-{number}" for number in range(200)]
    assert {name for name in names if first.includes(name)} < {name for name in names if wider.includes(name)}


def test_publishing_again_does_not_widen_by_itself_and_never_narrows(quick, capsys):
    module = quick.module(1)
    assert ota(quick.folder, "publish", module, "--fraction", "10") == 0
    assert ota(quick.folder, "publish", module) == 0
    assert quick.entry().fraction_ppm == FRACTION_ALL // 10
    capsys.readouterr()
    assert ota(quick.folder, "publish", module, "--fraction", "5") == 1
    assert "goes to 10 % of group lab already" in capsys.readouterr().err


def test_an_older_release_gets_a_new_number_unless_its_group_has_it(quick):
    first, second = quick.module(1), quick.module(2)
    assert ota(quick.folder, "publish", first) == 0
    one = quick.entry().manifest_digest
    assert ota(quick.folder, "publish", second, "--group", "other") == 0
    assert ota(quick.folder, "publish", first) == 0  # the group has it already
    assert quick.entry().manifest_digest == one
    assert ota(quick.folder, "publish", first, "--group", "other") == 0  # would be refused after the second
    kept = Updates(quick.workspace)
    back = kept.find(quick.entry(group="other").manifest_digest)
    assert back.content == kept.find(one).content
    assert back.sequence == max(each.sequence for each in kept.all())
    assert ota(quick.folder, "publish", first, "--new-sequence") == 0
    assert kept.find(quick.entry().manifest_digest).sequence > back.sequence


def test_a_module_that_takes_its_place_back_gets_a_new_number(quick):
    """Boards refuse what is not above what they ran of a module before, whatever its instance ran since."""
    echo, other = quick.module(1), quick.module(1, "other")
    sequences = []
    for module in (echo, other, echo, other):
        assert ota(quick.folder, "publish", module, "--instance", "one") == 0
        sequences.append(Updates(quick.workspace).find(quick.entry("one").manifest_digest).sequence)
    assert sequences == sorted(set(sequences))
    quick.put(topics.desired(GROUP), b"")  # what the broker lost does not count less
    assert ota(quick.folder, "publish", echo, "--instance", "one") == 0
    assert Updates(quick.workspace).find(quick.entry("one").manifest_digest).sequence > sequences[-1]


def test_two_instances_may_run_the_same_update(quick):
    assert ota(quick.folder, "publish", quick.module(1), "--instance", "left") == 0
    assert ota(quick.folder, "publish", quick.module(1), "--instance", "right") == 0
    left, right = quick.entry("left"), quick.entry("right")
    assert left.manifest_digest == right.manifest_digest
    assert left.deployment_id != right.deployment_id


def test_two_copies_that_publish_in_turn_never_go_below_each_other(quick):
    copy = quick.copy("second")
    epochs, sequences = [], []
    for folder, version in ((quick.folder, 1), (copy, 2), (quick.folder, 1), (copy, 2), (copy, 3), (quick.folder, 1)):
        assert ota(folder, "publish", quick.module(version)) == 0
        deployment = quick.deployment()
        epochs.append(deployment.epoch)
        sequences.append(Updates(Workspace.open(folder)).find(deployment.entries["echo"].manifest_digest).sequence)
    assert epochs == sorted(set(epochs))
    assert sequences == sorted(set(sequences))


def test_a_dry_run_signs_nothing_and_uses_up_no_number(quick, capsys):
    (quick.folder / "keys" / "release.pem").unlink()
    before = {path: path.read_bytes() for path in quick.folder.rglob("*") if path.is_file()}
    assert ota(quick.folder, "publish", quick.module(1), "--dry-run") == 0
    assert "not signed yet; nothing was sent" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in quick.folder.rglob("*") if path.is_file()} == before


def test_a_dry_run_refuses_what_boards_refuse(quick, capsys):
    module = quick.module(1)
    topics_ = ", ".join(f'"out/{number:03}/{"x" * 200}"' for number in range(100))
    module.with_suffix(".toml").write_text(
        f'[module]\nname = "echo"\nversion = "1"\n[limits]\nmemory_pages = 4\n[capabilities.messaging]\npublish = [{topics_}]\n'
    )
    assert ota(quick.folder, "publish", module, "--dry-run") == 1
    assert capsys.readouterr().err.startswith("ota: ")
    assert Updates(quick.workspace).all() == []


def test_a_copied_workspace_goes_on_above_what_the_original_signed(site, capsys):
    assert ota(site.folder, "publish", site.module(1)) == 0
    copy, first = site.copy("backup"), site.deployment()
    for version in (2, 3, 4):
        assert ota(site.folder, "publish", site.module(version)) == 0
    original, sequence = site.deployment(), site.workspace.read()["sequence"]
    capsys.readouterr()
    assert ota(copy, "publish", site.module(5)) == 0
    assert (
        f"has deployment epoch {original.epoch} of group lab, signed with these keys; this workspace knew {first.epoch}"
        in capsys.readouterr().err
    )
    assert site.deployment().epoch > original.epoch
    assert Workspace.open(copy).read()["sequence"] > sequence


def test_another_workspace_is_not_overwritten(site, capsys, tmp_path):
    assert ota(site.folder, "publish", site.module(1)) == 0
    document, root = site.retained(topics.desired(GROUP)), site.retained(topics.root(1))
    other = tmp_path / "other"
    assert ota(other, "init", "--no-passphrase", "--broker", site.broker.url) == 0
    capsys.readouterr()
    assert ota(other, "publish", site.module(2)) == 1
    message = capsys.readouterr().err
    assert "belongs to another workspace: ota/v1/root/1 is not the root document of this workspace" in message
    assert "--take-over" in message
    assert (site.retained(topics.desired(GROUP)), site.retained(topics.root(1))) == (document, root)
    assert ota(other, "publish", site.module(2), "--group", "elsewhere") == 1
    assert ota(other, "publish", site.module(2), "--take-over") == 0
    assert site.retained(topics.root(1)) == Workspace.open(other).root_documents()[1]


def test_a_deployment_of_somebody_else_is_not_overwritten_without_roots_either(quick, capsys, tmp_path):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    quick.put(topics.root(1), b"")
    other = tmp_path / "other"
    assert ota(other, "init", "--no-passphrase", "--broker", quick.broker.url) == 0
    capsys.readouterr()
    assert ota(other, "publish", quick.module(2)) == 1
    assert "the deployment of group lab there is not signed by this workspace's keys (signer-unknown" in capsys.readouterr().err


def _next_root(folder) -> bytes:
    """Root 2 of a workspace: the same keys, signed by the root key."""
    workspace = Workspace.open(folder)
    return sign_document(replace(workspace.root(), number=2).to_payload(), ROOT_TYPE, [workspace.key("root")])


def test_a_restored_workspace_takes_newer_roots_from_the_broker(site, capsys):
    site.put(topics.root(2), _next_root(site.folder))
    assert ota(site.folder, "publish", site.module(1)) == 0
    assert "root document 2 was on the broker and not in this workspace: added to trust/" in capsys.readouterr().err
    assert site.workspace.root().number == 2


def test_a_root_that_ours_did_not_sign_is_neither_taken_nor_overwritten(quick, capsys, tmp_path):
    other = tmp_path / "other"
    assert ota(other, "init", "--no-passphrase", "--vendor", "test.example") == 0
    theirs = _next_root(other)
    quick.put(topics.root(2), theirs)
    capsys.readouterr()
    assert ota(quick.folder, "publish", quick.module(1)) == 1
    assert "root document 2 on the broker is not signed by ours: signer-unknown" in capsys.readouterr().err
    assert quick.workspace.root().number == 1
    assert quick.retained(topics.root(2)) == theirs
    assert quick.retained(topics.desired(GROUP)) is None
    assert ota(quick.folder, "publish", quick.module(1), "--take-over") == 0
    assert quick.retained(topics.root(2)) is None  # boards would try it after each connection


def test_numbers_go_on_above_an_update_that_was_signed_elsewhere(quick, tmp_path):
    copy = quick.copy("second")
    opened = Workspace.open(copy)
    opened.adopt(sequence=1 << 33)
    assert ota(copy, "build", quick.module(1), "-o", tmp_path / "dist") == 0
    assert ota(quick.folder, "publish", tmp_path / "dist" / "echo-1.0.0") == 0
    assert ota(quick.folder, "publish", quick.module(2)) == 0
    assert Updates(quick.workspace).find(quick.entry().manifest_digest).sequence > 1 << 33


@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
def test_images_that_are_compiled_again_are_the_same_content(quick):
    module = quick.module(1)
    for _ in range(2):
        assert ota(quick.folder, "publish", module, "--aot", "x86_64") == 0
    assert len(Updates(quick.workspace).all()) == 1
    assert ota(quick.folder, "publish", module, "--aot", "x86_64,aarch64") == 0
    assert len(Updates(quick.workspace).all()) == 2


def _rotate(folder, role: str = "deploy") -> None:
    """Root 2 has another key for this role."""
    workspace = Workspace.open(folder)
    fresh = SigningKey.generate()
    roles = {**workspace.root().roles, role: Role({fresh.public.key_id: fresh.public}, 1)}
    root = replace(workspace.root(), number=2, roles=roles)
    workspace.add_root(2, sign_document(root.to_payload(), ROOT_TYPE, [workspace.key("root")]))
    (folder / "keys" / f"{role}.pem").unlink()
    fresh.save(folder / "keys" / f"{role}-2.pem")


def test_the_highest_epoch_of_a_stolen_key_is_not_adopted_and_ends_with_the_key(quick, capsys):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    stolen = replace(quick.deployment(), epoch=(1 << 63) - 1)
    document = sign_document(stolen.to_payload(), DEPLOYMENT_TYPE, [quick.workspace.key("deploy")])
    quick.put(topics.desired(GROUP), document)
    before = quick.workspace.read()
    capsys.readouterr()
    assert ota(quick.folder, "publish", quick.module(2)) == 1
    assert "is not plausible: the key may be stolen. Replace it in a new root" in capsys.readouterr().err
    assert quick.workspace.read()["epochs"] == before["epochs"]
    _rotate(quick.folder)
    assert ota(quick.folder, "publish", quick.module(2)) == 0
    assert before["epochs"][GROUP] < quick.deployment().epoch < stolen.epoch


def test_a_deployment_of_a_replaced_key_is_not_somebody_elses_and_is_not_put_back(quick, capsys):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    epoch = quick.deployment().epoch
    _rotate(quick.folder)
    capsys.readouterr()
    assert ota(quick.folder, "republish") == 1
    assert "publish to group lab again" in capsys.readouterr().err
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    assert quick.deployment().epoch > epoch
    assert ota(quick.folder, "republish") == 0


def test_republish_with_dry_run_says_what_it_would_put_back_and_sends_nothing(quick, capsys):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    quick.put(topics.desired(GROUP), b"")
    files = {path: path.read_bytes() for path in quick.folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert ota(quick.folder, "republish", "--dry-run") == 0
    assert "1 messages would be put back" in capsys.readouterr().out
    assert ota(quick.folder, "republish", "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["put_back"], told["sent"]) == (1, False)
    assert quick.retained(topics.desired(GROUP)) is None
    assert files == {path: path.read_bytes() for path in quick.folder.rglob("*") if path.is_file()}
    for more in (("--renew",), ("--from", "archive")):
        assert ota(quick.folder, "republish", "--dry-run", *more) == 2
    assert ota(quick.folder, "republish") == 0
    assert quick.retained(topics.desired(GROUP)) is not None


def test_what_a_replaced_release_key_signed_is_signed_anew(quick):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    old = Updates(quick.workspace).find(quick.entry().manifest_digest)
    _rotate(quick.folder, "release")
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    new = Updates(quick.workspace).find(quick.entry().manifest_digest)
    assert new.content == old.content
    assert new.sequence > old.sequence


def test_an_emptied_broker_is_noticed(site, capsys):
    assert ota(site.folder, "publish", site.module(1)) == 0
    update = Updates(site.workspace).load(site.entry().manifest_digest)
    for topic in (topics.root(1), topics.desired(GROUP), *(topic for topic, _ in publishing.artifacts(update))):
        site.put(topic, b"")
    capsys.readouterr()
    assert ota(site.folder, "publish", site.module(2)) == 0
    assert "has lost what was published there (1 group): `ota republish` puts everything back" in capsys.readouterr().err


def test_another_broker_is_noticed(quick, capsys):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    old = quick.broker.url
    quick.move()
    capsys.readouterr()
    assert ota(quick.folder, "publish", quick.module(2)) == 0
    assert f"but at {old}: `ota republish` brings everything to the new broker" in capsys.readouterr().err


def test_the_epoch_goes_on_when_the_broker_lost_the_deployment(quick):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    epoch = quick.deployment().epoch
    quick.put(topics.desired(GROUP), b"")
    assert ota(quick.folder, "publish", quick.module(2)) == 0
    assert quick.deployment().epoch > epoch


def test_the_same_content_puts_the_same_deployment_back(quick):
    module = quick.module(1)
    assert ota(quick.folder, "publish", module) == 0
    document = quick.retained(topics.desired(GROUP))
    quick.put(topics.desired(GROUP), b"")
    assert ota(quick.folder, "publish", module) == 0
    assert quick.retained(topics.desired(GROUP)) == document


def test_a_deployment_that_came_during_the_upload_is_not_overwritten(quick):
    workspace = quick.workspace
    draft = prepare(quick.module(1), workspace.settings.vendor)
    update = sign_draft(workspace, draft, int(time.time()))
    copy = quick.copy("second")
    with quick.connect() as broker:
        survey = look(workspace, broker, LAB)
        assert ota(copy, "publish", quick.module(2)) == 0
        theirs = quick.retained(topics.desired(GROUP))
        with pytest.raises(ConflictError, match="somebody else published manifest"):
            publishing.deploy(workspace, broker, [Item(update, "echo")], Order(), int(time.time()), {LAB: survey})
    assert quick.retained(topics.desired(GROUP)) == theirs


def test_another_instance_that_came_during_the_upload_stays(quick):
    workspace, copy = quick.workspace, quick.copy("second")
    update = sign_draft(workspace, prepare(quick.module(1), workspace.settings.vendor), int(time.time()))
    with quick.connect() as broker:
        survey = look(workspace, broker, LAB)
        assert ota(copy, "publish", quick.module(1, "other")) == 0
        theirs = quick.deployment()
        publishing.deploy(workspace, broker, [Item(update, "echo")], Order(), int(time.time()), {LAB: survey})
    assert quick.entry("other") == theirs.entries["other"]
    assert quick.entry("echo").manifest_digest == update.digest
    assert quick.deployment().epoch > theirs.epoch


def test_a_broker_that_does_not_keep_what_it_acknowledges_is_told(quick, monkeypatch):
    with quick.connect() as broker:
        publish_all = broker.publish_all
        monkeypatch.setattr(broker, "publish_all", lambda messages, *rest: publish_all(messages[1:], *rest))
        with pytest.raises(NotKeptError, match="acknowledged 2 retained messages and does not keep 1 of them, such as ota/v1/a"):
            put(broker, [("ota/v1/a", b"1"), ("ota/v1/b", b"2")])


@pytest.mark.parametrize(
    ("now", "told"), [("2020-01-01", "but this workspace signed something"), ("2036-01-01", "no board is connected")]
)
def test_a_clock_that_cannot_be_right_is_refused(quick, capsys, monkeypatch, now, told):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    state = quick.workspace.read()
    wrong = time.mktime(time.strptime(now, "%Y-%m-%d"))
    monkeypatch.setattr("ota.cli.operator.time.time", lambda: wrong)
    capsys.readouterr()
    assert ota(quick.folder, "publish", quick.module(2)) == 1
    message = capsys.readouterr().err
    assert told in message
    assert "--clock-is-right" in message
    assert quick.workspace.read() == state
    assert ota(quick.folder, "publish", quick.module(2), "--clock-is-right") == 0


def test_the_clocks_of_connected_boards_show_that_ours_is_days_ahead(quick, capsys, monkeypatch):
    now = int(time.time())
    for number, time_s in enumerate((now, now + 3, 40, now + 10**9, now - 2)):  # one was never set, one is wrong
        quick.board(f"b{number}", time_s=time_s)
    monkeypatch.setattr("ota.cli.operator.time.time", lambda: now + 5 * 86_400)
    assert ota(quick.folder, "publish", quick.module(1)) == 1
    assert "but the clocks of the connected boards say" in capsys.readouterr().err


def test_a_group_with_boards_of_another_class_is_not_taken_from_them(quick, capsys):
    quick.board("b1", board="raspberry-pi-4")
    quick.board("b2", board="generic-armv7")
    module = quick.module(1)
    assert ota(quick.folder, "publish", module, "--board", "raspberry-pi-4") == 1
    assert "the group has board b2 of another class (generic-armv7)" in capsys.readouterr().err
    assert quick.retained(topics.desired(GROUP)) is None
    assert ota(quick.folder, "publish", module, "--board", "raspberry-pi-4", "--mixed-group") == 0
    assert ota(quick.folder, "publish", module) == 0  # for every class


def test_boards_that_run_something_newer_are_named(quick, capsys):
    quick.board("b1", instances=[{"module": "echo", "version": "9.0.0", "sequence": 1 << 40, "slot": "confirmed"}])
    quick.board("b2", instances=[{"module": "other", "version": "9.0.0", "sequence": 1 << 40, "slot": "confirmed"}])
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    assert "board b1 of the group runs echo 9.0.0 (sequence 1099511627776) and will refuse sequence" in capsys.readouterr().err


def test_a_key_that_the_newest_root_does_not_name_signs_nothing(quick, capsys, tmp_path):
    other = tmp_path / "other"
    assert ota(other, "init", "--no-passphrase") == 0
    shutil.copy(other / "keys" / "deploy.pem", quick.folder / "keys" / "deploy.pem")
    assert ota(quick.folder, "publish", quick.module(1)) == 1
    error = capsys.readouterr().err
    assert "no deploy key of root 1, the newest, is at hand" in error
    assert "deploy.pem holds another" in error


def test_no_more_updates_are_kept_than_the_settings_say(quick):
    with (quick.folder / "ota.toml").open("a") as settings:
        settings.write("keep_updates = 2\n")
    assert ota(quick.folder, "publish", quick.module(1), "--group", "old") == 0
    for version in (2, 3, 4, 5):
        assert ota(quick.folder, "publish", quick.module(version)) == 0
    versions = {each.version for each in Updates(quick.workspace).all()}
    # the first is what another group runs, the third what this one ran before the last
    assert versions == {"1.0.0", "3.0.0", "4.0.0", "5.0.0"}
    assert sum(1 for _ in (quick.folder / "published" / "echo").iterdir()) == 4


def test_a_kept_update_that_is_damaged_is_signed_anew(quick):
    module = quick.module(1)
    assert ota(quick.folder, "publish", module) == 0
    (blob,) = (quick.folder / "published").rglob("module.wasm")
    blob.write_bytes(b"damaged")
    assert ota(quick.folder, "publish", module) == 0
    assert Updates(quick.workspace).load(quick.entry().manifest_digest).blob == module.read_bytes()


def test_a_group_or_device_that_nobody_knows_is_told_of_without_waiting(quick, capsys):
    quick.board("roof")
    told = {
        ("--group", "lib"): "note: no board has reported group lib (did you mean lab?); boards have lab",
        ("--device", "rooof"): "note: no board has reported as device rooof (did you mean roof?); `ota devices` lists the boards",
        ("--boards", "roof,rooof"): "note: no board has reported as rooof (did you mean roof?); `ota devices` lists the boards",
        ("--device", "roof"): "",
        ("--group", GROUP): "",
    }
    for words, note in told.items():
        assert ota(quick.folder, "publish", quick.module(1), *words) == 0
        said = capsys.readouterr().err
        assert note in said
        assert bool(note) == ("note:" in said)
    assert ota(quick.folder, "publish", quick.module(2), "--boards", "roof") == 0
    assert ota(quick.folder, "widen", GROUP, "--boards", "roff") == 0
    assert "no board has reported as roff" in capsys.readouterr().err
    assert ota(quick.folder, "config", "echo", "key=value", "--device", "rooof") == 0
    assert "no board has reported as device rooof" in capsys.readouterr().err


def test_what_never_arrived_is_not_said_to_be_lost(quick, capsys, monkeypatch):
    def refuse(limits, messages, *_):
        if any("/blob/" in topic for topic, _ in messages):
            raise BrokerError("a packet of 9087 bytes; the broker announced less")

    monkeypatch.setattr(Limits, "check", refuse)
    assert ota(quick.folder, "publish", quick.module(1)) == 1
    monkeypatch.undo()
    capsys.readouterr()
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    assert "lost" not in capsys.readouterr().err
    quick.move()
    assert ota(quick.folder, "publish", quick.module(2), "--dry-run") == 0
    assert ota(quick.folder, "publish", quick.module(2)) == 0
    assert "nothing was published at" in capsys.readouterr().err


def test_the_bar_of_a_first_publication_ends_at_the_whole(quick, monkeypatch):
    shown = []
    monkeypatch.setattr(Bar, "at", lambda _, done, total: shown.append((done, total)))
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    assert all(done <= total for done, total in shown)
    assert shown[-1][0] == shown[-1][1] > 0

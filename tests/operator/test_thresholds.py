"""Updates and deployments that several people sign: two workspaces with one key each, thresholds of two."""

import shutil
from dataclasses import replace

import pytest

from ota.formats import topics
from ota.formats.deployment import DEPLOYMENT_TYPE
from ota.formats.manifest import verify_any
from ota.formats.reasons import Reason, Refused
from ota.keyring import sign_document
from ota.operator import presence
from ota.operator.broker import BrokerError
from ota.operator.keys import index_line
from ota.operator.ledger import Ledger
from ota.operator.scope import Scope
from ota.operator.workspace import Workspace
from tests.operator.test_keys import follow
from tests.support.operator import ota
from tests.support.publishing import GROUP


@pytest.fixture
def second(quick):
    """The workspace of a second person: the same chain and broker, and keys of her own only."""
    return quick.root / "second"


def split(quick, second, role: str) -> None:
    """A second key for a role, which only the second person has; both must sign."""
    assert ota(quick.folder, "keys", "add", role) == 0
    follow(quick.folder, "threshold", role, "2")
    shutil.copytree(quick.folder, second, dirs_exist_ok=True)
    new = next(iter((quick.folder / "keys").glob(f"{role}-*.pem")))
    new.unlink()
    (second / "keys" / f"{role}.pem").unlink()
    if role == "release":
        (second / "keys" / "deploy.pem").unlink()


def waiting(folder, pattern: str):
    """The last of what waits to be signed."""
    found = sorted((folder / "pending").glob(pattern))
    assert found
    return found[-1]


def test_an_update_with_one_of_two_signatures_waits_for_the_other_and_is_published_then(quick, second, capsys):
    split(quick, second, "release")
    assert ota(quick.folder, "publish", quick.module(1)) == 1
    error = capsys.readouterr().err
    folder = waiting(quick.folder, "echo-*")
    assert f"echo 1.0.0 has 1 of 2 needed signatures (release of root 2): have others sign it (`ota sign {folder}`)" in error
    assert quick.retained(topics.desired(GROUP)) is None
    first = (folder / "manifest.suit").read_bytes()
    with pytest.raises(Refused) as refused:
        verify_any(first, quick.workspace.root())
    assert refused.value.reason is Reason.SIGNER_THRESHOLD
    assert ota(quick.folder, "publish", folder) == 1
    assert "signer-threshold" in capsys.readouterr().err
    assert ota(quick.folder, "publish", quick.module(1)) == 1  # again: the same one waits, no number is used up
    assert (folder / "manifest.suit").read_bytes() == first
    assert ota(quick.folder, "sign", folder) == 1
    assert "no key that may sign it is at hand" in capsys.readouterr().err
    assert ota(second, "sign", folder) == 0
    assert "has all the signatures that it needs" in capsys.readouterr().out
    assert ota(quick.folder, "publish", folder) == 0
    envelope = quick.retained(topics.manifest(quick.entry().manifest_digest))
    assert len(verify_any(envelope, quick.workspace.root()).signers) == 2
    assert ota(quick.folder, "publish", quick.module(1)) == 0  # the same content: nothing is to be signed
    assert quick.entry().manifest_digest


def test_an_update_of_the_same_content_is_used_once_others_have_signed_it(quick, second, capsys):
    split(quick, second, "release")
    assert ota(quick.folder, "publish", quick.module(1)) == 1
    assert ota(second, "sign", waiting(quick.folder, "echo-*")) == 0
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    assert quick.entry().manifest_digest


def test_a_deployment_with_one_of_two_signatures_waits_and_any_workspace_publishes_it(quick, second, capsys):
    split(quick, second, "deploy")
    assert ota(quick.folder, "publish", quick.module(1)) == 1
    path = waiting(quick.folder, "lab-*.cbor")
    assert f"then `ota publish {path}`" in capsys.readouterr().err
    assert quick.retained(topics.desired(GROUP)) is None
    assert ota(quick.folder, "publish", path) == 1
    assert "can't be published yet: 1 of 2 needed signatures (deploy of root 2)" in capsys.readouterr().err
    assert ota(second, "sign", path) == 0
    copy = shutil.copy(path, second)
    assert ota(second, "publish", copy) == 0
    assert f"the deployment of group lab, epoch {quick.deployment().epoch}, is published" in capsys.readouterr().out
    assert list(quick.deployment().entries) == ["echo"]
    assert ota(quick.folder, "publish", path) == 0  # it is there


def test_a_document_that_never_arrived_is_not_put_back(quick, second, monkeypatch):
    split(quick, second, "deploy")
    assert ota(quick.folder, "publish", quick.module(1)) == 1
    path = waiting(quick.folder, "lab-*.cbor")
    assert ota(second, "sign", path) == 0
    real = presence.put

    def until_the_document(broker, messages):
        if topics.desired(GROUP) in dict(messages):
            raise BrokerError("the connection is lost")
        real(broker, messages)

    monkeypatch.setattr(presence, "put", until_the_document)
    assert ota(quick.folder, "publish", path) == 1
    monkeypatch.undo()
    assert ota(quick.folder, "republish") == 0
    assert quick.retained(topics.desired(GROUP)) is None
    assert ota(quick.folder, "publish", path) == 0
    assert Ledger(quick.workspace).record(Scope(GROUP)).kept == quick.retained(topics.desired(GROUP)) == path.read_bytes()


def test_a_pause_needs_the_same_signatures(quick, second):
    split(quick, second, "deploy")
    assert ota(quick.folder, "publish", quick.module(1)) == 1
    assert ota(second, "sign", waiting(quick.folder, "lab-*.cbor")) == 0
    assert ota(quick.folder, "publish", waiting(quick.folder, "lab-*.cbor")) == 0
    assert ota(quick.folder, "pause", GROUP) == 1
    assert not quick.entry().paused
    assert ota(second, "sign", waiting(quick.folder, "lab-*.cbor")) == 0
    assert ota(quick.folder, "publish", waiting(quick.folder, "lab-*.cbor")) == 0
    assert quick.entry().paused


def test_an_abort_that_others_sign_is_one_once_it_is_published_and_not_before(quick, second, capsys):
    split(quick, second, "deploy")

    def publish_last() -> None:
        assert ota(second, "sign", waiting(quick.folder, "lab-*.cbor")) == 0
        assert ota(quick.folder, "publish", waiting(quick.folder, "lab-*.cbor")) == 0

    assert ota(quick.folder, "publish", quick.module(1)) == 1
    publish_last()
    assert ota(quick.folder, "abort", GROUP) == 1
    waiting(quick.folder, "lab-*.cbor").unlink()  # nobody signs it
    assert ota(quick.folder, "pause", GROUP) == 1
    publish_last()
    assert ota(quick.folder, "resume", GROUP) == 1
    publish_last()
    assert not quick.entry().paused
    assert ota(quick.folder, "abort", GROUP) == 1
    publish_last()
    capsys.readouterr()
    assert ota(quick.folder, "resume", GROUP) == 1
    assert "was aborted: publish an update, or the same one again" in capsys.readouterr().err


def test_a_document_that_would_undo_a_later_change_is_not_published(quick, second, capsys):
    split(quick, second, "deploy")
    assert ota(quick.folder, "publish", quick.module(1)) == 1
    late = waiting(quick.folder, "lab-*.cbor")
    assert ota(second, "sign", late) == 0
    key = Workspace.open(second).role_keys("deploy")[0]
    both = [quick.workspace.key("deploy"), key]
    assert ota(quick.folder, "publish", late) == 0
    made = quick.deployment()
    entry = replace(made.entries["echo"], issued_s=made.entries["echo"].issued_s + 50)
    later = replace(made, epoch=made.epoch + 1, issued_s=entry.issued_s, entries={"echo": entry})
    quick.put(topics.desired(GROUP), sign_document(later.to_payload(), DEPLOYMENT_TYPE, both))
    for epoch in (made.epoch, made.epoch + 1, made.epoch + 2):
        path = quick.root / "mine.cbor"
        path.write_bytes(sign_document(replace(made, epoch=epoch).to_payload(), DEPLOYMENT_TYPE, both))
        assert ota(quick.folder, "publish", path) == 1
        assert "somebody published to group lab since this document was made" in capsys.readouterr().err
    assert Scope(GROUP).verify(quick.retained(topics.desired(GROUP)), quick.workspace.root()) == later


def test_a_document_whose_update_is_nowhere_is_not_published(quick, second, capsys):
    split(quick, second, "deploy")
    assert ota(quick.folder, "publish", quick.module(1)) == 1
    path = waiting(quick.folder, "lab-*.cbor")
    assert ota(second, "sign", path) == 0
    quick.move(second)  # another broker, to which nothing was published
    copy = shutil.copy(path, second)
    assert ota(second, "publish", copy) == 1
    assert "is neither kept here nor on the broker" in capsys.readouterr().err


def test_no_key_at_hand_says_where_each_should_be(quick, capsys):
    (quick.folder / "keys" / "release.pem").unlink()
    (quick.folder / "keys.toml").write_text(index_line(next(iter(quick.workspace.root().roles["release"].keys)), "gone.pem"))
    assert ota(quick.folder, "publish", quick.module(1)) == 1
    error = capsys.readouterr().err
    assert "no release key of root 1, the newest, is at hand" in error
    assert "gone.pem is not there" in error

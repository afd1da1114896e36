"""The life of keys: several a role, thresholds, drafts of roots that go from person to person, rotations."""

import json
import os
import shutil
from dataclasses import replace

import pytest

from ota.errors import KeyFileError
from ota.formats import topics, trust
from ota.formats.manifest import verify_any
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import Role
from ota.formats.trust import ROOT_TYPE
from ota.keyring import SigningKey, sign_document
from ota.operator import root_draft
from ota.operator.keys import short
from ota.operator.scope import Scope
from ota.operator.signing import Signable
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace
from tests.support.operator import ota
from tests.support.publishing import GROUP

DRAFT = "trust/draft.cbor"


def opened(folder) -> Workspace:
    return Workspace.open(folder)


def key_ids(folder, role: str) -> list[str]:
    return sorted(each.hex() for each in opened(folder).root().roles[role].key_ids)


def listed(folder, capsys) -> dict:
    capsys.readouterr()
    assert ota(folder, "keys", "list", "--json") == 0
    return json.loads(capsys.readouterr().out)


def follow(folder, *words) -> None:
    """A change of keys, signed and added to the chain without a broker."""
    assert ota(folder, "keys", *words) == 0
    assert ota(folder, "root", "sign") == 0
    workspace = opened(folder)
    draft = root_draft.load(workspace)
    root_draft.publishable(workspace, draft)
    workspace.add_root(workspace.root().number + 1, draft.data)
    root_draft.discard(workspace)


# -- editing


def test_a_new_workspace_lists_one_key_a_role_and_where_it_is(workspace, capsys):
    found = listed(workspace, capsys)
    assert [(each["role"], each["where"], each["state"]) for each in found["keys"]] == [
        (role, f"keys/{role}.pem", "root 1") for role in trust.ROLES
    ]
    assert ota(workspace, "keys", "list") == 0
    assert "release: 1 of 1 sign" in capsys.readouterr().out


def test_an_edit_of_a_draft_drops_its_signatures_and_says_so(workspace, capsys):
    assert ota(workspace, "keys", "add", "release") == 0
    assert ota(workspace, "root", "sign") == 0
    assert "has all the signatures that it needs" in capsys.readouterr().out
    assert ota(workspace, "keys", "threshold", "release", "2") == 0
    assert "the draft lost its 1 signature" in capsys.readouterr().err
    draft = root_draft.load(opened(workspace))
    assert draft.signatures == ()
    assert draft.content.roles["release"].threshold == 2
    assert ota(workspace, "root", "show") == 0
    assert "lacks: 0 of 1 needed signatures (root 1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("revoke", "root", ""), "'' is not"),
        (("threshold", "release", "2"), "its threshold is from 1 to 1, not 2"),
        (("threshold", "release", "0"), "its threshold is from 1 to 1, not 0"),
        (("revoke", "deploy", "ffff"), "is not the beginning (4 digits at least) of one deploy key's identifier"),
        (("add", "deploy", "--key", "keys/none.pem"), "keys/none.pem: No such file"),
        (("add", "deploy", "--public", "nothing.pub"), "nothing.pub: No such file"),
    ],
)
def test_a_change_that_can_not_be_leaves_no_draft(workspace, capsys, words, message):
    if words[:2] == ("revoke", "root"):
        words, message = ("revoke", "root", key_ids(workspace, "root")[0][:8]), "role root would have 0 keys and threshold 1"
    assert ota(workspace, "keys", *words) == 1
    assert message in capsys.readouterr().err
    assert not (workspace / DRAFT).exists()


def test_a_key_of_one_role_is_not_taken_for_another(workspace, capsys):
    """Key reuse across roles: who steals the key that is online would have the other role as well."""
    assert ota(workspace, "keys", "add", "root", "--key", workspace / "keys" / "deploy.pem") == 1
    assert "is a deploy key already: a key has one role" in capsys.readouterr().err
    assert not (workspace / DRAFT).exists()


def test_a_draft_that_somebody_else_overtook_is_named_and_can_be_removed(workspace, capsys):
    assert ota(workspace, "root", "edit", "--days", "100") == 0
    root = opened(workspace).root()
    key = opened(workspace).key("root")
    opened(workspace).add_root(2, sign_document(replace(root, number=2).to_payload(), ROOT_TYPE, [key]))
    assert ota(workspace, "keys", "rotate", "deploy") == 1
    assert "somebody published one since" in capsys.readouterr().err
    assert ota(workspace, "root", "edit", "--discard") == 0
    follow(workspace, "rotate", "deploy")
    assert opened(workspace).root().number == 3


def test_a_rotated_key_is_made_locked_as_the_others_are(tmp_path, capsys):
    folder, secret = tmp_path / "o", tmp_path / "secret"
    secret.write_text("correct horse")
    assert ota(folder, "init", "--passphrase-file", secret) == 0
    assert ota(folder, "keys", "rotate", "deploy") == 1
    assert "is locked: give --passphrase-file" in capsys.readouterr().err
    assert ota(folder, "keys", "rotate", "deploy", "--passphrase-file", secret) == 0
    (new,) = set((folder / "keys").glob("deploy-*.pem"))
    assert b"ENCRYPTED" in new.read_bytes()
    assert ota(folder, "keys", "list") == 0  # and needs no passphrase
    assert f"keys/{new.name}" in capsys.readouterr().out


# -- signatures from several people


@pytest.fixture
def people(tmp_path, capsys):
    """Five people, each with a key of their own; they have no workspace."""
    found = []
    for name in ("alice", "bob", "carol", "dave", "erin"):
        assert ota(tmp_path, "keys", "new", tmp_path / f"{name}.pem") == 0
        found.append(tmp_path / f"{name}.pem")
    capsys.readouterr()
    return found


def test_a_root_goes_from_one_of_one_to_three_of_five_by_files(workspace, people, tmp_path, capsys):
    for person in people:
        assert ota(workspace, "keys", "add", "root", "--public", f"{person}.pub") == 0
    old = key_ids(workspace, "root")[0]
    assert ota(workspace, "keys", "revoke", "root", old[:8]) == 0
    assert ota(workspace, "keys", "threshold", "root", "3") == 0
    assert ota(workspace, "root", "sign") == 0
    assert "still lacks: 0 of 3 needed signatures (root 2)" in capsys.readouterr().out
    for number, person in enumerate(people[:3]):
        copy = tmp_path / f"copy-{number}.cbor"
        shutil.copy(workspace / DRAFT, copy)
        (tmp_path / "nowhere").mkdir(exist_ok=True)
        assert ota(tmp_path / "nowhere", "sign", copy, "--key", person) == 0
    assert ota(workspace, "root", "publish", tmp_path / "copy-0.cbor", tmp_path / "copy-1.cbor") == 1
    assert "2 of 3 needed signatures (root 2)" in capsys.readouterr().err
    assert opened(workspace).root().number == 1
    assert ota(workspace, "sign", workspace / DRAFT, "--key", people[2]) == 0
    opened_draft = root_draft.load(opened(workspace))
    assert opened_draft.lacks(opened(workspace).root()) == ()
    opened(workspace).add_root(2, opened_draft.data)
    assert len(key_ids(workspace, "root")) == 5


def test_a_wrong_signature_in_a_copy_is_named_before_anything_is_published(workspace, people, tmp_path, capsys):
    assert ota(workspace, "keys", "add", "root", "--public", f"{people[0]}.pub") == 0
    draft = root_draft.load(opened(workspace))
    root, stranger = opened(workspace).key("root"), SigningKey.generate()
    before = (workspace / DRAFT).read_bytes()
    for signature, message in (
        (root.sign1(draft.payload + b"x", ROOT_TYPE), f"a signature that claims key {short(root.public)} is wrong"),
        (root.sign1(draft.payload, "another type"), f"a signature that claims key {short(root.public)} is wrong"),
        (
            stranger.sign1(draft.payload, ROOT_TYPE),
            f"a signature by {short(stranger.public)}, which is no key of root 1 nor root 2",
        ),
    ):
        copy = tmp_path / "copy.cbor"
        copy.write_bytes(draft.joined([root.sign1(draft.payload, ROOT_TYPE), signature]).data)
        assert ota(workspace, "root", "publish", copy) == 1
        assert f"{copy} is not taken in: {message}" in capsys.readouterr().err
        assert (workspace / DRAFT).read_bytes() == before
        with pytest.raises(root_draft.DraftError, match=message):  # also where somebody put it into the draft
            root_draft.publishable(opened(workspace), root_draft.load(opened(workspace)).joined([signature]))


def test_a_key_that_signs_twice_counts_once_and_changes_nothing(workspace, people, capsys):
    """One signature counted twice."""
    for person in people[:2]:
        assert ota(workspace, "keys", "add", "root", "--public", f"{person}.pub") == 0
    assert ota(workspace, "keys", "threshold", "root", "2") == 0
    assert ota(workspace, "root", "sign") == 0
    before = (workspace / DRAFT).read_bytes()
    capsys.readouterr()
    assert ota(workspace, "sign", workspace / DRAFT, "--key", workspace / "keys" / "root.pem") == 0
    assert "signed already: nothing to do" in capsys.readouterr().out
    assert (workspace / DRAFT).read_bytes() == before
    draft = root_draft.load(opened(workspace))
    twice = draft.joined([opened(workspace).key("root").sign1(draft.payload + b"", ROOT_TYPE)] * 2)
    assert "1 of 2 needed signatures (root 2)" in twice.lacks(opened(workspace).root())


def test_a_signature_that_would_count_for_nothing_is_not_made(workspace, people, capsys):
    assert ota(workspace, "root", "edit", "--days", "10") == 0
    before = (workspace / DRAFT).read_bytes()
    assert ota(workspace, "sign", workspace / DRAFT, "--key", people[0]) == 1
    assert "is not of root 1 nor root 2: its signature would count for nothing" in capsys.readouterr().err
    assert ota(workspace, "sign", workspace / DRAFT, "--key", workspace / "keys" / "release.pem") == 1
    assert (workspace / DRAFT).read_bytes() == before


def test_what_is_no_document_is_not_signed(workspace, tmp_path, capsys):
    for content in (b"", b"\0asm\1\0\0\0", b"\x82\x41\x01\x80", bytes(1 << 20)):
        (tmp_path / "x").write_bytes(content)
        assert ota(workspace, "sign", tmp_path / "x") == 1
        assert (tmp_path / "x").read_bytes() == content
    assert ota(workspace, "sign", tmp_path / "gone") == 1
    assert "gone: No such file or directory" in capsys.readouterr().err


def test_a_mixed_role_needs_both_families_and_a_new_workspace_key_of_each_signs(workspace, capsys):
    if "ml-dsa-44" not in trust_algorithms():
        pytest.skip("the installed cryptography has no ML-DSA")
    assert ota(workspace, "keys", "add", "release", "--algorithm", "ml-dsa-44") == 0
    follow(workspace, "threshold", "release", "1", "--mixed")
    keys = opened(workspace).role_keys("release")
    assert {each.public.algorithm.family for each in keys} == {"classical", "post-quantum"}


def trust_algorithms():
    from ota.formats.algorithms import usable_names

    return usable_names()


# -- publication


def test_a_rotated_deploy_key_signs_the_deployments_again_and_boards_take_them(quick, capsys):
    assert ota(quick.folder, "publish", quick.module(1), "--fraction", "10") == 0
    before = quick.deployment()
    assert ota(quick.folder, "keys", "rotate", "deploy") == 0
    assert ota(quick.folder, "root", "sign") == 0
    capsys.readouterr()
    assert ota(quick.folder, "root", "publish") == 0
    said = capsys.readouterr().out
    assert "root 2 is published" in said
    assert "the deployment of group lab is signed again" in said
    assert quick.workspace.root().number == 2
    assert not (quick.folder / DRAFT).exists()
    after = quick.deployment()  # verified under root 2
    assert after.entries == before.entries
    assert after.epoch > before.epoch
    assert trust.next_root(trust.first_root(quick.retained(topics.root(1))), quick.retained(topics.root(2))).number == 2
    assert ota(quick.folder, "root", "publish") == 0
    assert "root 2 is on the broker already" in capsys.readouterr().out
    assert quick.deployment() == after
    assert ota(quick.folder, "publish", quick.module(2)) == 0


def test_a_revoked_release_key_s_updates_are_named_and_signed_again_in_the_same_deployment(quick, capsys):
    assert ota(quick.folder, "publish", quick.module(1), "--fraction", "10") == 0
    before = quick.entry()
    assert ota(quick.folder, "keys", "rotate", "release") == 0
    assert ota(quick.folder, "root", "sign") == 0
    capsys.readouterr()
    assert ota(quick.folder, "root", "publish") == 0
    assert "echo 1.0.0 of group lab, instance echo, has too few signatures of this root's release keys" in capsys.readouterr().out
    assert quick.entry() == before
    assert ota(quick.folder, "root", "publish", "--sign-again") == 0
    after = quick.entry()
    assert after.manifest_digest != before.manifest_digest
    assert replace(after, manifest_digest=before.manifest_digest, issued_s=before.issued_s) == before
    envelope = quick.retained(topics.manifest(after.manifest_digest))
    assert verify_any(envelope, quick.workspace.root()).manifest.name == "echo"
    capsys.readouterr()
    assert ota(quick.folder, "root", "publish", "--json") == 0
    assert json.loads(capsys.readouterr().out)["stale"] == []


def test_what_a_thief_deployed_is_not_signed_again(quick, capsys):
    """A stolen deploy key made the document that the broker has: the new key must not bless it."""
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    theirs = replace(quick.deployment(), epoch=quick.deployment().epoch + 1, entries={})
    document = sign_document(theirs.to_payload(), "application/vnd.wamr-ota.deployment+cbor", [quick.workspace.key("deploy")])
    quick.put(topics.desired(GROUP), document)
    assert ota(quick.folder, "keys", "rotate", "deploy") == 0
    assert ota(quick.folder, "root", "sign") == 0
    assert ota(quick.folder, "root", "publish") == 1
    said = capsys.readouterr().out
    assert "the deployment of group lab is not signed again, and boards refuse it" in said
    assert quick.retained(topics.desired(GROUP)) == document
    with pytest.raises(Refused) as refused:
        Scope(GROUP).verify(document, quick.workspace.root())
    assert refused.value.reason is Reason.SIGNER_UNKNOWN
    assert ota(quick.folder, "publish", quick.module(2)) == 0
    assert list(quick.deployment().entries) == ["echo"]


def test_a_publication_that_lost_the_broker_is_finished_by_the_next_one(quick, capsys):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    follow(quick.folder, "rotate", "deploy")  # in the workspace, and not on the broker
    assert quick.retained(topics.root(2)) is None
    assert ota(quick.folder, "root", "publish") == 0
    assert quick.retained(topics.root(2)) is not None
    assert "the deployment of group lab is signed again" in capsys.readouterr().out
    assert quick.deployment().entries


def test_a_rehearsal_tells_which_boards_can_not_follow(quick, capsys):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    quick.board("good", root=1, algorithms=("ed25519", "es256"))
    quick.board("old", root=1, algorithms=("es256",))
    quick.board("silent")
    quick.board("strange", root=7, algorithms=("ed25519",))
    assert ota(quick.folder, "keys", "rotate", "deploy") == 0
    capsys.readouterr()
    assert ota(quick.folder, "root", "rehearse", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    verdicts = {each["device"]: each["verdict"] for each in found["boards"]}
    assert verdicts == {"good": "follows", "old": "refuses", "silent": "unknown", "strange": "refuses"}
    assert found["draft"] == 2
    assert ota(quick.folder, "root", "rehearse") == 1
    said = capsys.readouterr().out
    assert "1 of 4 boards will follow" in said
    assert "root 2, role root: 0 of 1 needed signatures by keys that its agent can use (es256)" in said
    assert quick.retained(topics.root(2)) is None


# -- what keys.toml says


def test_a_key_that_keys_toml_does_not_name_is_found_in_the_folder(workspace):
    (workspace / "keys.toml").unlink()
    (found,) = opened(workspace).role_keys("deploy")
    assert found.public.key_id.hex() == key_ids(workspace, "deploy")[0]


def test_what_lies_in_the_folder_of_keys_beside_them_is_not_in_the_way(workspace):
    """A pipe nobody writes to, a huge file, and a key that can't be read: none of them hides the key that is wanted."""
    (workspace / "keys.toml").unlink()
    os.mkfifo(workspace / "keys" / "deploy-0.pem", 0o600)
    (workspace / "keys" / "deploy-1.pem").touch(0o600)
    os.truncate(workspace / "keys" / "deploy-1.pem", 1 << 30)
    (workspace / "keys" / "deploy-2.pem").write_text("open to all")
    (found,) = opened(workspace).role_keys("deploy")
    assert found.public.key_id.hex() == key_ids(workspace, "deploy")[0]
    for name, message in (("deploy-0", "is not a file"), ("deploy-1", "is bigger than 65536 bytes, and no key")):
        with pytest.raises(KeyFileError, match=message):
            opened(workspace).key(name)
    (workspace / "keys" / "deploy.pem").unlink()
    with pytest.raises(KeyFileError, match=r"deploy-\d.pem"):
        opened(workspace).keys.find(found.public.key_id)


def test_a_key_elsewhere_is_found_by_its_reference(workspace, tmp_path):
    place = tmp_path / "stick"
    place.mkdir()
    shutil.move(workspace / "keys" / "deploy.pem", place / "mine.pem")
    text = (workspace / "keys.toml").read_text()
    (workspace / "keys.toml").write_text(text.replace("keys/deploy.pem", str(place / "mine.pem")))
    assert opened(workspace).role_keys("deploy")


@pytest.mark.parametrize("line", ['"12" = "x"', '"zz" = "x"', f'"{"0" * 64}" = 3'])
def test_a_wrong_line_of_keys_toml_is_named(workspace, capsys, line):
    (workspace / "keys.toml").write_text(line)
    assert ota(workspace, "keys", "list") == 1
    assert "is not a key's identifier in 64 hexadecimal digits, or has no text" in capsys.readouterr().err


def test_people_s_lines_in_keys_toml_stay(workspace):
    path = workspace / "keys.toml"
    path.write_text(path.read_text() + "# on the stick in the safe\n")
    assert ota(workspace, "keys", "add", "release") == 0
    assert "# on the stick in the safe\n" in path.read_text()
    assert len(opened(workspace).keys.references()) == 4


def test_the_names_of_keys_are_short_and_can_be_typed(workspace):
    root = opened(workspace).root()
    key_id = next(iter(root.roles["release"].keys))
    assert root_draft.find_key(root, "release", short(key_id)) == key_id
    assert root_draft.find_key(root, "release", "") == key_id
    two = replace(
        root, roles={**root.roles, "release": Role({**root.roles["release"].keys, b"\xff" * 32: SigningKey.generate().public}, 1)}
    )
    with pytest.raises(root_draft.DraftError, match="name one of"):
        root_draft.find_key(two, "release", "")
    with pytest.raises(root_draft.DraftError, match="4 digits"):
        root_draft.find_key(two, "release", "ff")


def test_updates_that_were_signed_before_a_rotation_are_kept_as_they_were(quick):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    (kept,) = Updates(quick.workspace).all()
    follow(quick.folder, "rotate", "release")
    assert Updates(quick.workspace).load(kept.digest).digest == kept.digest
    assert Signable.from_bytes(Updates(quick.workspace).load(kept.digest).envelope).lacks(quick.workspace.root())

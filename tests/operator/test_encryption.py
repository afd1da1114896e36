"""Publishing secrets: who can read them, that nothing readable gets out, and that publishing again changes nothing."""

import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ota.formats import topics
from ota.formats.broker_url import BrokerUrl
from ota.formats.encryption import EncryptionInfo, GroupKey, ReadingKeys, cipher, public_cose_key
from ota.formats.report import Report
from ota.operator.group_keys import MAX_KEYS, GroupKeys
from ota.operator.provision import BoardSettings
from ota.operator.publish import artifacts
from ota.operator.roster import Roster
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace
from tests.support.operator import ota
from tests.support.publishing import GROUP, module

BOARD = ec.derive_private_key(5, ec.SECP256R1())


def newest(folder, name="echo"):
    updates = Updates(Workspace.open(folder))
    return updates.load(updates.newest(name).digest)


def opened(update, keys: ReadingKeys) -> bytes:
    info = EncryptionInfo.from_bytes(update.manifest.ciphertext.info)
    return cipher(keys.content_key(info), info.iv).update(update.blob)


def keys_of(folder, group=GROUP) -> ReadingKeys:
    return ReadingKeys({each.key_id: each for each in GroupKeys(Workspace.open(folder)).of(group).values()})


def know(folder, name: str, key: bytes) -> None:
    """A board has reported its key."""
    roster = Roster(Workspace.open(folder))
    roster.sight(Report(name, GROUP, "generic", "0", 100, 5, encryption=key), 100, live=True)
    roster.save()


def test_what_is_published_for_a_group_can_be_read_with_its_keys_alone(quick, capsys):
    made = quick.module(1, padding=40_000)
    assert ota(quick.folder, "group-keys", "new", GROUP) == 0
    assert ota(quick.folder, "publish", made, "--encrypt") == 0
    update = newest(quick.folder)
    plain = made.read_bytes()
    assert opened(update, keys_of(quick.folder)) == plain
    on_broker = {topic: quick.retained(topic) for topic, _ in artifacts(update)}
    assert on_broker == dict(artifacts(update))
    kept = [each.read_bytes() for each in (quick.folder / "published").rglob("*") if each.is_file()]
    for data in (*on_broker.values(), *kept):
        assert all(plain[at : at + 64] not in data for at in range(0, len(plain) - 64, 64))


def test_publishing_a_secret_again_changes_nothing_and_a_lost_chunk_is_put_back(quick, capsys):
    made = quick.module(1, padding=40_000)
    assert ota(quick.folder, "group-keys", "new", GROUP) == 0
    assert ota(quick.folder, "publish", made, "--encrypt") == 0
    entry, update = quick.entry(), newest(quick.folder)
    quick.put(topics.blob_chunk(update.index.digest, 1), b"")
    capsys.readouterr()
    assert ota(quick.folder, "publish", made, "--encrypt") == 0
    assert "1 messages that the broker had lost were put back" in capsys.readouterr().out
    assert quick.entry() == entry
    quick.move()
    assert ota(quick.folder, "republish") == 0
    assert {topic: quick.retained(topic) for topic, _ in artifacts(update)} == dict(artifacts(update))


def test_keys_of_a_group_change_one_after_the_other(workspace, secret, tmp_path, capsys):
    pack = ("--pack", tmp_path / "x.bundle", "--encrypt")
    assert ota(workspace, "group-keys", "new", GROUP) == 0
    (old,) = GroupKeys(Workspace.open(workspace)).of(GROUP).values()
    assert ota(workspace, "publish", secret, *pack) == 0
    assert ota(workspace, "group-keys", "new", GROUP) == 0
    assert "has 2 keys" in capsys.readouterr().err
    assert ota(workspace, "publish", secret, *pack) == 0
    both = newest(workspace, "secret")
    new = next(each for each in keys_of(workspace).groups.values() if each != old)
    for key in (old, new):
        assert opened(both, ReadingKeys({key.key_id: key})) == secret.read_bytes()
    assert ota(workspace, "group-keys", "remove", GROUP, old.key_id.hex()[:6]) == 0
    assert ota(workspace, "publish", secret, *pack) == 0
    last = newest(workspace, "secret")
    assert last.manifest.sequence > both.manifest.sequence
    assert opened(last, ReadingKeys({new.key_id: new})) == secret.read_bytes()
    assert len(EncryptionInfo.from_bytes(last.manifest.ciphertext.info).recipients) == 1


@pytest.fixture
def secret(tmp_path):
    return module(tmp_path, 1, "secret")


def test_what_is_published_for_boards_can_be_read_with_their_own_keys(workspace, secret, tmp_path, capsys):
    know(workspace, "board-1", public_cose_key(BOARD.public_key()))
    assert ota(workspace, "publish", secret, "--device", "board-1", "--encrypt", "--pack", tmp_path / "x.bundle") == 0
    assert opened(newest(workspace, "secret"), ReadingKeys({}, BOARD)) == secret.read_bytes()
    assert ota(workspace, "publish", secret, "--encrypt-for", "board-1", "--pack", tmp_path / "y.bundle") == 0
    assert opened(newest(workspace, "secret"), ReadingKeys({}, BOARD)) == secret.read_bytes()
    capsys.readouterr()
    assert ota(workspace, "group-keys", "list", "--json") == 0
    assert [each["board"] for each in json.loads(capsys.readouterr().out)["boards"]] == ["board-1"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--encrypt",), "group lab has no key: `ota group-keys new lab`"),
        (("--encrypt-for", "board-9"), "the key of board board-9 is not known: `ota status`"),
        (("--encrypt", "--device", "board-9"), "the key of board board-9 is not known"),
        (("--encrypt-for", "bad-1"), "the key of board bad-1: "),
    ],
)
def test_a_key_that_is_not_there_is_named_and_nothing_is_published(workspace, secret, tmp_path, capsys, words, why):
    know(workspace, "bad-1", b"\xa0")
    assert ota(workspace, "publish", secret, *words, "--pack", tmp_path / "x.bundle") == 1
    assert why in capsys.readouterr().err
    assert not (tmp_path / "x.bundle").exists()
    assert Updates(Workspace.open(workspace)).all() == []


def test_a_module_that_was_secret_is_not_published_for_all_to_read_by_oversight(workspace, secret, tmp_path, capsys):
    pack = ("--pack", tmp_path / "x.bundle")
    assert ota(workspace, "group-keys", "new", GROUP) == 0
    assert ota(workspace, "publish", secret, "--encrypt", *pack) == 0
    assert ota(workspace, "publish", secret, *pack) == 1
    assert "secret was encrypted before: give --encrypt, or --plain" in capsys.readouterr().err
    assert ota(workspace, "publish", secret, "--plain", *pack) == 0
    assert newest(workspace, "secret").blob == secret.read_bytes()
    assert ota(workspace, "publish", secret, "--plain", "--encrypt", *pack) == 2


def test_what_is_built_and_signed_and_what_is_an_agent_is_not_encrypted(workspace, secret, tmp_path, capsys):
    assert ota(workspace, "group-keys", "new", GROUP) == 0
    assert ota(workspace, "build", secret, "--out", tmp_path / "out") == 0
    (folder,) = (tmp_path / "out").iterdir()
    assert ota(workspace, "publish", folder, "--encrypt", "--pack", tmp_path / "x.bundle") == 1
    assert "is built and signed already" in capsys.readouterr().err
    assert ota(workspace, "publish", "--agent", tmp_path / "a.tar.gz", "--encrypt", "--pack", tmp_path / "x.bundle") == 2


def test_an_encrypted_update_is_shown_and_built_again_and_signed_again(workspace, secret, tmp_path, capsys):
    assert ota(workspace, "group-keys", "new", GROUP) == 0
    assert ota(workspace, "publish", secret, "--encrypt", "--pack", tmp_path / "x.bundle") == 0
    update = newest(workspace, "secret")
    capsys.readouterr()
    (folder,) = (workspace / "published" / "secret").iterdir()
    assert ota(workspace, "inspect", folder / "manifest.suit") == 0
    shown = capsys.readouterr().out
    (key,) = keys_of(workspace).groups
    assert f"encrypted for  group key {key.hex()}" in shown
    assert ota(workspace, "rebuild", folder, secret, "--check") == 0
    assert ota(workspace, "rebuild", folder, secret, "-o", tmp_path / "again") == 0
    assert "again has no signature" in capsys.readouterr().err  # built in plain: not what was signed
    secret.write_bytes(secret.read_bytes() + b"\0\1\0")
    assert ota(workspace, "rebuild", folder, secret, "--check") == 1
    again = update.draft.signed(update.manifest.sequence + 1, Workspace.open(workspace).key("release"))
    assert (again.blob, again.manifest.ciphertext) == (update.blob, update.manifest.ciphertext)


def test_a_board_is_provisioned_with_the_keys_of_its_group(workspace):
    for _ in range(2):
        assert ota(workspace, "group-keys", "new", GROUP) == 0
    assert ota(workspace, "group-keys", "new", "other") == 0
    opened_workspace = Workspace.open(workspace)
    settings = BoardSettings("board-1", GROUP, "generic", BrokerUrl.parse("mqtt://broker.example:1883"))
    files = settings.files(opened_workspace)
    keys = GroupKeys(opened_workspace).of(GROUP)
    assert {name: files[name] for name in files if name.startswith("group-")} == {
        path.name: key.to_bytes() for path, key in keys.items()
    }
    assert not any(name.startswith("group-") for name in replace(settings, group="third").files(opened_workspace))


def test_retiring_a_board_names_the_key_that_it_knows(workspace, capsys):
    know(workspace, "board-1", public_cose_key(BOARD.public_key()))
    assert ota(workspace, "retire", "board-1", "--yes", "--offline") == 0
    assert "group-keys" not in capsys.readouterr().err
    know(workspace, "board-2", b"")
    assert ota(workspace, "group-keys", "new", GROUP) == 0
    assert ota(workspace, "retire", "board-2", "--yes", "--offline") == 0
    assert f"`ota group-keys new {GROUP}`" in capsys.readouterr().err


def test_files_of_keys_are_kept_to_their_owner_and_bounded_in_number(workspace, capsys):
    keys = GroupKeys(Workspace.open(workspace))
    for _ in range(MAX_KEYS):
        path = keys.make(GROUP)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert ota(workspace, "group-keys", "new", GROUP) == 1
    assert "8 keys, which is the limit" in capsys.readouterr().err
    path.chmod(0o640)
    assert ota(workspace, "group-keys", "list") == 1
    assert f"chmod 600 {path}" in capsys.readouterr().err
    path.chmod(0o600)
    path.write_bytes(GroupKey(bytes(16)).to_bytes()[:-1])
    assert ota(workspace, "group-keys", "list") == 1
    assert f"malformed: {path}" in capsys.readouterr().err
    path.unlink()
    assert ota(workspace, "group-keys", "remove", GROUP, "zz") == 1
    assert "'zz' is not the beginning" in capsys.readouterr().err
    for each in keys.of(GROUP).values():
        assert ota(workspace, "group-keys", "remove", GROUP, each.key_id.hex(), "--json") == 0
    assert keys.groups() == []

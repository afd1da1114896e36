"""Updates that come as a file: on a stick, by `device-agent install`, on boards with no broker at all."""

import json
import subprocess
from dataclasses import replace

import pytest

from device_agent.desired import watch
from device_agent.desired.bundles import OpenBundle
from device_agent.node import install as install_command
from ota.formats import topics
from ota.formats.reasons import Reason, Refused
from ota.formats.trust import ROOT_TYPE
from ota.keyring import SigningKey, sign_document
from tests.support.island import Island
from tests.support.lab import DEVICE, GROUP
from tests.support.signing import INSTANCE, Signer


@pytest.fixture
def island(tmp_path):
    made = Island(tmp_path)
    yield made
    made.close()


def test_a_stick_updates_a_board_without_a_broker_and_takes_its_report_back(island):
    island.start()
    island.pack(island.messages(island.update(1)))
    answer = island.wait_answer("confirmed")
    assert answer["instances"] == [{"instance": INSTANCE, "state": "confirmed", "runs": "echo 1.0.0", "reason": "", "detail": ""}]
    board, instances = island.reports()
    assert board.device == DEVICE
    assert instances[INSTANCE].running.version == "1.0.0"
    island.pull()
    island.pack(island.messages(island.update(2)))
    island.wait_answer("confirmed")
    assert island.reports()[1][INSTANCE].running.version == "2.0.0"
    assert "confirmed" in (island.folder / "console").read_text()


def test_a_bundle_with_the_next_root_has_what_was_refused_without_it_tried_again(island):
    island.start()
    island.pack(island.messages(island.update(1)))
    island.wait_answer("confirmed")
    island.signer.keys["release"] = SigningKey.generate()
    messages = island.messages(island.update(2))
    island.pull()
    island.pack([each for each in messages if each[0] != topics.root(1)])
    assert island.wait_answer("refused")["instances"][0]["reason"] == "signer-unknown"
    island.pull()
    root = sign_document(island.signer.root(2).to_payload(), ROOT_TYPE, [island.signer.keys["root"]])
    island.pack([(topics.root(2), root), *(each for each in messages if each[0] != topics.root(1))])
    island.wait_answer("confirmed")
    assert island.reports()[1][INSTANCE].running.version == "2.0.0"


@pytest.mark.full
def test_install_works_with_an_agent_and_without_one(island, tmp_path):
    path = island.pack(island.messages(island.update(1)), tmp_path / "first.bundle")
    done = island.install(path)
    assert done.returncode == 0, done.stderr
    assert f"{INSTANCE}: confirmed" in done.stdout
    island.start()
    island.wait(lambda: (island.folder / "store" / "inbox").exists(), "an inbox")
    done = island.install(island.pack(island.messages(island.update(2)), tmp_path / "second.bundle"), "--json")
    assert done.returncode == 0, done.stderr + island.log()
    assert json.loads(done.stdout)["result"] == "confirmed"
    again = island.install(path)
    assert again.returncode == 1
    assert Reason.DEPLOYMENT_REPLAYED.value in again.stdout
    assert list((island.folder / "store" / "inbox").iterdir()) == []


def test_a_link_is_a_bundle_for_who_names_it_and_none_on_a_stick(island, tmp_path, monkeypatch):
    path = island.pack(island.messages(island.update(1)), tmp_path / "first.bundle")
    link = tmp_path / "link.bundle"
    link.symlink_to(path)
    monkeypatch.setattr(install_command.disk, "is_locked", lambda folder: True)
    monkeypatch.setattr(install_command, "TAKEN_S", 0.0)
    with pytest.raises(Refused, match="has not taken up first-"):
        install_command.install(island.config, link, lambda line: None, as_json=False)
    island.stick.mkdir()
    (island.stick / "link.bundle").symlink_to(path)
    assert watch._found(island.folder / "none", (str(island.stick),)) == {}
    with pytest.raises(Refused) as caught:  # also one that takes a bundle's place after the look
        OpenBundle(island.stick / "link.bundle")
    assert caught.value.reason is Reason.BUNDLE_GONE


@pytest.mark.parametrize("answered", [False, True])
def test_install_waits_for_a_silent_agent_no_longer_than_it_says(island, tmp_path, monkeypatch, answered):
    """One that can't read the inbox; and one that has begun, and is gone."""
    path = island.pack(island.messages(island.update(1)), tmp_path / "first.bundle")
    inbox = island.folder / "store" / "inbox"
    locked = iter([True])
    monkeypatch.setattr(install_command.disk, "is_locked", lambda folder: next(locked, not answered))
    monkeypatch.setattr(install_command, "TAKEN_S", 0.3)
    if answered:
        real = install_command._put

        def put(file, config):
            name = real(file, config)
            begun = {"bundle": name, "result": "installing", "reason": "", "detail": "", "instances": []}
            (inbox / f"{name}.answer.json").write_text(json.dumps(begun))
            return name

        monkeypatch.setattr(install_command, "_put", put)
    with pytest.raises(Refused) as caught:
        install_command.install(island.config, path, lambda line: None, as_json=False)
    assert caught.value.reason is Reason.STORAGE_UNWRITABLE
    assert ("the agent has ended" if answered else "has not taken up first-") in caught.value.detail
    assert len(list(inbox.glob("*.bundle"))) == answered  # what was begun goes on


@pytest.mark.full
def test_every_kind_of_bad_bundle_is_refused_on_the_stick_by_its_reason(island, tmp_path):
    """What runs stays, and a good bundle is taken afterwards."""
    island.start()
    update = island.update(1)
    whole = island.messages(update)
    path = island.pack(whole)
    island.wait_answer("confirmed")
    data = path.read_bytes()

    stranger = Signer(now_s=island.signer.now_s)
    root = replace(stranger.root(), vendor="stranger.example")
    theirs = sign_document(root.to_payload(), ROOT_TYPE, [stranger.keys["root"]])
    foreign = stranger.update(b"\0asm\1\0\0\0")
    _, document = stranger.deployment(foreign.digest, group=GROUP)
    jump = [(topics.root(3), island.signer.root_document(number=3)), *whole[1:]]
    elsewhere = Island.messages(island, update, group="elsewhere")
    other_device = island.messages(update, device="board-2")
    unsigned = [(topic, payload[:-1] + b"x" if topic == topics.desired(GROUP) else payload) for topic, payload in whole]
    for messages, reason in (
        (data[:-2000], Reason.BUNDLE_TRUNCATED),
        ([*whole, whole[-1]], Reason.BUNDLE_INVALID),
        (whole[::-1], Reason.BUNDLE_INVALID),
        ([*whole[:2], (whole[2][0], bytes(1 << 20)), *whole[3:]], Reason.TOO_LARGE),
        ([(topics.root(1), theirs), (topics.desired(GROUP), document)], Reason.VENDOR_MISMATCH),
        (elsewhere, Reason.GROUP_MISMATCH),
        (other_device, Reason.GROUP_MISMATCH),
        (jump, Reason.ROOT_NOT_NEXT),
        (unsigned, Reason.SIGNATURE_INVALID),
    ):
        island.pull()
        if isinstance(messages, bytes):
            island.stick.mkdir()
            (island.stick / ".part").write_bytes(messages)
            (island.stick / ".part").rename(path)
        else:
            island.pack(messages)
        answer = island.wait_answer("refused")
        assert answer["reason"] == reason.value, answer
        assert island.reports()[1][INSTANCE].running.version == "1.0.0"
    island.pull()
    island.pack(island.messages(island.update(2), epoch=100))
    island.wait_answer("confirmed")


def size(island: Island) -> int:
    """How much of blobs is there that are under way, in blocks."""
    return sum(each.stat().st_blocks for each in (island.folder / "store" / "blobs").glob("*.part"))


@pytest.mark.full
def test_a_power_cut_while_a_stick_is_read_and_a_stick_that_is_pulled_out_cost_nothing(island):
    """What was fetched stays; the agent goes on with what it has, and with the rest when the stick is back."""
    island.start()
    island.pack(island.messages(island.update(1)))
    island.wait_answer("confirmed")
    island.pull()
    messages = island.messages(island.update(2, padding=6 << 20))
    island.pack(messages)
    island.wait(lambda: size(island) > 100, "a part of the module")
    island.kill()
    before = size(island)
    assert before
    island.start()
    island.wait(lambda: size(island) > before, "more of the module")
    island.pull()
    island.wait(lambda: Reason.BUNDLE_GONE.value in island.log() or "is gone before all" in island.log(), "a word about the stick")
    assert island.alive
    island.pack(messages)
    island.wait_answer("confirmed")
    assert island.reports()[1][INSTANCE].running.version == "2.0.0"


@pytest.mark.full
def test_an_install_goes_on_after_a_power_cut(island, tmp_path):
    """The inbox has the whole bundle; nobody has to come back."""
    path = island.pack(island.messages(island.update(1, padding=6 << 20)), tmp_path / "big.bundle")
    island.start()
    island.wait(lambda: (island.folder / "store" / "lock").exists(), "a store")
    with subprocess.Popen([*island.command, "install", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as waiting:
        island.wait(lambda: size(island) > 100, "a part of the module")
        island.kill()
        path.unlink()
        island.start()
        assert waiting.wait(120) == 0, waiting.stderr.read()
    assert not list((island.folder / "store" / "inbox").iterdir())

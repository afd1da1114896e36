"""Bundles and archives of a workspace: what they hold, and publishing out of them again."""

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

from boards.ports import free_port
from ota.cli.bundles import REPORTS_LIMIT_BYTES
from ota.errors import OtaError
from ota.formats import topics
from ota.formats.bundle import pack_reports
from ota.formats.deployment import claimed
from ota.formats.reasons import Reason, Refused
from ota.formats.report import Report
from ota.operator.holdings import Archive, BundleFile, open_holdings
from ota.operator.ledger import Ledger
from ota.operator.restore import take_back
from ota.operator.survey import ForeignError
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace
from tests.support.operator import ota
from tests.support.publishing import GROUP, LAB, module


@pytest.fixture
def packed(workspace, tmp_path, capsys):
    """A bundle of a workspace that never saw a broker: nothing listens where its settings point."""
    settings = workspace / "ota.toml"
    settings.write_text(settings.read_text().replace("localhost:1883", "127.0.0.1:1"))
    path = tmp_path / "lab.bundle"
    assert ota(workspace, "publish", str(module(tmp_path, 1)), "--pack", str(path)) == 0
    capsys.readouterr()
    return path


def memory(tmp_path) -> str:
    """A place of fsspec's, of one test."""
    pytest.importorskip("fsspec")
    return f"memory://archive-{tmp_path.name}"


@pytest.fixture
def s3(monkeypatch):
    """A bucket of a server that speaks S3, moto's, in a process of its own."""
    for each in ("moto", "s3fs", "flask"):
        pytest.importorskip(each, reason=f"{each} is not installed: pip install 'moto[server,s3]' s3fs")
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for name, value in S3_SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    try:
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                http = HTTPConnection("127.0.0.1", port, timeout=10)
                http.request("PUT", "/firmware")
                assert http.getresponse().status == 200
                break
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.1)
        yield "s3://firmware/lab"
    finally:
        server.terminate()
        server.wait(30)


S3_SETTINGS = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


def held(source) -> dict[str, bytes]:
    return {topic: source.read(topic) for topic in source.topics()}


def test_publish_without_a_broker_makes_a_bundle_that_is_whole(workspace, packed):
    opened = Workspace.open(workspace)
    messages = held(BundleFile(packed))
    assert messages[topics.root(1)] == opened.root_documents()[1]
    deployment = LAB.verify(messages[topics.desired(GROUP)], opened.root())
    digest = deployment.entries["echo"].manifest_digest
    update = Updates(opened).load(digest)
    assert messages[topics.manifest(digest)] == update.envelope
    assert topics.blob_chunk(update.index.digest, 0) in messages


def test_packing_again_gives_the_same_bytes(workspace, packed, tmp_path, capsys):
    assert ota(workspace, "pack", "-o", str(tmp_path / "again.bundle"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["for"] == [{"group": GROUP}]
    assert (tmp_path / "again.bundle").read_bytes() == packed.read_bytes()


def test_a_second_release_is_packed_above_the_first(workspace, packed, tmp_path):
    first = claimed(BundleFile(packed).read(topics.desired(GROUP)))
    assert ota(workspace, "publish", str(module(tmp_path, 2)), "--pack", str(packed)) == 0
    second = claimed(BundleFile(packed).read(topics.desired(GROUP)))
    assert second.epoch > first.epoch


def test_the_list_of_revoked_certificates_travels_along(workspace, packed, tmp_path):
    (workspace / "trust" / "ca.crl").write_bytes(b"the list")
    assert ota(workspace, "pack", "-o", str(tmp_path / "again.bundle")) == 0
    assert BundleFile(tmp_path / "again.bundle").read("ota/v1/crl") == b"the list"
    assert ota(workspace, "archive", str(tmp_path / "archive")) == 0
    assert (tmp_path / "archive" / "crl").read_bytes() == b"the list"


def test_only_what_is_asked_for_is_packed(workspace, packed, tmp_path, capsys):
    assert ota(workspace, "publish", str(module(tmp_path, 2)), "--device", "board-1", "--pack", str(tmp_path / "one.bundle")) == 0
    messages = held(BundleFile(tmp_path / "one.bundle"))
    assert topics.device_desired("board-1") in messages
    assert topics.desired(GROUP) not in messages
    assert ota(workspace, "pack", "-o", str(tmp_path / "all.bundle")) == 0
    assert {topics.device_desired("board-1"), topics.desired(GROUP)} <= held(BundleFile(tmp_path / "all.bundle")).keys()
    capsys.readouterr()
    assert ota(workspace, "pack", "--group", "nobody", "-o", str(tmp_path / "none.bundle")) == 1
    assert "never published to group nobody" in capsys.readouterr().err


def test_a_workspace_that_published_nothing_has_nothing_to_pack(workspace, tmp_path, capsys):
    assert ota(workspace, "pack", "-o", str(tmp_path / "a.bundle")) == 1
    assert "nothing was published" in capsys.readouterr().err
    assert ota(workspace, "publish", str(module(tmp_path, 1)), "--pack", str(tmp_path / "absent" / "a.bundle")) == 1
    assert "is not a folder" in capsys.readouterr().err
    assert ota(workspace, "publish", str(module(tmp_path, 1)), "--pack", "a.bundle", "--wait", "5") == 2


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # of the library for S3
def test_an_archive_in_s3_holds_everything_and_is_repaired(workspace, packed, s3, capsys):
    assert ota(workspace, "archive", s3, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["there"], held(Archive(s3))) == (0, held(BundleFile(packed)))
    blob = next(topic for topic in held(Archive(s3)) if "/blob/" in topic)
    Archive(s3).write(blob, b"rotten")
    assert ota(workspace, "archive", s3, "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["new"], again["repaired"]) == (0, 1)
    assert held(Archive(s3)) == held(BundleFile(packed))


@pytest.mark.parametrize("kind", ["folder", "fsspec"])
def test_an_archive_holds_everything_and_grows_by_what_is_new(workspace, packed, tmp_path, capsys, kind):
    place = str(tmp_path / "archive")
    if kind == "fsspec":
        place = memory(tmp_path)
    assert ota(workspace, "archive", place, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert first["there"] == 0
    assert held(Archive(place)) == held(BundleFile(packed))
    assert ota(workspace, "archive", place, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"archive": place, "new": 0, "there": first["new"], "repaired": 0}
    assert ota(workspace, "publish", str(module(tmp_path, 2)), "--pack", str(packed)) == 0
    assert ota(workspace, "archive", place) == 0
    assert held(Archive(place)).items() > held(BundleFile(packed)).items()


@pytest.mark.parametrize("kind", ["folder", "fsspec"])
def test_what_is_rotten_in_an_archive_is_repaired_by_archiving_again(workspace, packed, tmp_path, capsys, kind):
    place = Archive(str(tmp_path / "archive") if kind == "folder" else memory(tmp_path))
    assert ota(workspace, "archive", place.place) == 0
    whole = held(place)
    blobs = [topic for topic in whole if "/blob/" in topic]
    place.write(blobs[0], b"")
    place.write(blobs[1], bytes(5 << 20))
    place.write(topics.root(1), b"rotten")
    capsys.readouterr()
    assert ota(workspace, "archive", place.place) == 0
    assert "1 messages are new, " in (said := capsys.readouterr().out)
    assert "2 were damaged and are repaired" in said
    assert held(place) == whole


class Lossy:
    """A file system without moves onto files; the connection breaks after so many bytes, or it keeps other bytes."""

    def __init__(self, system, breaks: str) -> None:
        self._system, self._breaks = system, breaks

    def __getattr__(self, name):
        return getattr(self._system, name)

    def pipe_file(self, path, payload):
        self._system.pipe_file(path, payload[:-1] if self._breaks else payload)
        if self._breaks == "connection":
            raise OSError("connection lost")

    def mv(self, old, new):
        if self._system.exists(new):
            raise FileExistsError(new)
        self._system.mv(old, new)


@pytest.mark.parametrize("breaks", ["connection", "bytes"])
def test_what_was_half_written_to_a_remote_archive_is_never_under_its_name(workspace, packed, tmp_path, breaks):
    place = Archive(memory(tmp_path))
    assert ota(workspace, "archive", place.place) == 0
    before, there = held(place), sorted(place._system.find(place._root))
    topic, system = topics.desired(GROUP), place._system
    place._system = Lossy(system, breaks)
    with pytest.raises(OSError if breaks == "connection" else OtaError, match=r"connection lost|does not hold what was written"):
        place.write(topic, b"another document")
    place._system = Lossy(system, "")
    assert held(place) == before
    assert sorted(system.find(place._root)) == there  # nothing is left over
    place.write(topic, b"another document")
    assert place.read(topic) == b"another document"


def test_an_archive_of_another_workspace_or_of_a_newer_copy_is_left_alone(workspace, packed, tmp_path, capsys):
    place = tmp_path / "archive"
    shutil.copytree(workspace, tmp_path / "old")
    assert ota(workspace, "publish", str(module(tmp_path, 2)), "--pack", str(packed)) == 0
    assert ota(workspace, "archive", str(place)) == 0
    before = held(Archive(str(place)))
    assert ota(tmp_path / "old", "archive", str(place)) == 1
    assert "has a newer deployment of group lab" in capsys.readouterr().err
    assert ota(tmp_path / "other", "init", "--vendor", "other.example", "--no-passphrase") == 0
    assert ota(tmp_path / "other", "archive", str(place)) == 1
    assert "another workspace's archive" in capsys.readouterr().err
    assert held(Archive(str(place))) == before


@pytest.mark.parametrize("kind", ["archive", "bundle"])
def test_an_old_copy_of_the_workspace_publishes_the_archive_onto_an_empty_broker(quick, tmp_path, capsys, kind):
    """The boards have seen the newest deployment: an older one would be `deployment-replayed`."""
    assert ota(quick.folder, "publish", str(quick.module(1))) == 0
    backup = quick.copy("backup")
    assert ota(quick.folder, "publish", str(quick.module(2))) == 0
    newest, document = quick.deployment(), quick.retained(topics.desired(GROUP))
    source = tmp_path / ("archive" if kind == "archive" else "all.bundle")
    assert ota(quick.folder, *(("archive", str(source)) if kind == "archive" else ("pack", "-o", str(source)))) == 0
    shutil.rmtree(quick.folder)
    quick.folder = backup
    quick.move()
    assert ota(backup, "republish", "--from", str(source)) == 0
    assert quick.retained(topics.desired(GROUP)) == document
    manifest = topics.manifest(newest.entries["echo"].manifest_digest)
    assert quick.retained(manifest) == open_holdings(str(source)).read(manifest)
    assert ota(backup, "publish", str(quick.module(3))) == 0
    assert quick.deployment().epoch > newest.epoch


def test_an_old_copy_of_the_workspace_alone_publishes_above_what_boards_have_seen(quick):
    """Epochs are times: so the broker may be lost, and the newest copy of the workspace with it."""
    assert ota(quick.folder, "publish", str(quick.module(1))) == 0
    backup = quick.copy("backup")
    assert ota(quick.folder, "publish", str(quick.module(2))) == 0
    newest = quick.deployment()
    quick.folder = backup
    quick.move()
    time.sleep(max(0.0, newest.epoch + 1.1 - time.time()))
    assert ota(backup, "publish", str(quick.module(3))) == 0
    assert quick.deployment().epoch > newest.epoch


def test_renewing_signs_everything_again_with_newer_numbers(quick, tmp_path, capsys):
    assert ota(quick.folder, "publish", str(quick.module(1)), "--config", "site=roof") == 0
    before, old = quick.deployment(), quick.entry()
    assert ota(quick.folder, "archive", str(tmp_path / "archive")) == 0
    quick.move()
    assert ota(quick.folder, "republish", "--from", str(tmp_path / "archive"), "--renew") == 0
    after, new = quick.deployment(), quick.entry()
    assert after.epoch > before.epoch
    assert new.manifest_digest != old.manifest_digest
    assert new.deployment_id != old.deployment_id
    assert new.config == old.config
    kept = Updates(quick.workspace)
    assert kept.find(new.manifest_digest).sequence > kept.find(old.manifest_digest).sequence
    assert kept.find(new.manifest_digest).content == kept.find(old.manifest_digest).content
    assert quick.retained(topics.manifest(new.manifest_digest)) is not None


@pytest.mark.parametrize("kind", ["bundle", "archive"])
def test_an_update_with_a_bill_of_materials_comes_back(workspace, tmp_path, kind):
    """An archive has the bill; a bundle, which is for boards, has not, and gives the update without it."""
    place, bill = tmp_path / kind, b'{"bomFormat": "CycloneDX"}'
    (tmp_path / "bill.json").write_bytes(bill)
    shutil.copytree(workspace, tmp_path / "old")
    wasm = str(module(tmp_path, 1))
    assert ota(workspace, "publish", wasm, "--sbom", str(tmp_path / "bill.json"), "--pack", str(tmp_path / "bundle")) == 0
    assert ota(workspace, "archive", str(tmp_path / "archive")) == 0
    old = Workspace.open(tmp_path / "old")
    assert take_back(old, open_holdings(str(place)), int(time.time())).lacking == ()
    (kept,) = Updates(old).all()
    update = Updates(old).load(kept.digest)
    assert update.sbom == (bill if kind == "archive" else b"")
    assert ota(tmp_path / "old", "pack", "-o", str(tmp_path / "again.bundle")) == 0
    assert (tmp_path / "again.bundle").read_bytes() == (tmp_path / "bundle").read_bytes()


def test_a_strangers_bundle_is_not_taken_back(workspace, packed, tmp_path):
    assert ota(tmp_path / "other", "init", "--vendor", "other.example", "--no-passphrase") == 0
    with pytest.raises(ForeignError, match="root document 1"):
        take_back(Workspace.open(tmp_path / "other"), BundleFile(packed), 0)
    assert Ledger(Workspace.open(tmp_path / "other")).records() == []


def test_what_a_stolen_key_signed_is_not_taken_from_an_archive_nor_signed_again(quick, tmp_path, capsys):
    """Who stole the deploy key before it was replaced, and can write to the archive, deploys nothing by the operator's hand."""
    place = tmp_path / "archive"
    assert ota(quick.folder, "publish", str(quick.module(1))) == 0
    assert ota(quick.folder, "archive", str(place)) == 0
    stolen = quick.copy("stolen")
    for words in (("keys", "rotate", "deploy"), ("root", "sign"), ("root", "publish")):
        assert ota(quick.folder, *words) == 0
    assert ota(quick.folder, "publish", str(quick.module(2))) == 0
    update = str(quick.module(1))
    assert ota(stolen, "publish", update, "--device", "board-1", "--pack", str(tmp_path / "a.bundle")) == 0
    assert ota(stolen, "archive", str(place)) == 0
    capsys.readouterr()
    assert ota(quick.folder, "republish", "--from", str(place), "--renew") == 1
    said = capsys.readouterr().err
    assert "group lab: signer" not in said  # the workspace has a newer one
    assert "device board-1: signer-unknown: its deployment there is signed with a key that was replaced" in said
    assert [each.scope for each in Ledger(quick.workspace).records()] == [LAB]
    assert quick.retained(topics.device_desired("board-1")) is None
    kept = Updates(quick.workspace)
    assert kept.find(quick.entry().manifest_digest).version == "2.0.0"


def test_a_damaged_archive_gives_what_is_whole_and_names_what_is_not(workspace, packed, tmp_path):
    place = tmp_path / "archive"
    assert ota(workspace, "archive", str(place)) == 0
    (chunk,) = place.glob("blob/*/0")
    chunk.write_bytes(b"x" + chunk.read_bytes()[1:])
    shutil.rmtree(workspace / "published")
    taken = take_back(Workspace.open(workspace), Archive(str(place)), 0)
    assert [(scope, name) for scope, name, _ in taken.lacking] == [(LAB, "echo")]
    assert Reason.CHUNK_DIGEST_MISMATCH.value in taken.lacking[0][2]
    chunk.unlink()
    assert Reason.CHUNK_MISSING.value in take_back(Workspace.open(workspace), Archive(str(place)), 0).lacking[0][2]


def test_one_damaged_deployment_in_an_archive_keeps_no_other_from_coming_back(workspace, packed, tmp_path):
    shutil.copytree(workspace, tmp_path / "old")
    place, one = tmp_path / "archive", str(tmp_path / "one.bundle")
    assert ota(workspace, "publish", str(module(tmp_path, 2)), "--device", "board-1", "--pack", one) == 0
    assert ota(workspace, "archive", str(place)) == 0
    (place / "group" / GROUP / "desired").write_bytes(b"damaged")
    old = Workspace.open(tmp_path / "old")
    taken = take_back(old, Archive(str(place)), int(time.time()))
    assert [each.device for each in taken.scopes] == ["board-1"]
    assert [(scope, name) for scope, name, _ in taken.lacking] == [(LAB, "")]
    (place / "device" / "board-1" / "desired").unlink()
    with pytest.raises(ForeignError, match="is damaged, or not signed by this workspace's keys"):
        take_back(old, Archive(str(place)), int(time.time()))


def test_a_file_in_an_archive_that_is_too_large_is_not_read(workspace, packed, tmp_path):
    place = tmp_path / "archive"
    assert ota(workspace, "archive", str(place)) == 0
    (place / "group" / GROUP / "desired").write_bytes(bytes(5 << 20))
    with pytest.raises(Refused) as caught:
        take_back(Workspace.open(workspace), Archive(str(place)), 0)
    assert caught.value.reason is Reason.TOO_LARGE


def test_a_place_that_is_not_there_is_named(workspace, tmp_path, capsys):
    assert ota(workspace, "republish", "--from", str(tmp_path / "absent")) == 1
    assert f"{tmp_path / 'absent'} is not there" in capsys.readouterr().err
    with pytest.raises(OtaError, match="pip install"):
        Archive("nonsense://place")


def test_reports_that_a_board_did_not_sign_are_shown_as_nobodys(workspace, tmp_path, capsys):
    file = tmp_path / "board-1.reports"
    file.write_bytes(pack_reports([(topics.report("board-1"), Report("board-1", GROUP, "generic", "0", 1, 1).to_bytes())]))
    assert ota(workspace, "reports", str(file)) == 1
    told = capsys.readouterr()
    assert "device/board-1/report: not believed" in told.err
    assert "board-1" not in told.out
    file.write_bytes(bytes(9 << 20))
    assert ota(workspace, "reports", str(file)) == 1
    assert f"too-large: {file} has more than {REPORTS_LIMIT_BYTES} bytes" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["reports {}", "keys add release --public {}", "audit verify {} --device b", "publish {}"])
def test_a_file_of_others_without_an_end_is_refused_before_it_is_read(workspace, tmp_path, capsys, command):
    """Such as a stick's, whose size says nothing."""
    file = tmp_path / "stick"
    file.symlink_to("/dev/zero")
    if command.startswith("publish"):
        (file := tmp_path / "build").mkdir()
        (file / "manifest.suit").symlink_to("/dev/zero")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), limits[1]))
    try:
        assert ota(workspace, *(each.format(file) for each in command.split())) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert "too-large" in capsys.readouterr().err

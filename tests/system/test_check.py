"""`device-agent check`: beside a running agent, without a lock, without a change, and what it says of what is wrong."""

import contextlib
import importlib.util
import json
import os
import sqlite3
import subprocess
import sys

import pytest

from device_agent.broker.certificates import signing_request
from device_agent.channel.measures import MEASURES
from device_agent.command import main
from device_agent.node import check as checks
from device_agent.node.check import check
from device_agent.storage.store import DATABASE, Store
from ota.operator.ca import CertificateAuthority
from ota.operator.workspace import Workspace
from tests.support.sealing import KEY
from tests.support.signing import VENDOR, Signer


def contents(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def configuration(tmp_path):
    """Writes an agent.toml with more in it, and returns its path."""
    (tmp_path / "root.cbor").write_bytes(Signer().root_document())
    text = '[device]\nid = "roof-1"\ngroup = "lab"\n[storage]\nfolder = "kept"\n[trust]\nroot = "root.cbor"\n'

    def write(more=""):
        (tmp_path / "agent.toml").write_text(text + more)
        return tmp_path / "agent.toml"

    return write


def wrong(path):
    return {each.what: each.text for each in check(path) if not each.good}


def test_it_works_beside_a_running_agent(lab):
    lab.start()
    lab.install(1)
    command = [sys.executable, "-m", "device_agent", "--config", str(lab.folder / "agent.toml"), "check", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = json.loads(done.stdout)
    assert (done.returncode, found["good"]) == (0, True), done
    texts = {each["what"]: each["text"] for each in found["findings"]}
    assert "an agent uses it" in texts["storage"]
    assert "not contacted" in texts["broker"]
    lab.install(2)
    lab.still_answers(2)


def test_it_changes_nothing_that_an_agent_has_left(lab):
    lab.start()
    lab.install(1)
    lab.kill()
    before = contents(lab.folder / "store")
    assert main(["--config", str(lab.folder / "agent.toml"), "check"]) == 0
    after = contents(lab.folder / "store")
    changed = {path.name for path in before | after if before.get(path) != after.get(path)}
    assert changed <= {"agent.sqlite-shm"}, "SQLite's memory that readers share is no part of what is kept"


def test_before_the_first_start_it_makes_nothing(configuration, tmp_path, capsys):
    path = configuration()
    before = contents(tmp_path)
    assert main(["--config", str(path), "check"]) == 0
    said = capsys.readouterr().out
    assert "kept: will be made" in said
    assert f"root 1 of {VENDOR}" in said
    assert contents(tmp_path) == before
    assert not (tmp_path / "kept").exists()


CERTIFICATE = '[broker]\nurl = "mqtts://b.example"\ncertificate_file = "device.pem"\nkey_file = "device.key"\n'


@pytest.mark.parametrize(
    ("more", "what", "text"),
    [
        (CERTIFICATE, "broker", "device.key: No such file"),
        ('[instances.module]\nfactory = "nowhere"\n', "factory", "nowhere/manifest.suit: No such file"),
        ('[broker]\nurl = "mqtts://b.example"\nca_file = "nowhere"\n', "broker", "nowhere: No such file"),
        ('[policy.grants.wasi]\nwrite = ["/nowhere"]\nquota_bytes = 1\n', "grants", "/nowhere: No such file"),
        ('[policy.grants.serial]\nports = ["/dev/nowhere:9600"]\n', "grants", "/dev/nowhere"),
    ],
)
def test_it_names_what_is_not_there_and_ends_with_1(configuration, more, what, text, capsys):
    path = configuration(more)
    assert text in wrong(path)[what]
    assert main(["--config", str(path), "check"]) == 1
    assert f"WRONG {what}" in capsys.readouterr().out


def test_a_root_that_is_none_is_named(configuration, tmp_path):
    path = configuration()
    (tmp_path / "root.cbor").write_bytes(b"garbage")
    assert "root.cbor: malformed" in wrong(path)["trust"]


@pytest.mark.parametrize("name", ["kept#1", "kept?mode=rwc", "kept%20more"])
def test_a_storage_folder_with_signs_of_an_address_in_its_name_is_looked_at_itself(configuration, tmp_path, name):
    path = configuration()
    path.write_text(path.read_text().replace('"kept"', f'"{name}"'))
    store = Store(tmp_path / name)
    store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / name / DATABASE)) as database:
        database.execute("insert into roots values (7, x'00')")
        database.commit()
    before = {each.name for each in tmp_path.rglob("*")}
    assert "roots up to 7 are kept" in " ".join(each.text for each in check(path) if each.what == "trust")
    assert {each.name for each in tmp_path.rglob("*")} == before


def test_a_damaged_database_is_named(configuration, tmp_path):
    path = configuration()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / DATABASE).write_bytes(b"garbage" * 1000)
    assert f"{tmp_path}/kept/{DATABASE}: file is not a database" in wrong(path)["trust"]


def test_folders_that_no_module_could_write_are_found(configuration, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "roots").mkdir()
    assert "file: Not a directory" in wrong(configuration(f'[policy.grants.wasi]\nread = ["{tmp_path}/file"]\n'))["grants"]
    grant = f'[policy.grants.wasi]\nwrite = ["{tmp_path}/roots"]\nquota_bytes = 1\n'
    if os.geteuid() == 0:
        assert "roots: it belongs to root: give it to another user" in wrong(configuration(grant))["grants"]
        os.chown(tmp_path / "roots", 60704, 60704)
    assert "grants" not in wrong(configuration(grant))


def test_a_port_that_is_no_device_is_found(configuration):
    if importlib.util.find_spec("serial") is None:
        pytest.skip("pyserial is not installed")
    assert wrong(configuration('[policy.grants.serial]\nports = ["/dev/shm:9600"]\n'))["grants"] == "/dev/shm: no device"


def test_a_key_is_not_made_and_a_certificate_of_another_board_is_found(configuration, tmp_path, workspace):
    path = configuration(CERTIFICATE)
    authority = CertificateAuthority(workspace)
    (tmp_path / "device.pem").write_bytes(authority.sign(signing_request(tmp_path / "device.key", "roof-2"), "roof-2"))
    assert "the certificate is not for roof-1" in wrong(path)["broker"]
    (tmp_path / "device.pem").write_bytes(authority.sign(signing_request(tmp_path / "device.key", "roof-1"), "roof-1"))
    assert wrong(path) == {}
    (tmp_path / "device.key").unlink()
    assert "device.key: No such file" in wrong(path)["broker"]
    assert not (tmp_path / "device.key").exists()


def test_a_board_that_cannot_confine_modules_is_told_what_that_leads_to(configuration, monkeypatch):
    monkeypatch.setattr(checks, "measures_here", lambda user: frozenset(MEASURES) - {"landlock"})
    assert "not confined by landlock: none will run" in wrong(configuration())["confinement"]
    assert wrong(configuration('[policy]\nconfinement = "best-effort"\n')) == {}


@pytest.fixture
def workspace(tmp_path):
    from ota.formats.broker_url import BrokerUrl
    from ota.operator.workspace import Settings

    settings = Settings("example.com", BrokerUrl.parse("mqtt://localhost"), "lab")
    return Workspace.create(tmp_path / "operator", settings, 1_700_000_000, "ed25519")


@pytest.mark.skipif(os.geteuid() != 0, reason="root has a user for workers")
def test_on_this_system_the_measures_are_found_by_trying(configuration):
    assert [each.text for each in check(configuration()) if each.what == "confinement"] == ["modules are confined by all measures"]


def test_it_says_which_keys_of_groups_an_agent_would_find(configuration, tmp_path):
    path, file = configuration(), tmp_path / "group-1.key"
    texts = {each.what: each.text for each in check(path)}
    assert texts["group keys"].startswith("none")
    file.write_bytes(KEY.to_bytes())
    file.chmod(0o600)
    (text,) = [each.text for each in check(path) if each.what == "group keys"]
    assert text == f"{file}: key {KEY.key_id.hex()}"
    file.chmod(0o644)
    (text,) = [each.text for each in check(path) if each.what == "group keys"]
    assert text.endswith("which others than its owner can read")
    file.write_bytes(b"damaged")
    assert f"{file}: malformed" in wrong(path)["group keys"]

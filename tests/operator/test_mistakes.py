"""What people do wrong, and what the operator's commands say then: one line, nothing half done, no secret given away."""

import errno
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from boards.errors import BoardError
from boards.image import check_parts
from device_agent.broker.certificates import signing_request
from device_agent.command import main as agent_main
from ota.author.templates import LANGUAGES, create
from ota.cli import output
from ota.cli.main import main
from ota.errors import KeyFileError
from ota.formats.deployment import Deployment, Entry
from ota.operator import issued
from ota.operator.ca import CertificateAuthority
from ota.operator.enrolment import new_token
from ota.operator.issued import Issued
from ota.operator.ledger import Ledger
from ota.operator.roster import Roster
from ota.operator.scope import Scope
from ota.operator.shapes import fault
from ota.operator.workspace import Workspace, WorkspaceError
from tests.support.operator import ota
from tests.support.wat import contract_module

OTA = [sys.executable, "-m", "ota.cli.main"]


@pytest.mark.parametrize(
    "words",
    [("publish", "x.wasm", "--group", "a/b"), ("init", "--group", "#"), ("settings", "a/b", "--board", "x", "-o", "y")],
)
def test_what_is_no_name_is_wrong_usage_and_no_traceback(workspace, words):
    done = subprocess.run([*OTA, "-C", str(workspace), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is not a name: 1 to 64 letters, digits, - _ or ." in done.stderr


def test_a_group_in_the_settings_that_is_no_name_is_one_line(workspace, capsys):
    settings = workspace / "ota.toml"
    settings.write_text(settings.read_text().replace('group = "lab"', 'group = "a/b"'))
    assert ota(workspace, "status") == 1
    assert "ota.toml: 'a/b' is not a name for a group" in capsys.readouterr().err


def test_the_workspace_may_be_named_behind_the_verb_and_by_the_environment(workspace, modules, tmp_path, capsys, monkeypatch):
    build = ["build", str(modules / "tally.wasm"), "-o", str(tmp_path / "dist")]
    assert main([*build, "-C", str(workspace)]) == 0
    monkeypatch.setenv("OTA_WORKSPACE", str(workspace))
    assert main(build) == 0
    assert main([*build, "-C", str(tmp_path)]) == 1
    assert "name it with -C or OTA_WORKSPACE" in capsys.readouterr().err


def test_an_image_for_the_board_needs_a_board(workspace, modules, capsys):
    assert ota(workspace, "publish", modules / "tally.wasm", "--aot", "board", "--dry-run") == 1
    assert "--aot board compiles for the processor of one model of boards: name it with --board" in capsys.readouterr().err


def test_a_token_that_has_no_place_to_go_is_not_made(workspace, tmp_path, capsys):
    assert ota(workspace, "token", "roof-1", "-o", tmp_path / "none" / "token") == 1
    assert capsys.readouterr().err == f"ota: {tmp_path / 'none'} is not a folder\n"
    (tmp_path / "file").write_bytes(b"")
    board = ("settings", "roof-1", "--board", "generic-armv7", "--broker", "mqtt://192.0.2.1", "-o", tmp_path / "file" / "roof-1")
    assert ota(workspace, *board) == 1
    assert capsys.readouterr().err == f"ota: {tmp_path / 'file' / 'roof-1'}: Not a directory\n"
    assert not (workspace / "tokens.json").exists()
    assert not (workspace / "audit.log").exists()


def test_settings_that_get_no_token_leave_no_folder(workspace, tmp_path, capsys):
    board = ("settings", "roof-1", "--board", "generic-armv7", "--broker", "mqtt://192.0.2.1", "-o", tmp_path / "roof-1")
    assert ota(workspace, *board, "--batch", "2") == 1  # no batch has one name
    assert "a token for 2 boards" in capsys.readouterr().err
    assert not (tmp_path / "roof-1").exists()


def test_a_second_token_is_made_with_a_word(workspace, tmp_path, capsys):
    settings = ("settings", "b1", "--board", "generic-armv7", "--broker", "mqtt://192.0.2.1", "-o")
    assert ota(workspace, *settings, tmp_path / "first") == 0
    assert "note: " not in capsys.readouterr().err
    assert ota(workspace, *settings, tmp_path / "second") == 0
    assert "note: b1 has 1 unused token already" in capsys.readouterr().err
    authority = CertificateAuthority(Workspace.open(workspace))
    authority.sign(signing_request(tmp_path / "key.pem", "b1"), "b1")
    assert ota(workspace, *settings, tmp_path / "third") == 0
    assert "note: b1 has a certificate until " in capsys.readouterr().err


def test_errors_of_a_run_are_those_of_the_command_that_was_given():
    done = subprocess.run([*OTA, "run", "missing.wasm"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "ota run: missing.wasm: No such file or directory\n")


def test_the_agent_says_its_version():
    done = subprocess.run([sys.executable, "-m", "device_agent", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"device-agent {version('wamr-ota')}\n")


@pytest.mark.parametrize("wrong", ["../../evil", "", "a b", "x" * 100, "/etc/evil"])
def test_a_version_is_no_path(workspace, modules, tmp_path, capsys, wrong):
    out = tmp_path / "a" / "b" / "c"
    with pytest.raises(SystemExit) as ended:
        ota(workspace, "build", modules / "tally.wasm", "-o", out, "--version", wrong)
    assert ended.value.code == 2
    assert "is not a name: 1 to 64 letters, digits, - _ or ." in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_what_is_built_is_not_built_otherwise(workspace, modules, tmp_path, capsys):
    assert ota(workspace, "build", modules / "tally.wasm", "-o", tmp_path) == 0
    (built,) = [each for each in tmp_path.iterdir() if each.name.startswith("tally-")]
    for option in (("--version", "9"), ("--board", "raspberry-pi-4"), ("--aot", "x86_64")):
        assert ota(workspace, "publish", built, "--dry-run", *option) == 1
        assert f"is built and signed already: {option[0]} is for a .wasm" in capsys.readouterr().err


def test_a_dry_run_is_json_where_that_is_asked_for(workspace, modules, capsys):
    assert ota(workspace, "publish", modules / "tally.wasm", "--dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    (published,) = found["published"]
    assert (found["sent"], published["group"], published["chunks"], published["manifest"]) == (False, "lab", 1, None)


def test_a_module_without_description_is_noted(workspace, tmp_path, capsys):
    (tmp_path / "lone.wasm").write_bytes(contract_module())
    assert ota(workspace, "publish", tmp_path / "lone.wasm", "--dry-run") == 0
    assert "no event will reach it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [("publish", "x.wasm", "--wait", "-1"), ("logs", "--seconds", "0"), ("publish", "x", "--fraction", "0")]
)
def test_a_number_that_makes_no_sense_is_wrong_usage(words):
    assert subprocess.run([*OTA, *words], capture_output=True, check=False).returncode == 2


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_with_dashes_and_dots_stay_out_of_the_code(tmp_path, language):
    folder = create("9-a.b", language, tmp_path)
    assert "9-a.b" in (folder / "README.md").read_text()
    for path in folder.iterdir():
        if path.suffix in (".mjs", ".ts", ".rs", ".c", ".zig", ".wat"):
            assert all(line.lstrip().startswith(("/*", "//", ";;")) for line in path.read_text().splitlines() if "9-a.b" in line)
            assert "NAME" not in path.read_text().replace("NAMES", "")


def test_output_that_nobody_takes_is_no_traceback():
    for target in ("| true", "> /dev/full"):
        script = f"set -o pipefail; {' '.join(OTA)} boards {target}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
    assert (done.returncode, done.stderr) == (1, "ota: standard output: No space left on device\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_files_that_are_closed_are_no_traceback(tmp_path, closed):
    command = f"{sys.executable} -m ota.cli.main -C {tmp_path}/w init {closed} && ls {tmp_path}/w/ota.toml"
    done = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert done.stdout.endswith("ota.toml\n")


def test_a_full_disk_is_told_with_what_was_being_written(workspace, modules, tmp_path, capsys, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:  # as a plain write reports it, without a name
        broken.setattr("ota.cli.author.operator.build_update", full)
        assert ota(workspace, "build", modules / "tally.wasm", "-o", tmp_path / "dist") == 1
    assert capsys.readouterr().err == f"ota: No space left on device, while writing {tmp_path}/dist or what belongs to it\n"
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        assert ota(workspace, "build", modules / "tally.wasm", "-o", tmp_path / "dist") == 1
    assert capsys.readouterr().err.startswith(f"ota: {workspace}/")


def test_the_limit_on_topics_is_named(workspace, tmp_path, capsys):
    (tmp_path / "lone.wasm").write_bytes(contract_module())
    topics = ", ".join(f'"in/{number}"' for number in range(100))
    about = '[module]\nname = "lone"\nversion = "1"\n[capabilities.messaging]\nsubscribe = '
    for wrong, told in (
        (f"[{topics}]", "messaging.subscribe has 100 items, the limit is 32"),
        ("3", "is not a list of at most 32 texts"),
    ):
        (tmp_path / "lone.toml").write_text(f"{about}{wrong}\n")
        assert ota(workspace, "publish", tmp_path / "lone.wasm", "--dry-run") == 1
        assert told in capsys.readouterr().err


def test_a_file_in_the_place_of_a_folder_is_one_line(workspace, modules, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert ota(workspace, "build", modules / "tally.wasm", "-o", tmp_path / "file") == 1
    captured = capsys.readouterr().err
    assert captured.startswith("ota: ")
    assert captured.count("\n") == 1


def test_what_boards_say_does_not_move_the_cursor(capsys):
    output.note("board: \x1b[2Jfailed")
    output.result(output.table(("device",), (("a\nforged\x1b[31m",),)))
    captured = capsys.readouterr()
    assert captured.err == "board: \\x1b[2Jfailed\n"
    assert captured.out == "device\na\\nforged\\x1b[31m\n"


def test_the_operators_keys_do_not_go_onto_a_card(workspace, tmp_path):
    with pytest.raises(BoardError, match="`ota settings` makes"):
        check_parts(workspace, None)
    (workspace / "agent.toml").write_text("")
    with pytest.raises(BoardError, match="is a private key of the operator's"):
        check_parts(workspace, None)
    with pytest.raises(BoardError, match="`ota build` makes"):
        check_parts(None, tmp_path)


def test_what_fits_on_a_card_is_not_refused(workspace, tmp_path):
    board = tmp_path / "board"
    assert (
        ota(workspace, "settings", "b1", "--board", "generic-armv7", "--broker", "mqtt://192.0.2.1", "--no-token", "-o", board) == 0
    )
    check_parts(board, None)


DAMAGED = {
    "state.json": (
        "[]",
        "3",
        "[" * 100_000,
        '{"sequence": "x"}',
        '{"epochs": []}',
        '{"epochs": {"lab": null}}',
        '{"signed_s": true}',
    ),
    "ledger.json": (
        '{"scopes": 3}',
        '{"scopes": {"lab": {}}}',
        '{"scopes": {"lab": {"document": "", "aborted": [], "releases": {"a": [["aa", {"k": 1}]]}}}}',
        '{"brokers": {"mqtt://b": {"updates": {"aa": [["aa"]]}}}}',
    ),
    "roster.json": ("[]", "null", '{"boards": {"a": 3}}', '{"boards": {"a": {"ahead_s": "x"}}}', '{"boards": {"a": {"x": 1}}}'),
    "tokens.json": ('{"aa": 1}', '{"aa": {}}', '{"not hex": {}}'),
    "devices/a.json": ('{"certificates": 1}', '{"certificates": [{}]}', '{"certificates": [{"serial": "x"}]}'),
    "retired.json": ('{"devices": {"a": "b"}}', '{"serials": {"aa": ["a", 1]}}', '{"serials": {"x": ["a", 1, 2]}}'),
    "clones.json": ('{"a": {}}', '{"a": {"keys": ["x"], "seen_s": 1}}'),
    "published/index.json": ('{"a": {}}', '{"aa": {"module": "m"}}', '{"aa": []}'),
}


@pytest.mark.parametrize(("name", "content"), [(name, content) for name, contents in DAMAGED.items() for content in contents])
def test_a_damaged_file_of_the_workspace_is_named_with_a_way_out(workspace, name, content):
    path = workspace / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    opened = Workspace.open(workspace)
    with pytest.raises(WorkspaceError, match=f"{name} is damaged .*: (restore it from a backup of the workspace|delete it)"):
        Roster(opened) if name == "roster.json" else opened.read(name)


def test_what_the_workspace_writes_is_not_called_damaged(workspace):
    opened = Workspace.open(workspace)
    opened.next_sequence(1)
    opened.next_epoch("lab", 0)
    new_token(opened, "board-1", 0, 60)
    entry = Entry(bytes(32), bytes(16), 0, config={"key": "value"}, paused=True)
    deployed = Deployment(group="lab", epoch=1, issued_s=0, entries={"echo": entry})
    Ledger(opened).deployed(Scope("lab"), b"document", deployed, [entry.deployment_id])
    roster = Roster(opened)
    roster.expect("board-1", "lab")
    roster.forget("board-2")
    roster.save()
    issued.add(opened, "board-3", Issued("aa" * 20, "bb" * 32, 0, 60, "pem"))
    issued.retire(opened, "board-3", 1)
    issued.note_clone(opened, "board-4", "cc" * 32, 1)
    issued.add(opened, "a", Issued("aa" * 20, "bb" * 32, 0, 60, "pem", "cc" * 32, "dd" * 20))
    written = [name for name in DAMAGED if not name.startswith("published")]
    assert [fault(name, json.loads((workspace / name).read_text())) for name in written] == [""] * len(written)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("build", "empty"), "ota: malformed: empty: module: not a WebAssembly core module: it is empty"),
        (("run", "empty", "--aot"), "ota: malformed: empty: module: not a WebAssembly core module: it is empty"),
        (("verify", "empty"), "ota: malformed: empty: SUIT envelope is not strict CBOR: it ends too early"),
        (("verify", "empty", "--root", "empty"), "ota: malformed: empty: root document is not strict CBOR: it ends too early"),
        (("build", "tally.wasm", "--passphrase-file", "empty"), "ota: empty is empty: a passphrase is expected in it"),
        (("status", "--devices", "binary"), "ota: binary is not UTF-8 text: a list of boards is expected, one name a line"),
        (("settings", "b", "--board", "qemu-riscv64", "-o", "s", "--policy", "."), "ota: .: Is a directory"),
        (
            ("settings", "b", "--board", "qemu-riscv64", "-o", "s", "--policy", "binary"),
            "ota: binary is not UTF-8 text: a TOML file",
        ),
        (("push", "oci://localhost:1/x:1", "."), "ota: .: Is a directory"),
        (("sbom", "tally.wasm", "-o", "."), "ota: .: Is a directory"),
        (("keys", "new", "."), "ota: . is a folder: name the file"),
        (("publish", "tally.wasm", "--pack", "."), "ota: . is a folder: name the file"),
        (("image", "build", "qemu-riscv64", "-o", "."), "ota: . is a folder: name the file"),
        (("boards", "show", "binary.toml"), "ota: binary.toml is not UTF-8 text: a board definition in TOML is expected"),
    ],
)
def test_an_error_names_the_file_and_what_was_expected(workspace, modules, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    for name in ("binary", "binary.toml"):
        (tmp_path / name).write_bytes(b"\xff\xfe")
    for name in ("tally.wasm", "tally.toml"):
        (tmp_path / name).write_bytes((modules / name).read_bytes())
    assert ota(workspace, *words) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)


@pytest.mark.parametrize("text", ["module = 3", "[[module]]", "[module]\nname = 3", "x = " + "[" * 5000])
def test_a_description_of_the_wrong_shape_is_one_line(workspace, modules, tmp_path, capsys, text):
    (tmp_path / "m.wasm").write_bytes((modules / "tally.wasm").read_bytes())
    (tmp_path / "m.toml").write_text(text)
    assert ota(workspace, "build", tmp_path / "m.wasm") == 1
    assert capsys.readouterr().err.startswith(f"ota: {tmp_path / 'm.toml'}")


def test_a_run_names_the_file_that_is_no_module(tmp_path, capsys):
    (tmp_path / "empty").touch()
    assert agent_main(["--prog", "ota run", "run", str(tmp_path / "empty")]) == 1
    assert (
        capsys.readouterr().err == f"ota run: malformed: {tmp_path / 'empty'}: module: not a WebAssembly core module: it is empty\n"
    )


def test_a_fault_of_our_own_is_one_line_and_a_traceback_only_with_debug(workspace, capsys, monkeypatch):
    def broken(*_: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("ota.cli.author.describe", broken)
    assert ota(workspace, "inspect", workspace / "ota.toml") == 1
    error = capsys.readouterr().err
    assert error == "ota: internal error in inspect: KeyError: 'lost'; please report it with the output of --debug\n"
    with pytest.raises(KeyError):
        ota(workspace, "--debug", "inspect", workspace / "ota.toml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("publish", "x.wasm", "--wait", "soon"), "'soon' is not a number"),
        (("publish", "x.wasm", "--fraction", "half"), "'half' is not a number"),
        (("publish", "x.wasm", "--days", "1.5"), "'1.5' is not a whole number of days from 1 to 36500"),
        (("flash", "x", "--port", "y", "--wait", "nan"), "'nan' is not a number of seconds, more than 0"),
        (("settings", "b", "--board", "x", "-o", "y", "--broker", "h"), "'h' is not a broker address: mqtt://host"),
        (("init", "--vendor", "not a domain"), "'not a domain' is not a domain name, such as example.com"),
        (("init", "--pkcs11", "token"), "'token' is not a PKCS#11 URI"),
        (("ca", "rotate", "--pkcs11", "token"), "'token' is not a PKCS#11 URI"),
        (("publish", "x.wasm", "--window", "night"), "window 'night': not days, start and length"),
        (("remove", "x", "--window", "mon 02:00 0h"), "window 'mon 02:00 0h' has no minute"),
        (("publish", "x.wasm", "--version", "1 0"), "'1 0' is not a name: 1 to 64 letters"),
        (("build", "x.wasm", "-o", "y", "--security", "--cve", "CVE-26-1"), "not at most 64 names such as CVE-2026-12345"),
        (("build", "x.wasm", "-o", "y", "--revision", "a\x1b"), "has the character U+001B"),
        (("build", "x.wasm", "-o", "y", "--builder", 300 * "x"), "has 300 characters, the limit is 256"),
        (("build", "x.wasm", "-o", "y", "--aot", "arch64"), "arch64 is no target (did you mean aarch64?)"),
        (("push", "registry/x", "x.wasm"), "'registry/x' is no artifact: oci://REGISTRY/NAME:TAG"),
        (("broker", "check", "localhost"), "'localhost' is not a broker address: mqtt://host"),
        (("broker-config", "mosquitto", "-o", "y", "--host", "a b"), "'a b' is not a name or an address of a machine"),
        (("token", "b", "-o", "y", "--hours", "0"), "'0' is not a number of hours of more than 0 and at most 8784"),
        (("token", "b", "-o", "y", "--hours", "nan"), "'nan' is not a number of hours of more than 0 and at most 8784"),
        (("token", "b-{serial}", "-o", "y", "--batch", "0"), "'0' is not a whole number of boards from 1 to 100000"),
        (("settings", "b", "--board", "x", "-o", "y", "--batch", "-1"), "'-1' is not a whole number of boards from 1 to 100000"),
        (("settings", "b", "--board", "x", "-o", "y", "--ntp", "a:b:c"), "'a:b:c' is no time server: HOST or HOST:PORT"),
        (("settings", "b", "--board", "x", "-o", "y", "--key", "k"), "'k' is not a PKCS#11 URI"),
        (("init", "--broker", "localhost:1883"), "'localhost:1883' is not a broker address: mqtt://host"),
        (("new", "my module"), "'my module' is not a name: 1 to 64 letters"),
        (("publish", "x.wasm", "--chunk-bytes", "1"), "'1' is not a whole number from 1024 to 262144"),
        (("run", "x.wasm", "--event", "in/x"), "'in/x' is not TOPIC=PAYLOAD or TOPIC=@FILE"),
        (("run", "x.wasm", "--event", "in/#=1"), "'in/#=1' is not TOPIC=PAYLOAD or TOPIC=@FILE"),
        (("run", "x.wasm", "--config", "limit"), "'limit' is not NAME=VALUE"),
        (("run", "x.wasm", "--device", "gpiochip0:17"), "'gpiochip0:17' is not NAME=VALUE"),
        (("run", "x.wasm", "--env", "=1"), "'=1' is not NAME=VALUE"),
        (("run", "x.wasm", "--deny", "messagin"), "there is no capability messagin (did you mean messaging?)"),
    ],
)
def test_wrong_usage_says_what_was_expected(workspace, capsys, words, message):
    with pytest.raises(SystemExit) as ended:
        ota(workspace, *words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [("--config", "agent.toml", "check"), ("--config", "agent.toml", "check", "--json"), ("request", "b", "--key", "k")]
)
def test_an_agents_command_whose_output_nobody_takes_is_no_traceback(workspace, tmp_path, words):
    (tmp_path / "agent.toml").write_text('[device]\nid = "a"\ngroup = "b"\n[storage]\nfolder = "s"\n[trust]\nroot = "r"\n')
    command = [sys.executable, "-m", "device_agent", *words]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "device-agent: No space left on device\n")


def test_an_authority_without_its_certificates_format_raises_a_key_file_error(workspace):
    (workspace / "trust" / "ca.pem").write_bytes(b"")
    with pytest.raises(KeyFileError, match="is not a certificate in PEM format"):
        CertificateAuthority(Workspace.open(workspace))


def test_a_damaged_certificate_of_a_board_is_named(workspace, capsys):
    (workspace / "devices").mkdir(exist_ok=True)
    (workspace / "devices" / "board-1.pem").write_bytes(b"damaged")
    assert ota(workspace, "status") == 1
    assert "board-1.pem is not a certificate in PEM format" in capsys.readouterr().err

"""The command `ota` as its users meet it: keys, files, errors in one line, exit codes."""

import json
import stat
import subprocess
import sys

import pytest

from ota.cli.main import parser
from ota.errors import KeyFileError, OtaError
from ota.formats.reasons import Refused
from ota.formats.trust import first_root
from ota.keyring import SigningKey
from ota.operator.workspace import Workspace, WorkspaceError
from tests.support.aot import aotc
from tests.support.operator import ota


def test_init_makes_keys_that_nobody_else_can_read(workspace):
    for role in ("root", "release", "deploy"):
        assert stat.S_IMODE((workspace / "keys" / f"{role}.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((workspace / "keys").stat().st_mode) == 0o700
    assert first_root((workspace / "trust" / "root.1.cbor").read_bytes()).vendor == "test.example"


def test_init_never_overwrites_keys(workspace, capsys):
    before = (workspace / "keys" / "root.pem").read_bytes()
    assert ota(workspace, "init") == 1
    assert "is a workspace already" in capsys.readouterr().err
    assert (workspace / "keys" / "root.pem").read_bytes() == before


def test_a_key_that_others_can_read_is_refused(workspace, modules, capsys):
    (workspace / "keys" / "release.pem").chmod(0o644)
    assert ota(workspace, "build", modules / "monitor-v1.wasm", "-o", workspace / "dist") == 1
    assert "can be read by others than its owner: chmod 600" in capsys.readouterr().err


def test_locked_keys_need_their_passphrase(tmp_path, modules, capsys):
    secret, wrong = tmp_path / "secret", tmp_path / "wrong"
    secret.write_text("correct horse\n")
    wrong.write_text("battery\n")
    folder = tmp_path / "operator"
    assert ota(folder, "init", "--passphrase-file", secret) == 0
    assert b"ENCRYPTED" in (folder / "keys" / "release.pem").read_bytes()
    build = ("build", modules / "monitor-v1.wasm", "-o", tmp_path / "dist")
    assert ota(folder, *build) == 1
    assert "is locked: give --passphrase-file" in capsys.readouterr().err
    assert ota(folder, *build, "--passphrase-file", wrong) == 1
    assert "the passphrase is wrong" in capsys.readouterr().err
    assert ota(folder, *build, "--passphrase-file", secret) == 0


@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("x86_64:+avx+popcnt,x86_64:+popcnt+avx", "two ahead-of-time images for the same boards"),
        ("x86_64,x86_64:", "two ahead-of-time images for the same boards"),
        (",".join(f"x86_64:+a{n}" for n in range(17)), "17 ahead-of-time images, a manifest has 16 at most"),
        ("x86_64:+", "is not a recognized feature"),
    ],
)
def test_images_that_make_no_sense_are_refused_before_anything_is_signed(workspace, modules, capsys, tmp_path, wanted, message):
    assert ota(workspace, "build", modules / "monitor-v1.wasm", "-o", tmp_path / "dist", "--aot", wanted) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize("wanted", ["z80", ":", "x86_64,z80"])
def test_a_target_that_is_none_is_wrong_usage(workspace, modules, capsys, tmp_path, wanted):
    with pytest.raises(SystemExit) as ended:
        ota(workspace, "build", modules / "monitor-v1.wasm", "-o", tmp_path / "dist", "--aot", wanted)
    assert ended.value.code == 2
    assert " is no target: x86_64, aarch64, armv7, riscv64" in capsys.readouterr().err


@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
@pytest.mark.parametrize(
    ("wanted", "said"),
    [("x86_64:i9000", "'i9000' is not a recognized processor"), ("x86_64:+i9", "'+i9' is not a recognized feature")],
)
def test_what_the_compiler_says_of_a_processor_is_said_once_and_whole(workspace, modules, capsys, tmp_path, wanted, said):
    assert ota(workspace, "build", modules / "monitor-v1.wasm", "-o", tmp_path / "dist", "--aot", wanted) == 1
    assert capsys.readouterr().err.startswith(f"ota: for x86_64: {said}")


@pytest.mark.parametrize("algorithm", ["ed25519", "es256"])
def test_build_inspect_and_verify(tmp_path, modules, capsys, algorithm):
    folder = tmp_path / "operator"
    assert ota(folder, "init", "--algorithm", algorithm) == 0
    assert ota(folder, "build", modules / "monitor-v1.wasm", "-o", tmp_path / "dist") == 0
    manifest = tmp_path / "dist" / "monitor-1.0.0" / "manifest.suit"
    capsys.readouterr()
    assert ota(folder, "inspect", manifest) == 0
    shown = capsys.readouterr().out
    assert "module      monitor 1.0.0" in shown
    assert "capability  messaging: publish readings/#, alerts/#; subscribe sys/#" in shown
    assert ota(folder, "inspect", manifest, "--json") == 0
    assert json.loads(capsys.readouterr().out)["module"] == {"name": "monitor", "version": "1.0.0"}
    assert ota(folder, "inspect", manifest, "--diag") == 0
    assert capsys.readouterr().out.startswith("107({")
    assert ota(folder, "verify", manifest) == 0
    assert capsys.readouterr().out.startswith("good: monitor 1.0.0, sequence ")
    damaged = manifest.read_bytes().replace(b"monitor", b"manitor")
    manifest.write_bytes(damaged)
    assert ota(folder, "verify", manifest) == 1
    assert "manifest.suit: the digest of the manifest is" in capsys.readouterr().err


def test_another_workspaces_manifest_is_not_verified(workspace, tmp_path, modules, capsys):
    other = tmp_path / "other"
    ota(other, "init")
    ota(other, "build", modules / "tally.wasm", "-o", tmp_path / "dist")
    capsys.readouterr()
    assert ota(workspace, "verify", tmp_path / "dist" / "tally-1.0.0" / "manifest.suit") == 1
    assert "signer-unknown" in capsys.readouterr().err


def test_sequence_numbers_never_go_back(workspace):
    opened = Workspace.open(workspace)
    numbers = [opened.next_sequence(at_s) for at_s in (100, 50, 50, 200, 3)]
    assert numbers == sorted(set(numbers))
    assert opened.next_epoch("lab", 5) == 5
    assert opened.next_epoch("lab", 5) == 6  # a clock that stands still, or goes back
    assert opened.adopt(epochs={"lab": 7})
    assert not opened.adopt(epochs={"lab": 3})
    assert opened.next_epoch("lab", 5) == 8
    assert opened.next_epoch("other", 0) == 1


def test_what_the_description_forgets_is_named(workspace, tmp_path, modules, capsys):
    module = tmp_path / "m.wasm"
    module.write_bytes((modules / "monitor-v1.wasm").read_bytes())
    module.with_suffix(".toml").write_text('[module]\nname = "m"\nversion = "1"\n[capabilities.logging]\n')
    assert ota(workspace, "build", module) == 1
    assert "import-undeclared" in capsys.readouterr().err
    module.with_suffix(".toml").write_text('[module]\nname = "m"\nversion = "1"\ncolour = "red"\n')
    assert ota(workspace, "build", module) == 1
    assert "m.toml: [module] has unknown keys: colour" in capsys.readouterr().err
    module.with_suffix(".toml").write_text("[module\n")
    assert ota(workspace, "build", module) == 1
    assert "m.toml" in capsys.readouterr().err


WHOLE = """\
[module]
name = "m"
version = "1.0.0"
security_epoch = 1
config = "text"
idempotent = true
[limits]
memory_pages = 32
[capabilities.logging]
[capabilities.messaging]
subscribe = ["sys/#"]
publish = ["readings/#"]
"""


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("[limits]", "[limit]", "has unknown keys: limit (did you mean limits?)"),
        ("version =", "verson =", "[module] has unknown keys: verson (did you mean version?)"),
        ('version = "1.0.0"\n', "", "[module] version is missing: a text of 1 to 64 letters, digits, - _ or . is expected"),
        ('"1.0.0"', "1.0", "[module] version is 1.0: a text of 1 to 64 letters, digits, - _ or . is expected"),
        ('"m"', '"m 1"', "[module] name is 'm 1': a text of 1 to 64 letters, digits, - _ or . is expected"),
        ("epoch = 1", "epoch = -1", "[module] security_epoch is -1: a whole number from 0 on is expected"),
        ('"text"', "5", "[module] config is 5: a text is expected"),
        ("true", '"yes"', "[module] idempotent is 'yes': true or false is expected"),
        ("pages =", "page =", "[limits]: members that this version does not know: 'memory_page' (did you mean memory_pages?)"),
        ("= 32", '= "32"', "[limits]: field 'memory_pages' is not a whole number"),
        ("= 32", "= 0", "[limits]: field 'memory_pages' is 0, not between 1 and 65536"),
        (
            ".logging",
            ".loging",
            "capability 'loging' is not one of logging, messaging, keyvalue, clock, config, random, gpio, serial,"
            " wasi, filter (did you mean logging?)",
        ),
        ("subscribe", "subscribes", "messaging has no argument 'subscribes' (did you mean subscribe?)"),
    ],
)
def test_a_mistyped_description_names_the_key_what_is_wrong_and_what_is_near(
    workspace, tmp_path, modules, capsys, right, wrong, said
):
    module = tmp_path / "m.wasm"
    module.write_bytes((modules / "monitor-v1.wasm").read_bytes())
    assert right in WHOLE
    module.with_suffix(".toml").write_text(WHOLE)
    assert ota(workspace, "build", module, "-o", tmp_path / "dist") == 0
    capsys.readouterr()
    module.with_suffix(".toml").write_text(WHOLE.replace(right, wrong))
    assert ota(workspace, "build", module) == 1
    assert capsys.readouterr().err.endswith(f"{module.with_suffix('.toml')}: {said}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("build", "missing.wasm"), "missing.wasm: No such file or directory"),
        (("inspect", "missing.suit"), "missing.suit: No such file or directory"),
        (("publish", "missing.wasm"), "missing.wasm: No such file or directory"),
    ],
)
def test_a_mistake_is_one_line_without_a_traceback(workspace, capsys, words, message):
    assert ota(workspace, *words) == 1
    captured = capsys.readouterr()
    assert captured.err == f"ota: {message}\n"


def test_outside_a_workspace_it_says_how_to_make_one(tmp_path, capsys):
    assert ota(tmp_path, "status") == 1
    assert "is not a workspace: run `ota init` first" in capsys.readouterr().err


def test_no_broker_is_one_line(workspace, modules, capsys):
    settings = workspace / "ota.toml"
    settings.write_text(settings.read_text().replace(":1883", ":1"))
    for words in (("status",), ("publish", modules / "tally.wasm"), ("logs",), ("devices",)):
        assert ota(workspace, *words) == 1
        assert capsys.readouterr().err.startswith("ota: the broker at mqtt://localhost:1 can't be reached: ")


def test_a_board_that_is_nearly_one_is_asked_about(workspace, modules, capsys):
    tally = modules / "tally.wasm"
    assert ota(workspace, "publish", tally, "--board", "raspbery-pi-4", "--dry-run") == 0
    assert "'raspbery-pi-4' is none of `ota boards` (did you mean raspberry-pi-4?): only boards" in capsys.readouterr().err
    for known in ("raspberry-pi-4", "generic"):
        assert ota(workspace, "publish", tally, "--board", known, "--dry-run") == 0
        assert capsys.readouterr().err == ""


def test_a_dry_run_sends_nothing(workspace, modules, capsys):
    assert ota(workspace, "publish", modules / "tally.wasm", "--dry-run") == 0
    assert "nothing was sent" in capsys.readouterr().out


def test_wrong_usage_is_exit_code_2():
    done = subprocess.run([sys.executable, "-m", "ota.cli.main", "publish"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_every_command_shows_an_example():
    actions = next(action for action in parser()._actions if hasattr(action, "choices") and action.choices)
    expected = {
        "abort",
        "archive",
        "audit",
        "pack",
        "push",
        "reports",
        "group-keys",
        "keys",
        "root",
        "sign",
        "broker",
        "broker-config",
        "ca",
        "clean",
        "config",
        "pause",
        "remove",
        "republish",
        "retire",
        "resume",
        "widen",
        "rollout",
        "withdraw",
        "boards",
        "build",
        "completion",
        "demo",
        "devices",
        "enrol",
        "flash",
        "image",
        "init",
        "inspect",
        "logs",
        "new",
        "publish",
        "rebuild",
        "sbom",
        "run",
        "settings",
        "status",
        "token",
        "verify",
    }
    assert set(actions.choices) == expected
    for name, command in actions.choices.items():
        assert f"example: ota {name}" in command.format_help().replace("\n", " ")


def test_run_shows_what_a_module_does(modules):
    command = [sys.executable, "-m", "ota.cli.main", "run", str(modules / "monitor-v1.wasm"), "--json"]
    done = subprocess.run([*command, "--event", "sys/loadavg=0.5", "--event", "x=y"], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["what"] for line in lines] == ["log", "started", "handled", "publish", "refused"]
    assert done.returncode == 1


def test_a_workspace_with_a_broken_settings_file_says_where(workspace):
    (workspace / "ota.toml").write_text('vendor = "x"\nbroker = "ftp://x"\ngroup = "g"\n')
    with pytest.raises(WorkspaceError, match=r"ota\.toml.*is not a broker address"):
        Workspace.open(workspace)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('grop = "lab"', r"ota\.toml: 'grop' is not a setting \(did you mean group\?\)$"),
        ("keep_update = 3", r"ota\.toml: 'keep_update' is not a setting \(did you mean keep_updates\?\)$"),
        ("username = 3", r"ota\.toml: username is 3, not text$"),
    ],
)
def test_a_setting_that_is_misspelt_or_no_text_is_named_with_what_is_meant(workspace, line, message):
    with (workspace / "ota.toml").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(WorkspaceError, match=message):
        Workspace.open(workspace)


def test_what_is_no_key_is_refused(tmp_path):
    path = tmp_path / "key.pem"
    path.write_text("not a key")
    path.chmod(0o600)
    for error in (KeyFileError, OtaError):
        with pytest.raises(error, match="is not a PEM private key"):
            SigningKey.load(path)
    with pytest.raises(ValueError, match="rsa"):
        SigningKey.generate("rsa")
    assert issubclass(Refused, OtaError)

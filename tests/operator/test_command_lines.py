"""What a command line means, and what is said of one that means nothing: one line, what is nearest to it, and where help is."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from device_agent.command import _parser
from device_agent.command import main as agent
from ota.cli import output
from ota.cli.completion import subcommands
from ota.cli.main import SECTIONS, VERBS, _verb, main, parser
from ota.formats.text import amount, nearest
from ota.operator.session import NoConnectionError
from tests.support.operator import ota
from tests.support.relay import relay
from tests.support.verbs import verbs

AGENT = """\
[device]
id = "board-1"
group = "lab"
[storage]
folder = "board"
[trust]
root = "root.1.cbor"
"""
NO_JSON = {  # what they print is no result for machines, or is one already
    ("completion",),
    ("demo",),
    ("sbom",),
}


def every(command: argparse.ArgumentParser, path: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield path, command
    for group in subcommands(command):
        for name, each in group.choices.items():
            yield from every(each, f"{path} {name}")


@pytest.mark.parametrize(("name", "make"), [("ota", parser), ("device-agent", _parser)])
def test_the_help_of_every_verb_says_what_it_does_and_what_each_argument_is(name, make):
    for path, command in every(make(), name):
        said = " ".join(command.format_help().split())
        assert command.description[:1].isupper(), path
        assert command.description.endswith("."), path
        assert command.description in said
        assert "example: " in said or path == "ota"
        assert [each.dest for each in command._actions if not each.help and each not in subcommands(command)] == [], path


def test_the_options_of_publish_are_in_sections(capsys):
    with pytest.raises(SystemExit):
        main(["publish", "--help"])
    said = capsys.readouterr().out
    sections = ("options:", "which boards:", "when boards change to it:", "encryption:", "how a module is built:")
    places = [said.index(f"\n{each}\n") for each in (*sections, "what the update says of itself:", "modules in a registry:")]
    assert places == sorted(places)
    assert places[0] < said.index("\n  --wait SECONDS") < places[1] < said.index("\n  --fraction PERCENT") < places[2]


@pytest.mark.parametrize(
    ("line", "command", "said"),
    [
        (["-C", "x"], "ota", "the following arguments are required: command"),
        (["--workspace", "x", "status"], "ota", "there is no option --workspace"),
        (["--debgu", "status"], "ota", "there is no option --debgu (did you mean --debug?)"),
        (["-c", "x", "status"], "ota", "there is no option -c"),
        (["stauts"], "ota", "argument command: there is no stauts (did you mean status?)"),
        (["xyzzy"], "ota", "argument command: there is no xyzzy"),
        (["publish", "x.wasm", "--wiat", "5"], "ota publish", "there is no option --wiat (did you mean --wait?)"),
        (["publish", "x.wasm", "--wait", "60s"], "ota publish", "argument --wait: '60s' is not a number"),
        (["keys", "rotate", "relase"], "ota keys rotate", "argument role: there is no relase (did you mean release?)"),
        (["completion", "4dos"], "ota completion", "argument shell: there is no 4dos (choose from bash, zsh, fish)"),
        (["pause", "lab", "lab2"], "ota pause", "there is no argument lab2"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(line, command, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(line)
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", f"{command}: {said}; `{command} --help` says more\n")


def test_help_has_every_verb_in_one_section(capsys):
    verbs = {"completion"}.union(*VERBS.values())
    assert sorted(verb for names in SECTIONS.values() for verb in names) == sorted(verbs)
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "] command ...\n" in said
    assert all(said.count(f"\n  {verb} ") + said.count(f"\n  {verb}\n") == 1 for verb in verbs)
    assert said.index("workspace, keys and broker:") < said.index("publish:") < said.index("options:")


@pytest.mark.parametrize(("line", "shown"), [([], "\n  publish "), (["keys"], "\n    rotate "), (["image"], "\n    build ")])
def test_a_command_without_its_verb_shows_the_verbs(line, shown, capsys):
    with pytest.raises(SystemExit) as ended:
        main(line)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    assert shown in err
    assert "\nexample: " in err or "Begin with init" in err


def test_an_unknown_option_of_the_agent_is_named_and_not_its_value(capsys):
    with pytest.raises(SystemExit):
        agent(["--confg", "agent.toml"])
    assert capsys.readouterr().err.startswith("device-agent: there is no option --confg (did you mean --config?)")


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        (["devices", "--device", "b1"], "--devices"),
        (["devices", "--forg", "b1"], "--forget"),
        (["publish", "x.wasm", "--dry"], "--dry-run"),
        (["publish", "x.wasm", "--wait-fo=all"], "--wait-for"),
    ],
)
def test_the_beginning_of_an_option_is_not_taken_for_another_option(line, meant, capsys):
    """`--device b1` was once taken for `--devices b1`, a file."""
    with pytest.raises(SystemExit) as ended:
        main(line)
    assert ended.value.code == 2
    assert f"(did you mean {meant}?)" in capsys.readouterr().err


def test_every_command_that_has_a_result_gives_it_to_machines_too():
    without = {path for path, command in verbs(parser()) if "--json" not in command.format_help()}
    assert without == NO_JSON


def test_every_argument_says_what_it_is():
    silent = [
        (*path, action.dest)
        for path, command in verbs(parser())
        for action in command._actions
        if not action.help and not action.choices
    ]
    assert silent == []


@pytest.mark.parametrize("verb", ["pause", "resume", "abort"])
def test_a_group_is_named_by_itself_or_with_the_option_that_publish_has(verb, quick, capsys):
    said = []
    for words in (["nix"], ["--group", "nix"], ["nix", "--group", "nix"]):
        assert ota(quick.folder, verb, *words) == 1
        said.append(capsys.readouterr().err)
    assert said[0] == said[1] == said[2]
    assert "nix" in said[0]
    for words in (["nix", "--device", "nix"], ["nix", "--group", "lab"]):
        assert ota(quick.folder, verb, *words) == 2
        assert capsys.readouterr().err == "ota: name one group, or one board with --device: not several of them\n"


def test_status_takes_a_board_as_the_other_commands_do(quick, capsys):
    workspace = quick.folder
    assert ota(workspace, "status", "--device", "board-9") == 1
    assert "no board has the name board-9" in capsys.readouterr().err
    assert ota(workspace, "status", "board-1", "--device", "board-9") == 2
    assert ota(workspace, "status", "--instance", "blink") == 2


def test_names_may_be_given_at_once_or_one_by_one(workspace, modules, capsys):
    for words in (["--device", "a,b"], ["--device", "a", "--device", "b"]):
        assert ota(workspace, "publish", modules / "tally.wasm", *words, "--dry-run") == 0
        assert capsys.readouterr().out.count(" for device ") == 2
    for words in (["--group", "a,b"], ["--group", "a", "--group", "b"]):
        assert ota(workspace, "pack", *words, "-o", workspace / "x.bundle") == 1
        assert "this workspace never published to group a" in capsys.readouterr().err


def test_init_build_and_new_answer_machines(tmp_path, modules, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ota(tmp_path / "w", "init", "--no-passphrase", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["root"] == str(tmp_path / "w" / "trust" / "root.1.cbor")
    assert made["locked"] is False
    assert ota(tmp_path / "w", "keys", "new", "alice.pem", "--json") == 0
    assert json.loads(capsys.readouterr().out)["public"] == "alice.pem.pub"
    assert ota(tmp_path / "w", "new", "blink", "--lang", "wat", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"folder": "blink", "language": "wat"}
    assert ota(tmp_path / "w", "build", modules / "tally.wasm", "--json") == 0
    built = json.loads(capsys.readouterr().out)
    assert (built["module"], built["version"], built["folder"]) == ("tally", "1.0.0", "dist/tally-1.0.0")


def test_a_dry_run_of_retire_answers_machines_a_line_for_each_board(workspace, capsys):
    for name in ("roof-1", "roof-2"):
        assert ota(workspace, "token", name, "-o", workspace / name) == 0
    capsys.readouterr()
    assert ota(workspace, "retire", "roof-1", "roof-2", "--dry-run", "--json") == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said == [{"device": name, "retired": False, "certificate_until": None} for name in ("roof-1", "roof-2")]


def test_a_module_is_not_taken_for_a_damaged_manifest(workspace, modules, capsys):
    assert ota(workspace, "verify", modules / "tally.wasm") == 1
    assert capsys.readouterr().err.endswith(
        "tally.wasm is a module, which nobody has signed: name a manifest, or a folder that `ota build` made\n"
    )


@pytest.mark.parametrize("event", ["x", "in/#=1"])
def test_an_event_that_is_none_is_named(modules, capsys, event):
    with pytest.raises(SystemExit) as ended:
        agent(["run", str(modules / "tally.wasm"), "--event", "in/a=1", "--event", event])
    assert ended.value.code == 2
    assert f"{event!r} is not TOPIC=PAYLOAD or TOPIC=@FILE" in capsys.readouterr().err


def test_an_event_may_come_from_a_file(tmp_path, capsys):
    (tmp_path / "reading").write_bytes(b"0.52\n\xff")
    (tmp_path / "relay.wasm").write_bytes(relay("out"))
    assert agent(["run", str(tmp_path / "relay.wasm"), "--event", f"in/a=@{tmp_path / 'reading'}", "--json"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["payload"] for each in said if each["what"] == "publish"] == ["0.52\n\\xff"]


@pytest.mark.parametrize(
    ("name", "why"),
    [("none", "No such file or directory"), (".", "Is a directory"), ("large", "more than 65536 bytes, which is the limit")],
)
def test_a_file_that_is_no_payload_is_named(modules, tmp_path, capsys, name, why):
    (tmp_path / "large").write_bytes(bytes(65_537))
    path = f"{tmp_path}/{name}"
    assert agent(["run", str(modules / "tally.wasm"), "--event", f"in/a=@{path}"]) == 1
    captured = capsys.readouterr()
    assert captured.err.endswith(f"{path}: {why}\n")
    assert not captured.out  # nothing ran


def test_a_wait_that_is_interrupted_says_that_the_boards_go_on(quick, capsys, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ota.operator.waiting.Waiting.run", interrupted)
    assert ota(quick.folder, "publish", quick.module(1), "--wait", "60") == 130
    assert capsys.readouterr().err.endswith(
        "the update is published, and boards go on with it: `ota status` shows how far they are\nota: interrupted\n"
    )


def test_a_wait_that_fails_says_that_the_update_is_published(quick, capsys, monkeypatch):
    def failed(*_: object) -> None:
        raise NoConnectionError("the connection broke")

    monkeypatch.setattr("ota.operator.waiting.Waiting.run", failed)
    assert ota(quick.folder, "publish", quick.module(1), "--wait", "60") == 1
    assert capsys.readouterr().err.endswith(
        "the update is published, and boards go on with it: `ota status` shows how far they are\nota: the connection broke\n"
    )


def test_ctrl_c_while_the_command_line_is_read_is_no_traceback(capsys, monkeypatch):
    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ota.cli.main.parser", interrupted)
    assert main(["status"]) == 130
    assert capsys.readouterr().err == "ota: interrupted\n"


def test_what_changes_something_answers_machines_too(quick, capsys):
    quick.board("roof-1")

    def said(*words: str, code: int = 0) -> list[object]:
        assert ota(quick.folder, *words, "--json") == code
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    (trusted,) = said("devices", "--trust", "roof-1")
    assert trusted["device"] == "roof-1"
    assert trusted["key"]
    forgotten = said("devices", "--forget", "roof-1", "--forget", "nobody", code=1)
    assert forgotten == [
        {"device": "roof-1", "forgotten": True, "topics": 2},
        {"device": "nobody", "forgotten": False, "topics": 0},
    ]
    assert said("root", "edit", "--discard") == [{"discarded": False}]
    said("root", "edit")
    assert said("root", "edit", "--discard") == [{"discarded": True}]


def test_what_is_no_number_is_null_for_machines(capsys):
    output.result_json({"time_s": float("nan"), "list": [float("inf"), 1.5], "deep": {"x": (float("-inf"),)}})
    assert json.loads(capsys.readouterr().out) == {"time_s": None, "list": [None, 1.5], "deep": {"x": [None]}}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("status", "--watch", "--prometheus"), "--watch tells of changes of boards"),
        (("status", "--watch", "--chunks"), "--watch tells of changes of boards"),
    ],
)
def test_options_that_would_be_passed_over_are_wrong_usage(workspace, capsys, words, said):
    assert ota(workspace, *words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("audit", "log", "--lines", "-5"),
        ("group-keys", "deliver", "lab", "--wait", "nan"),
        ("group-keys", "deliver", "lab", "--wait", "-1"),
        ("devices", "--forget", "a", "--trust", "b"),
    ],
)
def test_an_option_without_a_meaning_is_wrong_usage(workspace, words):
    with pytest.raises(SystemExit) as ended:
        ota(workspace, *words)
    assert ended.value.code == 2


def test_a_bundle_that_brings_no_module_is_told(quick, tmp_path, capsys):
    assert ota(quick.folder, "publish", quick.module(1)) == 0
    assert ota(quick.folder, "pack", "-o", tmp_path / "full") == 0
    assert "has no instance" not in capsys.readouterr().err
    assert ota(quick.folder, "withdraw", "echo") == 0
    assert ota(quick.folder, "pack", "-o", tmp_path / "empty") == 0
    assert "note: group lab has no instance: the bundle brings its boards no module\n" in capsys.readouterr().err


def test_what_is_packed_is_signed_and_not_published(quick, tmp_path, capsys):
    assert ota(quick.folder, "publish", quick.module(1), "--pack", tmp_path / "x.bundle") == 0
    assert "echo 1.0.0 is signed for group" in (said := capsys.readouterr().out)
    assert "published" not in said


def test_a_file_that_is_no_bundle_is_named(tmp_path, capsys):
    config = tmp_path / "agent.toml"
    config.write_text(AGENT)
    assert agent(["--config", str(config), "install", str(config)]) == 1
    assert capsys.readouterr().err.startswith(f"device-agent: bundle-truncated: {config}: the bundle is cut off")
    assert agent(["--config", str(config), "install", str(tmp_path / "no.bundle")]) == 1
    assert capsys.readouterr().err.count("no.bundle") == 1


def test_one_is_one_and_not_several():
    assert [amount(number, "topic") for number in (0, 1, 2)] == ["0 topics", "1 topic", "2 topics"]


def test_what_is_near_is_named_and_nothing_else():
    assert nearest("memory_page", ["memory_pages", "fuel"]) == " (did you mean memory_pages?)"
    assert nearest("--dry", ["--days", "--dry-run"]) == " (did you mean --dry-run?)"
    assert nearest("x", ["memory_pages", "fuel"]) == ""


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (["config", "blink", "--group", "lab", "a=1"], {"name": "blink", "settings": ["a=1"], "group": "lab"}),
        (["config", "blink", "a=1", "--device", "b1", "b=2"], {"name": "blink", "settings": ["a=1", "b=2"], "device": ["b1"]}),
        (["status", "b1", "--json", "echo"], {"device": "b1", "instance": "echo"}),
        (["publish", "a.wasm", "--together", "b.wasm"], {"together": True}),
        (["remove", "a", "--dry-run", "b"], {"name": ["a", "b"]}),
    ],
)
def test_options_may_stand_between_arguments(line, found):
    read = vars(parser().parse_args(line))
    assert {key: read[key] for key in found} == found


def test_a_command_is_the_same_whether_the_others_are_there_or_not():
    (everything,) = subcommands(parser())
    assert list(everything.choices) == [*(verb for each in VERBS.values() for verb in each), "completion"]
    for those in VERBS.values():
        (some,) = subcommands(parser(those[0]))
        assert tuple(some.choices) == those
        for path, command in ((path, command) for name in those for path, command in verbs(some.choices[name], (name,))):
            assert command.format_help() == dict(verbs(everything.choices[path[0]], path[:1]))[path].format_help()


@pytest.mark.parametrize(
    ("words", "verb"),
    [
        (["status"], "status"),
        (["-C", "status", "--debug", "publish", "x"], "publish"),
        (["-Cfolder", "init"], "init"),
        (["--help", "status"], ""),
        (["stauts"], ""),
        (["-C"], ""),
        ([], ""),
    ],
)
def test_the_verb_is_found_behind_the_general_options(words, verb):
    assert _verb(words) == verb


def test_a_command_imports_nothing_that_only_others_need():
    there = "import sys; from ota.cli.main import parser; parser('boards'); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", there], capture_output=True, text=True, check=True).stdout.split()
    assert {"ota.cli.board"} < set(found)
    assert {"ota.cli.fleet", "ota.cli.publish", "paho.mqtt.client", "importlib.metadata"}.isdisjoint(found)

"""What `ota run` keeps between two runs, the ticks that it gives, and how it reads a description and other files."""

import json

import pytest

from device_agent.command import main
from ota.formats.reasons import Reason, Refused
from ota.formats.wasm import read
from tests.support.wat import contract_module

COUNTER = contract_module(
    "(i32.store (i32.const 100) (i32.add (i32.load (i32.const 100)) (i32.const 1))) (i32.const 0)",
    data='(data (i32.const 200) "\\64\\00\\00\\00\\04\\00\\00\\00")',  # the state: four bytes at 100
    more="""
  (func (export "device:module/timer@0.1.0#tick") (param i64) (result i32)
    (i32.store (i32.const 100) (i32.add (i32.load (i32.const 100)) (i32.const 16)))
    (i32.const 0))
  (func (export "device:module/state@0.1.0#save") (result i32) (i32.const 200))
  (func (export "device:module/state@0.1.0#restore") (param $at i32) (param $size i32) (result i32)
    (i32.store (i32.const 100) (i32.load (local.get $at)))
    (i32.const 0))""",
)
KEEPER = contract_module(
    "(call $set (i32.const 100) (i32.const 1) (local.get $payload) (local.get $size) (i32.const 120)) (i32.const 0)",
    imports='(import "device:module/keyvalue@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32)))',
    data='(data (i32.const 100) "k")',
)
DESCRIBED = '[module]\nname = "m"\nversion = "1.0.0"\n[limits]\ntick_ms = 500\n[capabilities.messaging]\nsubscribe = ["in/#"]\n'


@pytest.fixture
def counter(tmp_path):
    (tmp_path / "m.wasm").write_bytes(COUNTER)
    (tmp_path / "m.toml").write_text(DESCRIBED)
    return tmp_path / "m.wasm"


def run(capsys, *words) -> tuple[int, list[dict], str]:
    code = main(["--prog", "ota run", "run", "--json", *map(str, words)])
    said = capsys.readouterr()
    return code, [json.loads(line) for line in said.out.splitlines()], said.err


def test_the_next_run_begins_with_the_state_that_the_last_one_left(counter, tmp_path, capsys):
    kept = tmp_path / "kept.json"
    words = counter, "--event", "in/x=1", "--state", kept
    assert run(capsys, *words)[1][-1] == {"what": "kept", "state_bytes": 4, "keys": 0, "file": str(kept)}
    assert json.loads(kept.read_text()) == {"state": "01000000", "keys": {}}
    run(capsys, *words)
    assert json.loads(kept.read_text())["state"] == "02000000"


def test_keys_are_kept_from_run_to_run_beside_the_state_of_another_module(tmp_path, capsys):
    kept = tmp_path / "kept.json"
    kept.write_text('{"state": "ff", "keys": {"old": "00"}}')
    (tmp_path / "k.wasm").write_bytes(KEEPER)
    assert run(capsys, tmp_path / "k.wasm", "--event", "a=hi", "--state", kept)[0] == 0
    assert json.loads(kept.read_text()) == {"state": "ff", "keys": {"k": "6869", "old": "00"}}


def test_what_a_run_that_trapped_would_have_kept_is_not_written(tmp_path, capsys):
    (tmp_path / "m.wasm").write_bytes(contract_module("unreachable"))
    assert run(capsys, tmp_path / "m.wasm", "--event", "a=1", "--state", tmp_path / "kept.json")[0] == 1
    assert not (tmp_path / "kept.json").exists()


@pytest.mark.parametrize(
    "content", ["", "[]", '{"state": 3, "keys": {}}', '{"state": "xy", "keys": {}}', '{"state": ""}', '{"state": "", "keys": []}']
)
def test_a_file_that_no_run_has_left_is_refused_with_what_is_expected(counter, tmp_path, capsys, content):
    (tmp_path / "kept.json").write_text(content)
    code, lines, error = run(capsys, counter, "--state", tmp_path / "kept.json")
    assert (code, lines) == (1, [])
    assert error.startswith(f'ota run: {tmp_path / "kept.json"} is not what --state writes: {{"state": "…", "keys"')
    assert (tmp_path / "kept.json").read_text() == content


def test_a_state_that_no_board_would_hand_over_is_refused(counter, tmp_path, capsys):
    (tmp_path / "kept.json").write_text(json.dumps({"state": "00" * 65537, "keys": {}}))
    code, _, error = run(capsys, counter, "--state", tmp_path / "kept.json")
    assert (code, "holds a state of 65537 bytes, the limit is 65536" in error) == (1, True)


def test_the_timer_ticks_after_the_events_a_period_later_each_time(counter, tmp_path, capsys):
    code, lines, _ = run(capsys, counter, "--event", "in/x=1", "--ticks", "2", "--state", tmp_path / "kept.json")
    ticks = [line for line in lines if line["what"] == "ticked"]
    assert (code, [line["what"] for line in lines]) == (0, ["started", "handled", "ticked", "ticked", "kept"])
    assert ticks[1]["now_ns"] - ticks[0]["now_ns"] == 500_000_000
    assert json.loads((tmp_path / "kept.json").read_text())["state"] == "21000000"


def test_a_module_without_a_timer_has_no_ticks(tmp_path, capsys):
    (tmp_path / "m.wasm").write_bytes(contract_module())
    code, _, error = run(capsys, tmp_path / "m.wasm", "--ticks", "1")
    assert (code, "exports no timer.tick: there is nothing to call with --ticks" in error) == (1, True)


def test_a_tick_that_no_board_would_give_is_told(counter, capsys):
    counter.with_suffix(".toml").write_text(DESCRIBED.replace("500", "0"))
    assert run(capsys, counter, "--ticks", "1")[2] == "a board would not tick: tick_ms in [limits] of the .toml is 0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[limit]\nmemory_pages = 3\n", "m.toml: has unknown keys: limit (did you mean limits?)"),
        ("[module]\nsecurity_epoc = 3\n", "m.toml: [module] has unknown keys: security_epoc (did you mean security_epoch?)"),
        ('[module]\nname = "a b"\n', "m.toml: [module] name is 'a b': a text of 1 to 64 letters"),
        ("[module]\nversion = 3\n", "m.toml: [module] version is 3: a text of 1 to 64 letters"),
        ("[module]\nconfig = 3\n", "m.toml: [module] config is 3: a text is expected"),
    ],
)
def test_a_run_refuses_a_description_that_a_build_would_refuse(counter, capsys, text, message):
    counter.with_suffix(".toml").write_text(text)
    code, _, error = run(capsys, counter)
    assert (code, message in error) == (1, True)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is empty"),
        (b"  (module)", "it is WebAssembly text, of which `wat2wasm FILE -o MODULE.wasm` makes a module"),
        (b";; a comment", "it is WebAssembly text, of which"),
        (b"#include <x.h>\n", "it is text, and a compiler makes a .wasm of a source"),
        (b"\x7fELF\x02\x01", "it begins with 7f 45 4c 46 02 01, and a module with 00 61 73 6d 01 00 00 00"),
        (b"\0asm\x02\0\0\0", "it begins with 00 61 73 6d 02 00 00 00, and a module with"),
    ],
)
def test_what_is_no_module_is_told_what_it_is(content, told):
    with pytest.raises(Refused) as caught:
        read(content)
    assert caught.value.reason is Reason.MALFORMED
    assert told in caught.value.detail


def test_a_line_that_is_not_there_can_be_simulated(tmp_path, capsys):
    (tmp_path / "m.wasm").write_bytes(contract_module())
    (tmp_path / "m.toml").write_text('[capabilities.gpio]\ninputs = ["gpiochip99:1"]\n')
    code, _, error = run(capsys, tmp_path / "m.wasm")
    assert (code, error.startswith("ota run: device-unavailable: GPIO line gpiochip99:1: ")) == (1, True)
    assert error.endswith("; --simulate runs it without lines and ports\n")

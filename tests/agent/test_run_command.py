"""WASI commands under `device-agent run`: streams, arguments, environment, folders, exit code."""

import subprocess
import sys

import pytest

from tests.support.component_guest import declared
from tests.support.tools import wasm_tools
from tests.support.wat import wat

SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int count, char **words)
{
    char line[64] = "";
    for (int i = 1; i < count; i++)
        printf("%s ", words[i]);
    printf("%s\n", getenv("COLOUR") ? getenv("COLOUR") : "none");
    if (fgets(line, sizeof line, stdin))
        fprintf(stderr, "read %s", line);
    FILE *out = fopen("/data/out", "w");
    if (out && fputs("written", out) >= 0 && fclose(out) == 0)
        puts("wrote");
    if (count > 1 && strcmp(words[1], "trap") == 0)
        __builtin_trap();
    return count > 1 ? atoi(words[1]) : 0;
}
"""


SMALL = r"""(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $words (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $variables (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func $say (param $to i32) (param $at i32) (param $size i32)
    (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $size))
    (drop (call $write (local.get $to) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start")
    (drop (call $sizes (i32.const 16) (i32.const 20)))
    (drop (call $words (i32.const 64) (i32.const 1024)))
    (drop (call $variables (i32.const 128) (i32.const 2048)))
    (if (i32.lt_u (i32.load (i32.const 16)) (i32.const 2)) (then unreachable))
    (call $say (i32.const 1) (i32.load (i32.const 68)) (i32.const 5))
    (call $say (i32.const 1) (i32.const 2048) (i32.const 11))
    (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 64))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $say (i32.const 2) (i32.const 4096) (i32.load (i32.const 8)))
    (call $exit (i32.const 7))))"""
"""Writes its first argument and the environment, copies its input to the error stream, and ends with 7; traps without argument."""


@pytest.fixture
def small(tmp_path):
    (tmp_path / "small.wasm").write_bytes(wat(SMALL))
    return tmp_path / "small.wasm"


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    (folder / "tool.c").write_text(SOURCE)
    words = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O1", "-g"]
    subprocess.run([*words, str(folder / "tool.c"), "-o", str(folder / "tool.wasm")], check=True)
    return folder / "tool.wasm"


def run(module, *words: str, text: str = "") -> tuple[int, str, str]:
    command = [sys.executable, "-m", "device_agent", "run", str(module), *words]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_command_has_streams_arguments_environment_and_an_exit_code(small):
    assert run(small, "--arg=hello", "--env", "COLOUR=blue", text="a line\n") == (7, "helloCOLOUR=blue", "a line\n")


def test_a_command_that_traps_is_told_with_its_place(small):
    code, out, _ = run(small)
    assert code == 1
    assert "unreachable" in out


@pytest.mark.full
def test_a_command_gets_what_it_is_given_and_its_exit_code_is_ours(command, tmp_path):
    words = ("--arg=7", "--arg", "two words", "--env", "COLOUR=blue", "--dir", f"{tmp_path}::/data")
    assert run(command, *words, text="a line\n") == (7, "7 two words blue\nwrote\n", "read a line\n")
    assert (tmp_path / "out").read_text() == "written"


@pytest.mark.full
def test_a_command_that_is_given_nothing_reaches_nothing(command):
    assert run(command) == (0, "none\n", "")


@pytest.mark.full
def test_a_command_that_traps_shows_where(command):
    code, out, _ = run(command, "--arg", "trap")
    assert code == 1
    assert "unreachable" in out
    assert "main" in out


def test_what_is_for_modules_of_the_contract_is_refused_for_commands(small):
    code, _, error = run(small, "--event", "a/b=c")
    assert code == 1
    assert "_start" in error
    assert "--arg" in error


@pytest.mark.parametrize("words", [("--env", "COLOUR"), ("--env", "=x"), ("--dir", "/does/not/exist")])
def test_what_a_command_can_not_be_given_is_named(small, words):
    code, _, error = run(small, *words)
    assert (code, words[1] in error, "NAME=VALUE" in error) == ((1, True, False) if words[0] == "--dir" else (2, True, True))


def test_a_command_that_imports_more_than_wasi_is_refused_by_name(tmp_path):
    (tmp_path / "odd.wasm").write_bytes(
        wat('(module (import "env" "other" (func)) (memory (export "memory") 1) (func (export "_start")))')
    )
    code, _, error = run(tmp_path / "odd.wasm")
    assert code == 1
    assert "env.other" in error


# -- WASI 0.2

ENVIRONMENT, STREAMS = ("wasi:cli/environment@0.2.0", "wasi:io/streams@0.2.9")
FUNCTIONS = {
    "arguments": (ENVIRONMENT, "get-arguments"),
    "variables": (ENVIRONMENT, "get-environment"),
    "stdin": ("wasi:cli/stdin@0.2.3", "get-stdin"),
    "stdout": ("wasi:cli/stdout@0.2.3", "get-stdout"),
    "stderr": ("wasi:cli/stderr@0.2.3", "get-stderr"),
    "read": (STREAMS, "[method]input-stream.blocking-read"),
    "write": (STREAMS, "[method]output-stream.blocking-write-and-flush"),
    "folders": ("wasi:filesystem/preopens@0.2.0", "get-directories"),
}
RUN = """(module
  {imports}
  (memory (export "{memory}") 1)
  (global $free (mut i32) (i32.const 4096))
  (func (export "{allocator}") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
    (global.set $free (i32.add (local.get $at) (local.get 3)))
    (local.get $at))
  (func $say (param $to i32) (param $at i32) (param $size i32)
    (call $write (local.get $to) (local.get $at) (local.get $size) (i32.const 64)))
  (func (export "{entry}") {result}
    (local $out i32)
    (local.set $out (call $stdout))
    (call $arguments (i32.const 0))
    (call $say (local.get $out) (i32.load (i32.load (i32.const 0))) (i32.load offset=4 (i32.load (i32.const 0))))
    (if (i32.lt_u (i32.load (i32.const 4)) (i32.const 2)) (then unreachable))
    (call $say (local.get $out) (i32.load offset=8 (i32.load (i32.const 0))) (i32.load offset=12 (i32.load (i32.const 0))))
    (call $variables (i32.const 16))
    (call $say (local.get $out) (i32.load offset=8 (i32.load (i32.const 16))) (i32.load offset=12 (i32.load (i32.const 16))))
    (call $folders (i32.const 48))
    (call $say (local.get $out) (i32.load offset=4 (i32.load (i32.const 48))) (i32.load offset=8 (i32.load (i32.const 48))))
    (call $read (call $stdin) (i64.const 64) (i32.const 32))
    (call $say (call $stderr) (i32.load (i32.const 36)) (i32.load (i32.const 40)))
    (call $read (call $stdin) (i64.const 64) (i32.const 32))
    {end}))"""
"""Writes its name, first argument, first variable's value and first folder; copies its input; traps without an argument."""
LEGACY = {"memory": "memory", "allocator": "cabi_realloc", "entry": "wasi:cli/run@0.2.3#run"}
CANONICAL = {"memory": "cm32p2_memory", "allocator": "cm32p2_realloc", "entry": "cm32p2|wasi:cli/run@0.2|run"}
FAILED_AT_THE_END = {"result": "(result i32)", "end": "(i32.load8_u (i32.const 32))"}  # reading there is an error


def command_02(names, *, more="", **about) -> str:
    imports = "\n".join(declared(name, *each) for name, each in FUNCTIONS.items())
    return RUN.format(**{"imports": f"{imports}\n{more}", **names, **FAILED_AT_THE_END, **about})


@pytest.mark.parametrize("names", [LEGACY, CANONICAL])
def test_a_command_of_wasi_0_2_has_streams_arguments_environment_folders_and_an_exit_code(tmp_path, names):
    (tmp_path / "tool.wasm").write_bytes(wat(command_02(names)))
    words = ("--arg=hello", "--env", "COLOUR=blue", "--dir", f"{tmp_path}::/data")
    assert run(tmp_path / "tool.wasm", *words, text="a line\n") == (1, "toolhelloblue/data", "a line\n")
    succeeds = wat(command_02(names, end="(i32.const 0)"))
    (tmp_path / "tool.wasm").write_bytes(succeeds)
    assert run(tmp_path / "tool.wasm", *words)[0] == 0


def test_a_command_of_both_wasis_begins_at_start_and_exits_by_either(tmp_path):
    """As wasm32-wasip2 makes them: the library is preview 1's, what the program itself asks for is 0.2."""
    names = {"memory": "memory", "allocator": "cabi_realloc", "entry": "_start"}
    more = '(import "wasi_snapshot_preview1" "proc_exit" (func $leave (param i32)))'
    (tmp_path / "tool.wasm").write_bytes(wat(command_02(names, more=more, result="", end="(call $leave (i32.const 7))")))
    words = ("--arg=hello", "--env", "COLOUR=blue", "--dir", f"{tmp_path}::/data")
    assert run(tmp_path / "tool.wasm", *words, text="a line\n") == (7, "toolhelloblue/data", "a line\n")
    code, out, _ = run(tmp_path / "tool.wasm")
    assert code == 1
    assert "unreachable" in out


def test_a_command_that_is_a_component_runs_and_an_engine_that_offers_none_is_none(tmp_path):
    """What an engine could run but its component does not offer is not called: componentize-js makes such."""
    wit, core, component = tmp_path / "wit", tmp_path / "core.wasm", tmp_path / "tool.wasm"
    wit.mkdir()
    (wit / "deps").mkdir()
    (wit / "deps" / "cli.wit").write_text(
        "package wasi:cli@0.2.3; interface run { run: func() -> result; } interface other { run: func() -> result; }"
    )
    text = """(module (memory (export "memory") 1)
      (func (export "wasi:cli/{}@0.2.3#run") (result i32) (i32.const 1))
      (func (export "wasi:cli/run@0.2.9#run") (result i32) unreachable))"""
    for offered, told in (("run", ""), ("other", "does not export device:module/events@0.1.0#handle")):
        (wit / "world.wit").write_text(f"package test:test; world tool {{ export wasi:cli/{offered}@0.2.3; }}")
        core.write_bytes(wat(text.format(offered)))
        wasm_tools("component", "embed", wit, core, "-o", core)
        wasm_tools("component", "new", core, "-o", component)
        code, out, error = run(component)
        assert (code, out) == (1, "")
        assert told in error
        assert bool(told) == bool(error)


@pytest.mark.parametrize("entry", ["wasi:cli/run@0.2.3#run", "_start"])
def test_a_command_whose_entry_has_another_type_is_refused(tmp_path, entry):
    (tmp_path / "odd.wasm").write_bytes(wat(f'(module (memory (export "memory") 1) (func (export "{entry}") (param i32)))'))
    code, _, error = run(tmp_path / "odd.wasm")
    assert code == 1
    assert f"export {entry} has type" in error


def test_a_command_that_imports_what_boards_lack_is_refused_with_what_to_do(tmp_path):
    odd = '(import "wasi:sockets/tcp@0.2.0" "[method]tcp-socket.start-bind" (func))'
    (tmp_path / "odd.wasm").write_bytes(wat(command_02(LEGACY, more=odd)))
    code, _, error = run(tmp_path / "odd.wasm")
    assert code == 1
    assert "which may import WASI only, and imports wasi:sockets/tcp@0.2.0.[method]tcp-socket.start-bind" in error
    assert "modules have no sockets" in error


def test_a_filter_that_has_a_start_is_no_command(tmp_path):
    exports = "".join(f'(func (export "{each}"))' for each in ("_start", "proxy_abi_version_0_2_1"))
    (tmp_path / "filter.wasm").write_bytes(wat(f'(module (memory (export "memory") 1) {exports})'))
    code, _, error = run(tmp_path / "filter.wasm")
    assert code == 1
    assert "is a filter of proxy-wasm" in error

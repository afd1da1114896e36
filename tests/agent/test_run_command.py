"""WASI commands under `device-agent run`: streams, arguments, environment, folders, exit code."""

import subprocess
import sys

import pytest

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
@pytest.mark.timeout(300)
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
    assert code == 1
    assert words[1] in error or "NAME=VALUE" in error


def test_a_command_that_imports_more_than_wasi_is_refused_by_name(tmp_path):
    (tmp_path / "odd.wasm").write_bytes(
        wat('(module (import "env" "other" (func)) (memory (export "memory") 1) (func (export "_start")))')
    )
    code, _, error = run(tmp_path / "odd.wasm")
    assert code == 1
    assert "env.other" in error

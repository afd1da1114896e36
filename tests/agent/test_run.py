"""`device-agent run`, what `ota run` hands over to: trace, denial, images, traps with lines."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from device_agent.command import main
from device_agent.tools.source_lines import SourceLines
from tests.support.aot import aotc, compiled
from tests.support.guest_c import compile_c
from tests.support.wat import contract_module, wat

SOURCE = """#include "device_module.h"
static int inner(int a) { if (a > 3) __builtin_trap(); return a; }
__attribute__((noinline)) static int middle(int a)
{
    return inner(a * 2);
}
static bool handle(dm_bytes topic, dm_bytes payload, dm_bytes *error)
{
    (void)topic;
    (void)error;
    return middle((int)payload.size) >= 0 && dm_publish(DM_TEXT("out"), payload) == DM_PUBLISHED;
}
DM_EVENTS(handle)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A module in C with DWARF, and its description."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "faulty.c").write_text(SOURCE)
    compile_c(folder / "faulty.c", "-O1", "-g")
    (folder / "faulty.toml").write_text(
        '[module]\nname = "faulty"\nversion = "1.0.0"\n[capabilities.messaging]\npublish = ["out"]\n'
    )
    return folder / "faulty.wasm"


def run(capsys, module, *words: str) -> tuple[int, list[dict]]:
    code = main(["run", str(module), "--json", *words])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_each_host_call_is_traced_with_arguments_and_time(built, capsys):
    code, lines = run(capsys, built, "--event", "in/x=a", "--trace")
    (call,) = (line for line in lines if line["what"] == "call")
    assert code == 0
    assert (call["function"], call["arguments"], call["result"]) == ("messaging.publish", ["out", "a"], "ok")
    assert call["took_us"] > 0


def test_a_capability_that_is_denied_is_named(built, capsys):
    assert main(["run", str(built), "--deny", "messaging"]) == 1
    assert "faulty.wasm: the board does not grant: messaging" in capsys.readouterr().err


def test_what_is_undeclared_and_what_is_denied_are_named_in_one_error(tmp_path, capsys):
    imports = """(import "device:module/messaging@0.1.0" "publish" (func (param i32 i32 i32 i32 i32)))
      (import "device:module/random@0.1.0" "get" (func (param i32 i32))) (import "env" "system" (func))"""
    (tmp_path / "m.wasm").write_bytes(contract_module(imports=imports))
    (tmp_path / "m.toml").write_text('[capabilities.messaging]\npublish = ["out"]\n[capabilities.logging]\n')
    assert main(["run", str(tmp_path / "m.wasm"), "--deny", "messaging", "--deny", "logging"]) == 1
    error = capsys.readouterr().err
    for name in ("device:module/random@0.1.0.get", "env.system", "messaging", "logging"):
        assert name in error


def test_a_trap_shows_names_and_lines(built, capsys):
    code, lines = run(capsys, built, "--event", "in/x=abcdef")
    assert code == 1
    assert lines[-1]["what"] == "trap"
    assert lines[-1]["stack"][0] == "middle (faulty.c:2)"
    assert any(text.endswith("(faulty.c:11)") for text in lines[-1]["stack"])


@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
def test_a_trap_in_compiled_code_shows_the_same_lines(built, capsys, tmp_path):
    image = tmp_path / "faulty.aot"
    image.write_bytes(compiled(built.read_bytes()))
    code, lines = run(capsys, built, "--event", "in/x=abcdef", "--image", str(image))
    assert code == 1
    assert lines[-1]["stack"][0] == "middle (faulty.c:2)"
    assert any(text.endswith("(faulty.c:11)") for text in lines[-1]["stack"])


def test_a_file_that_is_not_there_is_one_line(capsys, tmp_path):
    assert main(["run", str(tmp_path / "no.wasm")]) == 1
    assert "no.wasm: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("cut", [9, 40, 200, 500, -5])
def test_broken_dwarf_has_no_lines_and_no_consequences(built, cut):
    whole = built.read_bytes()
    broken = SourceLines(whole[:cut] + bytes(byte ^ 0x5A for byte in whole[cut:]))
    assert isinstance(broken._lines, list)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--deny", "nonsense"), "there is no capability nonsense: "),
        (("--device", "gpiochip0:17"), "'gpiochip0:17' is not NAME=VALUE"),
        (("--config", "colour"), "'colour' is not NAME=VALUE"),
        (("--env", "=1"), "'=1' is not NAME=VALUE"),
        (("--event", "x"), "'x' is not TOPIC=PAYLOAD or TOPIC=@FILE"),
        (("--ticks", "0"), "'0' is not a whole number from 1 to 1000000"),
    ],
)
def test_a_value_without_a_meaning_is_wrong_usage_of_the_agent_s_command_too(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", "x.wasm", *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


LOOPS = """(module (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func $turn (loop br 0))
  (func (export "device:module/events@0.1.0#handle") (param i32 i32 i32 i32) (result i32) (call $turn) (i32.const 0)))"""


# One subscription at 64: a clock, relative, nine seconds.
WAITS = """(import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32))) (memory"""
WAITING = """(i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const 9000000000))
  (drop (call $poll (i32.const 64) (i32.const 200) (i32.const 1) (i32.const 300)))"""


@pytest.fixture
def looping(tmp_path):
    (tmp_path / "looping.wasm").write_bytes(wat(LOOPS))
    (tmp_path / "looping.toml").write_text("[limits]\ndeadline_ms = 300\n")
    return tmp_path / "looping.wasm"


def test_a_call_that_takes_longer_than_its_deadline_is_ended_as_on_a_board(looping, capsys):
    code, lines = run(capsys, looping, "--event", "in/x=a")
    assert code == 1
    assert (lines[-1]["code"], lines[-1]["stack"][0]) == ("deadline-exceeded", "turn")


def buffered() -> dict:
    """An environment in which output to a pipe waits, as it does for everybody who does not ask for something else."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def run_apart(module, *words: str) -> tuple[int, list[dict]]:
    command = [sys.executable, "-m", "device_agent", "run", str(module), "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=buffered())
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
def test_compiled_code_that_takes_longer_than_its_deadline_ends_with_the_process(looping):
    image = looping.with_suffix(".aot")
    image.write_bytes(compiled(looping.read_bytes()))
    code, lines = run_apart(looping, "--event", "in/x=a", "--image", str(image))
    assert code == 1
    assert [line["what"] for line in lines] == ["started", "trap"]
    assert lines[-1]["code"] == "deadline-exceeded"


def test_a_capability_that_waits_longer_than_the_deadline_ends_with_the_process(looping):
    """Nine seconds of poll_oneoff: on a board the worker would be killed."""
    looping.write_bytes(wat(LOOPS.replace("(memory", WAITS, 1).replace("(loop br 0)", WAITING)))
    looping.with_suffix(".toml").write_text("[capabilities.wasi]\n[limits]\ndeadline_ms = 300\n")
    code, lines = run_apart(looping, "--event", "in/x=a")
    assert (code, lines[-1]["code"]) == (1, "deadline-exceeded")


@pytest.mark.parametrize("aot", [False, pytest.param(True, marks=pytest.mark.skipif(aotc() is None, reason="no wamr_aotc"))])
@pytest.mark.parametrize("where", ["event", "capability"])
def test_one_ctrl_c_ends_it(looping, aot, where):
    looping.with_suffix(".toml").unlink()
    if where == "capability":
        looping.write_bytes(wat(LOOPS.replace("(memory", WAITS, 1).replace("(loop br 0)", WAITING)))
        looping.with_suffix(".toml").write_text("[capabilities.wasi]\n[limits]\ndeadline_ms = 20000\n")
    command = [sys.executable, "-m", "ota.cli.main", "run", str(looping), "--event", "in/x=a", *(["--aot"] if aot else [])]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "process_group": 0, "env": buffered()}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline().startswith("started")
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said


def catches(pid, number):
    """Whether a process has a handler for a signal: proc_pid_status(5), SigCgt."""
    found = re.search(r"^SigCgt:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(found[1], 16) >> (number - 1) & 1)


def test_one_ctrl_c_ends_an_endless_start_function(looping):
    looping.write_bytes(wat(LOOPS.replace("(func $turn (loop br 0))", "(func $turn (loop br 0)) (start $turn)")))
    command = [sys.executable, "-m", "device_agent", "run", str(looping)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=buffered()) as process:
        for caught in (True, False):  # by Python once it has started, and not any more while a start function may run
            while catches(process.pid, signal.SIGINT) is not caught:
                assert process.poll() is None
                time.sleep(0.001)
        time.sleep(0.5)  # enough for the module to be loaded; its start has a deadline of ten seconds
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in said


def test_the_signal_is_what_it_was_afterwards(built, capsys):
    before = signal.getsignal(signal.SIGINT)
    run(capsys, built, "--event", "in/x=a")
    assert signal.getsignal(signal.SIGINT) is before


ESCAPES = (
    '(import "device:module/logging@0.1.0" "log" (func $log (param i32 i32 i32)))',
    '(data (i32.const 100) "\\1b[31m\\c2\\9b2J\\0aforged  line")',
)


def test_what_a_module_says_does_not_move_the_cursor(tmp_path):
    module = tmp_path / "escapes.wasm"
    module.write_bytes(contract_module("(call $log (i32.const 1) (i32.const 100) (i32.const 22)) (i32.const 0)", *ESCAPES))
    command = [sys.executable, "-m", "device_agent", "run", str(module), "--event", "a/b=x"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (line,) = [each for each in shown.splitlines() if each.startswith("log")]
    assert line.endswith("message=\\x1b[31m\\x9b2J\\nforged  line")
    as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout
    assert "\x9b" not in as_json
    assert json.loads(as_json.splitlines()[1])["message"] == "\x1b[31m\x9b2J\nforged  line"


def test_an_event_is_bytes_on_a_topic_that_there_can_be(tmp_path):
    module = tmp_path / "m.wasm"
    module.write_bytes(contract_module())
    command = [sys.executable, "-m", "device_agent", "run", str(module), "--event"]
    for event in (b"a=\xff", b"a/b=\xe2\x82\xac"):
        assert subprocess.run([*command, event], capture_output=True, check=True).stderr == b""
    for event in (b"=x", b"a/#=x", b"a/+=x", b"nothing"):
        done = subprocess.run([*command, event], capture_output=True, text=True, check=False)
        assert (done.returncode, "TOPIC=PAYLOAD" in done.stderr) == (2, True)


def test_an_event_that_no_board_would_deliver_is_told(tmp_path):
    (tmp_path / "m.wasm").write_bytes(contract_module())
    (tmp_path / "m.toml").write_text('[capabilities.messaging]\nsubscribe = ["in/#"]\n')
    command = [sys.executable, "-m", "device_agent", "run", str(tmp_path / "m.wasm"), "--event"]
    assert subprocess.run([*command, "in/x=1"], capture_output=True, text=True, check=True).stderr == ""
    told = subprocess.run([*command, "sys/x=1"], capture_output=True, text=True, check=True).stderr
    assert told == "a board would not deliver sys/x: the module subscribes to in/#\n"


BUTTON = r"""#include "device_module.h"
static bool handle(dm_bytes topic, dm_bytes payload, dm_bytes *error)
{
    (void)topic;
    (void)payload;
    (void)error;
    bool pressed = false;
    dm_bytes data = { 0, 0 };
    dm_gpio_read(DM_TEXT("gpiochip0:17"), &pressed);
    dm_gpio_write(DM_TEXT("gpiochip0:4"), pressed);
    dm_serial_read(DM_TEXT("/dev/ttyS1"), 5, &data);
    return dm_serial_write(DM_TEXT("/dev/ttyS1"), data) == DM_DEVICE_DONE;
}
DM_EVENTS(handle)
"""


@pytest.fixture(scope="module")
def button(tmp_path_factory):
    folder = tmp_path_factory.mktemp("button")
    (folder / "button.c").write_text(BUTTON)
    (folder / "button.toml").write_text(
        """[capabilities.messaging]
subscribe = ["#"]
[capabilities.gpio]
inputs = ["gpiochip0:17"]
outputs = ["gpiochip0:4"]
[capabilities.serial]
ports = ["/dev/ttyS1:9600"]
"""
    )
    return compile_c(folder / "button.c")


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (("--simulate",), [("gpiochip0:4", "0"), ("/dev/ttyS1", "")]),
        (("--device", "gpiochip0:17=1", "--device", "/dev/ttyS1=hello world"), [("gpiochip0:4", "1"), ("/dev/ttyS1", "hello")]),
    ],
)
def test_a_module_is_tried_where_there_are_no_devices(button, words, written):
    command = [sys.executable, "-m", "ota.cli.main", "run", str(button), "--json", "--event", "a=b", *words]
    lines = [json.loads(line) for line in subprocess.run(command, capture_output=True, check=True).stdout.splitlines()]
    assert [(line["name"], line["value"]) for line in lines if line["what"] == "device"] == written


def test_a_device_that_the_module_has_not_is_not_simulated(button, capsys):
    for value, message in (
        ("gpiochip0:5=1", "the module has no device gpiochip0:5: gpiochip0:17, gpiochip0:4, /dev/ttyS1"),
        ("gpiochip0:17=on", "gpiochip0:17 is a line, whose level is 0 or 1, not 'on'"),
    ):
        assert main(["run", str(button), "--device", value]) == 1
        assert message in capsys.readouterr().err


CONFIGURED = """#include "device_module.h"
static bool init(dm_bytes config, dm_bytes *error)
{
    dm_bytes colour;
    (void)error;
    dm_log(DM_INFO, config);
    dm_log(DM_INFO, dm_config_get(DM_TEXT("colour"), &colour) ? colour : DM_TEXT("none"));
    return true;
}
static bool handle(dm_bytes topic, dm_bytes payload, dm_bytes *error)
{
    (void)topic; (void)payload; (void)error;
    return true;
}
DM_EVENTS(handle)
DM_STARTUP(init)
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [((), ["", "none"]), (("--config", "colour=red", "--config", "size=a=b"), ["colour=red\nsize=a=b", "red"])],
)
def test_a_module_gets_the_configuration_of_the_command_line(tmp_path, capsys, words, said):
    (tmp_path / "m.c").write_text(CONFIGURED)
    compile_c(tmp_path / "m.c", "-O1")
    assert main(["run", str(tmp_path / "m.wasm"), "--json", *words]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["message"] for line in lines if line["what"] == "log"] == said


def test_a_configuration_that_no_deployment_could_have_is_one_line(tmp_path, capsys):
    (tmp_path / "m.wasm").write_bytes(wat("(module)"))
    assert main(["run", str(tmp_path / "m.wasm"), "--config", "a/b=c"]) == 1
    assert "configuration key 'a/b' is no name" in capsys.readouterr().err


def test_an_option_of_the_agent_is_written_out(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", "m.wasm", "--conf", "a=b"])
    assert ended.value.code == 2
    assert "there is no option --conf (did you mean --config?)" in capsys.readouterr().err


def test_a_module_that_begins_with_much_memory_runs_without_a_description_and_says_what_one_lacks(tmp_path, capsys):
    path = tmp_path / "large.wasm"
    path.write_bytes(contract_module().replace(b"\x05\x03\x01\x00\x01", b"\x05\x03\x01\x00\x64"))  # 100 pages
    assert main(["run", str(path), "--event", "a=b"]) == 0
    path.with_suffix(".toml").write_text('[module]\nname = "large"\nversion = "1"\n')
    capsys.readouterr()
    assert main(["run", str(path), "--event", "a=b"]) == 1
    assert (
        "begins with 100 pages of memory, its limit is 32: raise memory_pages in [limits] of its .toml" in capsys.readouterr().err
    )

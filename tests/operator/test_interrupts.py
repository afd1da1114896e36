"""Ctrl-C at any moment ends a command without a traceback, also while Python loads it."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from ota import interrupts

HOOK = """
import os, signal, sys
module = sys.argv.pop(1)
class Interrupting:  # the moment at which a module is about to be loaded
    def find_spec(self, name, *_):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from {package}.__main__ import run
run()
"""
OTA = ("ota.cli.main", "argparse", "boards.errors", "ota.cli.board")
AGENT = ("device_agent.command", "argparse", "device_agent.node.service", "device_agent.node.node", "asyncio")


@pytest.mark.parametrize(
    ("package", "module", "words"),
    [("ota", each, ("boards",)) for each in OTA]
    + [("device_agent", each, ("--config", "none.toml")) for each in AGENT]
    + [("device_agent", "device_agent.tools.single", ("run", "none.wasm"))],
)
def test_a_command_that_is_interrupted_while_it_is_loaded_says_nothing(package, module, words, tmp_path):
    command = [sys.executable, "-c", HOOK.format(package=package), module, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("package", ["ota", "device_agent"])
def test_an_interruption_that_is_ignored_stays_ignored(package, tmp_path):
    """As of what a shell script has put into the background."""
    command = [
        "sh",
        "-c",
        'trap "" INT; exec "$@"',
        "sh",
        sys.executable,
        "-c",
        HOOK.format(package=package),
        "argparse",
        "--version",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_that_works_is_told_of_an_interruption_and_one_that_ends_is_not():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupts.end_at_once()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        interrupts.raise_exception()
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("it was not told")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_process_that_is_started_for_us_leaves_a_terminals_interruption_to_us():
    """Also before it has taken its own measures: its interpreter takes a while to begin."""
    with interrupts.blocked():
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child.send_signal(signal.SIGINT)
    assert child.communicate("\n") == (None, "")
    assert child.returncode == 0
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())

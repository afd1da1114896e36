"""The process that workers are forked from."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from device_agent.channel.zygote import Zygote
from device_agent.sandbox.worker import REHEARSAL
from ota.formats.capabilities import EXPORTS, export_name
from pywamr import Runtime
from tests.support.tools import tool


@contextmanager
def opened(preload="tests.support.lives"):
    zygote = Zygote(preload)
    try:
        yield zygote
    finally:
        zygote.close()


def child(zygote):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(60)
    with theirs:
        return zygote.fork(theirs), ours


def ask(channel, what):
    channel.send(what)
    return channel.recv(1000)


def test_children_have_their_channel_and_end_with_it():
    with opened() as zygote:
        first, channel = child(zygote)
        second, other = child(zygote)
        assert ask(channel, b"pid") == str(first.pid).encode()
        assert ask(other, b"pid") == str(second.pid).encode()
        assert first.pid != second.pid
        channel.close()
        gone_by(first.pid)
        assert ask(other, b"pid") == str(second.pid).encode()
        other.close()


def test_a_child_that_ends_at_once_is_a_child_all_the_same():
    """Its number could be another process's by the time its descriptor is opened."""
    with opened() as zygote:
        for _ in range(300):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.close()  # there is nothing for it to do
            with theirs:
                last = zygote.fork(theirs)
        assert last.pid
        children = Path(f"/proc/{zygote._process.pid}/task/{zygote._process.pid}/children")
        come(lambda: children.read_text() == "", "children that have ended are kept")


def come(holds, otherwise):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, otherwise
        time.sleep(0.01)


def gone_by(pid):
    come(lambda: not Path(f"/proc/{pid}").exists(), "the process is still there")


def test_a_child_is_killed_whatever_it_does_and_again_without_effect():
    with opened() as zygote:
        process, channel = child(zygote)
        channel.send(b"loop")
        process.kill()
        process.kill()
        gone_by(process.pid)
        assert not Path(f"/proc/{process.pid}").exists()
        channel.close()


def test_a_kill_never_meets_a_process_that_has_taken_the_number():
    """It goes to the descriptor, whose process has long ended."""
    with opened() as zygote:
        process, channel = child(zygote)
        channel.close()
        gone_by(process.pid)
        process.pid = os.getpid()
        process.kill()
        assert os.getpid() > 0


def test_a_zygote_that_died_is_started_again():
    with opened() as zygote:
        process, channel = child(zygote)
        zygote._process.kill()
        zygote._process.wait()
        assert ask(channel, b"pid") == str(process.pid).encode()  # its children go on
        again, other = child(zygote)
        assert ask(other, b"pid") == str(again.pid).encode()
        channel.close()
        other.close()


def test_it_ends_when_the_agent_does():
    zygote = Zygote("tests.support.lives")
    zygote.start()
    zygote._socket.close()
    assert zygote._process.wait(60) == 0


def test_what_cannot_be_loaded_is_an_error():
    with opened("tests.support.nothing_such") as zygote, pytest.raises(OSError, match="does not start"):
        zygote.start()


def test_an_answer_that_comes_too_late_does_not_pass_for_the_next_one(monkeypatch):
    with opened("tests.support.slow") as zygote:
        monkeypatch.setattr("device_agent.channel.zygote.ANSWER_S", 0.2)
        with pytest.raises(OSError, match="does not start"):
            zygote.start()
        monkeypatch.undo()
        process, channel = child(zygote)
        assert ask(channel, b"pid") == str(process.pid).encode()
        channel.close()


def test_a_zygote_killed_at_any_moment_is_replaced():
    with opened() as zygote:
        for _ in range(20):
            zygote.start()
            zygote._process.kill()
            process, channel = child(zygote)
            assert ask(channel, b"pid") == str(process.pid).encode()
            channel.close()


def test_a_signal_for_all_of_python_ends_neither_zygote_nor_children():
    with opened() as zygote:
        process, channel = child(zygote)
        for pid in (process.pid, zygote._process.pid):
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.1)
        assert ask(channel, b"pid") == str(process.pid).encode()
        assert zygote._process.poll() is None
        channel.close()


def test_a_process_that_takes_long_to_load_is_waited_for_while_it_uses_the_processor(monkeypatch):
    monkeypatch.setattr("device_agent.channel.zygote.ANSWER_S", 0.7)
    with opened("tests.support.busy") as zygote:
        zygote.start()
        one, channel = child(zygote)
        assert ask(channel, b"pid") == str(one.pid).encode()
        channel.close()


def test_a_fork_that_hangs_is_ended_by_an_interrupt_and_the_process_started_again_for_the_next(monkeypatch):
    monkeypatch.setattr("device_agent.channel.zygote.ANSWER_S", 600.0)
    with opened() as zygote:
        zygote.start()
        stopped = zygote._process
        stopped.send_signal(signal.SIGSTOP)
        errors = []

        def fork():
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours, theirs:
                try:
                    zygote.fork(theirs)
                except OSError as error:
                    errors.append(error)

        thread = threading.Thread(target=fork, daemon=True)
        thread.start()
        while not zygote._awaited:
            time.sleep(0.01)
        zygote.interrupt()
        thread.join(60)
        assert len(errors) == 1
        assert stopped.poll() is not None
        process, channel = child(zygote)
        assert ask(channel, b"pid") == str(process.pid).encode()
        channel.close()


def test_a_process_that_does_nothing_while_it_should_load_is_given_up(monkeypatch):
    monkeypatch.setattr("device_agent.channel.zygote.ANSWER_S", 2.0)
    monkeypatch.setenv("HANG", "1")
    with opened("tests.support.busy") as zygote, pytest.raises(OSError, match="does not start"):
        zygote.start()


def test_the_module_of_the_rehearsal_is_what_its_text_says():
    text = Path(REHEARSAL).with_suffix(".wat").read_text(encoding="utf-8")
    compiled = subprocess.run([tool("wat2wasm"), "-", "--output=-"], input=text.encode(), capture_output=True, check=True).stdout
    assert compiled == Path(REHEARSAL).read_bytes()


def test_a_rehearsal_calls_every_function_of_the_contract_and_leaves_nothing_behind():
    program = """
import os, signal
from device_agent.sandbox import worker
before = os.listdir("/proc/self/fd")
worker.warm_up()
assert os.listdir("/proc/self/fd") == before
assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
assert signal.getsignal(worker.frames.TERMINATE) == signal.SIG_DFL
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with Runtime() as runtime:
        exported = {each.name for each in runtime.load(Path(REHEARSAL).read_bytes()).exports}
    assert exported >= {export_name(interface, each) for interface, functions in EXPORTS.items() for each in functions}


def test_what_workers_share_is_only_what_they_need():
    """What else the zygote loads lies among it, and a worker that touches a page has it to itself."""
    program = """
import sys
before = set(sys.modules)
from device_agent.sandbox import worker, zygote
worker.warm_up()
unneeded = {"argparse", "asyncio", "json", "logging", "pathlib", "shutil", "ssl", "subprocess", "threading", "urllib.parse"}
print(*sorted(unneeded & sys.modules.keys() - before))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

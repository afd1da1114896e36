"""The console, against real shells on ptys, and the transfer, over lines that damage what passes."""

import hashlib
import os
import re
import shutil
import signal
import sys
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boards import transfer
from boards.console import CommandFailed, Console, Login, parse_answer
from boards.errors import BoardError
from boards.flash import HELPER
from boards.line import LineLost, LineSilent, SerialLine
from boards.transfer import GOODBYE, send
from tests.support.serial import Noisy, Program

SHELLS = [("bash", "--norc", "-i"), ("dash", "-i"), ("sh", "-i")]
LOGIN = """
user=; while [ -z "$user" ]; do printf 'board login: '; read user; done
stty -echo; printf 'Password: '; read word; stty echo
if [ "$user:$word" = root:right ]; then exec sh -i; fi
sleep 0.3; printf '\\nLogin incorrect\\nboard login: '; sleep 5
"""


@pytest.fixture(params=SHELLS, ids=lambda command: command[0])
def console(request):
    """A console with a shell."""
    if shutil.which(request.param[0]) is None:
        pytest.skip(f"{request.param[0]} is not installed")
    line = Program(*request.param, PS1="$ ")
    opened = Console(line)
    opened.attach(20)
    yield opened
    line.close()


def test_commands_run_and_their_codes_and_outputs_come_back(console):
    assert console.run("echo one; echo two").split() == ["one", "two"]
    assert console.try_run("printf 'no end of line'; (exit 7)") == (7, "no end of line")
    with pytest.raises(CommandFailed, match=r"cat /none/such failed on the board \(1\): cat: /none/such"):
        console.run("cat /none/such")
    with pytest.raises(BoardError, match="too long for a console"):
        console.run("x" * 2000)


def test_files_are_put_whole(console, tmp_path):
    content = os.urandom(5000)
    console.put(str(tmp_path / "file"), content)
    assert (tmp_path / "file").read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_command_that_does_not_end_is_given_up(console):
    with pytest.raises(LineSilent, match="waited 1 s for the end of: sleep 30"):
        console.run("sleep 30", 1.0)
    console.write(b"\x03")
    assert console.run("echo on").strip() == "on"


def test_output_that_was_stopped_goes_on():
    line = Program("sh", "-i", PS1="$ ")
    console = Console(line)
    console.expect(re.compile(rb"\$ "), 5.0, "a prompt")
    console.write(b"\x13")
    console.attach(20)
    console.write(b"\x13\x15")
    assert console.run("echo on").strip() == "on"
    line.close()


def test_a_terminal_is_left_as_it_was_found(tmp_path):
    said = tmp_path / "said"
    line = Program("sh", "-c", f"stty -a > {said}; sh -i; stty -a >> {said}; echo over; sleep 9", PS1="$ ")
    console = Console(line)
    console.attach(20)
    assert "-ixon" in console.run("stty -a")
    console.detach()
    console.write(b"\x15 exit\r")
    console.expect(re.compile(b"over"), 5.0, "its end")
    before, after = said.read_text()[: len(said.read_text()) // 2], said.read_text()[len(said.read_text()) // 2 :]
    assert before == after
    line.close()


def test_an_interrupted_command_ends_on_the_board_too(console, monkeypatch):
    monkeypatch.setattr(console, "expect", lambda *_: time.sleep(0.5) or signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        console.run("sleep 60")
    monkeypatch.undo()
    assert console.run("echo on", 5.0).strip() == "on"


def test_a_login_is_answered_and_the_password_asked_for_only_then():
    line = Program("sh", "-c", LOGIN, PS1="# ")
    asked = []
    console = Console(line, Login("root", lambda: asked.append(1) or "right"))
    console.attach(20)
    assert console.run("echo in").strip() == "in"
    assert asked == [1]
    line.close()


def test_a_board_that_is_slow_to_ask_for_the_password_and_to_start_a_shell_is_waited_for():
    slow = LOGIN.replace("stty -echo;", "sleep 6; stty -echo;").replace("exec sh", "sleep 6; exec sh")
    line = Program("sh", "-c", slow, PS1="# ")
    asked = []
    console = Console(line, Login("root", lambda: asked.append(1) or "right"))
    console.attach(5)
    assert console.run("echo in").strip() == "in"
    assert asked == [1]
    line.close()


def test_a_login_that_leads_nowhere_is_given_up():
    line = Program("sh", "-c", "while :; do printf 'board login: '; read user; done")
    with pytest.raises(LineSilent, match="no prompt in 1 s"):
        Console(line).attach(1)
    line.close()


def test_a_wrong_password_is_one_clear_error():
    line = Program("sh", "-c", LOGIN)
    with pytest.raises(BoardError, match="the board refused the login of 'root'"):
        Console(line, Login("root", lambda: "wrong")).attach(20)
    line.close()


SUDO = """#!/bin/sh
case "$1" in
    -n) exit 1 ;;
    -p) printf %s "$2"; stty -echo; read -r word; stty echo; echo; [ "$word" = right ]; exit ;;
esac
exec "$@"
"""


@pytest.fixture
def of_a_user(tmp_path):
    """A shell of somebody who is not root and may become it by sudo, which asks for a password."""
    for name, text in (("sudo", SUDO), ("id", "#!/bin/sh\necho 1000\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    line = Program("sh", "-i", PS1="$ ", PATH=f"{tmp_path}:{os.environ['PATH']}")
    yield line
    line.close()


def test_a_user_becomes_root_by_sudo_and_the_password_is_not_shown(of_a_user):
    shown = []
    read = of_a_user.read
    of_a_user.read = lambda timeout_s: shown.append(read(timeout_s)) or shown[-1]
    console = Console(of_a_user, Login("someone", lambda: "right"))
    console.attach(20)
    assert console.sudo == "sudo "
    assert console.run(f"{console.sudo}echo root").strip() == "root"
    assert b"right" not in b"".join(shown)


def test_a_user_who_may_not_become_root_is_told(of_a_user):
    with pytest.raises(BoardError, match="'someone' is not root on the board, and may not become it by sudo"):
        Console(of_a_user, Login("someone", lambda: "wrong")).attach(20)


def test_a_silent_line_says_what_was_seen():
    line = Program("sh", "-c", "stty -echo; echo booting; sleep 60")
    with pytest.raises(LineSilent, match=r"no prompt in 2 s; the console said: \n  booting$"):
        Console(line).attach(2)
    line.close()


def tell(*counts):
    """What boards/onboard/helper.py prints now and then, half a second apart."""
    lines = [f"compiled {count}" for count in counts]
    return "; sleep 0.5; ".join(f"echo '@{each} {zlib.crc32(each.encode()):08x}'" for each in lines)


def test_a_step_that_says_how_far_it_has_come_is_waited_for_longer_than_its_silence_may_be():
    line = Program("sh")
    try:
        console = Console(line)
        console.attach(20)
        said = []
        assert "done" in console.run(f"{tell(1, 2, 3, 4, 5)}; echo done", 1.2, lambda *step: said.append(step))
        assert said == [("compiled", count) for count in (1, 2, 3, 4, 5)]
    finally:
        line.close()


def test_a_step_that_falls_silent_is_given_up_with_what_it_had_done():
    line = Program("sh")
    try:
        console = Console(line)
        console.attach(20)
        with pytest.raises(LineSilent, match=r"waited 1 s for the end of: .* since it had compiled 2; the console said"):
            console.run(f"{tell(1, 2)}; echo '@compiled 9 00000000'; sleep 30", 1.0, lambda *_: None)
    finally:
        line.close()


def test_a_port_that_is_not_there_is_a_lost_line():
    with pytest.raises(LineLost, match="/dev/ttyNONE"):
        SerialLine("/dev/ttyNONE", 115200)
    with pytest.raises(LineLost, match=r"socket://127\.0\.0\.1:1"):
        SerialLine("socket://127.0.0.1:1", 115200)
    with pytest.raises(BoardError, match="nonsense://x"):
        SerialLine("nonsense://x", 115200)


@given(st.text(max_size=200))
def test_an_answer_is_read_or_said_to_be_damaged(text):
    try:
        parse_answer(f"\n:{text}:\n", "x")
    except LineLost as error:
        assert "no answer that can be read" in str(error)


def receive(path, content, seed=0, rate=0.0):
    """A receiver of the file, and the console with it."""
    digest = hashlib.sha256(content).hexdigest()
    line = Program(sys.executable, str(HELPER), "receive", str(path), str(len(content)), digest)
    return line, Console(Noisy(line, seed, rate))


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 200_000])
def test_a_file_arrives_whole(tmp_path, size):
    content, seen = os.urandom(size), []
    line, console = receive(tmp_path / "file", content)
    assert send(console, content, seen.append)
    assert (tmp_path / "file").read_bytes() == content
    assert sum(seen) == size
    line.close()


@settings(max_examples=6)
@given(st.integers(0, 2**32))
def test_a_line_that_damages_loses_and_repeats_is_outlasted(tmp_path_factory, seed):
    """As a flasher does, the receiver is started again when even its last word was lost."""
    folder, content = tmp_path_factory.mktemp("noisy"), os.urandom(120_000)
    before, transfer.AGAIN_S = transfer.AGAIN_S, 0.3
    try:
        for attempt in range(4):
            line, console = receive(folder / "file", content, seed + attempt, 0.05)
            try:
                assert send(console, content)
                break
            except LineLost:
                continue
            finally:
                line.close()
        assert (folder / "file").read_bytes() == content
    finally:
        transfer.AGAIN_S = before


def test_a_transfer_goes_on_where_it_ended(tmp_path):
    content, seen = os.urandom(100_000), []
    line, console = receive(tmp_path / "file", content)

    def stop_half_way(more: int) -> None:
        seen.append(more)
        if sum(seen) > 50_000:
            raise LineLost("pulled")

    with pytest.raises(LineLost):
        send(console, content, stop_half_way)
    line.write(b"\x02WO\0\0\0\0\x10\0the beginning of a frame")
    console.write(GOODBYE)
    assert line._process.wait(60) == 0
    line.close()
    line, console = receive(tmp_path / "file", content)
    again = []
    assert send(console, content, again.append)
    assert again[0] >= 50_000
    assert (tmp_path / "file").read_bytes() == content
    line.close()


def test_an_interrupted_transfer_ends_on_the_board_too(tmp_path):
    content = os.urandom(100_000)
    line, console = receive(tmp_path / "file", content)

    def interrupt(more: int) -> None:
        if more > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        send(console, content, interrupt)
    assert line._process.wait(60) == 0
    line.close()


def test_a_receiver_that_starts_after_the_goodbye_is_ended_too(tmp_path):
    """Of a flasher that was killed: it had just asked for one, and Python takes its time on a board."""
    line = Program("sh", "-i", PS1="$ ")
    Console(line).attach(20)
    line.write(f"sleep 1; {sys.executable} {HELPER} receive {tmp_path}/file 1000 {'0' * 64}\r".encode())
    console = Console(line, interrupt=b"\x03" + GOODBYE)
    console.write(b"\x15" + GOODBYE)
    began = time.monotonic()
    console.attach(30)
    assert console.run("echo on").strip() == "on"
    assert time.monotonic() - began < 15
    line.close()


def test_a_file_that_is_there_is_not_sent_again(tmp_path):
    content = os.urandom(10_000)
    (tmp_path / "file").write_bytes(content)
    line, console = receive(tmp_path / "file", content)
    assert send(console, content)
    line.close()


def test_a_part_that_rotted_on_the_board_is_found_out_and_sent_anew(tmp_path):
    content = os.urandom(50_000)
    (tmp_path / f"{hashlib.sha256(content).hexdigest()[:32]}.part").write_bytes(b"rotten" * 1000)
    line, console = receive(tmp_path / "file", content)
    assert not send(console, content)
    line.close()
    assert list(tmp_path.iterdir()) == []
    line, console = receive(tmp_path / "file", content)
    assert send(console, content)
    line.close()

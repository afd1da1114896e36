"""`python -m qemu up|ssh|console|cut|reset|down`: emulated boards to try things on. Run it in the sources, after `make wheels`."""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from boards.errors import BoardError
from ota.cli.output import note, result
from ota.errors import OtaError
from ota.formats.broker_url import BrokerUrl
from ota.operator.provision import DEFAULT_POLICY, LOCAL, BoardSettings
from ota.operator.workspace import Workspace

try:
    from qemu.board import SOURCE, EmulatedBoard
except ModuleNotFoundError as error:
    raise SystemExit(f"qemu: {error.name} is not installed: make emulators") from None

KEPT = SOURCE / "build" / "qemu"
# This machine, as a board behind QEMU's user network sees it.
HOST = "10.0.2.2"
UP_S = 180.0  # for an agent to come up, on a busy machine
POLICY = DEFAULT_POLICY.replace("period_s = 10.0", "period_s = 1.0")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when done, 1 when refused or failed, 2 for wrong usage."""
    arguments = _parser().parse_args(argv)
    kept = KEPT / (arguments.name or arguments.architecture)
    try:
        board = EmulatedBoard(f"qemu-{arguments.architecture}", kept)
        return int(arguments.handler(board, arguments) or 0)
    except (BoardError, OtaError) as error:
        sys.stderr.write(f"qemu: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("qemu: interrupted\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m qemu", epilog="example: python -m qemu up riscv64 -C operator")
    verbs = top.add_subparsers(metavar="verb", required=True)
    for name, handler, what in (
        ("up", _up, "switch a board on; a new one gets a card with the agent on it"),
        ("console", _console, "its serial console, until Ctrl-]"),
        ("ssh", _ssh, "a shell on it, or a command"),
        ("cut", _cut, "pull its plug"),
        ("reset", _reset, "press its reset button"),
        ("down", _down, "end it; --forget also throws its card away"),
    ):
        verb = verbs.add_parser(name, help=what)
        verb.add_argument("architecture", choices=("aarch64", "armv7", "riscv64"))
        verb.add_argument("--name", help="of the board, when there are several of one architecture")
        verb.set_defaults(handler=handler)
        if name == "up":
            verb.add_argument(
                "-C", dest="workspace", type=Path, default=Path("operator"), help="default: operator, made by `ota init`"
            )
            verb.add_argument("--factory", type=Path, help="what `ota build` made, to run when nothing else does")
        if name == "ssh":
            verb.add_argument("command", nargs=argparse.REMAINDER)
        if name == "down":
            verb.add_argument("--forget", action="store_true")
    return top


def _up(board: EmulatedBoard, arguments: argparse.Namespace) -> None:
    if not board.exists():
        settings = _settings(board, arguments.workspace)
        try:
            board.create(settings, factory=arguments.factory, progress=note)
        finally:
            shutil.rmtree(settings)
    started = time.monotonic()
    board.start()
    note(f"{board.folder.name}: on; console {board.console}, ssh port {board.ssh_port}")
    while time.monotonic() - started < UP_S and board.running():
        if _ssh_command(board, "test -s /run/agent.log").returncode == 0:
            break
        time.sleep(0.5)
    else:
        what = "QEMU has ended" if not board.running() else "no agent came up"
        raise BoardError(f"{board.folder.name}: {what}; the console ends:\n{board.console_log()[-500:]}")
    result(f"{board.folder.name}: the agent runs after {time.monotonic() - started:.0f} s")


def _settings(board: EmulatedBoard, folder: Path) -> Path:
    """A folder with what the operator's workspace says a board needs to know."""
    workspace = Workspace.open(folder)
    settings = workspace.settings
    made = board.folder / "settings"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    url = settings.broker
    broker = BrokerUrl(HOST if url.host in LOCAL else url.host, url.port, url.tls)
    model = board.board
    about = BoardSettings(board.folder.name, settings.group, model.name, broker, model.processor.cpus, POLICY, "/data/wamr-ota")
    for name, content in about.files(workspace).items():
        (made / name).write_bytes(content)
    (made / "console-login").touch()
    key = board.folder / "ssh"
    key.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "wamr-ota", "-f", str(key)], check=True)
    (made / "authorized_keys").write_bytes((board.folder / "ssh.pub").read_bytes())
    return made


def _ssh_base(board: EmulatedBoard) -> list[str]:
    options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=5")
    base = ["ssh", "-i", str(board.folder / "ssh"), "-p", str(board.ssh_port)]
    return [*base, *(word for each in options for word in ("-o", each)), "root@127.0.0.1"]


def _ssh_command(board: EmulatedBoard, command: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*_ssh_base(board), command], capture_output=True, check=False)


def _ssh(board: EmulatedBoard, arguments: argparse.Namespace) -> None:
    command = [*_ssh_base(board), *arguments.command]
    os.execvp(command[0], command)


def _console(board: EmulatedBoard, arguments: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "serial.tools.miniterm", "--raw", "--eol", "CR", board.console, "115200"]
    os.execv(sys.executable, command)


def _cut(board: EmulatedBoard, arguments: argparse.Namespace) -> None:
    board.cut()
    result(f"{board.folder.name}: off, without a warning")


def _reset(board: EmulatedBoard, arguments: argparse.Namespace) -> None:
    board.reset()
    result(f"{board.folder.name}: starts again")


def _down(board: EmulatedBoard, arguments: argparse.Namespace) -> None:
    board.stop()
    if arguments.forget:
        shutil.rmtree(board.folder, ignore_errors=True)
    result(f"{board.folder.name}: off")


if __name__ == "__main__":
    sys.exit(main())

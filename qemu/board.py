"""An emulated board: QEMU with a card's image, its console and its monitor on local sockets.

A board lives in a folder: its disk (what it wrote, over the image), `console.log`, and `state.json` with the process and the ports.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from boards.definition import Board, load_board
from boards.errors import BoardError
from boards.image import Built, build_image, settings_tar
from boards.packages import LOCKS, load_lock
from boards.ports import free_ports
from boards.rootfs import alone, unpacked
from boards.wheels import find
from qemu.power import settle
from qemu.qmp import QMPError
from qemu.qmp.legacy import QEMUMonitorProtocol

__all__ = ["EmulatedBoard", "image_for"]

SOURCE = Path(__file__).parent.parent
CACHE = SOURCE / "build" / "boards"
WHEELS = SOURCE / "build" / "wheels"
# How long one may take on a busy machine.
START_S, MONITOR_S = 30.0, 60.0
U_BOOTS = {"aarch64": "qemu_arm64", "armv7": "qemu_arm", "riscv64": "qemu-riscv64_smode"}


def image_for(board: Board, factory: Path | None = None, progress: Callable[[str], None] = lambda _: None) -> Built:
    """The image for a board, built when what goes into it has changed. Raises BoardError."""
    wheel = find(board.processor.target, WHEELS)
    parts = [
        wheel,
        LOCKS / f"{board.debian}.lock",
        *sorted((SOURCE / "boards").rglob("*.py")),
        *sorted((SOURCE / "boards/system").iterdir()),
    ]
    parts += sorted(path for path in factory.rglob("*") if path.is_file()) if factory else []
    digest = hashlib.sha256(repr(board).encode())
    for each in parts:
        digest.update(hashlib.sha256(each.read_bytes()).digest())
    folder = CACHE / "images" / f"{board.name}-{digest.hexdigest()[:16]}"
    note = folder / "built.json"
    with alone(folder):
        if not note.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            built = build_image(board, wheel, folder / "sd.img", CACHE, factory=factory, progress=progress)
            note.write_text(json.dumps(asdict(built), default=str))
    value = json.loads(note.read_text())
    paths = {key: Path(value[key]) for key in ("image", "kernel", "initramfs", "spdx")}
    tree = value["device_tree"] and Path(value["device_tree"])
    return Built(**paths, device_tree=tree, command_line=value["command_line"], size_bytes=value["size_bytes"])


@dataclass
class _State:
    pid: int
    console_port: int
    ssh_port: int


class EmulatedBoard:
    """One emulated board, running or not. Raises BoardError for what cannot be done."""

    def __init__(self, name: str, folder: Path, *, with_u_boot: bool = False) -> None:
        """A board `name` of boards/definitions, kept in `folder`; started by U-Boot, as real ones are, or by QEMU itself."""
        self.board = load_board(name)
        if self.board.qemu is None or self.board.image is None:
            raise BoardError(f"{name} cannot be emulated with an image of ours")
        self.folder = folder
        self.with_u_boot = with_u_boot
        self._process: subprocess.Popen[bytes] | None = None  # where it is a child of ours

    def create(
        self, settings: Path, *, factory: Path | None = None, size_mb: int = 1024, progress: Callable[[str], None] = lambda _: None
    ) -> None:
        """A new card for it: the image, nothing written yet, and a board's settings (a folder)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.board.qemu is not None and self.board.qemu.card == "sd":
            wheel = find(self.board.processor.target, WHEELS)
            card = self.folder / "sd.img"
            built = build_image(self.board, wheel, card, CACHE, settings=settings, factory=factory, progress=progress)
        else:
            built = image_for(self.board, factory, progress)
        (self.folder / "image.json").write_text(json.dumps(asdict(built), default=str))
        (self.folder / "config.tar").write_bytes(settings_tar(settings))
        command = [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            str(built.image),
            "-F",
            "raw",
            str(self.folder / "disk.qcow2"),
            f"{size_mb}M",
        ]
        _run(command)

    def exists(self) -> bool:
        """Whether it has a card."""
        return (self.folder / "disk.qcow2").exists()

    def start(self, snapshot: str = "", *, cuttable: bool = False) -> None:
        """Power on; from a snapshot when one is named.

        `cuttable`: what the board has not flushed may be lost when its plug is pulled, as it is on a real card. Such a board has
        no snapshots.
        """
        if self.running():
            raise BoardError(f"{self.folder.name} is running")
        if cuttable:
            self._prepare_media()
        state = _State(0, *free_ports(2))
        command = self._command(state) + (["-loadvm", snapshot] if snapshot else [])
        with (self.folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        state.pid = self._process.pid
        (self.folder / "state.json").write_text(json.dumps(asdict(state)))
        deadline = time.monotonic() + START_S
        while not _answers(state.console_port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise BoardError(f"QEMU does not start: {(self.folder / 'qemu.log').read_text()[-500:]}")
            time.sleep(0.05)

    def _command(self, state: _State) -> list[str]:
        machine = self.board.qemu
        assert machine is not None  # checked when it was made
        built = json.loads((self.folder / "image.json").read_text())
        console = f"socket,id=console,host=127.0.0.1,port={state.console_port},server=on,wait=off,nodelay=on"
        console += f",logfile={self.folder / 'console.log'},logappend=on"
        return [
            f"qemu-system-{machine.system}",
            *("-M", machine.machine, "-cpu", machine.cpu, "-smp", str(self.board.processor.cores)),
            *("-m", str(self.board.processor.memory_mb), "-display", "none", "-nodefaults"),
            *("-chardev", console, *("-serial", "null") * machine.uart, "-serial", "chardev:console"),
            *("-qmp", f"unix:{self._monitor()},server=on,wait=off"),
            *(self._on_virtio(state) if machine.card == "virtio" else self._on_board(state)),
            *self._firmware(built),
        ]

    def _on_virtio(self, state: _State) -> list[str]:
        return [
            *("-device", "virtio-rng-device"),
            *self._disk(),
            *("-drive", f"file={self.folder / 'config.tar'},format=raw,if=none,id=config,readonly=on"),
            *("-device", "virtio-blk-device,drive=config,serial=wamr-config"),
            *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{state.ssh_port}-:22", "-device", "virtio-net-device,netdev=net"),
        ]

    def _on_board(self, state: _State) -> list[str]:
        """The machine's own slot and network; the settings are on the card."""
        return [
            *("-drive", f"file={self.folder / 'disk.qcow2'},if=sd"),
            *self._network(f"user,id=net,hostfwd=tcp:127.0.0.1:{state.ssh_port}-:22"),
        ]

    def _network(self, backend: str) -> list[str]:
        if self.board.qemu is not None and self.board.qemu.network == "usb":
            return ["-netdev", backend, "-device", "usb-net,netdev=net"]
        return ["-nic", backend]

    def _firmware(self, built: dict[str, str]) -> list[str]:
        if self.board.image is not None and self.board.image.boot_loader:
            return []  # the machine finds it on the card
        if not self.with_u_boot:
            tree = ["-dtb", built["device_tree"]] if built.get("device_tree") else []
            return ["-kernel", built["kernel"], "-initrd", built["initramfs"], "-append", built["command_line"], *tree]
        lock = load_lock(self.board.debian)
        package = [each for each in lock.select(["firmware"]) if each.name == "u-boot-qemu"]
        file = (
            unpacked(package, CACHE / "packages", CACHE / "u-boot")
            / "usr/lib/u-boot"
            / U_BOOTS[self.board.processor.target]
            / "u-boot.bin"
        )
        return ["-kernel" if self.board.processor.target == "riscv64" else "-bios", str(file)]

    @property
    def _media(self) -> Path:
        """What the card itself holds, once it can be cut: without what is on its way there."""
        return self.folder / "media.img"

    def _prepare_media(self) -> None:
        if not self._media.exists():
            part = self._media.with_suffix(".part")
            _run(["qemu-img", "convert", "-O", "raw", str(self.folder / "disk.qcow2"), str(part)])
            part.replace(self._media)
        top, log = self.folder / "top.qcow2", self.folder / "writes.log"
        top.unlink(missing_ok=True)
        _run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(self._media), "-F", "raw", str(top)])
        log.write_bytes(b"")

    def _disk(self) -> list[str]:
        device = ["-device", "virtio-blk-device,drive=disk"]
        if not self._media.exists():
            return ["-drive", f"file={self.folder / 'disk.qcow2'},if=none,id=disk,cache=writeback", *device]
        top = f"driver=qcow2,node-name=top,file.driver=file,file.filename={self.folder / 'top.qcow2'}"
        log = f"driver=blklogwrites,node-name=disk,file=top,log.driver=file,log.filename={self.folder / 'writes.log'}"
        return ["-blockdev", top, "-blockdev", log, *device]

    def _monitor(self) -> Path:
        # Unix sockets have short names: 107 bytes.
        return Path("/tmp") / f"wamr-ota-{hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:16]}.qmp"  # noqa: S108

    def _state(self) -> _State | None:
        try:
            return _State(**json.loads((self.folder / "state.json").read_text()))
        except FileNotFoundError:
            return None

    def running(self) -> bool:
        """Whether its QEMU runs."""
        state = self._state()
        if state is None:
            return False
        if self._process is not None and self._process.poll() is not None:
            return False
        try:
            return str(self.folder).encode() in Path(f"/proc/{state.pid}/cmdline").read_bytes()
        except FileNotFoundError:
            return False

    @property
    def console(self) -> str:
        """The serial console as pyserial's URL."""
        return f"socket://127.0.0.1:{self.console_port}"

    @property
    def console_port(self) -> int:
        """The port of 127.0.0.1 that is the serial console."""
        return self._running().console_port

    @property
    def ssh_port(self) -> int:
        """The port of 127.0.0.1 that is the board's port 22."""
        return self._running().ssh_port

    def _running(self) -> _State:
        state = self._state()
        if state is None or not self.running():
            raise BoardError(f"{self.folder.name} is not running: `python -m qemu up`")
        return state

    def console_log(self) -> str:
        """Everything that the console has shown."""
        return (self.folder / "console.log").read_text(errors="replace")

    def cut(self, chance: random.Random | None = None) -> int:
        """Pulls the plug: QEMU is killed as it stands. Of a board that is cuttable, `chance` loses pages that were not flushed;
        returns how many.
        """
        state = self._running()
        os.kill(state.pid, signal.SIGKILL)
        self._ended()
        return self._settle(chance)

    def _settle(self, chance: random.Random | None) -> int:
        log = self.folder / "writes.log"
        if not log.exists():
            return 0
        lost = settle(log, self._media, chance)
        log.unlink()
        return lost

    def reset(self) -> None:
        """Presses the reset button."""
        self.ask("system_reset")

    def stop(self) -> None:
        """Ends the emulation; what the board has asked its disk to keep is kept."""
        if self.running():
            os.kill(self._running().pid, signal.SIGTERM)
        self._ended()
        self._settle(None)

    def _ended(self) -> None:
        """Waits for the process, and forgets it."""
        while self.running():
            time.sleep(0.01)
        if self._process is not None:
            self._process.wait()
        (self.folder / "state.json").unlink(missing_ok=True)

    def save(self, snapshot: str) -> None:
        """Keeps memory, devices and disk under a name."""
        answer = self.ask("human-monitor-command", {"command-line": f"savevm {snapshot}"})
        if answer:
            raise BoardError(f"no snapshot: {answer}")

    def ask(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """A command of QEMU's monitor (QMP). Raises BoardError."""
        self._running()
        monitor = QEMUMonitorProtocol(str(self._monitor()))
        try:
            monitor.settimeout(MONITOR_S)
            monitor.connect(negotiate=True)
            return monitor.cmd(command, **(arguments or {}))
        except (OSError, RuntimeError, EOFError, QMPError) as error:
            raise BoardError(f"QEMU's monitor: {error}") from error
        finally:
            monitor.close()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BoardError(f"{command[0]}: {done.stderr.strip()[-300:]}")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

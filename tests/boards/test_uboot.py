"""U-Boot: a card boots by itself as it would on a real board, and a kernel is started over the console."""

import binascii
import json
import time

import pytest

from boards.console import Console
from boards.definition import load_board
from boards.errors import BoardError
from boards.line import LineSilent
from boards.uboot import UBoot
from boards.ymodem import send_ymodem
from ota.cli.main import main
from qemu.board import EmulatedBoard
from tests.support.board_lab import BoardLab
from tests.support.ntp import TimeServer

pytestmark = pytest.mark.timeout(900)


def by_u_boot(folder, architecture):
    """A lab whose board is started by U-Boot."""
    opened = BoardLab(folder, f"qemu-{architecture}")
    opened.board = EmulatedBoard(f"qemu-{architecture}", folder / "board", with_u_boot=True)
    return opened


@pytest.mark.full
@pytest.mark.parametrize("architecture", ["aarch64", "armv7", "riscv64"])
def test_a_card_boots_by_the_boot_loader_and_its_agent_reports(tmp_path, architecture):
    lab = by_u_boot(tmp_path, architecture)
    try:
        lab.start()
        assert "Retrieving file: /vmlinuz" in lab.log()
        lab.install(1)
        lab.still_answers(1)
    finally:
        lab.close()


@pytest.mark.full
def test_the_card_of_an_orange_pi_boots_from_its_first_sector_on(tmp_path):
    """Its processor's own loader, SPL, U-Boot, kernel and device tree, all from the card, which has the settings too."""
    lab = BoardLab(tmp_path, "orangepi-pc")
    lab.patience_s = 400
    try:
        lab.board.start()
        lab.observer.wait(lambda: lab.observer.report is not None, lab.patience_s, "a first report")
        assert "Retrieving file: /sun8i-h3-orangepi-pc.dtb" in lab.log()
        lab.install(1)
        lab.still_answers(1)
    finally:
        lab.close()


@pytest.mark.full
def test_the_system_of_a_raspberry_pi_comes_up_from_its_card_with_a_network_adapter_on_usb(tmp_path):
    """QEMU loads kernel and device tree, as the firmware would; the rest is on the card. It has no clock: that comes by NTP."""
    clock = TimeServer()
    lab = BoardLab(tmp_path, "raspi3b", ntp=f"10.0.2.2:{clock.port}\n")
    lab.patience_s = 300
    try:
        lab.board.start()
        lab.observer.wait(lambda: lab.observer.report is not None, lab.patience_s, "a first report")
        lab.install(1)
        lab.still_answers(1)
        assert clock.asked > 0
    finally:
        print(lab.log()[-3000:])
        lab.close()
        clock.close()


@pytest.mark.full
@pytest.mark.timeout(3600)  # AArch64 took 1038 s
@pytest.mark.parametrize("architecture", ["armv7", "aarch64", "riscv64"])
def test_a_kernel_is_started_over_the_console(tmp_path, capsys, architecture):
    lab = by_u_boot(tmp_path, architecture)
    try:
        image = json.loads((lab.board.folder / "image.json").read_text())["image"]
        lab.board.start()
        command = ["flash", f"qemu-{architecture}", "--via", "u-boot", "--port", lab.board.console, "--image", image, "--json"]
        assert main(command) == 0
        assert json.loads(capsys.readouterr().out)["board"] == f"qemu-{architecture}"
        lab.observer.wait(lambda: lab.observer.report is not None, lab.patience_s, "a first report")
        assert "Retrieving file" not in lab.log()
    finally:
        lab.close()


class Loader:
    """A receiver of YMODEM that refuses every third block once, and asks twice."""

    def __init__(self, spoil=lambda data: data):
        self.out, self.files, self.seen, self.refused = [b"\r\nC", b"C"], bytearray(), bytearray(), set()
        self.spoil = spoil
        self.ended = 0

    def read(self, timeout_s):
        return self.out.pop(0) if self.out else b""

    def write(self, data):
        self.seen += data
        while self.seen:
            if self.seen[0] == 4:
                del self.seen[0]
                self.ended += 1
                self.out += [b"\x15"] if self.ended == 1 else [b"\x06", b"C"]
                continue
            size = {1: 128, 2: 1024}[self.seen[0]]
            if len(self.seen) < size + 5:
                return
            number, block, crc = self.seen[1], bytes(self.seen[3 : 3 + size]), int.from_bytes(self.seen[3 + size : 5 + size])
            del self.seen[: size + 5]
            if binascii.crc_hqx(block, 0) != crc or (number % 3 == 1 and number not in self.refused):
                self.refused.add(number)
                self.out.append(b"\x15")
                continue
            self.out.append(b"\x06")
            if size == 128 and block[0]:
                self.name, self.size = block.split(b"\0")[0], int(block.split(b"\0")[1])
                self.out.append(b"C")
            elif size == 1024:
                self.files += block

    def close(self):
        pass


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 300_000])
def test_a_file_arrives_though_blocks_are_refused(size):
    loader, content, seen = Loader(), bytes(range(256)) * (size // 256 + 1), []
    send_ymodem(Console(loader), "kernel", content[:size], seen.append)
    assert (loader.name, loader.size) == (b"kernel", size)
    assert bytes(loader.files[:size]) == content[:size]
    assert sum(seen) == size
    assert loader.ended == 2


class Deaf(Loader):
    def write(self, data):
        self.out.append(b"\x15")


def test_a_loader_that_takes_nothing_and_one_that_gives_up_are_errors():
    with pytest.raises(BoardError, match="refused block 0 of the file 10 times"):
        send_ymodem(Console(Deaf()), "x", b"x")
    gone = Loader()
    gone.out = [b"C", b"\x18\x18"]
    gone.write = lambda data: None
    with pytest.raises(BoardError, match="cancelled the transfer"):
        send_ymodem(Console(gone), "x", b"x")


def test_a_board_without_u_boot_and_a_silent_one_say_so(monkeypatch):
    with pytest.raises(BoardError, match="raspberry-pi-4 is started by raspberry-pi, not by U-Boot"):
        UBoot(load_board("raspberry-pi-4"), Console(Loader()))
    silent = Loader()
    silent.write = lambda data: None
    monkeypatch.setattr(silent, "read", lambda timeout_s: time.sleep(0.001) or b"")
    with pytest.raises(LineSilent, match="switch the board on"):
        UBoot(load_board("qemu-armv7"), Console(silent)).interrupt(1.0)


def test_the_command_names_what_is_missing(tmp_path, capsys):
    assert main(["flash", "qemu-armv7", "--via", "u-boot", "--port", "x"]) == 1
    assert "needs --image" in capsys.readouterr().err
    assert main(["flash", "qemu-armv7", "--via", "u-boot", "--port", "x", "--image", str(tmp_path / "none")]) == 1
    assert "none.kernel: No such file" in capsys.readouterr().err

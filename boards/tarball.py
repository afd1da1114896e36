"""An agent for one architecture as one file, to be flashed or to go over the air: a tar file, the same bytes for the same wheel.

`python -m boards.tarball TARGET… --out FOLDER` (`make tarball`) makes it out of a wheel.

agent.json  which agent this is, and what it needs of a board
lib/        pywamr, ota's core, device_agent
packages/   Python packages that the board lacks, out of locked Debian packages; only for the Python that Debian built them for
launch      what starts it (boards/onboard/launch); over the air a board keeps the launcher that it has
"""

import argparse
import ast
import gzip
import hashlib
import io
import json
import re
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boards.definition import DEBIAN
from boards.errors import BoardError
from boards.image import EPOCH_S, NOT_ON_BOARDS, OURS
from boards.packages import fetch, load_lock
from boards.rootfs import unpack
from boards.wheels import SOURCE, TARGETS, find

__all__ = ["ABOUT", "PACKAGES", "Tarball", "make_tarball"]

ONBOARD = Path(__file__).with_name("onboard")
# What the agent imports: the lowest version, the Debian packages that contain it, and the names that they put into dist-packages.
PACKAGES: Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "paho.mqtt": ("2.1", ("python3-paho-mqtt",), ("paho",)),
    "cbor2": ("5.6", ("python3-cbor2",), ("cbor2", "_cbor2")),
    "cryptography": ("43", ("python3-cryptography", "python3-cffi-backend"), ("cryptography", "_cffi_backend")),
}
LOCKED_PYTHON = (3, 13)
ABOUT = "agent.json"
LEAST_GLIBC = 17  # of 2.x: what the oldest of the wheels' platforms has
SCHEMA = "device_agent/storage/schema.py"

_NAME = "wamr_ota"
_WHEEL = re.compile(r"wamr_ota-(?P<version>[^-]+)-py3-none-.*linux.*_(?P<machine>x86_64|aarch64|armv7l|riscv64)\.whl")


@dataclass(frozen=True)
class Tarball:
    """An agent to flash. Its name is the version that the agent will report."""

    name: str
    content: bytes

    @property
    def sha256(self) -> str:
        """In hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()


def make_tarball(wheel: Path, debian: str = "", lacking: Collection[str] = (), cache: Path | None = None) -> Tarball:
    """From a wheel for the board. `lacking` names packages (keys of PACKAGES) to bring along, for a Debian architecture.

    Raises BoardError.
    """
    named = _WHEEL.fullmatch(wheel.name)
    if named is None:
        raise BoardError(f"{wheel.name} is no wheel of ours for boards: `make wheels` makes them")
    files = {"launch": (0o755, (ONBOARD / "launch").read_bytes())}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith("/") or name.startswith(NOT_ON_BOARDS):
                continue
            if name.startswith((*OURS, f"{_NAME}.libs/")) or name.endswith(".dist-info/METADATA"):
                files[f"lib/{name}"] = (0o644, archive.read(name))
    if lacking:
        if cache is None:
            raise BoardError(f"the board lacks {', '.join(sorted(lacking))}")
        files |= {f"packages/{name}": (0o644, content) for name, content in _packages(debian, lacking, cache).items()}
    version = f"{named['version']}+{hashlib.sha256(_tar(files)).hexdigest()[:12]}"
    architecture = next(target for target, platform in TARGETS.items() if platform == f"linux_{named['machine']}")
    about = {"version": version, "architecture": architecture, **_about(files, pinned=bool(lacking))}
    files[ABOUT] = (0o644, json.dumps(about, indent=1, sort_keys=True).encode())
    return Tarball(version, gzip.compress(_tar(files), 9, mtime=0))


def _about(files: Mapping[str, tuple[int, bytes]], *, pinned: bool) -> dict[str, Any]:
    """What an agent needs, out of its files. Packages of Debian's are `pinned` to its Python."""
    least = max(
        [int(found) for name, (_, content) in files.items() if ".so" in name for found in re.findall(rb"GLIBC_2\.(\d+)", content)],
        default=LEAST_GLIBC,
    )
    ours = f"lib/{_NAME}-"  # packages that are brought along have theirs, too
    (metadata,) = (content for name, (_, content) in files.items() if name.startswith(ours) and name.endswith("dist-info/METADATA"))
    python = re.search(rb"^Requires-Python: >=3\.(\d+)", metadata, re.MULTILINE)
    protocol = re.search(rb"^protocol=(\d+)", files["launch"][1], re.MULTILINE)
    if python is None or protocol is None:
        raise BoardError("the wheel does not say which Python it needs, or the launcher not its protocol")
    return {
        "python": f"cp3{LOCKED_PYTHON[1]}" if pinned else f"py3{int(python[1])}",
        "libc": f"glibc-2.{max(least, LEAST_GLIBC)}",
        "launcher": int(protocol[1]),
        **_schema(files[f"lib/{SCHEMA}"][1].decode()),
    }


def _schema(source: str) -> dict[str, int]:
    """The schemas of the agent's database: its own, the oldest that it opens, the oldest whose agents open what it writes."""
    names = {"SCHEMA": "schema", "OLDEST": "reads", "READABLE_BY": "readable_by"}
    found: dict[str, int] = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = names.get(statement.targets[0].id)
            if name and isinstance(statement.value, ast.Constant) and type(statement.value.value) is int:
                found[name] = statement.value.value
    if missing := names.values() - found.keys():
        raise BoardError(f"{SCHEMA} of the wheel does not say {', '.join(sorted(missing))}")
    return found


def _packages(debian: str, lacking: Collection[str], cache: Path) -> dict[str, bytes]:
    wanted = {name for each in lacking for name in PACKAGES[each][1]}
    tops = {top for each in lacking for top in PACKAGES[each][2]}
    locked = [each for each in load_lock(debian).packages if each.name in wanted]
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "root"
        unpack(fetch(locked, cache / "packages").values(), root)
        base = root / "usr/lib/python3/dist-packages"
        for path in sorted(base.rglob("*")):
            name = path.relative_to(base)
            top = name.parts[0]
            ours = top.partition(".")[0] in tops or top.endswith((".dist-info", ".egg-info"))
            if path.is_file() and ours and "tests" not in name.parts:
                found[str(name)] = path.read_bytes()
    return found


def _tar(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            mode, content = files[name]
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), mode, EPOCH_S
            archive.addfile(entry, io.BytesIO(content))
    return raw.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when every tarball was made, 1 when one was not."""
    parser = argparse.ArgumentParser(
        prog="python -m boards.tarball", epilog="example: python -m boards.tarball aarch64 --packages --out build/tarballs"
    )
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=f"default: {' '.join(TARGETS)}")
    parser.add_argument("--out", type=Path, default=SOURCE / "build" / "tarballs", help="default: build/tarballs in the sources")
    parser.add_argument("--wheels", type=Path, default=SOURCE / "build" / "wheels", help="default: build/wheels in the sources")
    parser.add_argument("--cache", type=Path, default=SOURCE / "build" / "boards", help="of Debian's packages")
    parser.add_argument(
        "--packages",
        action="store_true",
        help="with Debian's packages of what the agent imports, for boards of Python 3.13; without, a board goes on with its own",
    )
    arguments = parser.parse_args(argv)
    try:
        for target in arguments.targets:
            lacking = tuple(PACKAGES) if arguments.packages else ()
            made = make_tarball(find(target, arguments.wheels), DEBIAN[target], lacking, arguments.cache)
            arguments.out.mkdir(parents=True, exist_ok=True)
            path = arguments.out / f"agent-{target}{'-packages' if lacking else ''}.tar.gz"
            path.write_bytes(made.content)
            print(f"{path}: {made.name}, {len(made.content)} bytes")  # noqa: T201
    except BoardError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What is flashed: the agent for one architecture as a tar file, the same bytes for the same wheel.

lib/        pywamr, ota's core, device_agent
packages/   Python packages that the board lacks, out of locked Debian packages; only for the Python that Debian built them for
launch      what starts it (boards/onboard/launch)
"""

import gzip
import hashlib
import io
import tarfile
import tempfile
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from boards.errors import BoardError
from boards.image import EPOCH_S, NOT_ON_BOARDS, OURS
from boards.packages import fetch, load_lock
from boards.rootfs import unpack

__all__ = ["PACKAGES", "Bundle", "make_bundle"]

ONBOARD = Path(__file__).with_name("onboard")
# What the agent imports: the lowest version, the Debian packages that contain it, and the names that they put into dist-packages.
PACKAGES: Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "paho.mqtt": ("2.1", ("python3-paho-mqtt",), ("paho",)),
    "cbor2": ("5.6", ("python3-cbor2",), ("cbor2", "_cbor2")),
    "cryptography": ("43", ("python3-cryptography", "python3-cffi-backend"), ("cryptography", "_cffi_backend")),
}
LOCKED_PYTHON = (3, 13)
_NAME = "wamr_ota"


@dataclass(frozen=True)
class Bundle:
    """An agent to flash. Its name is the version that the agent will report."""

    name: str
    content: bytes

    @property
    def sha256(self) -> str:
        """In hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()


def make_bundle(wheel: Path, debian: str = "", lacking: Collection[str] = (), cache: Path | None = None) -> Bundle:
    """From a wheel for the board. `lacking` names packages (keys of PACKAGES) to bring along, for a Debian architecture.

    Raises BoardError.
    """
    files = {"launch": (0o755, (ONBOARD / "launch").read_bytes())}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            top = name.split("/")[0]
            if name.endswith("/") or name.startswith(NOT_ON_BOARDS):
                continue
            if top in OURS or top == f"{_NAME}.libs" or name.endswith(".dist-info/METADATA"):
                files[f"lib/{name}"] = (0o644, archive.read(name))
    if lacking:
        if cache is None:
            raise BoardError(f"the board lacks {', '.join(sorted(lacking))}")
        files |= {f"packages/{name}": (0o644, content) for name, content in _packages(debian, lacking, cache).items()}
    content = _tar(files)
    version = wheel.name.split("-")[1]
    return Bundle(f"{version}+{hashlib.sha256(content).hexdigest()[:12]}", content)


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
    return gzip.compress(raw.getvalue(), 9, mtime=0)

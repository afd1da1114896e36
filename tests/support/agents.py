"""Agents for this machine as tarballs, made out of the sources without building anything; also ones that do not work."""

import importlib.util
import platform
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

import pywamr
from boards.tarball import Tarball, make_tarball
from tests.conftest import ROOT

PACKAGES = {
    "pywamr": ROOT / "wamr_bindings/pywamr",
    "ota": ROOT / "ota",
    "device_agent": ROOT / "device_agent",
    "boards": ROOT / "boards",
}
METADATA = "Metadata-Version: 2.4\nName: wamr-ota\nVersion: {version}\nRequires-Python: >=3.11\n"


def host_wheel(folder: Path, version: str = "0.2.0", change: dict[str, str] | None = None) -> Path:
    """A wheel for this machine. `change`: contents of files by name, in the place of the sources'."""
    wheel = folder / f"wamr_ota-{version}-py3-none-linux_{platform.machine()}.whl"
    files = {
        f"{name}/{path.relative_to(source)}": path.read_bytes()
        for name, source in PACKAGES.items()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    files["pywamr/libwamr_core.so"] = library().read_bytes()
    files[f"wamr_ota-{version}.dist-info/METADATA"] = METADATA.format(version=version).encode()
    files |= {name: content.encode() for name, content in (change or {}).items()}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in sorted(files.items()):
            archive.writestr(name, content)
    return wheel


def host_tarball(folder: Path, version: str = "0.2.0", change: dict[str, str] | None = None) -> Tarball:
    """Likewise, as a tarball."""
    return make_tarball(host_wheel(folder, version, change))


def library() -> Path:
    """The native library that tests run with."""
    places = [Path(each) / "libwamr_core.so" for each in pywamr.__path__]
    return next(each for each in places if each.exists())


PYTHON = Path("/usr/bin/python3")  # the system's, as on a board: it knows nothing of the sources
NEEDED = ("cbor2", "_cbor2", "paho", "cryptography", "_cffi_backend", "cffi")


def lay_packages(folder: Path) -> None:
    """What the agent imports, from where the tests have it, for the system's Python."""
    ours = f"{importlib.util.MAGIC_NUMBER.hex()}"
    theirs = "import importlib.util; print(importlib.util.MAGIC_NUMBER.hex())"
    if not PYTHON.exists() or subprocess.check_output([PYTHON, "-c", theirs], text=True).strip() != ours:
        pytest.skip("the system has no Python of the tests' minor version: it cannot use their packages")
    folder.mkdir(parents=True)
    for name in NEEDED:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            if found is not None and found.submodule_search_locations:  # a namespace
                shutil.copytree(next(iter(found.submodule_search_locations)), folder / name)
            continue
        origin = Path(found.origin)
        if origin.name == "__init__.py":
            shutil.copytree(origin.parent, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(origin, folder)

"""A root file system made of locked packages, in a folder, without root: files only, no script of any package runs."""

import contextlib
import fcntl
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from boards.errors import BoardError
from boards.packages import Package, fetch, load_lock

__all__ = ["alone", "host_tools", "tool", "unpack", "unpacked"]

_LEFT_OUT = (
    "./usr/share/doc",
    "./usr/share/man",
    "./usr/share/locale",
    "./usr/share/info",
    "./usr/share/lintian",
    "./usr/share/bug",
    "./usr/share/zoneinfo",
    "./usr/lib/python3*/test",
    "./usr/lib/python3*/idlelib",
    "./usr/lib/python3*/ensurepip",
    "./usr/lib/python3*/pydoc_data",
    "./usr/lib/python3*/lib2to3",
)
_HOSTS = {"x86_64": "amd64", "aarch64": "arm64"}


def unpack(debs: Iterable[Path], folder: Path, patterns: Sequence[str] = _LEFT_OUT) -> None:
    """Unpacks packages into a new folder with merged /usr. Raises BoardError."""
    folder.mkdir(parents=True)
    for name in ("bin", "sbin", "lib"):
        (folder / "usr" / name).mkdir(parents=True)
        (folder / name).symlink_to(f"usr/{name}")
    exclude = [f"--exclude={pattern}" for pattern in patterns]
    for deb in debs:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as source:
            command = ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", *exclude, "-C", str(folder)]
            done = subprocess.run(command, stdin=source.stdout, capture_output=True, text=True, check=False)
        if done.returncode or source.returncode:
            raise BoardError(f"{deb.name} cannot be unpacked: {done.stderr.strip()[-300:]}")
    if authorities := sorted((folder / "usr/share/ca-certificates").rglob("*.crt")):  # as the package's script would do
        bundle = folder / "etc/ssl/certs/ca-certificates.crt"
        bundle.parent.mkdir(parents=True, exist_ok=True)
        bundle.write_bytes(b"".join(each.read_bytes() for each in authorities))


def unpacked(packages: Sequence[Package], cache: Path, folder: Path) -> Path:
    """A folder with these packages, made if it is not there; `cache` keeps the packages. Raises BoardError."""
    mark = folder / ".made-of"
    wanted = "".join(f"{each.sha256}\n" for each in packages)
    with alone(folder):
        if not mark.exists() or mark.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            unpack(fetch(packages, cache).values(), folder)
            os.sync()  # after a power cut the mark is not there without the files
            mark.write_text(wanted)
    return folder


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """For one process at a time: others that make the same folder wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def host_tools(cache: Path, kind: str = "tools") -> Path:
    """The folder of the locked tools that run on this machine, made if it is not there. Raises BoardError."""
    machine = platform.machine()
    if machine not in _HOSTS:
        raise BoardError(f"images are made on x86_64 and aarch64 machines; this is a {machine}")
    return unpacked(load_lock(_HOSTS[machine]).select([kind]), cache / "packages", cache / kind)


def tool(tools: Path, name: str, *arguments: str | Path, environment: dict[str, str] | None = None) -> str:
    """Runs a locked tool with its own C library; returns what it printed. Raises BoardError with what it said when it fails."""
    (loader,) = tools.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*")
    libraries = ":".join(str(each) for each in sorted((tools / "usr/lib").glob("*-linux-gnu")))
    program = next(path for path in (tools / "usr/bin" / name, tools / "usr/sbin" / name) if path.exists())
    command = [str(loader), "--library-path", libraries, str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})})
    if done.returncode:
        raise BoardError(f"{name}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout

"""Debian packages by lock file: name, version, size and SHA-256 of each, and no host. Nothing else is taken.

`python -m boards.packages ARCHITECTURE…` rewrites the lock files from the archive's newest stable release; the rest
only reads them.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from boards.errors import BoardError

__all__ = ["SETS", "Lock", "Package", "fetch", "load_lock", "resolve"]

LOCKS = Path(__file__).with_name("packages")
# What the agent needs, what boots a board, and what pywamr's own tests need besides. Kernels come without what they depend on:
# the image brings its own initramfs.
AGENT = (
    "python3",
    "python3-paho-mqtt",
    "python3-cbor2",
    "python3-cryptography",
    "python3-serial",
    "python3-libgpiod",
    "ca-certificates",
    "libatomic1",
    "busybox-static",
)
SYSTEM = ("dropbear-bin", "e2fsprogs", "fdisk", "kmod", "rdate")
TESTS = ("python3-pytest", "python3-pytest-timeout", "python3-hypothesis")
# What makes images runs on the operator's machine, from the same release as what it makes: so the same bytes come out everywhere.
TOOLS = ("python3", "squashfs-tools", "mtools")
EMULATORS = ("qemu-user",)
# An ordinary Debian that has never seen the agent, for tests of flashing.
GUEST: tuple[str, ...] = (
    "python3",
    "systemd-sysv",
    "udev",
    "login",
    "passwd",
    "util-linux",
    "bash",
    "dash",
    "iproute2",
    "libpam-runtime",
)
GUEST += ("base-files", "base-passwd", "procps", "mount", "tar", "gzip", "grep", "sed", "coreutils", "hostname", "dbus")
# Boot loaders and what processors load before them; files only, nothing that they depend on.
FIRMWARE = {
    "arm64": ("u-boot-qemu", "raspi-firmware"),
    "armhf": ("u-boot-qemu", "u-boot-sunxi", "u-boot-omap"),
    "riscv64": ("u-boot-qemu", "u-boot-starfive"),
}
HOSTS = ("amd64", "arm64")
KERNELS = {"arm64": ("linux-image-cloud-arm64",), "armhf": ("linux-image-armmp",), "riscv64": ("linux-image-riscv64",)}
# With the drivers of real boards, where the one above has those of virtual machines alone.
FULL_KERNELS = {"arm64": ("linux-image-arm64",)}
SETS = ("agent", "system", "tests", "guest", "kernel", "kernel-full", "firmware", "tools", "emulators")
TIMEOUT_S = 60
PACKAGE_LIMIT_BYTES = 256 << 20
_Entry = tuple[str, str, int, str]  # name, version, size, digest


@dataclass(frozen=True)
class Package:
    """One file of the archive. `path` is below the archive's root, such as "pool/main/p/python3/…deb"."""

    kind: str
    name: str
    version: str
    size_bytes: int
    sha256: str
    path: str


@dataclass(frozen=True)
class Lock:
    """All that images for one Debian architecture may be made of."""

    architecture: str
    release: str
    packages: tuple[Package, ...]

    def select(self, kinds: Iterable[str]) -> tuple[Package, ...]:
        """The packages of these sets, in the order of the lock."""
        wanted = set(kinds)
        return tuple(each for each in self.packages if each.kind in wanted)


def load_lock(architecture: str, folder: Path = LOCKS) -> Lock:
    """The lock of a Debian architecture such as "armhf". Raises BoardError."""
    path = folder / f"{architecture}.lock"
    try:
        first, *lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BoardError(f"{path}: {error.strerror}") from error
    return Lock(architecture, first.removeprefix("# Debian "), tuple(_parse(line, path) for line in lines if line))


def _parse(line: str, path: Path) -> Package:
    try:
        kind, name, version, size, sha256, pool = line.split()
        package = Package(kind, name, version, int(size), sha256, pool)
    except ValueError:
        raise BoardError(f"{path}: {line!r} is not: set name version size sha256 path") from None
    if kind not in SETS or len(sha256) != 64 or not 0 < package.size_bytes <= PACKAGE_LIMIT_BYTES or ".." in pool:
        raise BoardError(f"{path}: {line!r} has a value that no package has")
    return package


def archives() -> tuple[str, ...]:
    """Where packages may come from: what WAMR_OTA_DEBIAN names, else the archives that this machine's own apt uses."""
    if named := os.environ.get("WAMR_OTA_DEBIAN"):
        return tuple(each.rstrip("/") for each in named.split())
    if shutil.which("apt-get") is None:
        raise BoardError("this machine has no apt: name a Debian archive in WAMR_OTA_DEBIAN, as http://…/debian")
    done = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True, check=False)
    found = dict.fromkeys(line.strip().rstrip("/") for line in done.stdout.splitlines() if "debian" in line)
    if not found:
        raise BoardError("this machine's apt uses no Debian archive: name one in WAMR_OTA_DEBIAN, as http://…/debian")
    return tuple(found)


def fetch(packages: Sequence[Package], cache: Path, progress: Callable[[str, int, int], None] = lambda *_: None) -> dict[str, Path]:
    """The packages as files, by name; those that the cache does not hold are downloaded.

    `progress` is called with a name, a count and a total. Raises BoardError when an archive does not have a package, or has
    another one under its name.
    """
    cache.mkdir(parents=True, exist_ok=True)
    files = {}
    sources: tuple[str, ...] = ()
    for count, package in enumerate(packages, 1):
        file = cache / f"{package.sha256[:16]}-{package.path.rpartition('/')[2]}"
        if not file.exists() or not _is(package, file.read_bytes()):  # also one that a power cut or the disk damaged
            progress(package.name, count, len(packages))
            sources = sources or archives()
            _download(package, file, sources)
        files[package.name] = file
    return files


def _is(package: Package, content: bytes) -> bool:
    return len(content) == package.size_bytes and hashlib.sha256(content).hexdigest() == package.sha256


def _download(package: Package, file: Path, sources: Sequence[str]) -> None:
    problems = []
    for source in sources:
        try:
            content = _get(f"{source}/{package.path}", package.size_bytes)
        except (OSError, urllib.error.URLError) as error:
            problems.append(f"{source}: {error}")
            continue
        if not _is(package, content):
            problems.append(f"{source}: another file than the lock names")
            continue
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
            temporary.write(content)
            temporary.flush()
            os.fsync(temporary.fileno())
        Path(temporary.name).replace(file)
        return
    hint = "what Debian's archives drop its snapshots keep: name those of the lock's date in WAMR_OTA_DEBIAN"
    raise BoardError(f"{package.name} {package.version} is not available: {'; '.join(problems)}; {hint}")


def _get(url: str, size_bytes: int) -> bytes:
    if not url.startswith(("http://", "https://")):
        raise BoardError(f"{url}: only http and https are spoken")
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310  (checked above)
        content: bytes = response.read(size_bytes + 1)
    return content


def resolve(architecture: str) -> Lock:
    """What apt would install for each set from the newest stable release. Raises BoardError."""
    with tempfile.TemporaryDirectory() as folder:
        apt = _Apt(Path(folder), architecture)
        found: dict[str, dict[str, _Entry]] = {}
        if architecture in KERNELS:
            found["agent"] = apt.install(AGENT)
            found["system"] = apt.install((*AGENT, *SYSTEM))
            found["tests"] = apt.install((*AGENT, *TESTS))
            found["guest"] = apt.install(GUEST)
            found["firmware"] = apt.download(FIRMWARE[architecture])
            found["kernel"] = apt.download([apt.image_of(each) for each in KERNELS[architecture]])
            if architecture in FULL_KERNELS:
                found["kernel-full"] = apt.download([apt.image_of(each) for each in FULL_KERNELS[architecture]])
        if architecture in HOSTS:
            found["tools"] = apt.install(TOOLS)
            found["emulators"] = apt.download(EMULATORS)
        return Lock(architecture, apt.release(), tuple(_in_order(found)))


def _in_order(found: dict[str, dict[str, _Entry]]) -> Iterable[Package]:
    for kind, entries in found.items():
        before = found["agent"] if kind in ("system", "tests", "guest") else {}
        for path, entry in sorted(entries.items(), key=lambda each: each[1]):
            if path not in before:
                yield Package(kind, *entry, path)


class _Apt:
    """A private root of apt's, of another architecture. Only ever asked, never installed into."""

    def __init__(self, folder: Path, architecture: str) -> None:
        for each in ("lists/partial", "archives/partial"):
            (folder / each).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "none").mkdir()
        source = archives()[0]
        keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
        (folder / "sources.list").write_text(f"deb [signed-by={keys}] {source} stable main non-free-firmware\n")
        settings = {
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "Dir::State": folder,
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder,
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": folder / "none",
            "Dir::Etc::preferencesparts": folder / "none",
            "Acquire::ForceHash": "SHA256",
            "Acquire::Languages": "none",
        }
        (folder / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
        self._folder = folder
        self._source = source
        self._run("apt-get", "-qq", "update")

    def install(self, names: Sequence[str]) -> dict[str, _Entry]:
        return self._uris("apt-get", "-qq", "--print-uris", "--no-install-recommends", "-y", "install", *names)

    def download(self, names: Sequence[str]) -> dict[str, _Entry]:
        return self._uris("apt-get", "-qq", "--print-uris", "download", *names)

    def image_of(self, name: str) -> str:
        """The package with the kernel that a package such as linux-image-armmp stands for."""
        for line in self._run("apt-cache", "depends", name).splitlines():
            if "linux-image-" in line and ":" in line:
                return line.partition(":")[2].strip()
        raise BoardError(f"{name} stands for no kernel")

    def release(self) -> str:
        (text,) = (path.read_text() for path in (self._folder / "lists").glob("*InRelease"))
        fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
        return f"{fields['Version']} {fields['Codename']}, {fields['Date']}"

    def _uris(self, *command: str) -> dict[str, _Entry]:
        found = {}
        for line in self._run(*command).splitlines():
            uri, file, size, digest = line.split()
            name, version, _ = urllib.parse.unquote(file).rsplit("_", 2)
            path = urllib.parse.unquote(uri.strip("'")).removeprefix(self._source + "/")
            found[path] = (name, version, int(size), digest.removeprefix("SHA256:"))
        return found

    def _run(self, *command: str) -> str:
        environment = {**os.environ, "APT_CONFIG": str(self._folder / "apt.conf"), "LC_ALL": "C"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise BoardError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout


def _write(lock: Lock, folder: Path) -> None:
    lines = (f"{p.kind} {p.name} {p.version} {p.size_bytes} {p.sha256} {p.path}\n" for p in lock.packages)
    (folder / f"{lock.architecture}.lock").write_text(f"# Debian {lock.release}\n" + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    for each in sys.argv[1:] or dict.fromkeys((*HOSTS, *KERNELS)):
        _write(resolve(each), LOCKS)

"""The kernel of an image and its initramfs: modules in the order in which they depend on each other, and a newc cpio of our own."""

import gzip
import lzma
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from boards.errors import BoardError

__all__ = ["cpio", "initramfs", "kernel", "modules"]


def kernel(root: Path) -> Path:
    """The one kernel below a folder with an unpacked kernel package. Raises BoardError."""
    found = sorted(root.glob("boot/vmlinu[xz]-*"))
    if len(found) != 1:
        raise BoardError(f"{root} holds {len(found)} kernels instead of one")
    return found[0]


def modules(root: Path, names: Sequence[str]) -> list[tuple[str, bytes]]:
    """The modules that are named and what they need, those first: names and uncompressed files, without what is in the kernel.

    Raises BoardError for one that the kernel does not have.
    """
    (base,) = root.glob("usr/lib/modules/*")
    files = {_plain(path): path for path in base.rglob("*.ko*")}
    built_in = {_plain(Path(line)) for line in (base / "modules.builtin").read_text().splitlines()}
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in found or (name in built_in and name not in files):
            return
        if name not in files:
            raise BoardError(f"the kernel in {base.name} has no module {name}")
        content = _content(files[name])
        for needed in _needs(content):
            add(needed)
        found[name] = content

    for each in names:
        add(each)
    return list(found.items())


def _plain(path: Path) -> str:
    return path.name.partition(".")[0].replace("-", "_")


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


def _needs(module: bytes) -> list[str]:
    """What .modinfo says of dependencies: hard ones, and those wanted before ("softdep=pre: …")."""
    wanted: list[str] = []
    for entry in module.split(b"\0"):
        if entry.startswith(b"depends="):
            wanted += entry[8:].decode().split(",")
    return [each.replace("-", "_") for each in wanted if each]


def cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """An archive of (name, mode, content), "newc" (Linux: Documentation/driver-api/early-userspace/buffer-format.rst)."""
    out = bytearray()
    for number, (name, mode, content) in enumerate((*entries, ("TRAILER!!!", 0, b"")), 1):
        words = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % each for each in words) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + content
        out += bytes(-len(out) % 4)
    return bytes(out)


def initramfs(busybox: bytes, init: bytes, settings: str, drivers: Sequence[tuple[str, bytes]]) -> bytes:
    """The initramfs, compressed; the same bytes for the same parts."""
    folders = [(name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "dev", "proc", "sys", "modules")]
    files = [
        ("bin/busybox", stat.S_IFREG | 0o755, busybox),
        ("init", stat.S_IFREG | 0o755, init),
        ("image.conf", stat.S_IFREG | 0o644, settings.encode()),
        ("modules/order", stat.S_IFREG | 0o644, "".join(f"{name}.ko\n" for name, _ in drivers).encode()),
        *((f"modules/{name}.ko", stat.S_IFREG | 0o644, content) for name, content in drivers),
    ]
    return gzip.compress(cpio([*folders, *files]), 6, mtime=0)

"""Writing an image onto a card: only onto a disk that nothing uses, and read back afterwards.

What speaks against a disk is found in /sys and /proc: it is mounted, the system runs from it, it is built in, it is too small, it
is read-only. Each of the first three can be overruled by name, no other.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from boards.errors import BoardError

__all__ = ["OBJECTIONS", "Disk", "check_image", "find_disk", "write_image"]

# Objections to a disk that the user may overrule.
OBJECTIONS = ("mounted", "system", "fixed")
BLOCK_BYTES = 4 << 20
SECTOR = 512
_BLKRRPART, _BLKFLSBUF = 0x125F, 0x1261  # linux/fs.h
_SYSTEM_MOUNTS = ("/", "/boot", "/boot/efi", "/boot/firmware", "/usr", "/var", "/home")


@dataclass(frozen=True)
class Disk:
    """A whole disk. `objections` says why it is not to be written to: the kind, and a sentence."""

    path: Path
    model: str
    size_bytes: int
    objections: tuple[tuple[str, str], ...]

    @property
    def title(self) -> str:
        """For a person who is asked."""
        return f"{self.path}: {self.model or 'no model named'}, {self.size_bytes / 1e9:.1f} GB"

    def check(self, size_bytes: int, even_if: Collection[str] = ()) -> None:
        """Raises BoardError when an image of this size must not be written to it."""
        for kind, why in self.objections:
            if kind not in even_if:
                how = f"; --even-if {kind} overrules this" if kind in OBJECTIONS else ""
                raise BoardError(f"{self.path} is refused: {why}{how}")
        if size_bytes > self.size_bytes:
            raise BoardError(f"{self.path} has {self.size_bytes} bytes, the image {size_bytes}")


def find_disk(path: Path, system: Path = Path("/")) -> Disk:
    """What is known about a disk. `system` is where /sys and /proc are. Raises BoardError for what is no whole disk."""
    real = path.resolve()
    if not real.is_block_device():
        raise BoardError(f"{path} is not a disk" if real.exists() else f"{path}: there is no such disk")
    entry = system / "sys/class/block" / real.name
    if (entry / "partition").exists():
        raise BoardError(f"{path} is a partition: name the whole disk, {real.parent / entry.resolve().parent.name}")
    numbers = {_text(part / "dev") for part in (entry, *entry.glob(f"{real.name}*")) if (part / "dev").exists()}
    objections = [*_uses(numbers, system), *_holders(entry)]
    if _text(entry / "ro") == "1":
        objections.append(("read-only", "it is read-only"))
    if not _removable(entry):
        objections.append(("fixed", "it is built in, neither a card nor on USB"))
    model = " ".join(filter(None, (_text(entry / "device" / name) for name in ("vendor", "model", "name"))))
    backing = _text(entry / "loop/backing_file")
    return Disk(
        path, model or (f"loop device over {backing}" if backing else ""), int(_text(entry / "size")) * SECTOR, tuple(objections)
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _uses(numbers: set[str], system: Path) -> list[tuple[str, str]]:
    found = []
    for line in _text(system / "proc/self/mountinfo").splitlines():
        fields, source = line.split(), line.partition(" - ")[2].split()[1:2]
        if not numbers.isdisjoint((fields[2], *map(_number, source))):
            where = fields[4]
            kind = "system" if where in _SYSTEM_MOUNTS else "mounted"
            found.append((kind, f"the system runs from it ({where})" if kind == "system" else f"it is mounted on {where}"))
    swaps = [line.split()[0] for line in _text(system / "proc/swaps").splitlines()[1:]]
    found += [("system", "the system swaps to it") for each in swaps if _number(each) in numbers]
    return sorted(found, key=lambda each: each[0] != "system")


def _number(device: str) -> str:
    """Of a device by its file's name, "" for what is none. File systems such as btrfs have numbers of their own in mountinfo."""
    try:
        found = Path(device).stat().st_rdev
    except OSError:
        return ""
    return f"{os.major(found)}:{os.minor(found)}"


def _holders(entry: Path) -> list[tuple[str, str]]:
    """Disks that are made of this one: LVM, RAID, encryption."""
    names = sorted(each.name for each in (*entry.glob("holders/*"), *entry.glob(f"{entry.name}*/holders/*")))
    return [("mounted", f"it is part of {', '.join(names)}")] if names else []


def _removable(entry: Path) -> bool:
    """A card, a disk on USB, or a loop device, which is nothing but a file."""
    real = str(entry.resolve())
    if _text(entry / "removable") == "1" or "/usb" in real or entry.name.startswith("loop"):
        return True
    return _text(entry / "device/type") == "SD"  # a card in a built-in reader; eMMC says MMC


def check_image(image: Path) -> None:
    """Raises BoardError for a file that is no image of a disk: without a partition table nothing would boot from it."""
    try:
        with image.open("rb") as file:
            first = file.read(SECTOR)
    except OSError as error:
        raise BoardError(f"{image}: {error.strerror}") from error
    if len(first) < SECTOR or first[510:] != b"\x55\xaa":
        raise BoardError(f"{image} is no image of a disk: it has no partition table")


def write_image(image: Path, disk: Disk, progress: Callable[[str, int], None] = lambda *_: None) -> str:
    """Writes an image, the first sector last so that half an image does not boot, and reads it back; returns its SHA-256.

    `progress` is called with "writing" or "comparing" and how many more bytes are done. Raises BoardError.
    """
    size = image.stat().st_size
    try:
        descriptor = os.open(disk.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)  # O_EXCL: fails while the kernel uses it
    except OSError as error:
        raise BoardError(f"{disk.path}: {error.strerror}") from error
    try:
        with image.open("rb") as source:
            wanted = _write(source.fileno(), descriptor, size, progress)
        found = _read_back(descriptor, size, progress)
        if found != wanted:
            raise BoardError(f"{disk.path} does not give back what was written: it is worn out, or less than it says it is")
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, _BLKRRPART)
    except OSError as error:
        raise BoardError(f"{disk.path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return wanted


def _write(source: int, target: int, size: int, progress: Callable[[str, int], None]) -> str:
    digest = hashlib.sha256()
    first = b""
    for at in range(0, size, BLOCK_BYTES):
        block = os.pread(source, BLOCK_BYTES, at)
        digest.update(block)
        if at == 0:
            first, block = block[:SECTOR], bytes(SECTOR) + block[SECTOR:]
        _write_all(target, block, at)
        progress("writing", len(block))
    os.fsync(target)
    _write_all(target, first, 0)
    os.fsync(target)
    return digest.hexdigest()


def _write_all(target: int, block: bytes, at: int) -> None:
    view = memoryview(block)
    while view:
        done = os.pwrite(target, view, at)
        view, at = view[done:], at + done


def _read_back(target: int, size: int, progress: Callable[[str, int], None]) -> str:
    with contextlib.suppress(OSError):
        fcntl.ioctl(target, _BLKFLSBUF)  # from the disk itself, not from memory
    os.posix_fadvise(target, 0, 0, os.POSIX_FADV_DONTNEED)
    digest = hashlib.sha256()
    for at in range(0, size, BLOCK_BYTES):
        block = os.pread(target, min(BLOCK_BYTES, size - at), at)
        digest.update(block)
        progress("comparing", len(block))
    return digest.hexdigest()

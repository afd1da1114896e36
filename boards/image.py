"""Bootable images out of locked packages, without root, the same bytes each time.

A disk of three partitions: boot (FAT: kernel, initramfs, extlinux.conf, the board's settings), root (squashfs, read-only: Debian's
Python, the agent, the factory module), and data, which the first boot makes as large as the card is.
"""

import hashlib
import json
import os
import shutil
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from boards.definition import Board
from boards.errors import BoardError
from boards.kernel import initramfs, kernel, modules
from boards.packages import Lock, Package, fetch, load_lock
from boards.rootfs import host_tools, tool, unpack

__all__ = ["Built", "build_image", "check_parts", "kernel_command_line", "precompile", "settings_tar"]

SYSTEM = Path(__file__).with_name("system")
EPOCH_S = 1735689600  # of every file: 2025-01-01
SECTOR = 512
BOOT_START, BOOT_SECTORS = 2048, 96 << 11
FORMAT_MARK, MARK_SECTOR = b"wamr-ota-format", BOOT_START - 1  # has boards/system/data format the data partition, once
FORGET_BYTES = 1 << 20  # of what a card held before: its file system may have the label that ours gets
OURS = ("pywamr/", "ota/", "device_agent/", "boards/__init__.py", "boards/onboard/versions.py")
NOT_ON_BOARDS = ("ota/__main__.py", "ota/cli/", "ota/demo/")


@dataclass(frozen=True)
class Built:
    """An image, and what goes with it: kernel, initramfs and device tree for an emulator, what is inside (SPDX 2.3, JSON)."""

    image: Path
    kernel: Path
    initramfs: Path
    device_tree: Path | None  # where the firmware has none
    command_line: str
    spdx: Path
    size_bytes: int


def build_image(
    board: Board,
    wheel: Path,
    out: Path,
    cache: Path,
    *,
    settings: Path | None = None,
    factory: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Built:
    """Writes `out`, and beside it `.kernel`, `.initramfs`, `.spdx.json`, and `.dtb` where there is a device tree.

    `settings` is a folder (agent.toml, the root of trust, …) for the boot partition; `factory` what `ota build` made, which goes
    to /usr/lib/wamr-ota-factory. Raises BoardError.
    """
    if board.image is None:
        raise BoardError(f"no image can be built for {board.name}: flash the agent onto the Linux that it has (`ota flash`)")
    before = os.umask(0o022)  # modes are a part of the image
    try:
        return _build(board, wheel, out, cache, settings=settings, factory=factory, progress=progress)
    finally:
        os.umask(before)


def _build(
    board: Board,
    wheel: Path,
    out: Path,
    cache: Path,
    *,
    settings: Path | None,
    factory: Path | None,
    progress: Callable[[str], None],
) -> Built:
    assert board.image is not None  # build_image refused it
    lock = load_lock(board.debian)
    tools = host_tools(cache)
    packages = lock.select(["agent", "system", board.image.kernel]) + _firmware_packages(board, lock)
    progress(f"{len(packages)} packages of Debian {lock.release.split(',')[0]}")
    debs = fetch(packages, cache / "packages", lambda name, at, of: progress(f"downloading {name} ({at} of {of})"))
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        work = Path(temporary)
        progress("unpacking")
        (work / "kernel").mkdir()
        is_kernel = {each.name for each in packages if each.kind in (board.image.kernel, "firmware")}
        unpack([debs[name] for name in is_kernel], work / "kernel" / "tree")
        root = work / "root"
        unpack([file for name, file in debs.items() if name not in is_kernel], root)
        _furnish(root, wheel, factory)
        progress("compiling Python")
        precompile(tools, root)
        progress("packing the root file system")
        squashfs = work / "root.squashfs"
        when = ("-mkfs-time", str(EPOCH_S), "-all-time", str(EPOCH_S))
        tool(tools, "mksquashfs", root, squashfs, "-comp", "zstd", "-all-root", "-quiet", "-no-progress", "-no-xattrs", *when)
        return _assemble(board, work, root, squashfs, out, tools, settings, _spdx(board, packages, wheel))


def _firmware_packages(board: Board, lock: Lock) -> tuple[Package, ...]:
    """The packages that may hold what a board's processor loads before Linux."""
    assert board.image is not None  # build_image refused it
    return lock.select(["firmware"]) if board.image.boot_loader or board.image.boot_files else ()


def _boot_loader(board: Board, tree: Path) -> bytes:
    assert board.image is not None
    if not board.image.boot_loader:
        return b""
    path = tree / board.image.boot_loader
    if not path.is_file() or path.stat().st_size + board.image.boot_loader_at > MARK_SECTOR * SECTOR:
        raise BoardError(f"{board.image.boot_loader} is in no locked package, or too long for the room before the first partition")
    return path.read_bytes()


def _device_trees(board: Board, tree: Path) -> dict[str, bytes]:
    assert board.image is not None
    trees = {}
    for name in board.image.device_trees:
        found = sorted(tree.glob(f"usr/lib/linux-image-*/**/{name}"))
        if len(found) != 1:
            raise BoardError(f"the kernel's package holds {len(found)} files {name} instead of one")
        trees[name] = found[0].read_bytes()
    return trees


def _boot_files(board: Board, tree: Path) -> dict[str, bytes]:
    """The files that the processor's firmware reads from the boot partition, and its configuration."""
    assert board.image is not None
    files = {}
    for name in board.image.boot_files:
        if not (tree / name).is_file():
            raise BoardError(f"{name} is in no locked package")
        files[name.rpartition("/")[2]] = (tree / name).read_bytes()
    if board.boot.loader == "raspberry-pi":
        one = f"device_tree={board.image.device_trees[0]}\n" if len(board.image.device_trees) == 1 else ""
        files["config.txt"] = (RASPBERRY_PI + one).encode()
        files["cmdline.txt"] = kernel_command_line(board).encode() + b"\n"
    return files


# https://www.raspberrypi.com/documentation/computers/config_txt.html
RASPBERRY_PI = """arm_64bit=1
enable_uart=1
upstream_kernel=1
kernel=vmlinuz
initramfs initrd.gz followkernel
"""


def _furnish(root: Path, wheel: Path, factory: Path | None) -> None:
    """What Debian's packages do not bring: ours, and what their scripts would have made."""
    ours = root / "usr/lib/wamr-ota"
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith(OURS) and not name.startswith(NOT_ON_BOARDS):
                archive.extract(name, ours)
    (ours / "version").write_text(f"{wheel.name.split('-')[1]}+image\n")
    if factory is not None:
        shutil.copytree(factory, root / "usr/lib/wamr-ota-factory")
    system = root / "usr/lib/wamr-ota-system"
    system.mkdir()
    scripts = [SYSTEM / name for name in ("boot", "data", "agent", "name", "console", "shell", "network", "dhcp", "clock")]
    for script in (*scripts, SYSTEM.with_name("onboard") / "launch"):
        (system / script.name).write_bytes(script.read_bytes())
        (system / script.name).chmod(0o755)
    for name in ("dev", "proc", "sys", "run", "tmp", "data", "boot", "root", "etc"):
        (root / name).mkdir(exist_ok=True)
    (root / "etc/inittab").write_bytes((SYSTEM / "inittab").read_bytes())
    (root / "etc/passwd").write_text("root:x:0:0:root:/data/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (root / "etc/shadow").write_text("root:*:20000:0:99999:7:::\n")
    (root / "etc/shadow").chmod(0o600)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    (root / "etc/dropbear").symlink_to("/data/dropbear")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").symlink_to("/run/resolv.conf")
    shutil.rmtree(root / "var", ignore_errors=True)
    (root / "var/lib").mkdir(parents=True)
    (root / "var/lib/wamr-ota").symlink_to("/data/wamr-ota")
    busybox = next(path for path in (root / "usr/bin/busybox", root / "bin/busybox") if path.exists())
    (root / "usr/sbin/init").symlink_to(f"../bin/{busybox.name}")
    for name in _APPLETS.split():
        for folder in ("bin", "sbin"):
            if (root / "usr" / folder / name).exists():
                break
        else:
            (root / "usr/bin" / name).symlink_to("busybox")


# What of busybox the scripts in boards/system and a person on the console need.
_APPLETS = (
    "[ ash awk basename cat chmod chown clear cp cut date dd df dirname dmesg du echo env expr false find free grep "
    "getty gunzip gzip head hexdump hostname id ifconfig ip kill killall ln logger ls md5sum mkdir mknod more mount mv nc "
    "nproc od ping poweroff printf ps pwd readlink realpath reboot rm rmdir sed seq setsid sh sha256sum sleep sort stat "
    "stty sync tail tar tee test time top touch tr true tty udhcpc umount uname uniq uptime vi wc which xargs yes zcat "
    "halt base64 uevent"
)


def precompile(tools: Path, root: Path) -> None:
    """Debian ships no .pyc. The same minor version of Python makes them, as if the root were at /."""
    folders = [path for path in (*root.glob("usr/lib/python3*"), root / "usr/lib/wamr-ota") if path.is_dir()]
    where = ["-s", str(root), "-p", "/"]
    home = {"PYTHONHOME": str(tools / "usr"), "PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": str(EPOCH_S)}
    flags = ["-S", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", *where]
    tool(tools, "python3.13", *flags, *map(str, sorted(folders)), environment=home)


def kernel_command_line(board: Board) -> str:
    """The kernel command line of an image."""
    return f"console={board.serial.device},{board.serial.baud_rate} quiet panic=5"


def check_parts(settings: Path | None, factory: Path | None) -> None:
    """Whether what goes onto a card is what belongs there: a card is read by whoever holds it. Raises BoardError."""
    if settings is not None:
        if not (settings / "agent.toml").is_file():
            raise BoardError(f"{settings} has no agent.toml: `ota settings` makes a board's settings")
        for path in sorted(settings.rglob("*.pem")):
            if b"PRIVATE KEY" in path.read_bytes():
                raise BoardError(f"{path} is a private key of the operator's: it does not go onto a card")
    if factory is not None and not (factory / "manifest.suit").is_file():
        raise BoardError(f"{factory} has no manifest.suit: `ota build` makes what a board begins with")


def settings_tar(folder: Path) -> bytes:
    """A board's settings as the first boot takes them: a tar file of a folder, the same bytes for the same files."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            entry = archive.gettarinfo(path, str(path.relative_to(folder)))
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = EPOCH_S, 0, 0, "", ""
            entry.mode = 0o700 if path.is_dir() else 0o600
            if path.is_file():
                with path.open("rb") as content:
                    archive.addfile(entry, content)
            else:
                archive.addfile(entry)
    return buffer.getvalue()


def _assemble(
    board: Board,
    work: Path,
    root: Path,
    squashfs: Path,
    out: Path,
    tools: Path,
    settings: Path | None,
    inside: bytes,
) -> Built:
    assert board.image is not None  # build_image refused it
    root_start = BOOT_START + BOOT_SECTORS
    root_sectors = -(-squashfs.stat().st_size // SECTOR)
    data_start = -(-(root_start + root_sectors) // 2048) * 2048
    linux = kernel(work / "kernel" / "tree")
    drivers = modules(work / "kernel" / "tree", board.image.modules)
    init = (SYSTEM / "init").read_bytes()
    digest = hashlib.sha256(squashfs.read_bytes() + init + b"".join(content for _, content in drivers)).digest()
    conf = f"SIGNATURE={digest[:4].hex()}\nROOT_START={root_start}\nROOT_SECTORS={root_sectors}\nDATA_START={data_start}\n"
    memory = initramfs((root / "usr/bin/busybox").read_bytes(), init, conf, drivers)
    command_line = kernel_command_line(board)
    tree = work / "kernel" / "tree"
    trees = _device_trees(board, tree)
    files = {"vmlinuz": linux.read_bytes(), "initrd.gz": memory, **trees, **_boot_files(board, tree)}
    if board.boot.loader != "raspberry-pi":
        files["extlinux/extlinux.conf"] = _extlinux(command_line, list(trees))
    if settings is not None:
        files["config.tar"] = settings_tar(settings)
    boot = _boot_partition(work, tools, files)
    loader = _boot_loader(board, tree)
    unfinished = out.with_name(out.name + ".part")
    with unfinished.open("wb") as disk:
        disk.write(_partition_table(digest[:4], ((BOOT_START, BOOT_SECTORS, 0x0C), (root_start, root_sectors, 0x83))))
        if loader:
            disk.seek(board.image.boot_loader_at)
            disk.write(loader)
        disk.seek(MARK_SECTOR * SECTOR)
        disk.write(FORMAT_MARK)
        disk.seek(BOOT_START * SECTOR)
        disk.write(boot)
        disk.seek(root_start * SECTOR)
        disk.write(squashfs.read_bytes())
        disk.truncate(data_start * SECTOR + FORGET_BYTES)
        disk.flush()
        os.fsync(disk.fileno())
    unfinished.replace(out)
    contents = {"kernel": linux.read_bytes(), "initramfs": memory, "spdx.json": inside}
    if trees:
        contents["dtb"] = next(iter(trees.values()))
    beside = {suffix: Path(f"{out}.{suffix}") for suffix in contents}
    for suffix, content in contents.items():
        beside[suffix].write_bytes(content)
    size = out.stat().st_size
    return Built(out, beside["kernel"], beside["initramfs"], beside.get("dtb"), command_line, beside["spdx.json"], size)


def _partition_table(signature: bytes, partitions: Sequence[tuple[int, int, int]]) -> bytes:
    """A master boot record: start and size in sectors and kind of each partition; no cylinders, heads, sectors."""
    nowhere = b"\xfe\xff\xff"
    entries = b"".join(
        struct.pack("<B3sB3sII", 0x80 if kind == 0x0C else 0, nowhere, kind, nowhere, start, count)
        for start, count, kind in partitions
    )
    return bytes(440) + signature + bytes(2) + entries.ljust(64, b"\0") + b"\x55\xaa"


def _extlinux(command_line: str, trees: Sequence[str]) -> bytes:
    """What U-Boot reads."""
    entry = f"default linux\nlabel linux\n  kernel /vmlinuz\n  initrd /initrd.gz\n  append {command_line}\n"
    return (entry + "".join(f"  fdt /{each}\n" for each in trees[:1])).encode()


def _boot_partition(work: Path, tools: Path, files: Mapping[str, bytes]) -> bytes:
    folder, fat = work / "boot", work / "boot.fat"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (EPOCH_S, EPOCH_S))
    with fat.open("wb") as file:
        file.truncate(BOOT_SECTORS * SECTOR)
    environment = {"MTOOLS_SKIP_CHECK": "1", "TZ": "UTC", "SOURCE_DATE_EPOCH": str(EPOCH_S), "MTOOLSRC": "/dev/null"}
    serial = hashlib.sha256(files["vmlinuz"]).hexdigest()[:8]
    tool(tools, "mformat", "-i", fat, "-F", "-N", serial, "-v", "WAMR-BOOT", "-T", str(BOOT_SECTORS), "::", environment=environment)
    for path in sorted(folder.iterdir()):
        tool(tools, "mcopy", "-i", fat, "-s", "-m", path, "::", environment=environment)
    return fat.read_bytes()


def _spdx(board: Board, packages: Sequence[Package], wheel: Path) -> bytes:
    """What is inside, as SPDX 2.3: Debian's packages, and ours, which has WAMR in it."""
    version, digest = wheel.name.split("-")[1], hashlib.sha256(wheel.read_bytes()).hexdigest()
    ours = {
        "SPDXID": "SPDXRef-0",
        "name": "wamr-ota",
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "checksums": [{"algorithm": "SHA256", "checksumValue": digest}],
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": f"pkg:pypi/wamr-ota@{version}"}
        ],
    }
    listed = [ours] + [
        {
            "SPDXID": f"SPDXRef-{index}",
            "name": each.name,
            "versionInfo": each.version,
            "downloadLocation": "NOASSERTION",
            "checksums": [{"algorithm": "SHA256", "checksumValue": each.sha256}],
            "externalRefs": [
                {
                    "referenceCategory": "PACKAGE-MANAGER",
                    "referenceType": "purl",
                    "referenceLocator": f"pkg:deb/debian/{each.name}@{each.version}?arch={board.debian}",
                }
            ],
        }
        for index, each in enumerate(packages, 1)
    ]
    content = digest + "".join(each.sha256 for each in packages)
    value = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"wamr-ota image for {board.name}",
        "documentNamespace": f"urn:wamr-ota:{board.name}:{hashlib.sha256(content.encode()).hexdigest()}",
        "creationInfo": {"created": "2025-01-01T00:00:00Z", "creators": ["Tool: ota image build"]},
        "packages": listed,
        "relationships": [
            {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": each["SPDXID"]}
            for each in listed
        ],
    }
    return json.dumps(value, indent=1).encode()

"""An ordinary Debian with systemd and a login prompt, emulated, that has never seen the agent: what flashing is tested on."""

import functools
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

from boards.kernel import initramfs, kernel, modules
from boards.packages import load_lock
from boards.rootfs import unpacked
from qemu.board import CACHE, EmulatedBoard

PASSWORD = "flash-me"
_HASH = "$6$wamrota$jB7yqqsEHiWisHl6Z/V8zsljenRJ7J5fAfyrjEB4kIyM6TpVryy2bBJvszb08SWZydMmtDKVDocri/GhZnmqJ/"
_INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev && mount -t proc proc /proc && mount -t sysfs sys /sys
for module in $(cat /modules/order); do insmod "/modules/$module" 2>/dev/null; done
mkdir -p /root
until disk=$(findfs LABEL=guest 2>/dev/null); do sleep 0.1; done
mount -t ext4 "$disk" /root
umount /proc /sys && mount --move /dev /root/dev
exec switch_root /root /sbin/init
"""
_PAM = {"auth": "auth required pam_unix.so", "account": "account required pam_unix.so", "session": "session required pam_unix.so"}
_PAM |= {"password": "password required pam_unix.so", "session-noninteractive": "session required pam_unix.so"}
_NETWORK = "[Match]\nType=ether\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"
ARCHITECTURES = ("aarch64", "armv7", "riscv64")


class Guest(EmulatedBoard):
    """The emulated machine of a board's definition, with this Debian on its disk."""

    def __init__(self, architecture: str, folder: Path) -> None:
        super().__init__(f"qemu-{architecture}", folder)

    def make(self) -> None:
        """A new disk for it."""
        built = _built(self.board.name)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.tar").write_bytes(bytes(10240))
        (self.folder / "image.json").write_text(json.dumps(built))
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", built["image"], "-F", "raw", str(self.folder / "disk.qcow2")]
        subprocess.run(create, check=True)


@functools.cache
def _built(name: str) -> dict[str, str]:
    board = EmulatedBoard(name, Path()).board
    lock = load_lock(board.debian)
    packages = lock.select(["guest", "kernel"]) + tuple(
        each
        for each in lock.select(["agent"])
        if not each.name.startswith(("python3-", "busybox")) or each.name == "python3-minimal"
    )
    digest = hashlib.sha256(Path(__file__).read_bytes() + "".join(each.sha256 for each in packages).encode()).hexdigest()[:16]
    folder = CACHE / "guests" / f"{board.debian}-{digest}"
    made = {
        "image": str(folder / "disk.img"),
        "kernel": str(folder / "kernel"),
        "initramfs": str(folder / "initramfs"),
        "command_line": f"console={board.serial.device},{board.serial.baud_rate} quiet",
    }
    if (folder / "done").exists():
        return made
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    system = unpacked([each for each in packages if each.kind != "kernel"], CACHE / "packages", folder / "root")
    linux = unpacked(lock.select(["kernel"]), CACHE / "packages", folder / "linux")
    busybox = unpacked(
        [each for each in lock.select(["agent"]) if each.name == "busybox-static"], CACHE / "packages", folder / "busybox"
    )
    _furnish(system)
    drivers = modules(linux, board.image.modules)
    (folder / "kernel").write_bytes(kernel(linux).read_bytes())
    (folder / "initramfs").write_bytes(initramfs((busybox / "usr/bin/busybox").read_bytes(), _INIT.encode(), "", drivers))
    with (folder / "disk.img").open("wb") as disk:
        disk.truncate(512 << 20)
    (system / ".made-of").unlink()
    make = ["mkfs.ext4", "-q", "-F", "-L", "guest", "-E", "root_owner=0:0", "-d", str(system), str(folder / "disk.img")]
    subprocess.run(make, check=True)
    for each in ("root", "linux", "busybox"):
        shutil.rmtree(folder / each)
    (folder / "done").touch()
    return made


def _furnish(root: Path) -> None:
    """What the scripts of its packages would have made."""
    etc = root / "etc"
    for name in ("passwd", "group"):
        (etc / name).write_bytes((root / f"usr/share/base-passwd/{name}.master").read_bytes())
    (etc / "passwd").write_text((etc / "passwd").read_text().replace("root:*:", "root:x:"))
    (etc / "shadow").write_text(f"root:{_HASH}:20000:0:99999:7:::\n")
    (etc / "shadow").chmod(0o640)
    for name, text in _PAM.items():
        (etc / f"pam.d/common-{name}").write_text(text + "\n")
    (etc / "hostname").write_text("guest\n")
    (etc / "hosts").write_text("127.0.0.1 localhost guest\n")
    (etc / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (etc / "fstab").touch()
    (etc / "systemd/network").mkdir(parents=True, exist_ok=True)
    (etc / "systemd/network/80-eth.network").write_text(_NETWORK)
    wanted = etc / "systemd/system/multi-user.target.wants"
    wanted.mkdir(parents=True, exist_ok=True)
    (wanted / "systemd-networkd.service").symlink_to("/usr/lib/systemd/system/systemd-networkd.service")
    (etc / "systemd/system/default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    for name in ("root", "tmp", "proc", "sys", "dev", "run", "var/tmp", "var/lib", "var/log", "mnt"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)

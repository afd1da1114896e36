"""Emulated Linux systems with a login prompt that have never seen the agent: what flashing is tested on.

Either an ordinary Debian with systemd, whose Python lacks all that the agent imports, or a small system that is started from
/etc/inittab, by busybox, and has Debian's packages.
"""

import functools
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

from boards.definition import Board
from boards.image import precompile
from boards.kernel import initramfs, kernel, modules
from boards.packages import Lock, Package, load_lock
from boards.rootfs import host_tools, unpacked
from qemu.board import CACHE, EmulatedBoard
from tests.support.cache import locked

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


class Guest(EmulatedBoard):
    """The emulated machine of a board's definition, with this Debian on its disk."""

    def __init__(self, architecture: str, folder: Path, *, systemd: bool) -> None:
        super().__init__(f"qemu-{architecture}", folder)
        self._systemd = systemd

    def make(self) -> None:
        """A new disk for it."""
        built = _built(self.board.name, self._systemd)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.tar").write_bytes(bytes(10240))
        (self.folder / "image.json").write_text(json.dumps(built))
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", built["image"], "-F", "raw", str(self.folder / "disk.qcow2")]
        subprocess.run(create, check=True)


@functools.cache
def _built(name: str, systemd: bool) -> dict[str, str]:
    board = EmulatedBoard(name, Path()).board
    lock = load_lock(board.debian)
    agent, busybox = lock.select(["agent"]), [each for each in lock.packages if each.name == "busybox-static"]
    if systemd:
        theirs = ("python3-", "busybox")
        packages = [each for each in agent if not each.name.startswith(theirs) or each.name == "python3-minimal"]
        packages += lock.select(["guest"])
    else:
        packages = list(agent)
    digest = hashlib.sha256(Path(__file__).read_bytes() + "".join(each.sha256 for each in packages).encode()).hexdigest()[:16]
    folder = CACHE / "guests" / f"{board.debian}{'-systemd' * systemd}-{digest}"
    made = {
        "image": str(folder / "disk.img"),
        "kernel": str(folder / "kernel"),
        "initramfs": str(folder / "initramfs"),
        "command_line": f"console={board.serial.device},{board.serial.baud_rate} quiet",
    }
    with locked(folder.name):
        if not (folder / "done").exists():
            _build_disk(board, lock, packages, busybox, folder, systemd=systemd)
    return made


def _build_disk(board: Board, lock: Lock, packages: list[Package], busybox: list[Package], folder: Path, *, systemd: bool) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    system = unpacked(packages, CACHE / "packages", folder / "root")
    linux = unpacked(lock.select(["kernel"]), CACHE / "packages", folder / "linux")
    tools = unpacked(busybox, CACHE / "packages", folder / "busybox") / "usr/bin/busybox"
    precompile(host_tools(CACHE), system)  # as the scripts of Debian's packages do
    _accounts(system)
    (_with_systemd if systemd else _with_inittab)(system, board.serial.device)
    (folder / "kernel").write_bytes(kernel(linux).read_bytes())
    memory = initramfs(tools.read_bytes(), _INIT.encode(), "", modules(linux, board.image.modules))
    (folder / "initramfs").write_bytes(memory)
    with (folder / "disk.img").open("wb") as disk:
        disk.truncate(512 << 20)
    (system / ".made-of").unlink()
    make = ["mkfs.ext4", "-q", "-F", "-L", "guest", "-E", "root_owner=0:0", "-d", str(system), str(folder / "disk.img")]
    subprocess.run(make, check=True)
    for each in ("root", "linux", "busybox"):
        shutil.rmtree(folder / each)
    (folder / "done").touch()


def _accounts(root: Path) -> None:
    etc = root / "etc"
    etc.mkdir(exist_ok=True)
    (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nmessagebus:x:100:100::/:/bin/false\n")
    (etc / "group").write_text("root:x:0:\ntty:x:5:\nmessagebus:x:100:\n")
    (etc / "shadow").write_text(f"root:{_HASH}:20000:0:99999:7:::\n")
    (etc / "shadow").chmod(0o640)
    (etc / "hostname").write_text("guest\n")
    (etc / "hosts").write_text("127.0.0.1 localhost guest\n")
    for name in ("root", "tmp", "proc", "sys", "dev", "run", "var/tmp", "var/lib", "var/log", "mnt"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "srv/roof").mkdir(parents=True)  # for a module, by a policy
    os.chown(root / "srv/roof", 100, 100)


def _with_systemd(root: Path, console: str) -> None:
    """What the scripts of its packages would have made."""
    etc = root / "etc"
    for name, text in _PAM.items():
        (etc / f"pam.d/common-{name}").write_text(text + "\n")
    (etc / "passwd").write_text((etc / "passwd").read_text().replace("/root:/bin/sh", "/root:/bin/bash"))
    (etc / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (etc / "fstab").touch()
    (etc / "systemd/network").mkdir(parents=True, exist_ok=True)
    (etc / "systemd/network/80-eth.network").write_text(_NETWORK)
    wanted = etc / "systemd/system/multi-user.target.wants"
    wanted.mkdir(parents=True, exist_ok=True)
    (wanted / "systemd-networkd.service").symlink_to("/usr/lib/systemd/system/systemd-networkd.service")
    (etc / "systemd/system/default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    for name in ("ldconfig", "systemd-hwdb-update", "systemd-journal-catalog-update"):  # slow, and nothing here needs them
        (etc / f"systemd/system/{name}.service").symlink_to("/dev/null")


_RC = """#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts; mount -t tmpfs shm /dev/shm; mount -t tmpfs run /run
hostname guest; ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2
"""


def _with_inittab(root: Path, console: str) -> None:
    (root / "etc/inittab").write_text(f"::sysinit:/etc/rc\n{console}::respawn:/sbin/getty -L 115200 {console} vt100\n")
    (root / "etc/rc").write_text(_RC)
    (root / "etc/rc").chmod(0o755)
    listed = (
        "sh ash mount mkdir hostname ip cat printf id stty dmesg cut test rm tee base64 gzip sha256sum ls env tail sleep dirname"
    )
    for name in f"{listed} basename readlink kill sync touch expr sed grep chmod ps echo true cp mv awk uname".split():
        if not (root / "usr/bin" / name).exists():
            (root / "usr/bin" / name).symlink_to("busybox")
    for name in ("init", "getty", "login", "poweroff", "reboot"):
        (root / "usr/sbin" / name).symlink_to("../bin/busybox")
    (root / "usr/bin/login").symlink_to("busybox")

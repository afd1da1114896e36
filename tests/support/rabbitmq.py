"""RabbitMQ 4.0 of Debian 13, by lock file, unpacked once; each broker runs in a user namespace of its own, with its own files."""

import contextlib
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from boards.errors import BoardError
from boards.packages import fetch, load_lock
from boards.ports import free_ports
from tests.conftest import ROOT
from tests.support.cache import CACHE, locked

LOCK = ROOT / "tests/brokers/rabbitmq"
START_S = 240
# Everything is read-only but what a broker writes. With its own numbers of processes, all of them end with the first one.
_RUN = """set -e
mount --rbind /dev "$1/dev"
mount -t proc proc "$1/proc"
for each in etc/rabbitmq var/lib/rabbitmq tmp; do mount --bind "$2/$each" "$1/$each"; done
shift 2
exec env -i PATH=/usr/bin:/usr/sbin HOME=/var/lib/rabbitmq HOSTNAME=localhost "$@"
"""


def _system():
    if platform.machine() != "x86_64":
        pytest.skip("RabbitMQ's packages are locked for amd64 alone")
    target = CACHE / "rabbitmq-4.0.5-6"
    with locked("rabbitmq"):
        if not target.exists():
            try:
                files = fetch(load_lock("amd64", LOCK).packages, CACHE / "packages")
            except BoardError as error:
                pytest.skip(f"RabbitMQ can't be had: {error}")
            with tempfile.TemporaryDirectory(dir=CACHE) as folder:
                _unpack(Path(folder) / "system", files.values())
                (Path(folder) / "system").rename(target)
    return target


def _unpack(root, files):
    for each in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / each).mkdir(parents=True)
        (root / each).symlink_to(f"usr/{each}")
    for file in files:
        reading = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(file)], stdout=subprocess.PIPE)
        tar = ["tar", "-x", "-C", str(root), "--no-same-owner", "--keep-directory-symlink", "--exclude=./usr/share/*"]
        subprocess.run(tar, stdin=reading.stdout, check=True)
        reading.stdout.close()
        assert reading.wait() == 0
    for each in ("dev", "proc", "tmp", "etc/rabbitmq", "var/lib/rabbitmq"):
        (root / each).mkdir(parents=True, exist_ok=True)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    busybox = root / "usr/bin/busybox"
    for name in subprocess.run([str(busybox), "--list"], capture_output=True, text=True, check=True).stdout.split():
        if not (root / "usr/bin" / name).exists():
            (root / "usr/bin" / name).symlink_to("busybox")


class RabbitMq:
    """A broker with the files that `ota broker-config rabbitmq --etc /etc/rabbitmq` made. `ports`: ours for those in them."""

    def __init__(self, folder, configuration, ports):
        self.folder, self._system = folder, _system()
        for each in ("var/lib/rabbitmq", "tmp", "etc"):
            (folder / each).mkdir(parents=True)
        configuration.rename(folder / "etc/rabbitmq")
        conf = folder / "etc/rabbitmq/rabbitmq.conf"
        text = conf.read_text()
        for listed, ours in ports.items():
            assert f"0.0.0.0:{listed}" in text
            text = text.replace(f"0.0.0.0:{listed}", f"127.0.0.1:{ours}")
        conf.write_text(text)
        self._process = None

    def log(self):
        return (self.folder / "broker.log").read_text(errors="replace")

    def start(self):
        distribution, names = free_ports(2)
        settings = {
            "RABBITMQ_NODENAME": "test@localhost",
            "RABBITMQ_DIST_PORT": str(distribution),
            "ERL_EPMD_PORT": str(names),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_LOGS": "-",
            "ERL_MAX_PORTS": "4096",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2",
        }
        inside = ["chroot", str(self._system), "/usr/lib/rabbitmq/bin/rabbitmq-server"]
        command = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _RUN, "sh"]
        command += [str(self._system), str(self.folder), *(f"{name}={value}" for name, value in settings.items()), *inside]
        with (self.folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + START_S
        while "Server startup complete" not in self.log():
            if self._process.poll() is not None and not _may_unshare():
                pytest.skip("this machine lets nobody make user namespaces")
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.1)

    def stop(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            with contextlib.suppress(OSError):
                os.sync()


def _may_unshare():
    return subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], check=False).returncode == 0

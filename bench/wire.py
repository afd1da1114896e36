"""A slow, long and lossy wire between two network namespaces: `tc netem` on a veth pair, or, on a kernel without netem, two TUN
devices with a thread between them that delays, holds back and loses packets. Needs root.
"""

import contextlib
import fcntl
import json
import os
import random
import select
import struct
import subprocess
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Self

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
QUEUE_BYTES = 64 << 10  # in front of the wire; then packets are lost, as at any router


@dataclass(frozen=True)
class Quality:
    """One direction is like the other."""

    bytes_per_s: int
    round_trip_s: float
    loss: float  # 0 to 1
    seed: int = 0


def missing() -> str:
    """Why there can be no wire here; empty when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        _run("ip", "netns", "add", "ota-probe")
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network namespaces: {error}"
    _run("ip", "netns", "del", "ota-probe")
    return ""


def has_netem() -> bool:
    """Whether the kernel has the queueing discipline netem."""
    _run("ip", "netns", "add", "ota-probe")
    try:
        done = subprocess.run(
            ["tc", "-n", "ota-probe", "qdisc", "add", "dev", "lo", "root", "netem"], capture_output=True, check=False
        )
    except OSError:
        return False
    finally:
        _run("ip", "netns", "del", "ota-probe")
    return done.returncode == 0


class Wire:
    """Two namespaces, `near` (10.77.0.1) and `far` (10.77.0.2)."""

    near_address, far_address = "10.77.0.1", "10.77.0.2"

    def __init__(self, name: str, quality: Quality, *, netem: bool) -> None:
        self.near, self.far = f"{name}-near", f"{name}-far"
        self._name, self._quality, self._netem = name, quality, netem
        self._ends: list[int] = []
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        for each in (self.near, self.far):
            _run("ip", "netns", "add", each)
            _run("ip", "-n", each, "link", "set", "lo", "up")
        devices = (f"{self._name}-a", f"{self._name}-b")
        if self._netem:
            _run("ip", "link", "add", devices[0], "type", "veth", "peer", "name", devices[1])
        else:
            self._ends = [_tun(each) for each in devices]
        for device, space, address in zip(devices, (self.near, self.far), (self.near_address, self.far_address), strict=True):
            _run("ip", "link", "set", device, "netns", space)
            _run("ip", "-n", space, "address", "add", f"{address}/24", "dev", device)
            _run("ip", "-n", space, "link", "set", device, "up")
            if self._netem:
                self._shape(space, device)
        if not self._netem:
            self._thread = threading.Thread(target=self._carry, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for each in self._ends:
            os.close(each)
        for each in (self.near, self.far):
            with contextlib.suppress(subprocess.CalledProcessError):
                _run("ip", "netns", "del", each)

    def sent_bytes(self) -> int:
        """Bytes of packets that were put on the wire at both ends, lost ones too."""
        total = 0
        for space, device in ((self.near, f"{self._name}-a"), (self.far, f"{self._name}-b")):
            shown = json.loads(_run("ip", "-n", space, "-j", "-s", "link", "show", device))
            total += int(shown[0]["stats64"]["tx"]["bytes"])
        return total

    def _shape(self, space: str, device: str) -> None:
        quality = self._quality
        packets = str(QUEUE_BYTES // 1500 + int(quality.bytes_per_s * quality.round_trip_s) // 1500)
        _run(
            *("tc", "-n", space, "qdisc", "add", "dev", device, "root", "netem", "limit", packets),
            *("rate", f"{quality.bytes_per_s * 8}bit", "delay", f"{quality.round_trip_s / 2 * 1000:.0f}ms"),
            *(("loss", f"{quality.loss * 100:g}%") if quality.loss else ()),
        )

    def _carry(self) -> None:
        """Both directions: a packet leaves when the wire has sent those before it, and arrives half a round trip later."""
        chance = [random.Random(self._quality.seed + way) for way in (0, 1)]
        free_s = [0.0, 0.0]
        under_way: list[deque[tuple[float, bytes]]] = [deque(), deque()]
        while not self._stop.is_set():
            now = time.monotonic()
            for way in (0, 1):
                while under_way[way] and under_way[way][0][0] <= now:
                    with contextlib.suppress(OSError):
                        os.write(self._ends[1 - way], under_way[way].popleft()[1])
            due = [queue[0][0] for queue in under_way if queue]
            readable, _, _ = select.select(self._ends, [], [], min(0.1, max(0.0, min(due, default=now + 0.1) - now)))
            for end in readable:
                way = self._ends.index(end)
                packet = os.read(end, 65536)
                now = time.monotonic()
                queued = (free_s[way] - now) * self._quality.bytes_per_s
                if queued > QUEUE_BYTES or chance[way].random() < self._quality.loss:
                    continue
                free_s[way] = max(now, free_s[way]) + len(packet) / self._quality.bytes_per_s
                under_way[way].append((free_s[way] + self._quality.round_trip_s / 2, packet))


def _tun(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return descriptor


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

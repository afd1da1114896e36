"""Runs on the board while it is flashed: `python3 helper.py VERB …`, sent over the console to a board with Python 3.11 or newer.

Prints one line of JSON, base64 between two colons so that a message of the kernel on the same console cannot pass for a part of it.
Every step can be cut off anywhere and done again. What lies where: boards/onboard/versions.py, which is sent beside it.
"""

import base64
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import pathlib
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import tty
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

from boards.onboard.versions import Answer, alone, extract, pointer, probe, python, say, sync, unpack, write
from boards.onboard.versions import begin as put_on_trial

AGAIN_S = 0.3
CONFIRM_S = 60.0
INSTALLING_S = 10.0  # between words to the flasher
IDLE_S = 20.0  # without a frame: the cable was pulled
FRAME = b"\x02WO"
HEAD = struct.Struct(">3sIHI")
GOODBYE = FRAME + bytes(10)
CHUNK_BYTES = 4096
NEEDED = {"paho.mqtt": "paho-mqtt", "cbor2": "cbor2", "cryptography": "cryptography", "serial": "pyserial", "gpiod": "gpiod"}
STANDARD = ("asyncio", "_ctypes", "multiprocessing", "_sqlite3", "_ssl", "tarfile")
PID = pathlib.Path("/run/wamr-ota/pid")
IMAGE = pathlib.Path("/usr/lib/wamr-ota-system")  # a system that `ota image build` made
LIMIT_BYTES = 256 << 20


def facts(base: str, config: str) -> Answer:
    """What a flasher wants to know before it changes anything."""
    home = there = pathlib.Path(base)
    while not there.exists():
        there = there.parent
    missing = [name for name in STANDARD if not importable(name)]
    return {
        "machine": os.uname().machine,
        "bits": 64 if sys.maxsize > 1 << 32 else 32,
        "python": list(sys.version_info[:3]),
        "libc": os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else "",
        "standard_missing": missing,
        "packages": {name: package_version(name) for name in NEEDED},
        "free_bytes": shutil.disk_usage(there).free,
        "writable": os.access(there, os.W_OK),
        "time_s": time.time(),
        "uid": os.getuid(),
        "manager": manager(),
        "confirmed": pointer(home / "confirmed"),
        "trial": pointer(home / "trial"),
        "versions": sorted(each.name for each in home.glob("versions/*") if not each.name.endswith(".new")),
        "provisioned": pathlib.Path(config, "agent.toml").exists(),
    }


def importable(name: str) -> bool:
    """Whether a module can be found."""
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


def package_version(name: str) -> str:
    """Of a package that the agent needs, "" where it is not there."""
    try:
        return importlib.metadata.version(NEEDED[name]) if importable(name) else ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def manager() -> str:
    """What starts programs on this system: "image", "systemd", "inittab", or ""."""
    if IMAGE.exists():
        return "image"
    if pathlib.Path("/run/systemd/system").exists():
        return "systemd"
    return "inittab" if pathlib.Path("/etc/inittab").exists() else ""


def receive(path: str, count: str, digest: str) -> Answer:
    """Takes a file over the console, goes on where an earlier transfer ended; True when it is whole and right."""
    file, size = pathlib.Path(path), int(count)
    if not 0 < size <= LIMIT_BYTES:
        raise SystemExit(f"a file of {size} bytes")
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and sha256(file) == digest:
        say("ready", size)
        return {"whole": True}
    part = file.with_name(digest[:32] + ".part")
    for old in file.parent.glob("*.part"):
        if old != part:
            old.unlink()
    with part.open("ab") as out:
        out.truncate(min(size, out.tell()))
        with Raw():
            whole = Receiver(out, size).run()
        out.flush()
        os.fsync(out.fileno())
    if not whole:
        return {"whole": False}
    if sha256(part) != digest:
        part.unlink()
        return {"whole": False, "damaged": True}
    part.replace(file)
    sync(file.parent)
    return {"whole": True}


def sha256(file: pathlib.Path) -> str:
    """In hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        for block in iter(lambda: content.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


class Raw:
    """The console without echo, line editing and flow control."""

    def __enter__(self) -> None:
        self.before: list[Any] | None = None
        if os.isatty(0):
            self.before = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSANOW)

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            termios.tcsetattr(0, termios.TCSANOW, self.before)


class Receiver:
    """Takes frames and writes what follows what is there; answers with how far it has come."""

    def __init__(self, out: BinaryIO, size: int) -> None:
        self.out, self.size, self.at = out, size, out.tell()
        self.buffer = b""
        self.heard = self.told = 0.0

    def run(self) -> bool:
        """True when the file has its size; False when the sender says goodbye or nothing comes."""
        say("ready", self.at)
        self.heard = time.monotonic()
        while self.at < self.size:
            left = self.heard + IDLE_S - time.monotonic()
            if left <= 0 or not select.select([0], [], [], left)[0]:
                return False
            more = os.read(0, 65536)
            self.buffer += more
            # Searched everywhere: the frame before it may be incomplete.
            if not more or GOODBYE in self.buffer:
                return False
            while self.frame():
                pass
        return True

    def frame(self) -> bool:
        """Takes one frame off the buffer; False when there is none, or only a part."""
        start = self.buffer.find(FRAME)
        self.buffer = self.buffer[start:] if start >= 0 else self.buffer[-2:]
        if start < 0 or len(self.buffer) < HEAD.size:
            return False
        _, offset, length, check = HEAD.unpack_from(self.buffer)
        if length <= CHUNK_BYTES and len(self.buffer) < HEAD.size + length:
            return False
        data = self.buffer[HEAD.size : HEAD.size + length]
        if length > CHUNK_BYTES or zlib.crc32(self.buffer[3:9] + data) != check:
            self.buffer = self.buffer[1:]
            self.again()
            return True
        self.buffer = self.buffer[HEAD.size + length :]
        if offset == self.at and offset + length <= self.size:
            self.out.write(data)
            self.at += length
            self.heard = time.monotonic()
            say("have", self.at)
        else:
            self.again()
        return True

    def again(self) -> None:
        """Asks for what follows what is there; not for each of the frames that are under way."""
        if time.monotonic() - self.told > AGAIN_S:
            self.told = time.monotonic()
            say("again", self.at)


def settings(file: str, folder: str, key: str) -> Answer:
    """A board's settings, with the key that it made before, beside those that it has: the trial tries them, and takes them over."""
    config = pathlib.Path(folder)
    trial, new, sent = (config.with_name(config.name + each) for each in (".trial", ".new", ".sent"))
    made = pathlib.Path(key).read_bytes() if pathlib.Path(key).exists() else (trial / "device.key").read_bytes()
    for old in (new, sent):
        shutil.rmtree(old, ignore_errors=True)
    if config.exists():
        shutil.copytree(config, new, symlinks=True)
        for renewal in new.glob("device.*.*"):  # of the identity before
            renewal.unlink()
    new.mkdir(parents=True, exist_ok=True)
    new.chmod(0o700)
    sent.mkdir(mode=0o700)
    extract(pathlib.Path(file), sent)
    for each in sent.iterdir():
        each.replace(new / each.name)
    sent.rmdir()
    (new / "device.key").write_bytes(made)
    (new / "device.key").chmod(0o600)
    os.sync()
    shutil.rmtree(trial, ignore_errors=True)
    new.replace(trial)
    sync(config.parent)
    pathlib.Path(key).unlink(missing_ok=True)
    return {"provisioned": True}


def begin(folder: str, config: str, name: str, trial_s: str) -> Answer:
    """Puts an agent on trial: what runs until now ends, the new one begins."""
    base = pathlib.Path(folder)
    before = running()
    with alone(base, wait=True):
        (base / "trial.air").unlink(missing_ok=True)  # one that came over the air and is on trial now is replaced
        put_on_trial(base, name, int(trial_s))
    service(base, config, name)
    if not (base / "trial.tried").exists():  # an agent that started after `before` is the one on trial: do not end it
        restart(before)
    return {"trial": name}


def service(base: pathlib.Path, config: str, version: str) -> None:
    """Has the system start <base>/launch."""
    command = f"{base}/launch {config}/agent.toml"
    kind = manager()
    if kind == "systemd":
        unit = (base / "versions" / version / "lib/device_agent" / UNIT.name).read_bytes()
        drop_in = DROP_IN.format(command=command, base=base).encode()
        for path, content in ((UNIT, unit), (UNIT.with_name(UNIT.name + ".d") / "flashed.conf", drop_in)):
            path.parent.mkdir(exist_ok=True)
            write(path, content)
        run("systemctl", "daemon-reload")
        run("systemctl", "enable", UNIT.name)
    elif kind == "inittab":
        table = pathlib.Path("/etc/inittab")
        busybox = "busybox" in os.path.realpath("/proc/1/exe")
        line = f"{':' if busybox else 'wo:2345'}:respawn:{command} >>/run/agent.log 2>&1\n"
        lines = [each for each in table.read_text().splitlines() if f"{base}/launch " not in each]
        write(table, ("\n".join(lines) + "\n" + line).encode())
        os.kill(1, signal.SIGHUP)
    elif kind != "image":
        raise SystemExit("this system is started neither by systemd nor from /etc/inittab")


UNIT = pathlib.Path("/etc/systemd/system/wamr-ota.service")
# Beside the unit that every installation has. Settings lie below the base: launch renames them, and /etc is read-only to it.
DROP_IN = """[Service]
ExecStart=
ExecStart={command}
ReadWritePaths={base}
"""


def running() -> int | None:
    """The process of `launch`, or of the agent in its place; None when nothing was started yet."""
    end = time.monotonic() + 2
    while True:
        try:
            return int(PID.read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            if time.monotonic() > end:
                raise SystemExit(f"{PID} names no process: /run is full") from None
            time.sleep(0.05)  # `launch` has opened it and not yet written


def restart(process: int | None) -> None:
    """Ends the agent; the system starts it again."""
    if manager() == "systemd":
        run("systemctl", "restart", "--no-block", UNIT.name)
    elif process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)


def run(*command: str) -> None:
    """A command that has to work."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout.strip()[-300:]}")


def confirm(folder: str, name: str) -> Answer:
    """Confirms the agent on trial: `launch` makes it the confirmed one, with its settings."""
    base = pathlib.Path(folder)
    if pointer(base / "confirmed") == name and not pointer(base / "trial"):
        return {"confirmed": name}
    if pointer(base / "trial") != name:
        raise SystemExit(f"{name} is not on trial any more")
    write(base / "trial.passed", f"{name}\n".encode())
    end = time.monotonic() + CONFIRM_S
    while pointer(base / "trial") and time.monotonic() < end:
        time.sleep(0.2)
    if pointer(base / "confirmed") != name:
        raise SystemExit(f"{base}/launch did not confirm {name}")
    return {"confirmed": name}


def revert(folder: str) -> Answer:
    """Ends a trial: `launch` starts again the agent that ran before."""
    base = pathlib.Path(folder)
    if pointer(base / "trial"):
        write(base / "trial.tried", b"")
        restart(running())
    return {"confirmed": pointer(base / "confirmed")}


def state(folder: str) -> Answer:
    """Which agents there are, and the end of what the one that runs has said."""
    base = pathlib.Path(folder)
    if manager() == "systemd":
        command = ["journalctl", "-u", UNIT.name, "-n", "12", "-o", "cat", "--no-pager"]
    else:
        command = ["tail", "-n", "12", "/run/agent.log"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    tried, trial = (base / "trial.tried").exists(), pointer(base / "trial")
    used_s = sum(used for name, used in agents() if name == trial)
    return {"confirmed": pointer(base / "confirmed"), "trial": trial, "tried": tried, "used_s": used_s, "said": said[-1500:]}


def alive(name: str) -> Answer:
    """Whether a version of the agent runs."""
    return {"alive": name in [each for each, _ in agents()]}


def agents() -> list[tuple[str, float]]:
    """The version of each process of an agent, and the processor time that it has used, in seconds."""
    found = []
    for each in pathlib.Path("/proc").iterdir():
        try:
            if each.name.isdigit() and b"device_agent" in (each / "cmdline").read_bytes():
                times = (each / "stat").read_text(errors="replace").rpartition(")")[2].split()[11:13]  # utime, stime
                used_s = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
                environment = (each / "environ").read_bytes().split(b"\0")
                found += [(e[17:].decode(), used_s) for e in environment if e.startswith(b"WAMR_OTA_TARBALL=")]
        except OSError:
            continue
    return found


def request(folder: str, name: str, device: str, key: str) -> Answer:
    """A signing request for the board's key, which is made where there is none."""
    status, out, why = python(folder, name, "-m", "device_agent", "request", device, "--key", key)
    if status:
        raise SystemExit(why)
    return {"request": out}


def install(folder: str, config: str, bundle: str) -> Answer:
    """Has the agent that is confirmed install a bundle, and says now and then that it is at it: its answer."""
    name = pointer(pathlib.Path(folder) / "confirmed")
    paths = ":".join(f"{folder}/versions/{name}/{each}" for each in ("lib", "packages"))
    command = [sys.executable, "-m", "device_agent", "--config", f"{config}/agent.toml", "install", bundle, "--json"]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as said:
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
        with subprocess.Popen(command, stdout=out, stderr=said, env=environment, cwd="/") as process:
            for count in itertools.count():
                try:
                    process.wait(INSTALLING_S)
                    break
                except subprocess.TimeoutExpired:
                    say("looked", count)
        out.seek(0)
        said.seek(0)
        found = out.read()
        return {"answer": json.loads(found) if found else None, "why": said.read()[-600:].decode(errors="replace").strip()}


def set_clock(time_s: str) -> Answer:
    """The clock, as the flasher has it."""
    time.clock_settime(time.CLOCK_REALTIME, float(time_s))
    return {"time_s": time.time()}


_STEPS = (facts, receive, unpack, settings, begin, confirm, revert, alive, state, probe, request, install, set_clock)
VERBS: dict[str, Callable[..., Answer]] = {each.__name__.replace("_", "-"): each for each in _STEPS}

if __name__ == "__main__":
    answer = VERBS[sys.argv[1]](*sys.argv[2:])
    sys.stdout.write(f"\n:{base64.b64encode(json.dumps(answer).encode()).decode()}:\n")

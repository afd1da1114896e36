"""Emulated boards: what calls, swaps, memory and a boot cost there. `make bench-boards` writes build/bench-boards.json.

Emulated processors are far slower than real ones, and not all work is slower alike: compare boards and versions with each other.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.air import gap_ms
from bench.memory import INSTANCES, SHOWN
from boards.console import Console
from boards.line import SerialLine
from boards.tarball import make_tarball
from ota.author.agent import prepare_agent
from ota.formats.deployment import AGENT
from tests.support.board_lab import BoardLab
from tests.support.signing import VENDOR
from tests.support.wat import wat
from tests.support.wheels import built_wheel

ARCHITECTURES = ("aarch64", "armv7", "riscv64")
IDLE_S = 30
MODULE = """(module (import "host" "f" (func $f (param i32) (result i32)))
  (func (export "bare") (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
  (func (export "back") (param $n i32) (result i32) (local $i i32)
    (loop $again
      (drop (call $f (local.get $i)))
      (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
    (local.get $i)))"""
# Runs on the board, where the agent's own packages are.
ONBOARD = """
import json, sys, time
sys.path[:0] = ["/usr/lib/wamr-ota"]
from pywamr import Runtime
def best(f):
    found = []
    for _ in range(5):
        start = time.perf_counter(); f(); found.append(time.perf_counter() - start)
    return min(found)
with Runtime() as runtime:
    instance = runtime.load(open("/tmp/bench.wasm", "rb").read()).instantiate({"host": {"f": lambda value: value}})
    call, N = instance.function("bare"), 2000
    print(json.dumps({
        "call_us": best(lambda: [call(1) for _ in range(N)]) / N * 1e6,
        "callback_us": best(lambda: instance.call("back", N)) / N * 1e6,
    }))
"""
MEMORY = r"""
import json, os, pathlib
found = []
for each in pathlib.Path("/proc").iterdir():
    try:
        words = (each / "cmdline").read_bytes().split(b"\0")
        rollup = dict(line.split(":") for line in (each / "smaps_rollup").read_text().splitlines()[1:])
    except (OSError, ValueError):
        continue
    if each.name.isdigit() and b"python3" in words[0] and int(each.name) != os.getpid():
        size = lambda key: int(rollup[key].split()[0]) / 1024
        stat = (each / "stat").read_text().rsplit(")", 1)[1].split()
        kind = "agent" if b"device_agent" in words else "forked" if b"device_agent.sandbox.zygote" in words else "other"
        private = size("Private_Dirty") + size("Private_Clean")
        found.append([kind, int(each.name), size("Pss"), private, int(stat[11]) + int(stat[12]), int(stat[1]), size("Rss")])
forked = {each[1] for each in found if each[0] == "forked"}
for each in found:
    if each[0] == "forked":
        each[0] = "worker" if each[5] in forked else "zygote"
print(json.dumps(sorted(found)))
"""

FIRST = """
import sqlite3, time
booted = time.time() - float(open("/proc/uptime").read().split()[0])
database = sqlite3.connect("/data/wamr-ota/agent.sqlite")
print(database.execute("select min(time_s) from outbox where time_s > ?", (booted,)).fetchone()[0] - booted)
"""


def measure(architecture: str, folder: Path) -> dict[str, Any]:
    """One board's figures. Memory in MB (Pss: shared pages divided among those who share them), times as named."""
    lab = BoardLab(folder, f"qemu-{architecture}", proc=60.0, report=30)
    try:
        lab.start()
        lab.install(1)
        with SerialLine(lab.board.console, 115200) as line:
            console = Console(line)
            console.attach()
            console.put("/tmp/bench.wasm", wat(MODULE))
            console.put("/tmp/bench.py", ONBOARD.encode())
            console.put("/tmp/memory.py", MEMORY.encode())
            figures: dict[str, Any] = json.loads(console.run("python3 /tmp/bench.py", 120).splitlines()[-1])
            before = json.loads(console.run("python3 /tmp/memory.py"))
            time.sleep(IDLE_S)
            after = json.loads(console.run("python3 /tmp/memory.py"))
            _install_more(lab)
            many = json.loads(console.run("python3 /tmp/memory.py"))
            console.detach()
        figures |= _memory(before, after) | _instances(many)
        _remove_more(lab)
        figures["swap_gap_ms"] = _swap_gap_ms(lab)
        figures["agent_update_gap_ms"] = agent_update_gap_ms(architecture, folder / "air")
        figures["boot_to_first_event_s"] = _boot_s(lab)
    finally:
        lab.close()
    return figures


def _memory(before: list[Any], after: list[Any]) -> dict[str, float]:
    spent = {each[1]: each[4] for each in after}
    ticks = sum(spent.get(pid, at) - at for _, pid, _, _, at, _, _ in before)
    figures = {f"{kind}_pss_mb": sum(each[2] for each in before if each[0] == kind) for kind in ("agent", "zygote", "worker")}
    figures["worker_private_mb"] = max((each[3] for each in before if each[0] == "worker"), default=0.0)
    figures["total_mb"] = sum(each[2] for each in before)
    figures["total_rss_mb"] = sum(each[6] for each in before)  # what is shared is counted for each who shares it
    figures["idle_cpu_percent"] = ticks / 100 / IDLE_S * 100  # a tick is 10 ms
    return figures


def _install_more(lab: BoardLab) -> None:
    for number in range(2, INSTANCES + 1):
        lab.install(1, f"i{number}")


def _remove_more(lab: BoardLab) -> None:
    for number in range(2, INSTANCES + 1):
        lab.wait_state("confirmed", deployment=lab.remove(f"i{number}"), instance=f"i{number}")


def _instances(found: list[Any]) -> dict[str, float]:
    """Of a board with ten instances: what some of them have of their own, and what all of it takes."""
    workers = [each for each in found if each[0] == "worker"]  # by process number: the oldest first
    figures = {f"instance_private_mb_{number}": workers[number - 1][3] for number in SHOWN}
    figures |= {f"instance_pss_mb_{number}": workers[number - 1][2] for number in SHOWN}
    return figures | {"ten_instances_mb": sum(each[2] for each in found)}


def _swap_gap_ms(lab: BoardLab) -> float:
    gaps = []
    for version in range(2, 7):
        lab.install(version)
        gaps.append(lab.report.counters["gap_us"] / 1000)
    return sorted(gaps)[len(gaps) // 2]


def agent_update_gap_ms(architecture: str, folder: Path) -> float:
    """On a board of its own, whose module answers ten events a second."""
    folder.mkdir()
    lab = BoardLab(folder, f"qemu-{architecture}", proc=0.1)
    try:
        lab.start()
        lab.install(1)
        made = make_tarball(built_wheel(architecture))
        (folder / "agent.tar.gz").write_bytes(made.content)
        lab.signer.sequence += 1
        update = prepare_agent(folder / "agent.tar.gz", VENDOR).signed(lab.signer.sequence, lab.signer.keys["release"])
        lab.observer.messages.clear()
        lab.wait_state("confirmed", deployment=lab.deploy(update, instance=AGENT), instance=AGENT)
        lab.still_answers(1)
        return gap_ms(list(lab.observer.messages.values()))
    finally:
        lab.close()


def _boot_s(lab: BoardLab) -> float:
    """Power on with no broker, to the first event that the module answered, by the board's own clock."""
    lab.kill()
    lab.broker.stop()
    lab.board.start(cuttable=True)
    time.sleep(20)
    with SerialLine(lab.board.console, 115200) as line:
        console = Console(line)
        console.attach()
        console.put("/tmp/first.py", FIRST.encode())
        end = time.monotonic() + 120
        while time.monotonic() < end:
            status, output = console.try_run("python3 /tmp/first.py 2>/dev/null")
            if status == 0:
                return float(output.split()[-1])
            time.sleep(2)
    raise SystemExit("no event was handled without a network")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.boards", epilog="example: python -m bench.boards --out build/bench-boards.json"
    )
    parser.add_argument("architectures", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--out", type=Path, default=Path("build/bench-boards.json"))
    arguments = parser.parse_args(argv)
    found = {}
    for architecture in arguments.architectures:
        with tempfile.TemporaryDirectory() as folder:
            found[architecture] = measure(architecture, Path(folder))
    names = list(next(iter(found.values())))
    sys.stdout.write("what".ljust(24) + "".join(each.rjust(12) for each in found) + "\n")
    for name in names:
        sys.stdout.write(name.ljust(24) + "".join(f"{each[name]:12.2f}" for each in found.values()) + "\n")
    version = subprocess.run(["qemu-system-aarch64", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[
        0
    ]
    arguments.out.write_text(json.dumps({"qemu": version, "boards": found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

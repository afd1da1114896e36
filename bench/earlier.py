"""python -m bench.earlier: this tree beside an earlier commit, in one run, by turns. Writes build/bench-earlier.json.

The commit is checked out and its native library is built below build/earlier, once; both use the same Python and the same
packages. An agent with one module is asked in each tree what memory it, its zygote and its worker have, and how long an update of
100 kB takes from its publication to the first event that it handles.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from bench.measure import Row, median
from ota.cli.output import table
from tests.conftest import ROOT

COMMIT = "b39d75a"  # boards had one module
FOLDER = ROOT / "build" / "earlier"
NAMES = {
    "agent_zygote_worker_pss_mb": "MB",
    "agent_pss_mb": "MB",
    "agent_rss_mb": "MB",
    "worker_private_mb": "MB",
    "publish_to_handled_ms_100k": "ms",
}
# Runs in either tree: what it uses of the lab has not changed since.
PROGRAM = """
import json, tempfile, time
from pathlib import Path
from tests.support.lab import Lab, Mosquitto, echo

def children(pid):
    return [int(each) for task in Path(f"/proc/{pid}/task").iterdir() for each in (task / "children").read_text().split()]

def mb(pid, *fields):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(fields)) / 1024

def handled_ms(lab, version):
    update = lab.signer.update(echo(version, padding=100_000), name="echo", version=f"{version}.0.0", chunk_bytes=16_384)
    started_s = time.time()
    lab.deploy(update)
    seen = lab.observer.messages
    lab.observer.wait(lambda: any(each.payload == bytes((version,)) for each in list(seen.values())), 60, "an event")
    return (min(each.time_s for each in list(seen.values()) if each.payload == bytes((version,))) - started_s) * 1000

with tempfile.TemporaryDirectory() as folder:
    Path(folder).chmod(0o755)
    broker = Mosquitto(Path(folder))
    broker.start()
    lab = Lab(Path(folder), broker, trial=0.1, proc=0.02)
    if hasattr(lab, "environment"):  # else an agent is forked from a process that has loaded more, and shares its memory
        lab.environment["WAMR_OTA_BENCH"] = "1"
    try:
        lab.start()
        lab.install(1)
        time.sleep(2)
        (zygote,) = children(lab.agent.pid)
        (worker,) = children(zygote)
        figures = {
            "agent_zygote_worker_pss_mb": sum(mb(each, "Pss:") for each in (lab.agent.pid, zygote, worker)),
            "agent_pss_mb": mb(lab.agent.pid, "Pss:"),
            "agent_rss_mb": mb(lab.agent.pid, "Rss:"),
            "worker_private_mb": mb(worker, "Private_Clean:", "Private_Dirty:"),
        }
        taken = []
        for version in (2, 3, 4):
            taken.append(handled_ms(lab, version))
            lab.wait_state("confirmed")
            time.sleep(0.5)
        print(json.dumps(figures | {"publish_to_handled_ms_100k": sorted(taken)[1]}))
    finally:
        lab.close()
"""


def measure(rounds: int, commit: str = COMMIT) -> list[Row]:
    earlier = _checked_out(commit)
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    for _ in range(rounds):
        ours.append(_figures(sys.executable, ROOT))
        theirs.append(_figures(earlier / "venv/bin/python", earlier / "tree"))
    return [
        Row(name, median([each[name] for each in ours]), unit, commit, median([each[name] for each in theirs]))
        for name, unit in NAMES.items()
    ]


def _figures(python: str | Path, tree: Path) -> dict[str, float]:
    done = subprocess.run([python, "-c", PROGRAM], cwd=tree, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{tree}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _environment() -> dict[str, str]:
    """With the programs that are installed beside our Python."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def _checked_out(commit: str) -> Path:
    """A folder with `tree`, and `venv`: the packages of ours, and of the tree what is not installed from anywhere."""
    folder = FOLDER / commit
    if (folder / "ready").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    tree, build = folder / "tree", folder / "native"
    tree.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", tree], input=archive, check=True)
    flags = ["-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}"]
    for command in (["cmake", "-S", tree, "-B", build, *flags], ["cmake", "--build", build]):
        subprocess.run(command, env=_environment(), capture_output=True, check=True)
    shutil.copy(build / "native/core/libwamr_core.so", tree / "wamr_bindings/pywamr")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (packages,) = (folder / "venv/lib").glob("python*/site-packages")
    ours = next(each for each in sys.path if each.endswith("site-packages"))
    (packages / "earlier.pth").write_text(f"{tree}\n{tree / 'wamr_bindings'}\n{ours}\n")
    (tree / "build").mkdir()
    (folder / "ready").touch()
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.earlier", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="by turns (default %(default)s)")
    parser.add_argument("--commit", default=COMMIT, help="the earlier one (default %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench-earlier.json")
    arguments = parser.parse_args()
    rows = measure(arguments.rounds, arguments.commit)
    arguments.out.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    cells = [
        (row.name, f"{row.value:.2f} {row.unit}", f"{row.peer_value:.2f}", f"{row.value / row.peer_value:.3f}") for row in rows
    ]
    print(table(("what", "this tree", arguments.commit, "ratio"), cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())

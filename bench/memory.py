"""Memory of a board with ten instances: what the 2nd, 5th and 10th have of their own, and with their part of what is shared."""

import tempfile
from pathlib import Path

from bench.measure import Row
from tests.support.lab import Lab, Mosquitto

INSTANCES = 10
SHOWN = (2, 5, 10)


def measure(rounds: int) -> list[Row]:
    if Mosquitto.command() is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # workers are other users
        broker = Mosquitto(Path(folder))
        broker.start()
        lab = Lab(Path(folder), broker, trial=0.1, proc=0.1, report=1)
        try:
            lab.start()
            for number in range(1, INSTANCES + 1):
                lab.install(1, f"i{number}")
            _, _, *workers = processes(lab.agent.pid)
            rows = [(private_kb(workers[number - 1]), pss_kb(workers[number - 1])) for number in SHOWN]
        finally:
            lab.close()
    return [
        Row(
            f"instance_private_mb_{number}",
            private / 1024,
            "MB",
            floor="with its part of what is shared (PSS)",
            floor_value=pss / 1024,
        )
        for number, (private, pss) in zip(SHOWN, rows, strict=True)
    ]


def processes(agent: int) -> list[int]:
    """An agent, its zygote, and its workers, the oldest first."""
    (zygote,) = _children(agent)
    return [agent, zygote, *sorted(_children(zygote))]


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(each) for task in tasks for each in (task / "children").read_text().split()]


def pss_kb(pid: int) -> int:
    return _rollup(pid, "Pss:")


def private_kb(pid: int) -> int:
    return _rollup(pid, "Private_Clean:", "Private_Dirty:")


def _rollup(pid: int, *fields: str) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(fields))

"""An agent's update over the air: for how long no instance handles an event. Beside it what that is made of at least: a Python that
starts and imports what an agent needs.
"""

import itertools
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from bench.measure import Row, median
from ota.demo.broker import DemoBroker
from ota.formats.report import Message
from tests.support.agents import PYTHON
from tests.support.air import AirLab

EVENT_S = 0.01  # between two events
ROUNDS = 3


def gap_ms(messages: Iterable[Message]) -> float:
    """The longest time between two messages of a module that answers each event."""
    times = sorted(each.time_s for each in messages)
    return max(after - before for before, after in itertools.pairwise(times)) * 1000


def measure(rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broker = DemoBroker(folder)
        broker.start()
        lab = AirLab(folder, broker, proc=EVENT_S)
        try:
            lab.start()
            lab.install(1)
            gaps, floor = [], []
            for number in range(min(rounds, ROUNDS)):
                made = lab.tarball(f"0.2.{number}")
                lab.observer.messages.clear()
                lab.wait_agent("confirmed", deployment=lab.publish_agent(made))
                lab.still_answers(1)
                gaps.append(gap_ms(list(lab.observer.messages.values())))
                floor.append(_start_ms(lab.base / "versions" / made.name))
        finally:
            lab.close()
    return [Row("agent_update_gap_ms", median(gaps), "ms", "", None, "Python starts, imports the agent", median(floor))]


def _start_ms(version: Path) -> float:
    environment = os.environ | {"PYTHONPATH": f"{version}/lib:{version}/packages", "PYTHONDONTWRITEBYTECODE": "1"}
    started = time.perf_counter()
    subprocess.run([PYTHON, "-c", "import device_agent.node.service"], env=environment, cwd="/", check=True)
    return (time.perf_counter() - started) * 1000

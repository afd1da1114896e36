"""Wheels for boards, built when a test wants one."""

import subprocess
from pathlib import Path

from boards.wheels import find
from tests.support.cache import ROOT, locked

WHEELS = ROOT / "build" / "wheels"


def built_wheel(target: str) -> Path:
    """The present sources' wheel for a target."""
    with locked("wheels"):
        subprocess.run(["make", "-s", f"build/wheels/.built-{target}"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return find(target, WHEELS)

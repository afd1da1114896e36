"""Programs in other languages that tests run, built once from sources among the tests."""

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

BUILT = ROOT / "build" / "programs"
BUILD_TIMEOUT_S = 600


def tool(name: str, why: str) -> str:
    """Where a program is that builds or runs another. Skips the test, with the reason, where there is none."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{why}: {name} is not installed")
    return found


def built(sources: Path, commands: list[list[str]]) -> Path:
    """A copy of a folder below build/programs, in which these commands ran; once for each state of the sources.

    OUT in a command is that copy. Skips the test where they can't be run.
    """
    name = sources.name
    content = b"".join(path.read_bytes() for path in sorted(sources.iterdir()) if path.is_file())
    folder = BUILT / f"{name}-{hashlib.sha256(content).hexdigest()[:16]}"
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(sources, folder)
            for command in commands:
                words = [word.replace("OUT", str(folder)) for word in command]
                done = subprocess.run(words, cwd=folder, capture_output=True, timeout=BUILD_TIMEOUT_S, check=False)
                if done.returncode:
                    pytest.skip(
                        f"{name} can't be built here: {(done.stderr or done.stdout).decode(errors='replace').strip()[-300:]}"
                    )
            (folder / ".done").touch()
    return folder

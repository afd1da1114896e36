"""`make demo` holds what it claims."""

import subprocess
import sys

import pytest


@pytest.mark.full
def test_all_that_the_demonstration_claims_holds(modules):
    done = subprocess.run(
        [sys.executable, "-m", "ota.cli.main", "demo", "--fast", "--modules", str(modules)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("All of it held.\n")

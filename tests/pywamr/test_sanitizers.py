"""The tests of this folder once more, with shim and runtime built with AddressSanitizer and UndefinedBehaviorSanitizer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.cache import locked

BUILD = ROOT / "build" / "sanitize"
# Whatever crosses the shim: calls, loading, memory, tables, ends, threads. The rest of the folder is more of these.
CORE = ("calls", "loader", "modules", "drop")
OTHERS = ("signals", "fuzz", "architectures", "sanitizers")  # processes of their own


def library_of(name: str) -> str:
    found = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
    return found if Path(found).is_absolute() else ""


@pytest.mark.skipif("PYWAMR_TEST_LIBRARY_FOLDER" in os.environ, reason="this is the run with sanitizers")
@pytest.mark.full
@pytest.mark.parametrize("which", ["core", "all"])
def test_no_sanitizer_complains(which):
    asan = library_of("libasan.so")
    if not asan:
        pytest.skip("gcc has no AddressSanitizer here")
    tools = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
    configure = [
        "cmake",
        "-S",
        str(ROOT),
        "-B",
        str(BUILD),
        "-G",
        "Ninja",
        "-DPW_SANITIZE=ON",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    with locked("sanitize"):
        for command in (configure, ["cmake", "--build", str(BUILD)]):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    environment |= {
        "PYWAMR_TEST_LIBRARY_FOLDER": str(BUILD / "native" / "core"),
        "LD_PRELOAD": asan,
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=99",
        "PYTHONMALLOC": "malloc",
        "HYPOTHESIS_MAX_EXAMPLES": "30",
    }
    ours = "not without_growth and not exits_cleanly and not missing_library"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", ours]
    command += [f"--ignore=tests/pywamr/test_{name}.py" for name in OTHERS]
    command += ["tests/pywamr"] if which == "all" else [f"tests/pywamr/test_{name}.py" for name in CORE]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert "Sanitizer" not in done.stdout + done.stderr

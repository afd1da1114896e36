"""Fixtures: built example modules, public vectors, brokers on the loopback."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent
VECTORS = ROOT.parent / "shared" / "vectors"

settings.register_profile("default", deadline=None, max_examples=int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", "100")))
settings.load_profile("default")

if folder := os.environ.get("PYWAMR_TEST_LIBRARY_FOLDER"):  # a sanitizer build of the same library
    import pywamr

    pywamr.__path__ = [folder, *pywamr.__path__]


@pytest.fixture(scope="session")
def modules() -> Path:
    """Folder of the built example modules."""
    out = ROOT / "build" / "modules"
    subprocess.run([sys.executable, str(ROOT / "sdk" / "build.py"), "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    return out


@pytest.fixture(scope="session")
def vectors() -> Path:
    """Folder of public test vectors, which are not part of the project."""
    if not VECTORS.is_dir():
        pytest.skip("the public test vectors are not beside this clone")
    return VECTORS


@pytest.fixture
def runtime() -> Iterator["object"]:
    """An open pywamr runtime."""
    from pywamr import Runtime

    with Runtime() as opened:
        yield opened

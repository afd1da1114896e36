"""The runtime's own C for a processor of 32 bits. A whole library for each processor is built by its emulated tests, one a day."""

import re
import shutil
import subprocess

import pytest

from tests.conftest import ROOT

COMPILER = "arm-linux-gnueabihf-gcc"
NINJA = ROOT / "build" / "wheel" / "build.ninja"  # of the library that the other tests use
HERE_ONLY = ("-mindirect-branch-register", "-DBUILD_TARGET_X86_64", "-DPW_HARDWARE_BOUNDS=1", "-DWASM_DISABLE_HW_BOUND_CHECK=0")
THERE = ("-DBUILD_TARGET_ARM_VFP", "-DPW_HARDWARE_BOUNDS=0", "-DWASM_DISABLE_HW_BOUND_CHECK=1")
SOURCES = sorted(path.name for path in (ROOT / "native" / "core").glob("*.c"))


def how_it_is_compiled(source):
    block = re.search(
        rf"^build native/core/CMakeFiles/wamr_core\.dir/{re.escape(source)}\.o:.*?\n\n", NINJA.read_text(), re.M | re.S
    )
    assert block, f"{NINJA} does not build {source}"
    words = [word for name in ("DEFINES", "FLAGS", "INCLUDES") for word in re.search(rf"{name} = (.*)", block[0])[1].split()]
    return [word for word in words if word not in HERE_ONLY]


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"{COMPILER} is not installed: native/install-tools.sh cross")
@pytest.mark.skipif(not NINJA.exists(), reason="the library was built elsewhere")
@pytest.mark.parametrize("source", SOURCES)
def test_no_size_is_cut_where_one_has_32_bits(source):
    """Every warning is an error, conversions among them."""
    command = [COMPILER, "-fsyntax-only", *how_it_is_compiled(source), *THERE, str(ROOT / "native" / "core" / source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

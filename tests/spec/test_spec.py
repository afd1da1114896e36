"""Every assertion of core 2.0 passes in both modes, or stands in known.toml with its reason."""

import shutil

import pytest

from tests.spec.__main__ import run_all
from tests.support.aot import aotc


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", ["interpreter", "aot"])
def test_core_2_0(mode):
    if shutil.which("cargo") is None:
        pytest.skip("cargo, which fetches the spec tests, is not installed")
    if mode == "aot" and aotc() is None:
        pytest.skip("wamr_aotc is not built: make aotc")
    core = run_all((mode,))[mode]["core"]
    assert core["failed"] == {}
    assert core["passed"] > 26_000
    assert sum(core["known"].values()) < 30

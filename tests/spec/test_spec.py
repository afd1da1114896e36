"""Every assertion of core 2.0, vectors included, passes in both modes, or stands in known.toml with its reason."""

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
    found = run_all((mode,))[mode]
    assert [proposal["failed"] for proposal in found.values()] == [{}, {}]
    assert found["core"]["passed"] > 27_000
    assert found["simd"]["passed"] > 25_000
    assert sum(proposal["known"][reason] for proposal in found.values() for reason in proposal["known"]) < 30

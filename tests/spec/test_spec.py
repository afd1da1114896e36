"""Every assertion of core 2.0, vectors included, passes in both modes, or stands in known.toml with its reason."""

import shutil

import pytest

from tests.spec.__main__ import run_all
from tests.support.aot import aotc


@pytest.mark.parametrize(
    ("mode", "proposal", "count"),
    [
        ("interpreter", "core", 27_000),
        ("interpreter", "simd", 25_000),
        ("interpreter", "extended-const", 260),
        pytest.param("aot", "extended-const", 260, marks=pytest.mark.full),
        pytest.param("aot", "core", 27_000, marks=pytest.mark.full),
        pytest.param("aot", "simd", 25_000, marks=pytest.mark.full),
    ],
)
def test_core_2_0(mode, proposal, count):
    if shutil.which("cargo") is None:
        pytest.skip("cargo, which fetches the spec tests, is not installed")
    if mode == "aot" and aotc() is None:
        pytest.skip("wamr_aotc is not built: make aotc")
    found = run_all((mode,), (proposal,))[mode][proposal]
    assert found["failed"] == {}
    assert found["passed"] > count
    assert sum(found["known"].values()) < 30

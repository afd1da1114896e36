"""Every parser of bytes from outside, fuzzed for a moment; `make fuzz-parsers` takes as long as is wanted."""

import importlib.util
import os

import pytest

from tests import fuzz_parsers

SECONDS = int(os.environ.get("WAMR_OTA_FUZZ_S", "3"))
TARGETS = fuzz_parsers.targets()


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_reads_what_its_fuzzing_begins_with(name):
    """A target that refuses whatever comes finds nothing."""
    target, read = TARGETS[name], 0
    for seed in target.seeds:
        try:
            target.read(seed)
            read += 1
        except target.refusals:
            pass
    assert read or name not in fuzz_parsers.BIG


def test_a_parser_that_does_not_end_is_a_fault_and_no_end_of_the_others(monkeypatch):
    monkeypatch.setattr(fuzz_parsers, "START_S", 0)
    found = fuzz_parsers.run("cbor", 0)
    assert (found["parser"], found["executions"]) == ("cbor", 0)
    assert found["fault"].startswith("it did not end within 0 s")


@pytest.mark.full
@pytest.mark.parametrize("name", TARGETS)
def test_no_bytes_make_a_parser_raise_what_it_must_not(name):
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed")
    found = fuzz_parsers.run(name, SECONDS)
    assert found["fault"] == ""
    assert found["executions"] > 0
    assert found["branches"] > 0

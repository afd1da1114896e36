"""Generated modules do here, interpreted and compiled, what they do in Wasmtime: results, traps, memory, globals."""

import random

import pytest
from hypothesis import assume
from hypothesis import strategies as st

from tests.fuzz.cases import NoCase, loops, smith
from tests.fuzz.compare import comparing
from tests.support.sampling import check, few_and_many


def agree(make, examples):
    with comparing() as comparison:

        def agrees(seed):
            try:
                wasm = make(random.Random(seed))
            except NoCase:
                assume(False)
            assert [each for each in comparison.verdicts(wasm, seed) if each.is_fault] == []

        check(examples, agrees, st.integers(0, 2**32 - 1))


@pytest.mark.timeout(900)
@few_and_many(15, 150)
def test_a_generated_module_does_what_it_does_in_wasmtime(examples):
    agree(smith, examples)


@pytest.mark.timeout(900)
@few_and_many(5, 50)
def test_loops_that_store_and_trap_do_what_they_do_in_wasmtime(examples):
    agree(loops, examples)

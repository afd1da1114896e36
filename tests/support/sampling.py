"""Generated tests in two sizes: a few examples in the tier quick, many in full."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy


def few_and_many(few: int, many: int) -> pytest.MarkDecorator:
    """Gives a test the argument `examples`: a number of examples in the tier quick, and another in full."""
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.full)])


def check(examples: int, holds: Callable[..., None], *strategies: SearchStrategy, **named: SearchStrategy) -> None:
    """Calls `holds` with so many generated examples."""
    sampled = settings(max_examples=examples, suppress_health_check=list(HealthCheck), print_blob=True)
    sampled(given(*strategies, **named)(holds))()

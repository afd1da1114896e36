"""When a module that comes up each time has failed too often."""

from device_agent.relapses import ENDURED, WITHIN_S, Relapses


def test_the_last_that_is_endured_is_one_too_many_and_then_it_counts_anew():
    relapses = Relapses()
    for _ in range(2):
        assert [relapses.too_many(b"m", float(second)) for second in range(ENDURED)] == [False] * (ENDURED - 1) + [True]


def test_failures_long_ago_and_of_another_module_do_not_count():
    relapses = Relapses()
    step_s = WITHIN_S / (ENDURED - 1) + 1
    assert not any(relapses.too_many(b"m", turn * step_s) for turn in range(3 * ENDURED))
    assert not any(relapses.too_many(b"m" if turn % 2 else b"n", 1e6 + turn) for turn in range(3 * ENDURED))

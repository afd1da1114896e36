"""When a module that comes up each time has failed too often."""

from device_agent.instance.crash_loop import MAX_RESTARTS, WITHIN_S, CrashLoop


def test_the_last_allowed_restart_is_one_too_many_and_then_the_count_begins_anew():
    crash_loop = CrashLoop()
    for _ in range(2):
        assert [crash_loop.too_many(b"m", float(second)) for second in range(MAX_RESTARTS)] == [False] * (MAX_RESTARTS - 1) + [True]


def test_failures_long_ago_and_of_another_module_do_not_count():
    crash_loop = CrashLoop()
    step_s = WITHIN_S / (MAX_RESTARTS - 1) + 1
    assert not any(crash_loop.too_many(b"m", turn * step_s) for turn in range(3 * MAX_RESTARTS))
    assert not any(crash_loop.too_many(b"m" if turn % 2 else b"n", 1e6 + turn) for turn in range(3 * MAX_RESTARTS))

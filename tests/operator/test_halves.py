"""Work that a forked child takes a half of is done whatever becomes of the child."""

import os
import threading
import time

import pytest

from ota.operator import halves
from ota.operator.halves import LEAST, in_halves

ITEMS = list(range(LEAST + 1))


@pytest.fixture(autouse=True)
def two_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})


def children() -> bool:
    """Whether this process has any that have not been waited for, besides those of other tests."""
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def test_each_item_has_its_own_result_and_two_processes_make_them():
    found = in_halves(ITEMS, lambda each: (each * each, os.getpid()))
    assert [square for square, _ in found] == [each * each for each in ITEMS]
    assert len({process for _, process in found}) == 2


def test_what_has_no_result_is_told_from_what_has():
    assert in_halves(ITEMS, lambda each: each or None) == [None, *ITEMS[1:]]


@pytest.mark.parametrize("how", ["ends", "raises", "is interrupted", "can't hand it back"])
def test_a_child_that_fails_leaves_its_half_to_the_caller(how):
    ours = os.getpid()

    def work(each):
        if os.getpid() == ours:
            return each
        if how == "ends":
            os._exit(3)
        if how == "raises":
            raise ValueError(each)
        if how == "is interrupted":
            raise KeyboardInterrupt
        return threading.Lock()

    assert in_halves(ITEMS, work) == [each if each % 2 == 0 else None for each in ITEMS]
    assert not children()


def test_a_caller_that_is_interrupted_leaves_no_child():
    ours = os.getpid()

    def work(each):
        if os.getpid() == ours:
            raise KeyboardInterrupt
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        in_halves(ITEMS, work)
    assert not children()


@pytest.mark.parametrize("why", ["few items", "one processor", "another system", "threads"])
def test_there_is_no_child_where_it_is_not_worth_one_or_would_not_be_safe(why, monkeypatch):
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("a child"))
    if why == "one processor":
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    if why == "another system":
        monkeypatch.delattr(os, "sched_getaffinity")
    if why == "threads":
        monkeypatch.setattr(halves.threading, "active_count", lambda: 2)
    items = ITEMS[: LEAST - 1] if why == "few items" else ITEMS
    assert in_halves(items, str) == [str(each) for each in items]

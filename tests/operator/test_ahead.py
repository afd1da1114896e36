"""Work that a forked child does is done whatever becomes of the child."""

import contextlib
import os
import threading
import time
from pathlib import Path

import pytest

from ota.operator import ahead
from ota.operator.ahead import LEAST, Ahead

ITEMS = list(range(LEAST + 1))


@pytest.fixture(autouse=True)
def two_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})


def done(items, work):
    with contextlib.closing(Ahead(items, work)) as begun:
        return begun.results()


@pytest.fixture(autouse=True)
def children(monkeypatch):
    """The children that were forked. Those of other tests in this process are not waited for."""
    forked, fork = [], os.fork

    def noted() -> int:
        pid = fork()
        forked.extend([pid] if pid else [])
        return pid

    monkeypatch.setattr(os, "fork", noted)
    return forked


def are_gone(pids) -> bool:
    return bool(pids) and not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.fixture(autouse=True)
def threads_of_other_tests_do_not_count(monkeypatch):
    """What ran before in this process may have left one behind, and then there is no child."""
    real, before = threading.active_count, threading.active_count()
    monkeypatch.setattr(threading, "active_count", lambda: 1 + real() - before)


def test_each_item_has_its_own_result_and_another_process_makes_them():
    found = done(ITEMS, lambda each: (each * each, os.getpid()))
    assert [square for square, _ in found] == [each * each for each in ITEMS]
    assert os.getpid() not in {process for _, process in found}


def test_what_has_no_result_is_told_from_what_has():
    assert done(ITEMS, lambda each: each or None) == [None, *ITEMS[1:]]


@pytest.mark.parametrize("how", ["ends", "raises", "is interrupted", "can't hand it back"])
def test_a_child_that_fails_leaves_its_work_to_the_caller(how, children):
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

    assert done(ITEMS, work) == [None] * len(ITEMS)
    assert are_gone(children)


def test_work_that_nobody_waits_for_leaves_no_child(children):
    begun = Ahead(ITEMS, lambda each: time.sleep(60))
    begun.close()
    begun.close()
    assert are_gone(children)


@pytest.mark.parametrize("why", ["few items", "one processor", "another system", "threads"])
def test_there_is_no_child_where_it_is_not_worth_one_or_would_not_be_safe(why, monkeypatch):
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("a child"))
    if why == "one processor":
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    if why == "another system":
        monkeypatch.delattr(os, "sched_getaffinity")
    if why == "threads":
        monkeypatch.setattr(ahead.threading, "active_count", lambda: 2)
    items = ITEMS[: LEAST - 1] if why == "few items" else ITEMS
    assert done(items, str) == [str(each) for each in items]

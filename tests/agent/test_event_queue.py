"""Events that wait are bounded in number and in bytes; what is dropped is counted."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.instance.event_queue import EVENT_BYTES, EventQueue, Pending


@pytest.fixture
def counters():
    return Counter()


def test_large_events_are_bounded_in_bytes_and_the_oldest_go_first(counters):
    queue = EventQueue(10_000, 1 << 20, counters)
    for number in range(100):
        queue.append(Pending(str(number), bytes(100_000)))
    assert [each.topic for each in queue] == [str(number) for number in range(90, 100)]
    assert queue.size_bytes <= 1 << 20
    assert counters["events_dropped"] == 90
    assert counters["events_dropped_bytes"] == sum(100_000 + len(str(number)) for number in range(90))


def test_small_events_are_bounded_in_number(counters):
    queue = EventQueue(3, 1 << 20, counters)
    for number in range(5):
        queue.append(Pending(str(number), b""))
    assert [each.topic for each in queue] == ["2", "3", "4"]
    assert counters["events_dropped"] == 2


def test_the_event_in_hand_stays(counters):
    queue = EventQueue(2, 1 << 20, counters)
    queue.append(Pending("in hand", b"", tries=1))
    for number in range(5):
        queue.append(Pending(str(number), b""))
    assert queue.popleft().topic == "in hand"
    assert counters["events_dropped"] == 4


def test_an_event_that_has_no_room_at_all_takes_no_other_away(counters):
    queue = EventQueue(10, 1000, counters)
    queue.append(Pending("a", b"x"))
    queue.append(Pending("b", bytes(2000)))
    assert [each.topic for each in queue] == ["a"]
    assert counters["events_dropped"] == 1


@given(st.lists(st.one_of(st.none(), st.integers(0, 900)), max_size=80), st.integers(1, 6), st.integers(150, 2000))
def test_the_bounds_hold_whatever_comes(steps, limit, limit_bytes):
    counters = Counter()
    queue = EventQueue(limit, limit_bytes, counters)
    added = taken = 0
    for size in steps:
        if size is None:
            if len(queue):
                queue.popleft()
                taken += 1
        else:
            queue.append(Pending("t", bytes(size)))
            added += 1
            if len(queue):
                queue[0].tries = 1
        assert len(queue) <= limit
        assert queue.size_bytes == sum(1 + len(each.payload) + EVENT_BYTES for each in queue) <= limit_bytes
    assert added == taken + len(queue) + counters["events_dropped"]
    queue.keep(lambda event: False)
    assert (len(queue), queue.size_bytes) == (0, 0)
    assert added == taken + counters["events_dropped"]

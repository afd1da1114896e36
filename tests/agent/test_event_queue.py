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


def test_the_events_in_hand_stay_and_the_oldest_behind_them_go(counters):
    queue = EventQueue(4, 1 << 20, counters)
    for number in range(4):
        queue.append(Pending(str(number), b""))
    assert [each.topic for each in queue.hand_out(2, 1 << 20)] == ["0", "1"]
    queue.append(Pending("4", b""))
    assert [each.topic for each in queue] == ["0", "1", "3", "4"]
    queue.popleft()
    queue.put_back()  # "1" failed
    for number in range(5, 8):
        queue.append(Pending(str(number), b""))
    assert [(each.topic, each.tries) for each in queue] == [("1", 1), ("5", 0), ("6", 0), ("7", 0)]
    assert counters["events_dropped"] == 3


def test_a_new_event_goes_where_all_others_are_in_hand(counters):
    queue = EventQueue(2, 1 << 20, counters)
    for number in range(2):
        queue.append(Pending(str(number), b""))
    queue.hand_out(2, 1 << 20)
    queue.append(Pending("2", b""))
    assert [each.topic for each in queue] == ["0", "1"]


def test_a_row_is_bounded_in_number_and_in_bytes_and_has_one_event_at_least(counters):
    queue = EventQueue(10, 1 << 20, counters)
    for size in (900, 10, 10, 10, 900):
        queue.append(Pending("t", bytes(size)))
    assert [len(each.payload) for each in queue.hand_out(3, 500)] == [900]
    queue.popleft()
    assert [len(each.payload) for each in queue.hand_out(2, 500)] == [10, 10]
    assert [len(each.payload) for each in queue.hand_out(9, 3 * (EVENT_BYTES + 11))] == [10, 10, 10]


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


@pytest.mark.parametrize(("limit", "limit_bytes", "size"), [(8, 1 << 20, 0), (10_000, 8 * 1000, 1000 - EVENT_BYTES - 1)])
def test_who_floods_loses_its_own_and_nobody_elses(counters, limit, limit_bytes, size):
    """In number, and in bytes; also where the first events are in hand."""
    queue = EventQueue(limit, limit_bytes, counters)
    for sender in ("left", "right", "left"):
        queue.append(Pending("q", bytes(size), sender=sender))
    queue.hand_out(1, 1 << 20)
    for _ in range(100):
        queue.append(Pending("f", bytes(size), sender="flooder"))
    assert Counter(each.sender for each in queue) == {"left": 2, "right": 1, "flooder": 5}
    assert counters["events_dropped"] == 95
    queue.append(Pending("q", bytes(size), sender="right"))
    assert Counter(each.sender for each in queue) == {"left": 2, "right": 2, "flooder": 4}


def test_whoever_is_dropped_is_told_of():
    gone = []
    queue = EventQueue(2, 500, Counter(), lambda event: gone.append(event.bus_number))
    queue.append(Pending("t", bytes(2000), bus_number=1))  # no room at all
    for number in range(2, 5):
        queue.append(Pending("t", b"", bus_number=number))
    queue.keep(lambda event: event.bus_number != 3)
    queue[0].tries = 1
    queue.append(Pending("t", bytes(300), bus_number=5))  # only the one in hand is there beside it
    assert gone == [1, 2, 3, 5]
    assert queue.popleft().bus_number == 4


class Counted(str):
    """The name of a sender; counts how often any is looked at."""

    looks = 0

    def __eq__(self, other):
        Counted.looks += 1
        return str(self) == str(other)

    def __lt__(self, other):
        Counted.looks += 1
        return str(self) < str(other)

    def __hash__(self):
        Counted.looks += 1
        return hash(str(self))


@pytest.mark.parametrize("limit_bytes", [1 << 30, 4000 * (EVENT_BYTES + 20)])
@pytest.mark.parametrize("each", [1, 4])
def test_thousands_of_senders_do_not_make_a_flood_dear(counters, limit_bytes, each):
    """By counting: a drop that looked at each event, or at each sender, would look thousands of times."""
    limit, drops = 4000 if limit_bytes == 1 << 30 else 10_000, 500
    queue = EventQueue(limit, limit_bytes, counters)
    senders = [Counted(number) for number in range(4000 // each)]
    for sender in senders * each:
        queue.append(Pending("t", bytes(19), sender=sender))
    assert (len(queue), counters["events_dropped"]) == (4000, 0)
    queue.hand_out(16, 1 << 20)
    queue.append(Pending("t", bytes(19), sender=senders[-1]))  # whatever is made once
    Counted.looks = 0
    for number in range(drops):
        queue.append(Pending("t", bytes(19), sender=senders[-1 - number % 7]))
    assert counters["events_dropped"] == drops + 1
    assert Counted.looks < 100 * drops
    assert len(queue) == 4000


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 400), st.sampled_from(["add"] * 4 + ["take", "hand", "back"]))),
    st.integers(1, 8),
    st.integers(600, 3000),
)
def test_who_has_the_most_loses_the_oldest_that_is_in_nobodys_hand(steps, limit, limit_bytes):
    """Beside a plain list of all events."""
    dropped: list[Pending] = []
    queue, plain, held = EventQueue(limit, limit_bytes, Counter(), dropped.append), [], 0
    for sender, size, step in steps:
        if step == "add":
            event = Pending("t", bytes(size), sender=sender)
            queue.append(event)
            plain.append(event)
            for gone in dropped:
                assert len(plain) > limit or sum(each.size_bytes for each in plain) > limit_bytes
                measure = (lambda _: 1) if len(plain) > limit else (lambda each: each.size_bytes)
                has = {each.sender: sum(measure(other) for other in plain if other.sender == each.sender) for each in plain}
                free = max(held, min(1, plain[0].tries))
                oldest = {each.sender: each for each in reversed(plain[free:])}
                assert oldest[gone.sender] is gone
                assert has[gone.sender] == max(has[each.sender] for each in plain[free:])
                plain = [each for each in plain if each is not gone]
            dropped.clear()
            assert len(plain) == 1 or (len(plain) <= limit and sum(each.size_bytes for each in plain) <= limit_bytes)
        elif step == "take" and plain:
            assert queue.popleft() is plain.pop(0)
            held = max(0, held - 1)
        elif step == "hand":
            held = len(queue.hand_out(3, 1000))
        elif step == "back":
            queue.put_back()
            held = 0
        assert list(map(id, queue)) == list(map(id, plain))
        assert queue.size_bytes == sum(each.size_bytes for each in plain)

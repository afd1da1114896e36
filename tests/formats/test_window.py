"""Windows as text, and when they open."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.formats.reasons import Reason, Refused
from ota.formats.window import DAY_MIN, Window


@pytest.mark.parametrize(
    ("text", "days", "start_min", "length_min", "utc"),
    [
        ("mon-fri 02:00 2h", {0, 1, 2, 3, 4}, 120, 120, False),
        ("Sat,Sun 23:30 1h30m UTC", {5, 6}, 23 * 60 + 30, 90, True),
        ("fri-mon 7:05 45m", {4, 5, 6, 0}, 7 * 60 + 5, 45, False),
        ("00:00 24h", set(range(7)), 0, DAY_MIN, False),
    ],
)
def test_a_window_is_read_from_text(text, days, start_min, length_min, utc):
    assert Window.from_text(text) == Window(frozenset(days), start_min, length_min, utc)


@pytest.mark.parametrize(
    ("text", "reason", "told"),
    [
        ("mon 02:00 0h", Reason.WINDOW_NEVER_OPENS, "has no minute"),
        ("mon 02:00 0m", Reason.WINDOW_NEVER_OPENS, "has no minute"),
        ("mon 24:00 1h", Reason.MALFORMED, "begins at no time of day"),
        ("mon 02:60 1h", Reason.MALFORMED, "begins at no time of day"),
        ("mon 02:00 25h", Reason.MALFORMED, "longer than a day"),
        ("someday 02:00 1h", Reason.MALFORMED, "'someday' is neither a day nor a range"),
        ("mon- 02:00 1h", Reason.MALFORMED, "'mon-' is neither a day nor a range"),
        ("at night", Reason.MALFORMED, 'such as "mon-fri 02:00 2h"'),
        ("", Reason.MALFORMED, 'such as "mon-fri 02:00 2h"'),
    ],
)
def test_text_that_is_no_window_is_refused_with_a_reason(text, reason, told):
    with pytest.raises(Refused, match=told) as caught:
        Window.from_text(text)
    assert caught.value.reason is reason


WINDOWS = st.builds(
    Window,
    st.frozensets(st.integers(0, 6), min_size=1),
    st.integers(0, DAY_MIN - 1),
    st.integers(1, DAY_MIN),
    st.booleans(),
    st.just(False),
)


@given(WINDOWS)
def test_a_window_says_what_it_is_read_from(window):
    assert Window.from_text(str(window)) == window


@given(WINDOWS, st.integers(0, 6), st.integers(0, DAY_MIN - 1))
def test_every_window_opens_within_a_week(window, weekday, minute):
    assert window.opens_within(7 * DAY_MIN, weekday, minute)


def test_a_window_opens_within_the_time_until_it_begins_and_not_before():
    window = Window.from_text("sun 02:00 1h")
    assert not window.opens_within(60, 6, 60)
    assert window.opens_within(61, 6, 60)
    assert window.opens_within(1, 6, 150)
    assert not window.opens_within(1000, 0, 0)


@pytest.mark.parametrize(
    "text",
    [
        "mon,tue,wed,thu,fri,sat,sun 00:00 24h",
        "mon 23:59 1m",
        "mon,tue 01:00 1h1m",
        "mon,wed 00:59 1h",
        "mon,tue,thu 01:00 1h",
        "tue,thu,fri,sat 01:00 1h",
        "tue-thu 13:05 2h utc",
        "fri-sun 01:00 1h",
        "mon-sun 01:00 1h",
    ],
)
def test_days_that_follow_each_other_are_said_as_a_range_from_three_on(text):
    expected = text.replace("mon,tue,wed,thu,fri,sat,sun", "mon-sun")
    assert str(Window.from_text(text)) == expected


def test_a_window_of_more_than_a_day_is_refused_with_what_a_day_has():
    with pytest.raises(Refused, match="it is longer than a day: a length up to 24h is expected"):
        Window.from_text("mon 01:00 24h1m")
    with pytest.raises(Refused, match="it begins at no time of day: a start from 00:00 to 23:59"):
        Window.from_text("mon 01:60 1h")


@pytest.mark.parametrize(("utc", "without_clock"), [(True, False), (False, True)])
def test_what_a_window_says_beside_its_text_is_kept(utc, without_clock):
    window = Window.from_text("mon 01:00 1h", utc=utc, without_clock=without_clock)
    assert (window.utc, window.without_clock) == (utc, without_clock)
    assert Window.parse(window.to_value(), "test") == window
    assert Window.from_text("mon 01:00 1h utc").utc


@pytest.mark.parametrize(
    ("weekday", "minute", "is_open"),
    [
        (0, 1379, False),
        (0, 1380, True),
        (0, 1439, True),
        (1, 0, True),
        (1, 59, True),
        (1, 60, False),
        (1, 1380, False),
        (0, 0, False),
        (6, 1380, False),
    ],
)
def test_a_window_goes_on_past_midnight_and_not_a_minute_longer(weekday, minute, is_open):
    assert Window(frozenset((0,)), 1380, 120).is_open(weekday, minute) is is_open
    sunday = Window(frozenset((6,)), 1380, 120)
    assert sunday.is_open((weekday - 1) % 7, minute) is is_open  # over the end of the week, too


VALUE = {1: 0b11, 2: 90, 3: 60, 4: False, 5: False}


@pytest.mark.parametrize(
    ("member", "good", "bad", "reason"),
    [
        (1, [1, 0b1111111], [0b10000000, -1, True], Reason.MALFORMED),
        (1, [], [0], Reason.WINDOW_NEVER_OPENS),
        (2, [0, 1439], [-1, 1440], Reason.MALFORMED),
        (3, [1, 1440], [-1, 1441], Reason.MALFORMED),
        (3, [], [0], Reason.WINDOW_NEVER_OPENS),
        (4, [True], [1, 0], Reason.MALFORMED),
        (5, [True], [1, 0], Reason.MALFORMED),
        (6, [], [0], Reason.MEMBER_UNKNOWN),
        (63, [], [0], Reason.MEMBER_UNKNOWN),
        (64, [0], [], Reason.MALFORMED),
    ],
)
def test_each_member_of_a_window_is_read_up_to_its_limit(member, good, bad, reason):
    for content in good:
        assert Window.parse(VALUE | {member: content}, "test")
    for content in bad:
        with pytest.raises(Refused) as caught:
            Window.parse(VALUE | {member: content}, "test")
        assert caught.value.reason is reason
    assert Window.parse(VALUE, "test") == Window(frozenset((0, 1)), 90, 60)
    assert Window.parse(VALUE, "test").to_value() == VALUE


@pytest.mark.parametrize(("mask", "length", "told"), [(0, 60, "no day"), (3, 0, "no minute"), (0, 0, "no day")])
def test_a_window_that_never_opens_says_what_is_missing(mask, length, told):
    with pytest.raises(Refused) as caught:
        Window.parse(VALUE | {1: mask, 3: length}, "x")
    assert caught.value.detail == f"x: the window has {told}: one of each at least is expected"

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

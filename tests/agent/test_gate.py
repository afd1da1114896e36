"""When a staged update may begin: windows, zones, daylight saving time, and clocks that nobody set."""

from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from device_agent.instance.gate import Now, why_wait
from device_agent.node.board_clock import BoardClock, unknown_zone
from ota.formats.deployment import CLOCK_SLACK_S, Entry
from ota.formats.reasons import Reason
from ota.formats.window import Window

BERLIN = ZoneInfo("Europe/Berlin")
ID = b"d" * 16
EVERY_DAY = frozenset(range(7))
NIGHT = Window(EVERY_DAY, 2 * 60, 60)


def entry(window: Window | None = NIGHT, **changes) -> Entry:
    return replace(Entry(b"m" * 32, ID, 0, window=window), **changes)


def at(text: str, zone=BERLIN, *, trusted: bool = True) -> Now:
    """A time of day in a zone; with an offset where a time of day comes twice."""
    time = datetime.fromisoformat(text)
    local = (time if time.tzinfo else time.replace(tzinfo=zone)).astimezone(zone)
    return Now(local, local.astimezone(UTC), trusted)


@pytest.mark.parametrize(
    ("time", "opens"),
    [("2026-06-01T01:59:59", False), ("2026-06-01T02:00", True), ("2026-06-01T02:59:59", True), ("2026-06-01T03:00", False)],
)
def test_an_update_begins_in_its_window_by_the_boards_zone(time, opens):
    assert (why_wait(ID, entry(), at(time)) is None) is opens


def test_a_window_of_utc_is_the_same_moment_in_all_zones():
    window = replace(NIGHT, utc=True)
    for zone in (BERLIN, ZoneInfo("Asia/Kolkata"), UTC):
        assert why_wait(ID, entry(window), at("2026-06-01T02:30+00:00", zone)) is None
        assert why_wait(ID, entry(window), at("2026-06-01T00:30+00:00", zone)) is not None


def test_a_window_goes_on_past_midnight_into_a_day_that_it_does_not_name():
    friday_night = Window(frozenset([4]), 23 * 60, 180)
    assert why_wait(ID, entry(friday_night), at("2026-06-06T01:59")) is None  # a Saturday
    assert why_wait(ID, entry(friday_night), at("2026-06-06T02:00")) is not None
    assert why_wait(ID, entry(friday_night), at("2026-06-05T01:59")) is not None


def test_an_hour_that_comes_twice_has_the_window_open_both_times():
    for offset in ("+02:00", "+01:00"):  # 25 October 2026, 03:00 summer time is 02:00
        assert why_wait(ID, entry(), at(f"2026-10-25T02:30{offset}")) is None


def test_a_window_in_the_hour_that_is_left_out_opens_the_next_day():
    assert why_wait(ID, entry(), at("2026-03-29T00:59:59+00:00")) is not None
    assert why_wait(ID, entry(), at("2026-03-29T01:00+00:00")) is not None  # it is 03:00
    assert why_wait(ID, entry(), at("2026-03-30T02:00")) is None


def test_a_board_that_moves_to_another_zone_judges_by_the_new_one():
    moment = datetime(2026, 6, 1, 0, 30, tzinfo=UTC)
    assert why_wait(ID, entry(), Now(moment.astimezone(BERLIN), moment, True)) is None
    assert why_wait(ID, entry(), Now(moment.astimezone(ZoneInfo("America/Lima")), moment, True)) is not None


def test_a_board_without_the_rules_of_its_zone_waits_instead_of_taking_utc_for_it():
    lost = replace(at("2026-06-01T02:30", UTC), unknown_zone="Europe/Berlin")
    waits = why_wait(ID, entry(), lost)
    assert waits is not None
    assert waits.reason is Reason.WINDOW_UNKNOWN
    assert "no rules of its zone, Europe/Berlin" in waits.detail
    assert why_wait(ID, entry(replace(NIGHT, without_clock=True)), lost) is None
    assert why_wait(ID, entry(replace(NIGHT, utc=True)), lost) is None


@pytest.mark.parametrize(
    ("environment", "link", "unknown"),
    [
        ({"TZ": "Europe/Berlin"}, "", ""),
        ({"TZ": ":Europe/Berlin"}, "", ""),
        ({"TZ": "Europe/Atlantis"}, "", "Europe/Atlantis"),
        ({"TZ": "CET-1CEST,M3.5.0,M10.5.0/3"}, "", ""),
        ({"TZ": "<+0545>-5:45"}, "", ""),
        ({"TZ": "UTC"}, "", ""),
        ({"TZ": ""}, "", ""),
        ({"TZ": "Europe/Berlin", "TZDIR": "/nowhere"}, "", "Europe/Berlin"),
        ({}, "", ""),
        ({}, "/usr/share/zoneinfo/Europe/Atlantis", "Europe/Atlantis"),
        ({}, "../usr/share/zoneinfo/Etc/UTC", ""),  # as small systems have it, without any zone
    ],
)
def test_a_zone_is_unknown_where_the_c_library_finds_no_rules_for_it(tmp_path, environment, link, unknown):
    zones, localtime = tmp_path / "zones", tmp_path / "localtime"
    (zones / "Europe").mkdir(parents=True)
    (zones / "Europe" / "Berlin").write_bytes(b"TZif")
    if link:
        localtime.symlink_to(link)
    assert unknown_zone(environment, localtime, [zones]) == unknown


def test_without_a_window_an_update_begins_whatever_the_clock_says():
    assert why_wait(ID, entry(None), at("1970-01-01T00:00", trusted=False)) is None


def test_a_board_that_does_not_know_the_time_waits_and_says_for_what():
    told = why_wait(ID, entry(), at("2026-06-01T02:30", trusted=False))
    assert told.reason is Reason.WINDOW_UNKNOWN
    assert "02:00" in told.detail


def test_a_board_that_does_not_know_the_time_begins_where_the_entry_says_so():
    assert why_wait(ID, entry(replace(NIGHT, without_clock=True)), at("1970-01-01T12:00", trusted=False)) is None


def test_a_window_is_told_in_the_report():
    told = why_wait(ID, entry(), at("2026-06-01T12:00"))
    assert (told.reason, "02:00" in told.detail) == (Reason.WINDOW_CLOSED, True)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, Reason.DOCUMENT_AWAITED),
        (entry(None, deployment_id=b"e" * 16), Reason.DOCUMENT_AWAITED),
        (entry(None, paused=True), Reason.DEPLOYMENT_STOPPED),
    ],
)
def test_without_its_entry_or_under_a_paused_one_an_update_waits(found, reason):
    assert why_wait(ID, found, at("2026-06-01T02:30")).reason is reason


# -- the board's clock

ISSUED_S = 1_780_000_000


def board_clock(tmp_path, time_s=ISSUED_S, **changes) -> BoardClock:
    return BoardClock(
        lambda: ISSUED_S, time_s=lambda: time_s, rtc=tmp_path / "rtc", synchronised=tmp_path / "synchronized", **changes
    )


def rtc(tmp_path, seconds: int) -> None:
    (tmp_path / "rtc" / "rtc0").mkdir(parents=True)
    (tmp_path / "rtc" / "rtc0" / "since_epoch").write_text(f"{seconds}\n")


def test_a_clock_that_goes_on_from_the_last_shutdown_is_not_believed(tmp_path):
    assert not board_clock(tmp_path).now().trusted


def test_a_clock_that_was_set_while_the_agent_ran_is_believed(tmp_path):
    clock = board_clock(tmp_path)
    clock.set()
    assert clock.now().trusted


def test_a_clock_that_systemd_says_is_synchronised_is_believed(tmp_path):
    (tmp_path / "synchronized").touch()
    assert board_clock(tmp_path).now().trusted


@pytest.mark.parametrize(("seconds", "trusted"), [(ISSUED_S, True), (946_684_800, False)])
def test_a_clock_with_a_battery_is_believed_unless_that_is_empty(tmp_path, seconds, trusted):
    rtc(tmp_path, seconds)
    assert board_clock(tmp_path).now().trusted is trusted


def test_the_owner_may_vouch_for_the_clock(tmp_path):
    assert board_clock(tmp_path, trusted=True).now().trusted


def test_a_clock_behind_signed_documents_is_believed_for_no_reason(tmp_path):
    rtc(tmp_path, ISSUED_S)
    clock = board_clock(tmp_path, ISSUED_S - CLOCK_SLACK_S - 1, trusted=True)
    clock.set()
    assert not clock.now().trusted


def test_the_time_is_told_in_the_boards_zone(tmp_path):
    now = board_clock(tmp_path, zone=BERLIN).now()
    assert (now.local.utcoffset().total_seconds(), now.local, now.utc.tzinfo) == (7200, now.utc, UTC)


def test_a_zone_that_is_changed_while_the_agent_runs_counts(tmp_path, monkeypatch):
    clock = board_clock(tmp_path)
    hours = []
    for zone in ("UTC0", "XXX-3"):
        monkeypatch.setenv("TZ", zone)
        hours.append(clock.now().local.hour)
    assert (hours[1] - hours[0]) % 24 == 3

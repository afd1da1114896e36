"""Counters as Prometheus reads them."""

import re

from ota.formats.report import Report, Running
from ota.operator.prometheus import text
from ota.operator.reports import Device


def device(name: str, **counters: int) -> Device:
    running = Running("mon", 'v"1\\', slot="confirmed", mode="aot")
    return Device(
        name, Report(name, "lab", "generic", "0.1", 1000, 50, running=running, counters=counters), online=True, came_s=1000
    )


def test_each_counter_is_a_sample_with_its_device():
    lines = text([device("b", events_handled=7, gap_us=3), device("a", events_handled=9, module_time_us=12)], 1060).splitlines()
    assert 'wamr_ota_events_handled_total{device="a",group="lab"} 9' in lines
    assert 'wamr_ota_gap_us{device="b",group="lab"} 3' in lines
    assert "# TYPE wamr_ota_events_handled_total counter" in lines
    assert "# TYPE wamr_ota_gap_us gauge" in lines
    assert any(line.startswith("wamr_ota_module_time_us_total{") and line.endswith(" 12") for line in lines)
    sample = re.compile(r'wamr_ota_complete 1|[a-z_]+\{([a-z]+="([^"\\\n]|\\[\\"n])*",?)+\} \d+')
    assert all(line.startswith("# TYPE ") or sample.fullmatch(line) for line in lines)


def test_a_type_is_said_once_and_before_its_samples():
    lines = text([device("a", events=1), device("b", events=2)], 1060).splitlines()
    assert lines.count("# TYPE wamr_ota_events_total counter") == 1
    at = lines.index("# TYPE wamr_ota_events_total counter")
    assert [line.split()[-1] for line in lines[at + 1 : at + 3]] == ["1", "2"]


def test_whatever_a_board_calls_its_counters_the_page_can_be_read():
    counters = {"größe": 1, "a b": 2, 'x"} 1\n# TYPE evil': 3, "1st": 4, "": 5, "a_x20_b": 6}
    lines = text([device("a", **counters)], 1060).splitlines()
    name = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
    for line in lines:
        found = name.match(line.removeprefix("# TYPE "))
        assert found, line
        assert line.removeprefix("# TYPE ")[found.end()] in " {", line
    assert 'wamr_ota_gr_xf6__xdf_e_total{device="a",group="lab"} 1' in lines
    assert sum(line.startswith("wamr_ota_a_x20_b_total{") for line in lines) == 1  # two names that became the same


def test_boards_without_a_report_are_known_or_unknown():
    lines = text([Device("a"), Device("b", unknown="no answer in 10 s"), device("c")], 1060, complete=False).splitlines()
    assert "wamr_ota_complete 0" in lines
    assert [line.split()[-1] for line in lines if line.startswith("wamr_ota_known{")] == ["1", "0", "1"]
    assert 'wamr_ota_report_age_s{device="c",group="lab"} 60' in lines

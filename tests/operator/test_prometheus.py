"""Counters as Prometheus reads them."""

import re

from ota.formats.report import Report, Running
from ota.operator.prometheus import text
from ota.operator.reports import Device


def device(name: str, **counters: int) -> Device:
    running = Running("mon", 'v"1\\', slot="confirmed", mode="aot")
    return Device(Report(name, "lab", "generic", "0.1", 1000, 50, running=running, counters=counters), online=True)


def test_each_counter_is_a_sample_with_its_device():
    lines = text([device("b", events_handled=7, gap_us=3), device("a", events_handled=9, module_time_us=12)]).splitlines()
    assert 'wamr_ota_events_handled_total{device="a",group="lab"} 9' in lines
    assert 'wamr_ota_gap_us{device="b",group="lab"} 3' in lines
    assert "# TYPE wamr_ota_events_handled_total counter" in lines
    assert "# TYPE wamr_ota_gap_us gauge" in lines
    assert any(line.startswith("wamr_ota_module_time_us_total{") and line.endswith(" 12") for line in lines)
    sample = re.compile(r'[a-z_]+\{([a-z]+="([^"\\\n]|\\[\\"n])*",?)+\} \d+')
    assert all(line.startswith("# TYPE ") or sample.fullmatch(line) for line in lines)


def test_a_type_is_said_once_and_before_its_samples():
    lines = text([device("a", events=1), device("b", events=2)]).splitlines()
    assert lines.count("# TYPE wamr_ota_events_total counter") == 1
    at = lines.index("# TYPE wamr_ota_events_total counter")
    assert [line.split()[-1] for line in lines[at + 1 : at + 3]] == ["1", "2"]

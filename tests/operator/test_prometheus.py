"""Counters as Prometheus reads them."""

import re

from ota.formats.report import Attempt, Running
from ota.operator.prometheus import text
from ota.operator.reports import Device, Seen
from tests.support import fleet

RUNNING = Running("mon", 'v"1\\', slot="confirmed", mode="aot")


def device(name: str, instances: dict[str, Seen] | None = None, **counters: int) -> Device:
    summaries = tuple(fleet.summary(each, RUNNING, Attempt("failed", reason="trapped")) for each in instances or {})
    report = fleet.report(name, time_s=1000, instances=summaries, counters=counters)
    return Device(name, report, online=True, came_s=1000, instances=instances or {})


def instance(board: str, name: str, **counters: int) -> Seen:
    return Seen(fleet.instance_report(board, name, running=RUNNING, counters=counters))


def test_each_counter_is_a_sample_with_its_device():
    lines = text([device("b", events_handled=7, gap_us=3), device("a", events_handled=9)], 1060).splitlines()
    assert 'wamr_ota_events_handled_total{device="a",group="lab"} 9' in lines
    assert 'wamr_ota_gap_us{device="b",group="lab"} 3' in lines
    assert "# TYPE wamr_ota_events_handled_total counter" in lines
    assert "# TYPE wamr_ota_gap_us gauge" in lines


def test_each_counter_of_an_instance_is_a_sample_with_its_instance():
    found = {"one": instance("a", "one", events_handled=7, module_memory_bytes=64), "two": instance("a", "two", events_handled=8)}
    lines = text([device("a", found | {"three": Seen(unknown="no answer")}, reconnections=1)], 1060).splitlines()
    assert 'wamr_ota_instance_events_handled_total{device="a",group="lab",instance="one"} 7' in lines
    assert 'wamr_ota_instance_events_handled_total{device="a",group="lab",instance="two"} 8' in lines
    assert 'wamr_ota_instance_module_memory_bytes{device="a",group="lab",instance="one"} 64' in lines
    assert 'wamr_ota_instance_known{device="a",group="lab",instance="three"} 0' in lines
    assert any(
        line.startswith('wamr_ota_instance_update{device="a",group="lab",instance="two"') and 'reason="trapped"' in line
        for line in lines
    )
    assert any('instance="one",module="mon"' in line and 'mode="aot"' in line for line in lines)
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

"""The counters of reports in Prometheus' text exposition format 0.0.4."""

import re
from collections.abc import Iterable

from ota.operator.reports import Device, Seen

_GAUGES = frozenset(("gap_us", "events_waiting", "module_memory_bytes"))
_ILLEGAL = re.compile(r"[^a-zA-Z0-9_]")


def text(devices: Iterable[Device], now_s: float, *, complete: bool = True) -> str:
    """One sample for each counter of each device and instance; units are in the names. No timestamps: a scraper has a clock.

    Counters of the board itself and of its instances have names of their own: a sum over one name counts nothing twice.

    A counter's name is the board's to choose: what is not legal in a metric's name becomes its code point, `_xe4_`. Should two
    names of a board become the same, the second is left out.
    """
    samples: dict[str, dict[str, str]] = {"wamr_ota_complete": {"": str(int(complete))}}

    def add(name: str, labels: str, value: int) -> None:
        samples.setdefault(name, {}).setdefault(labels, str(value))

    for device in sorted(devices, key=lambda each: each.name):
        report = device.report
        known = _labels({"device": device.name})
        add("wamr_ota_known", known, int(not device.unknown))
        if report is None:
            continue
        labels = _labels({"device": device.name, "group": report.group})
        add("wamr_ota_online", labels, int(device.online))
        add("wamr_ota_uptime_s", labels, report.uptime_s)
        add("wamr_ota_report_age_s", labels, max(0, int(now_s - device.came_s)))
        for name, value in sorted(report.counters.items()):
            add(_full("", name), labels, value)
        for summary in report.instances:
            of = {"device": device.name, "group": report.group, "instance": summary.name}
            own = device.instances.get(summary.name, Seen()).report
            mode = own.running.mode if own else ""
            about = {"module": summary.module, "version": summary.version, "slot": summary.slot, "mode": mode}
            add("wamr_ota_instance_running", _labels(of | about), int(bool(summary.module)))
            add("wamr_ota_instance_update", _labels(of | {"state": summary.state, "reason": summary.reason}), 1)
        for instance, seen in sorted(device.instances.items()):
            of = {"device": device.name, "group": report.group, "instance": instance}
            add("wamr_ota_instance_known", _labels(of), int(not seen.unknown))
            for name, value in sorted(seen.report.counters.items() if seen.report else ()):
                add(_full("instance_", name), _labels(of), value)
    lines = []
    for name, values in sorted(samples.items()):
        lines.append(f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}")
        lines += [f"{name}{labels} {value}" for labels, value in values.items()]
    return "\n".join(lines)


def _full(kind: str, name: str) -> str:
    return f"wamr_ota_{kind}{_metric(name)}" + ("" if name in _GAUGES else "_total")


def _metric(name: str) -> str:
    return _ILLEGAL.sub(lambda found: f"_x{ord(found[0]):x}_", name)


def _labels(values: dict[str, str]) -> str:
    pairs = (f'{key}="{_escaped(value)}"' for key, value in values.items())
    return "{" + ",".join(pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

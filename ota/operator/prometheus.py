"""The counters of reports in Prometheus' text exposition format 0.0.4."""

from collections.abc import Iterable

from ota.operator.reports import Device

_GAUGES = frozenset(("gap_us", "events_waiting", "module_memory_bytes"))


def text(devices: Iterable[Device]) -> str:
    """One sample for each counter of each device, by name; units are in the names. No timestamps: the scraper has a clock."""
    samples: dict[str, list[str]] = {}
    for device in sorted(devices, key=lambda each: each.report.device):
        report = device.report
        labels = _labels({"device": report.device, "group": report.group})
        samples.setdefault("wamr_ota_online", []).append(f"wamr_ota_online{labels} {int(device.online)}")
        samples.setdefault("wamr_ota_uptime_s", []).append(f"wamr_ota_uptime_s{labels} {report.uptime_s}")
        running = {"module": report.running.name, "version": report.running.version, "mode": report.running.mode}
        module = _labels({"device": report.device, "group": report.group, **running})
        samples.setdefault("wamr_ota_running", []).append(f"wamr_ota_running{module} 1")
        for name, value in sorted(report.counters.items()):
            if name.isidentifier():
                full = f"wamr_ota_{name}" + ("" if name in _GAUGES else "_total")
                samples.setdefault(full, []).append(f"{full}{module if name.startswith('module_') else labels} {value}")
    lines = []
    for name, values in sorted(samples.items()):
        lines += [f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}", *values]
    return "\n".join(lines)


def _labels(values: dict[str, str]) -> str:
    pairs = (f'{key}="{_escaped(value)}"' for key, value in values.items())
    return "{" + ",".join(pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

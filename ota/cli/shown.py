"""How boards and their instances are shown: as rows of a table, in detail, as JSON. Reads and prints nothing."""

import time
from typing import Any

from ota.cli import output
from ota.formats.report import InstanceReport, Refusal, Summary, stepped_down
from ota.operator.reports import Device, Seen

__all__ = ["HEAD", "as_json", "changes", "details", "rows", "troubles"]

FRESH_S = 600  # a report of an online board is not spoken of before it is so old
HEAD = ("device", "group", "agent", "instance", "module", "slot", "update", "seen")
DIGITS = 16  # of a digest


def rows(device: Device, now_s: float) -> list[tuple[str, ...]]:
    """A line for each instance; the first one ends with when the board was heard of."""
    report = device.report
    if report is None:
        return [(device.name, *"-" * (len(HEAD) - 2), seen(device, now_s))]
    first, last = (report.device, report.group, report.agent), seen(device, now_s)
    parts = [_instance(each) for each in report.instances] or [("-", "-", "-", "-")]
    return [(*first, *part, "" if number else last) for number, part in enumerate(parts)]


def changes(device: Device, now_s: float) -> list[str]:
    """A line for each instance, for a log."""
    who = f"{device.name} ({device.report.group})" if device.report else device.name
    parts = [_instance(each) for each in device.report.instances] if device.report else []
    lines = [f"{who}  {instance}: {module} [{slot}]  {update}" for instance, module, slot, update in parts]
    return [f"{line}  {seen(device, now_s)}" for line in lines or [f"{who}  no instance"]]


def _instance(summary: Summary) -> tuple[str, str, str, str]:
    module = f"{summary.module} {summary.version}" if summary.module else "-"
    update = summary.state + (f" ({summary.reason})" if summary.reason else "")
    return summary.name, module, summary.slot, update + (", then stepped down" if stepped_down(summary.state, summary.slot) else "")


def troubles(device: Device) -> list[str]:
    """What is wrong with the board itself, and which documents it refused."""
    report = device.report
    said = [device.refused] if device.refused else []
    return [*said, *report.problems, *map(_refused, report.refusals)] if report else said


def _refused(refusal: Refusal) -> str:
    number = "" if refusal.document == "root" else "epoch "
    return f"{refusal.document} document, {number}{refusal.epoch}, was refused: {refusal.reason}: {refusal.detail}"


def seen(device: Device, now_s: float) -> str:
    """When the board was heard of last: the age of its report is the fact, `online` is what the broker says."""
    if device.unknown:
        return f"unknown: {device.unknown}"
    if device.report is None:
        return "online, no report yet" if device.online else "never reported"
    age_s = now_s - device.came_s
    text = "online" if device.online else f"offline, last report {output.age(age_s)} ago"
    if device.online and age_s > FRESH_S:
        text += f", but last report {output.age(age_s)} ago"
    if device.clock_ahead_s:
        text += f"; its clock is {output.age(abs(device.clock_ahead_s))} {'ahead' if device.clock_ahead_s > 0 else 'behind'}"
    return text


def details(device: Device, now_s: float) -> str:
    """A board with the instances that were read, a section each."""
    report = device.report
    if report is None:
        return output.table(("device", device.name), [("seen", seen(device, now_s))])
    about = [
        ("group", report.group),
        ("board", report.board),
        ("agent", f"{report.agent}, up for {output.age(report.uptime_s)}"),
        ("seen", seen(device, now_s)),
        *(("problem", each) for each in troubles(device)),
        *_counters(report.counters),
    ]
    sections = [output.table(("device", device.name), about)]
    sections += [output.table(("instance", name), _of_instance(each)) for name, each in sorted(device.instances.items())]
    return "\n\n".join(sections)


def _of_instance(found: Seen) -> list[tuple[str, str]]:
    report = found.report
    if report is None:
        return [("state", f"unknown: {found.unknown}" if found.unknown else "no report")]
    running = report.running
    how = ", ".join(filter(None, (running.slot, running.mode, f"sequence {running.sequence}")))
    rows = [("module", f"{running.name} {running.version} ({how})" if running.name else "none")]
    if running.manifest:
        rows.append(("manifest", running.manifest.hex()[:DIGITS]))
    if running.config:
        rows.append(("configuration", running.config.hex()[:DIGITS]))
    if running.lacking:
        rows.append(("not confined by", ", ".join(running.lacking)))
    return [*rows, *_of_attempt(report), ("said", _date(report.time_s)), *_counters(report.counters)]


def _of_attempt(report: InstanceReport) -> list[tuple[str, str]]:
    attempt = report.attempt
    if not attempt.deployment and attempt.state == "idle":
        return []
    what = f"manifest {attempt.manifest.hex()[:DIGITS]}" if attempt.manifest else "removal"
    rows = [("update", f"{attempt.state}: {what}, deployment {attempt.deployment.hex()[:DIGITS] or 'not known'}")]
    if attempt.reason or attempt.detail:
        rows.append(("because", ": ".join(filter(None, (attempt.reason, attempt.detail)))))
    if stepped_down(attempt.state, report.running.slot):
        rows.append(("stepped down", f"it failed again and again: the {report.running.slot} module runs, until it is tried again"))
    if attempt.chunks and attempt.done_chunks < attempt.chunks:
        rows.append(("chunks", f"{attempt.done_chunks} of {attempt.chunks}"))
    if attempt.state == "trial":
        rows.append(("events on trial", str(attempt.events)))
    return rows


def _counters(counters: dict[str, int]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in sorted(counters.items())]


def _date(time_s: int) -> str:
    """By the board's clock."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time_s))
    except (OverflowError, ValueError, OSError):
        return f"{time_s} s since 1970"


def as_json(device: Device, now_s: float) -> dict[str, Any]:
    """For machines; docs/reference/fleet.md describes it."""
    about: dict[str, Any] = {"device": device.name, "online": device.online, "unknown": device.unknown, "refused": device.refused}
    report = device.report
    if report is None:
        return about | {"reported": False}
    summaries = {each.name: each for each in report.instances}
    names = device.instances or summaries
    return about | {
        "reported": True,
        "group": report.group,
        "board": report.board,
        "agent": report.agent,
        "time_s": report.time_s,
        "age_s": max(0, round(now_s - device.came_s)),
        "clock_ahead_s": device.clock_ahead_s,
        "uptime_s": report.uptime_s,
        "instances": [_instance_json(summaries.get(name, Summary(name)), device.instances.get(name)) for name in sorted(names)],
        "refusals": [vars(each) for each in report.refusals],
        "counters": report.counters,
        "problems": report.problems,
        "root": report.root,
        "documents": dict(report.documents) if report.documents is not None else None,
        "algorithms": report.algorithms,
        "journal": {"row": report.journal.row, "digest": report.journal.digest},
    }


def _instance_json(summary: Summary, found: Seen | None) -> dict[str, Any]:
    values = vars(summary)
    about = {"instance": summary.name} | {name: value for name, value in values.items() if name != "name"}
    if found is None:
        return about
    if found.report is None:
        return about | {"unknown": found.unknown or "it has no report of its own"}
    report = found.report
    return about | {
        "unknown": "",
        "time_s": report.time_s,
        "running": vars(report.running),
        "attempt": vars(report.attempt),
        "counters": report.counters,
    }

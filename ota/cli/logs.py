"""logs: what boards log, and what their modules publish."""

import argparse
from datetime import UTC, datetime
from typing import Any

from ota.cli import output
from ota.cli.fleet import FOREVER_S, nobody
from ota.formats import topics
from ota.formats.interfaces import LEVELS
from ota.formats.reasons import Reason, Refused
from ota.formats.report import LogRecord, Message
from ota.formats.text import printable
from ota.operator.broker import Broker, BrokerError
from ota.operator.logs import Logs, module_topics
from ota.operator.roster import Roster
from ota.operator.session import NoConnectionError
from ota.operator.workspace import Workspace


def add_commands(commands: Any) -> None:
    """Adds the verb of this module."""
    logs = commands.add_parser("logs", help="logs and messages of boards", epilog="example: ota logs -f --device board-1")
    logs.add_argument("-f", "--follow", action="store_true", help="continue until Ctrl-C")
    logs.add_argument("--device", type=output.name, help="only of this one")
    logs.add_argument("--instance", type=output.name, help="only of instances of this name; without it the agent's, too")
    logs.add_argument(
        "--level", choices=LEVELS, default="info", help="the lowest level to show (default %(default)s); events count as info"
    )
    logs.add_argument(
        "--topics",
        type=_filter,
        metavar="FILTER",
        help="where modules publish, if boards have a template of their own (default: devices/+/#)",
    )
    logs.add_argument("--utc", action="store_true", help="times in UTC instead of this machine's zone")
    logs.add_argument(
        "--seconds", type=output.seconds, default=5.0, help="without --follow: how long to listen (default %(default)s)"
    )
    logs.add_argument("--json", action="store_true", help="machine-readable")
    logs.set_defaults(handler=_logs)


def _filter(text: str) -> str:
    if not topics.is_filter(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a topic filter")
    return text


def _logs(arguments: argparse.Namespace) -> int:
    workspace = Workspace.open(arguments.folder)
    least = LEVELS.index(arguments.level)
    device = arguments.device or "+"
    roster = Roster(workspace)
    passed_over: set[tuple[str, Reason]] = set()
    instances: set[str] = set()
    shown = 0

    def refused(name: str, error: Refused) -> None:
        if (name, error.reason) not in passed_over:
            passed_over.add((name, error.reason))
            output.note(printable(f"{name}: what came as its log or messages is not believed: {error}"))

    with Broker(workspace.settings) as broker:
        if arguments.device and not _known(broker, roster, arguments.device):
            output.note(nobody([arguments.device], roster))
            return 1
        _subscribe(broker, arguments.topics or module_topics(device))
        listen_s = FOREVER_S if arguments.follow else arguments.seconds
        if arguments.follow:
            output.note(f"listening at {workspace.settings.broker}; Ctrl-C ends it")
        for name, record in Logs(broker, roster, refused).follow(listen_s, device):
            level = record.level if isinstance(record, LogRecord) else "info"
            instances.add(record.instance)
            if LEVELS.index(level) < least or arguments.instance not in (None, record.instance):
                continue
            shown += 1
            if arguments.json:
                output.result_json({"device": name, **(record._asdict() if isinstance(record, Message) else vars(record))})
            else:
                output.result(f"{_date(record.time_s, utc=arguments.utc)}  {name}  {_line(record)}")
    if not shown:
        output.note(_nothing(arguments, sorted(filter(None, instances))))
    return 1 if passed_over else 0


def _nothing(arguments: argparse.Namespace, instances: list[str]) -> str:
    """That nothing was shown, and what may be the cause."""
    of = f" of instance {arguments.instance}, only of {', '.join(instances)}" if arguments.instance and instances else ""
    return f"no line or message in {arguments.seconds:g} s{of}: earlier ones are not shown; -f continues until Ctrl-C"


def _subscribe(broker: Broker, modules: str) -> None:
    """To what modules publish; an operator who may not read it still sees the logs."""
    try:
        broker.subscribe(modules)
    except NoConnectionError:
        raise
    except BrokerError as error:
        output.note(f"messages of modules are not shown: {error}")


def _known(broker: Broker, roster: Roster, name: str) -> bool:
    left = broker.retained((topics.report(name), topics.online(name)))
    return name in roster.names or any(each.payload is not None or each.unknown for each in left)


def _date(time_s: float, *, utc: bool) -> str:
    """ISO 8601, to the second; by the board's clock."""
    try:
        moment = datetime.fromtimestamp(time_s, UTC)
        return (moment if utc else moment.astimezone()).isoformat(sep="T" if utc else " ", timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"time {time_s!r}"  # what a board sends may be no date


def _line(record: LogRecord | Message) -> str:
    who = _who(record.instance, record.module)
    if isinstance(record, LogRecord):
        return f"{record.level:5}  {who}: {printable(record.message)}"
    payload = record.payload.decode("utf-8", "backslashreplace")
    return f"event  {who}: {printable(f'{record.topic} {payload}')}"


def _who(instance: str, module: str) -> str:
    """An instance that is named after its module is not named twice."""
    if not instance:
        return module or "agent"
    return module if module.split(" ", maxsplit=1)[0] == instance else f"{instance} ({module})" if module else instance

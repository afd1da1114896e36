"""The command `device-agent`."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from device_agent.node.version import agent_version
from ota import interrupts
from ota.parsing import Parser
from ota.run_options import add_run_options

if TYPE_CHECKING:
    from device_agent.node.check import Finding
    from device_agent.node.status import Status

DEFAULT_CONFIG = Path("/etc/wamr-ota/agent.toml")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="device-agent",
        description="Runs a board's WebAssembly module and updates it.",
        epilog="example: device-agent --config /etc/wamr-ota/agent.toml",
    )
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="configuration file (default %(default)s)")
    parser.add_argument("--log-format", choices=("text", "json"), help="default: text on a terminal, json elsewhere")
    parser.add_argument("--debug", action="store_true", help="log more, and show tracebacks")
    parser.add_argument(
        "--version", action="version", version=f"device-agent {agent_version()}", help="print the agent's version, and end"
    )
    parser.add_argument("--prog", default="device-agent", help=argparse.SUPPRESS)  # the command that the user gave, for messages
    commands = parser.add_subparsers(dest="command", metavar="command")
    check = commands.add_parser(
        "check",
        help="say what an agent would find with this configuration; beside one that runs, too",
        epilog="example: device-agent --config /etc/wamr-ota/agent.toml check",
    )
    check.add_argument("--json", action="store_true", help="machine-readable result")
    check.set_defaults(command="check")
    status = commands.add_parser(
        "status",
        help="which modules are on this board, and what became of their updates; without a network, and beside an agent that runs",
        epilog="example: device-agent --config /etc/wamr-ota/agent.toml status",
    )
    status.add_argument("--json", action="store_true", help="machine-readable result")
    install = commands.add_parser(
        "install",
        help="install a bundle that `ota pack` made, with or without an agent that runs",
        epilog="example: device-agent install /mnt/lab.bundle",
    )
    install.add_argument("file", type=Path, help="the bundle")
    install.add_argument("--json", action="store_true", help="machine-readable result")
    audit = commands.add_parser(
        "audit",
        help="the board's journal, for an auditor",
        epilog="example: device-agent --config /etc/wamr-ota/agent.toml audit export > journal.jsonl",
    )
    verbs = audit.add_subparsers(dest="verb", metavar="verb", required=True)
    export = verbs.add_parser(
        "export",
        help="print the journal, a line of JSON for each row; beside an agent that runs, too",
        epilog="example: device-agent --config /etc/wamr-ota/agent.toml audit export > journal.jsonl",
    )
    export.set_defaults(command="audit")
    request = commands.add_parser(
        "request",
        help="print a signing request for this board's key, making the key if there is none",
        epilog="example: device-agent request roof-1 --key /etc/wamr-ota/device.key",
    )
    request.add_argument("device", help="the board's name")
    request.add_argument("--key", type=Path, required=True, help="file of the key")
    run = commands.add_parser(
        "run",
        help="run one module in this process, without any agent (what `ota run` does)",
        epilog="example: device-agent run blink.wasm --event button=1 --trace",
    )
    run.add_argument("module", type=Path, help="the .wasm; a .toml beside it describes it")
    run.add_argument("--image", type=Path, help="an ahead-of-time image of the module, to run instead of interpreting it")
    add_run_options(run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when done, 1 when refused or failed, 2 for wrong usage, 3 when a bundle waits for its time."""
    arguments = _parser().parse_args(argv)
    from ota.errors import OtaError

    try:
        work = _work(arguments)
        interrupts.raise_exception()
        return work()
    except BrokenPipeError:  # whoever read the output has seen enough
        _drop_output()
        return 1
    except KeyboardInterrupt:
        interrupts.end_at_once()
        return 130
    except Exception as error:
        if arguments.debug:
            raise
        _drop_output()
        print(f"{arguments.prog}: {_words(error, known=isinstance(error, OtaError))}", file=sys.stderr)
        return 1


def _work(arguments: argparse.Namespace) -> Callable[[], int]:
    """What a command does, with all that it needs loaded."""
    match arguments.command:
        case "request":
            from device_agent.broker.certificates import signing_request

            return lambda: _show(signing_request(arguments.key, arguments.device).decode())
        case "check":
            from device_agent.node.check import check

            return lambda: _tell(check(arguments.config), as_json=arguments.json)
        case "status":
            from device_agent.node.status import status

            return lambda: _say(status(arguments.config), as_json=arguments.json)
        case "install":
            from device_agent.node.install import install

            return lambda: install(arguments.config, arguments.file, lambda line: print(line, flush=True), as_json=arguments.json)
        case "audit":
            from device_agent.node.config import load
            from device_agent.storage.export import rows

            return lambda: _show("".join(f"{row.to_line()}\n" for row in rows(load(arguments.config).storage)))
        case "run":
            return _run(arguments)
    from device_agent.node.service import serve

    return lambda: serve(arguments.config, arguments.log_format, debug=arguments.debug)


def _words(error: Exception, *, known: bool) -> str:
    """One line for any error; what is no error of the input or the system is a fault of ours."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif known or isinstance(error, OSError):
        text = str(error)
    else:
        text = f"internal error: {type(error).__name__}: {error}; please report it with the output of --debug"
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _drop_output() -> None:
    """Discards output that cannot be written, so that the interpreter does not complain of it at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show(text: str) -> int:
    print(text, end="", flush=True)
    return 0


def _run(arguments: argparse.Namespace) -> Callable[[], int]:
    from device_agent.tools.single import Options, configuration, given, run_module

    devices = tuple(arguments.device) if arguments.simulate or arguments.device else None
    options = Options(
        events=arguments.event,
        config=configuration(arguments.config),
        ticks=arguments.ticks,
        kept=arguments.state,
        trace=arguments.trace,
        deny=tuple(arguments.deny),
        image=arguments.image,
        as_json=arguments.json,
        given=given(arguments),
        devices=devices,
    )
    return lambda: run_module(arguments.module, options)


def _say(found: "Status", *, as_json: bool) -> int:
    return _show((json.dumps(found.as_json()) if as_json else "\n".join(found.lines())) + "\n")


def _tell(findings: Sequence["Finding"], *, as_json: bool) -> int:
    good = all(each.good for each in findings)
    if as_json:
        print(json.dumps({"good": good, "findings": [asdict(each) for each in findings]}), flush=True)
    else:
        for each in findings:
            print(f"{'ok   ' if each.good else 'WRONG'} {each.what:<13} {each.text}", flush=True)
    return 0 if good else 1

"""The command `ota`: parsing, and the one place where an error becomes a line and an exit code."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from boards.errors import BoardError
from ota import __version__, interrupts
from ota.cli import completion
from ota.cli.output import UsageError
from ota.errors import OtaError
from ota.formats.text import printable
from ota.parsing import Parser

Handler = Callable[[argparse.Namespace], int]
VERBS = {  # by module of ota.cli
    "operator": ("init",),
    "keys": ("keys",),
    "group_keys": ("group-keys",),
    "root": ("sign", "root"),
    "publish": ("publish",),
    "registry": ("push",),
    "instances": ("remove", "config", "withdraw"),
    "rollout": ("widen", "pause", "resume", "abort", "republish", "clean"),
    "steps": ("rollout",),
    "bundles": ("pack", "archive", "reports"),
    "broker": ("broker", "broker-config"),
    "author": ("new", "build", "inspect", "verify", "run", "demo"),
    "provenance": ("sbom", "rebuild"),
    "fleet": ("status", "devices"),
    "logs": ("logs",),
    "audit": ("audit",),
    "board": ("boards", "image"),
    "flash": ("flash", "settings", "enrol"),
    "certificates": ("ca", "token", "retire"),
}
SECTIONS = {  # of the help: every verb, in the order in which it is shown
    "workspace, keys and broker": ("init", "keys", "group-keys", "root", "sign", "ca", "broker", "broker-config", "completion"),
    "make and try modules": ("new", "run", "inspect", "build", "verify", "push", "sbom", "rebuild", "demo"),
    "publish": (
        "publish",
        "config",
        "remove",
        "withdraw",
        "widen",
        "rollout",
        "pause",
        "resume",
        "abort",
        "republish",
        "clean",
        "pack",
        "archive",
    ),
    "watch": ("status", "logs", "devices", "reports", "audit"),
    "set up boards": ("boards", "image", "flash", "settings", "token", "enrol", "retire"),
}
_MODULES = {verb: module for module, verbs in VERBS.items() for verb in verbs}


def parser(verb: str = "") -> argparse.ArgumentParser:
    """Every verb, each with an example; or only those of the module of one, which takes a tenth of the time."""
    top = Parser(
        prog="ota",
        description="Update WebAssembly firmware on boards: signed, over MQTT, offline first.",
        epilog="Begin with init, new, run, publish and status. `ota COMMAND --help` has the options of a command and an example.",
    )
    workspace = Path(os.environ.get("OTA_WORKSPACE") or ".")
    top.add_argument(
        "-C", dest="folder", type=Path, default=workspace, metavar="FOLDER", help="the workspace (default: OTA_WORKSPACE, or here)"
    )
    top.add_argument("--debug", action="store_true", help="show tracebacks")
    top.add_argument("--version", action="version", version=f"ota {__version__}")
    commands = top.add_subparsers(dest="command", metavar="command", required=True)
    for module in (_MODULES[verb],) if verb in _MODULES else VERBS:
        importlib.import_module(f"ota.cli.{module}").add_commands(commands)
    if verb not in _MODULES:
        completion.add_commands(commands, parser)
        top.show_in_sections(SECTIONS)
    _add_general_options(commands)
    return top


def _verb(words: Sequence[str]) -> str:
    """The verb of a command line; "" where there is none before all options have been parsed."""
    left = iter(words)
    for word in left:
        if word == "-C":
            next(left, None)
        elif word != "--debug" and not word.startswith("-C"):
            return word if word in _MODULES else ""
    return ""


def _add_general_options(commands: Any) -> None:
    """The options that go before the verb go behind it as well."""
    for command in commands.choices.values():
        command.add_argument("-C", dest="folder", type=Path, default=argparse.SUPPRESS, metavar="FOLDER", help=argparse.SUPPRESS)
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        for verbs in completion.subcommands(command):
            _add_general_options(verbs)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when done, 1 when refused or failed, 2 for wrong usage, 3 when boards wait for a window, 130 when interrupted."""
    words = sys.argv[1:] if argv is None else argv
    try:
        arguments = parser(_verb(words)).parse_args(words)
    except KeyboardInterrupt:
        return _interrupted()
    handler: Handler = arguments.handler
    try:
        interrupts.raise_exception()
        code = handler(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read the output has seen enough
        _drop_output()
        return 1
    except (OtaError, BoardError, OSError) as error:
        if arguments.debug:
            raise
        _drop_output()
        keep = "\n" if isinstance(error, BoardError) else ""  # what a console or a log said, in lines
        sys.stderr.write(f"ota: {printable(_words(error, arguments), keep)}\n")
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:  # a fault of ours: one line, as all errors
        if arguments.debug:
            raise
        _drop_output()
        about = printable(f"internal error in {arguments.command}: {type(error).__name__}: {error}")
        sys.stderr.write(f"ota: {about}; please report it with the output of --debug\n")
        return 1


def _interrupted() -> int:
    interrupts.end_at_once()
    sys.stderr.write("ota: interrupted\n")
    return 130


def _words(error: Exception, arguments: argparse.Namespace) -> str:
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    if error.filename:
        return f"{error.filename}: {error.strerror}"
    # A write that fails does not say by itself of which file; the command's own files are written with a name.
    return f"{error.strerror}, while writing {arguments.out} or what belongs to it" if "out" in arguments else error.strerror


def _drop_output() -> None:
    """What is still to be written has nowhere to go, and the end of the interpreter is not to complain of it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_standard_files() -> None:
    """In the place of those that whoever began this has closed, or the next file or connection would get their numbers."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            file = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115  it stays open; the lowest number is this one
            setattr(sys, name, file)


def run() -> None:
    """The console script."""
    _open_standard_files()
    code = main()
    interrupts.end_at_once()
    sys.exit(code)


if __name__ == "__main__":
    run()

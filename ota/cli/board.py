"""boards: what is known about models of hardware."""

import argparse
from dataclasses import asdict
from typing import Any

from boards.definition import Board, load_board, load_boards
from ota.cli import output


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    boards = commands.add_parser("boards", help="the boards that are known", epilog="example: ota boards show raspberry-pi-4")
    boards.add_argument("--json", action="store_true", help="machine-readable result")
    boards.set_defaults(handler=_list)
    verbs = boards.add_subparsers(metavar="verb")
    show = verbs.add_parser("show", help="everything about one board", epilog="example: ota boards show qemu-riscv64 --json")
    show.add_argument("name")
    show.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="machine-readable result")
    show.set_defaults(handler=_show)


def _list(arguments: argparse.Namespace) -> int:
    found = load_boards()
    if arguments.json:
        output.result_json([_plain(each) for each in found])
        return 0
    rows = [
        (b.name, b.processor.target, b.processor.cpu or "least", f"{b.processor.memory_mb}", "yes" if b.image else "no", b.title)
        for b in found
    ]
    output.result(output.table(("BOARD", "TARGET", "CPU", "MEMORY MB", "IMAGE", "WHAT"), rows))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    board = load_board(arguments.name)
    if arguments.json:
        output.result_json(_plain(board))
        return 0
    rows = [
        (f"{section}.{key}".removesuffix(".value"), str(value))
        for section, content in _plain(board).items()
        for key, value in _pairs(content)
        if value not in ("", None)
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        output.result(f"{name.ljust(width)}  {value}")
    return 0


def _pairs(content: Any) -> list[tuple[str, Any]]:
    if isinstance(content, dict):
        return list(content.items())
    if isinstance(content, tuple) and content and isinstance(content[0], dict):
        return [(f"{each['chip']}.{key}", value) for each in content for key, value in each.items()]
    return [("value", content)] if content else []


def targets_of(board: str, targets: tuple[str, ...]) -> tuple[str, ...]:
    """Targets for ahead-of-time images; "board" among them stands for target and processor of the board that is named."""
    if "board" not in targets:
        return targets
    processor = load_board(board).processor
    named = f"{processor.target}:{processor.cpu}" if processor.cpu else processor.target
    return tuple(dict.fromkeys(named if each == "board" else each for each in targets))


def _plain(board: Board) -> dict[str, Any]:
    return asdict(board) | {"debian": board.debian}

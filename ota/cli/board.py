"""boards, image: what is known about models of hardware, and cards for them."""

import argparse
import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from boards.card import OBJECTIONS, check_image, find_disk, write_image
from boards.definition import Board, board_names, load_board
from boards.errors import BoardError
from boards.image import build_image, check_parts
from boards.wheels import find
from ota.cli import output
from ota.formats.manifest import ANY_BOARD
from ota.formats.text import nearest


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    boards = commands.add_parser(
        "boards",
        help="list the models of boards that cards, images and builds are made for",
        epilog="example: ota boards show raspberry-pi-4",
    )
    boards.add_argument("--json", action="store_true", help="machine-readable result")
    boards.set_defaults(handler=_list)
    verbs = boards.add_subparsers(metavar="verb")
    show = verbs.add_parser("show", help="everything about one board", epilog="example: ota boards show qemu-riscv64 --json")
    show.add_argument("name", help="one of `ota boards`, or a path that ends in .toml: tells what is wrong in it")
    show.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="machine-readable result")
    show.set_defaults(handler=_show)

    image = commands.add_parser(
        "image",
        help="make a card image for a board, and write it onto a card",
        epilog="example: ota image build qemu-riscv64 -o sd.img --settings board-1",
    )
    verbs = image.add_subparsers(metavar="verb", required=True)
    build = verbs.add_parser(
        "build",
        help="a bootable image with the agent in it, out of locked Debian packages; the same bytes each time",
        epilog="example: ota image build qemu-aarch64 -o sd.img --settings board-1 --factory build/blink",
    )
    build.add_argument(
        "board", help="a board of `ota boards` that has an image, or a definition of your own (a path that ends in .toml)"
    )
    build.add_argument("-o", "--out", type=Path, required=True, help="beside it: .kernel, .initramfs, .spdx.json")
    build.add_argument("--settings", type=Path, help="folder with agent.toml and the root of trust, for the boot partition")
    build.add_argument("--factory", type=Path, help="what `ota build` made, to run when nothing else does")
    build.add_argument("--wheels", type=Path, default=Path("build/wheels"), help="made by `make wheels` (default %(default)s)")
    build.add_argument("--cache", type=Path, default=Path("build/boards"), help="for packages (default %(default)s)")
    build.add_argument("--json", action="store_true", help="machine-readable result")
    build.set_defaults(handler=_build)

    write = verbs.add_parser(
        "write",
        help="write an image onto a card, and read it back",
        epilog="example: ota image write sd.img /dev/sdb",
    )
    write.add_argument("image", type=Path, help="what `ota image build` made, or another bootable image")
    write.add_argument("disk", type=Path, help="a whole disk, such as /dev/sdb or /dev/mmcblk0: everything on it is lost")
    write.add_argument(
        "--even-if", action="append", default=[], choices=OBJECTIONS, help="write although the disk is so; may be repeated"
    )
    write.add_argument("--yes", action="store_true", help="do not ask")
    write.add_argument("--dry-run", action="store_true", help="say what would be written where, and whether it is refused")
    write.add_argument("--json", action="store_true", help="machine-readable result")
    write.set_defaults(handler=_write)


def _write(arguments: argparse.Namespace) -> int:
    try:
        size = arguments.image.stat().st_size
    except OSError as error:
        raise BoardError(f"{arguments.image}: {error.strerror}") from error
    check_image(arguments.image)
    disk = find_disk(arguments.disk)
    disk.check(size, arguments.even_if)
    if arguments.dry_run:
        if arguments.json:
            output.result_json({"disk": str(disk.path), "size_bytes": size, "sha256": None, "written": False})
            return 0
        output.result(f"{arguments.image} ({size / 1e6:.0f} MB) would be written to {disk.title}; nothing was written")
        return 0
    if not arguments.yes and not output.confirm(f"{disk.title}\nEverything on it will be lost. Write {arguments.image}?"):
        raise BoardError("nothing was written: say yes, or give --yes")
    with output.progress(str(disk.path), 2 * size) as advance:
        digest = write_image(arguments.image, disk, lambda _, count: advance(count))
    if arguments.json:
        output.result_json({"disk": str(disk.path), "size_bytes": size, "sha256": digest, "written": True})
    else:
        output.result(f"{disk.path}: {size / 1e6:.0f} MB written and read back, SHA-256 {digest}")
    return 0


def _build(arguments: argparse.Namespace) -> int:
    board = load_board(arguments.board)
    for folder in filter(None, (arguments.settings, arguments.factory)):
        if not folder.is_dir():
            raise BoardError(f"{folder} is not a folder")
    check_parts(arguments.settings, arguments.factory)
    if arguments.out.is_dir():
        raise BoardError(f"{arguments.out} is a folder: name the file")
    if not arguments.out.parent.is_dir():
        raise BoardError(f"{arguments.out.parent} is not a folder")
    wheel = find(board.processor.target, arguments.wheels)
    built = build_image(
        board, wheel, arguments.out, arguments.cache, settings=arguments.settings, factory=arguments.factory, progress=output.note
    )
    digest = hashlib.sha256(built.image.read_bytes()).hexdigest()
    if arguments.json:
        output.result_json(
            {key: str(value) for key, value in asdict(built).items()} | {"size_bytes": built.size_bytes, "sha256": digest}
        )
    else:
        output.result(f"{built.image}: {built.size_bytes / 1e6:.0f} MB, SHA-256 {digest}; what is inside: {built.spdx}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    found, wrong = [], []
    for name in board_names():
        try:
            found.append(load_board(name))
        except BoardError as error:
            wrong.append(str(error))
    for each in wrong:
        output.note(f"error: {each}")
    if arguments.json:
        output.result_json([_plain(each) for each in found])
        return 1 if wrong else 0
    rows = [
        (
            b.name,
            b.processor.target,
            b.processor.llvm or "baseline",
            f"{b.processor.memory_mb}",
            "yes" if b.image else "no",
            b.title,
        )
        for b in found
    ]
    output.result(output.table(("board", "target", "cpu", "memory mb", "image", "what"), rows))
    return 1 if wrong else 0


def _show(arguments: argparse.Namespace) -> int:
    board = load_board(arguments.name)
    if arguments.json:
        output.result_json(_plain(board))
        return 0
    rows = [
        (f"{section}.{key}".removesuffix(".value"), str(value))
        for section, content in _plain(board).items()
        for key, value in _pairs(content)
        if value not in ("", None, ())
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


def class_of(board: str) -> str:
    """The class that a name or a definition's path stands for. It may have any name; one that is nearly a board's is likely a slip,
    and noted. Raises BoardError.
    """
    if board.endswith(".toml"):
        return load_board(board).name
    names = board_names()
    if board not in (ANY_BOARD, *names):
        output.note(f"{board!r} is none of `ota boards`{nearest(board, names)}: only boards whose settings say so will take this")
    return board


def targets_of(board: str, targets: tuple[str, ...]) -> tuple[str, ...]:
    """Targets for ahead-of-time images; "board" among them stands for target and processor of the board that is named."""
    if "board" not in targets:
        return targets
    if board == ANY_BOARD:
        raise BoardError("--aot board compiles for the processor of one model of boards: name it with --board")
    processor = load_board(board).processor
    named = f"{processor.target}:{processor.llvm}" if processor.llvm else processor.target
    return tuple(dict.fromkeys(named if each == "board" else each for each in targets))


def _plain(board: Board) -> dict[str, Any]:
    return asdict(board) | {"debian": board.debian}

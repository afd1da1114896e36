"""Boards that nothing emulates: whether their images have the drivers that their device trees ask for."""

import functools
import re

import pytest

from boards.definition import board_names, load_board
from boards.kernel import modules
from boards.packages import fetch, load_lock
from boards.rootfs import unpack
from qemu.board import CACHE
from tests.support.cache import locked
from tests.support.devicetree import drivers, needed_by, parse

pytestmark = [pytest.mark.timeout(600), pytest.mark.full]  # downloads three kernels, two of them with 93 MB of drivers
# The card, the network, the console and the watchdog of each family.
WANTED = {
    "bcm2711": r"/emmc2bus/mmc@|/scb/ethernet@|/serial@7e215040|/watchdog@",
    "bcm2837": r"/mmc@7e202000|/usb@7e980000$|/serial@7e215040|/watchdog@",
    "am335x": r"/target-module@60000/mmc@|/switch@|/target-module@9000/serial@0|/wdt@",
    "jh7110": r"/mmc@16020000|/ethernet@|/serial@10000000|/watchdog@",
    "sun8i": r"/mmc@1c0f000|/ethernet@|/serial@1c28000|/watchdog@",
}
# Drivers that a list leaves out on purpose.
WITHOUT = {
    "sunxi_wdt": "the watchdog is not used",
    "ti_cpsw": "the older driver of the switch",
    "sun6i_dma": "the console needs none",
}
TREES = [(board, tree) for board in map(load_board, board_names()) if board.image for tree in board.image.device_trees]


@functools.cache
def linux(debian, kind):
    lock = load_lock(debian)
    root = CACHE / "kernels" / f"{debian}-{kind}"
    packages = lock.select([kind])
    mark = root / f"made-of-{packages[0].sha256[:16]}"
    with locked(f"kernel-{debian}-{kind}"):
        if not mark.exists():
            unpack(list(fetch(packages, CACHE / "packages").values()), root)
            mark.touch()
    (base,) = root.glob("usr/lib/modules/*")
    return root, drivers(base)


@pytest.mark.parametrize(("board", "tree"), TREES, ids=lambda each: getattr(each, "name", each))
def test_an_image_has_the_drivers_of_its_board(board, tree):
    root, known = linux(board.debian, board.image.kernel)
    (file,) = root.glob(f"usr/lib/linux-image-*/**/{tree}")
    devices = parse(file.read_bytes())
    wanted = next(pattern for family, pattern in WANTED.items() if tree.startswith(family))
    starts = [each for each in devices.walk() if each.enabled and re.search(wanted, each.path)]
    assert len(starts) >= 4, [each.path for each in starts]
    present = {name for name, _ in modules(root, board.image.modules)}
    lacking = {}
    for device in needed_by(devices, starts):
        for word in device.words("compatible"):
            if missing := known.get(word, set()) - present - WITHOUT.keys():
                lacking[device.path] = missing
    assert lacking == {}

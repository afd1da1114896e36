"""The board's serial number, which names of boards from a production line are made of."""

import re
from collections.abc import Iterator
from pathlib import Path

from ota.formats.fields import NAME_CHARACTERS

__all__ = ["serial_number", "serial_of"]

LIMIT_BYTES = 256
# What firmware has in the place of a number that nobody wrote there.
_NOTHING = re.compile(
    r"[-0.]*|none|unknown|default.string|not.(specified|applicable)|to.be.filled.by.o\.e\.m\.|system.serial.number"
)


def serial_number(root: Path = Path("/")) -> str:
    """What the device tree, the firmware, the processor or a network card says, in this order; "" where none says one."""
    return next(filter(None, _candidates(root)), "")


def serial_of(file: Path) -> str:
    """What a file holds, as a part of a name: other characters than a name's become "-". "" for one that holds none."""
    try:
        with file.open("rb") as opened:
            return _as_name(opened.read(LIMIT_BYTES).decode("ascii", "replace"))
    except OSError:
        return ""


def _candidates(root: Path) -> Iterator[str]:
    for name in ("proc/device-tree/serial-number", "sys/class/dmi/id/product_serial", "sys/class/dmi/id/board_serial"):
        yield serial_of(root / name)
    yield _of_processor(root / "proc/cpuinfo")
    for card in sorted((root / "sys/class/net").glob("*")):
        if _is_permanent(card):
            yield serial_of(card / "address").replace("-", "")


def _is_permanent(card: Path) -> bool:
    """Whether a network card is one, and its address is the maker's, not a random one."""
    try:
        return (card / "addr_assign_type").read_text().strip() == "0" and (card / "device").exists()
    except OSError:
        return False


def _of_processor(file: Path) -> str:
    try:
        found = re.search(r"^Serial\s*:\s*(\w+)$", file.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    except OSError:
        return ""
    return _as_name(found[1]) if found else ""


def _as_name(text: str) -> str:
    made = "".join(each if each in NAME_CHARACTERS else "-" for each in text.strip("\0 \t\r\n"))
    return "" if _NOTHING.fullmatch(made.lower()) else made

"""Draws the end of what a command printed as an SVG picture: `ota demo | python docs/picture.py docs/demo.svg`."""

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

TITLE, COLUMNS = "make demo", 136
BEGINS = "What was just shown"


def draw(printed: str) -> str:
    """The part of the demonstration's output that begins with the table, as SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    console.print(Text.from_ansi(printed[printed.index(BEGINS) :].rstrip()))
    return re.sub(r"@font-face \{.*?\}", "", console.export_svg(title=TITLE), flags=re.DOTALL)  # nothing is loaded from elsewhere


if __name__ == "__main__":
    output = sys.stdin.read()
    sys.stdout.write(output)
    Path(sys.argv[1]).write_text(draw(output), encoding="utf-8")

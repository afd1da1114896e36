"""The command `ota`, in this process."""

from pathlib import Path

from ota.cli.main import main


def ota(folder: Path, *words: object) -> int:
    """Its exit code, in a workspace."""
    return main(["-C", str(folder), *map(str, words)])

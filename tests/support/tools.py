"""Programs that pip installs beside Python, or that the machine has."""

import shutil
import subprocess
import sys
from pathlib import Path


def tool(name: str) -> str:
    """Where it is; its name where it is not."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name) or name


def wasm_tools(*arguments: object, text: str = "") -> bytes:
    """What `wasm-tools` makes of text on its standard input, or of a file among its arguments. Raises AssertionError."""
    done = subprocess.run([tool("wasm-tools"), *map(str, arguments)], input=text.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    return done.stdout

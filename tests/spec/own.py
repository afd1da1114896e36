"""Gives a module for its own what it imports besides functions: refused by design, though what it means is tested all the same.

A memory, a table or a number that nobody else sees is the same for the module whether it imports or defines it.
"""

import re
from collections.abc import Callable
from pathlib import Path

from tests.support.tools import wasm_tools

Provide = Callable[[str, str, str, str], str]
"""For an import's module, name, kind and type as text: the definition that takes its place, its type and a global's value."""

_TEXT = r'"((?:[^"\\]|\\.)*)"'
_IMPORT = re.compile(rf"^  \(import {_TEXT} {_TEXT} \((table|memory|global) (?:(\$\S+) )?\(;(\d+);\) (.*)\)\)$")
_READ = re.compile(r"global\.get (\$[^\s()]+|\d+)")


def own(wasm: Path, provide: Provide) -> bytes | None:
    """The module with definitions in place of its imports of tables, memories and globals; None where it has none."""
    lines = wasm_tools("print", wasm).decode().splitlines()
    imports = [line for line in lines if line.startswith("  (import ")]
    definitions, values = [], {}
    for line in imports:
        if found := _IMPORT.match(line):
            module, name, kind, label, index, kept = found.groups()
            given = provide(module, name, kind, kept)
            definitions.append(f"  ({kind} {label or ''} {given})")
            if kind == "global":
                values[label or index] = given.removeprefix(kept).strip()
    if not definitions:
        return None
    last = lines.index(imports[-1]) + 1
    rest = [_with_values(line, values) for line in lines[last:]]
    functions = [line for line in lines[:last] if not _IMPORT.match(line)]
    return wasm_tools("parse", text="\n".join([*functions, *definitions, *rest]))


def _with_values(line: str, values: dict[str, str]) -> str:
    """What is constant may only name globals that are imported."""
    if not line.startswith(("  (global ", "  (elem ", "  (data ", "  (table ")):
        return line
    return _READ.sub(lambda read: values.get(read[1], read[0]), line)

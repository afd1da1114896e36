"""Source lines of a trap, for modules that carry DWARF (WebAssembly's DWARF convention: addresses count from the code section).

A frame without a place (hardware stopped compiled code) has the line where its function is declared. The reader of DWARF is
pyelftools, an extra; without it there are names and no lines.
"""

import importlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

from ota.formats.wasm import sections
from pywamr import WasmFrame

_CODE = 10


class SourceLines:
    """What the DWARF of one module says of places in it."""

    def __init__(self, wasm: bytes) -> None:
        """Raises nothing: a module without DWARF, or with a broken one, has no lines."""
        self.unread = False  # the module carries DWARF, and there is nothing here to read it
        self._code = 0
        self._lines: list[tuple[int, str]] = []
        self._functions: dict[str, str] = {}
        try:
            self._read(wasm)
        except Exception:  # noqa: BLE001 - debug information is untrusted; source lines are optional
            self._lines, self._functions = [], {}

    def of(self, frame: WasmFrame) -> str:
        """File and line of a frame, such as "blink.c:12"; empty where they are not known."""
        place = frame.offset - self._code
        if place < 0:
            return self._functions.get(frame.function, "")
        return next((text for start, text in reversed(self._lines) if start <= place), "")

    def stack(self, frames: Sequence[WasmFrame]) -> list[str]:
        """A stack, innermost first: function, and line where it is known."""
        texts = ((frame.function, self.of(frame)) for frame in frames)
        return [f"{function} ({line})" if line else function for function, line in texts]

    def _read(self, wasm: bytes) -> None:
        debug: dict[str, bytes] = {}
        for kind, name, start, content in sections(wasm):
            if kind == _CODE:
                self._code = start
            elif name.startswith(".debug_"):
                debug[name.removeprefix(".debug_")] = content
        if "info" not in debug:
            return
        try:
            reader = importlib.import_module("elftools.dwarf.dwarfinfo")
        except ImportError:
            self.unread = True
            return
        dwarf = _dwarf(reader, debug)
        for unit in dwarf.iter_CUs():
            files = _files(dwarf, unit)
            self._lines += _line_table(dwarf, unit, files)
            self._functions.update(_functions(unit, files))
        self._lines.sort(key=lambda each: each[0])


def _dwarf(reader: Any, debug: dict[str, bytes]) -> Any:
    def section(name: str) -> Any:
        content = debug.get(name)
        if content is None:
            return None
        return reader.DebugSectionDescriptor(io.BytesIO(content), f".debug_{name}", 0, len(content), 0)

    fields = reader.DWARFInfo.__init__.__code__.co_varnames[1 : reader.DWARFInfo.__init__.__code__.co_argcount]
    given = {}
    for each in fields:
        name = each.removeprefix("debug_").removesuffix("_sec")
        given[each] = section(name) if each.startswith("debug_") else None
    given["config"] = reader.DwarfConfig(little_endian=True, machine_arch="wasm", default_address_size=4)
    return reader.DWARFInfo(**given)


def _files(dwarf: Any, unit: Any) -> dict[int, str]:
    """Names by the numbers that this unit uses."""
    program = dwarf.line_program_for_CU(unit)
    if program is None:
        return {}
    first = 0 if program.header["version"] >= 5 else 1
    names = (each.name for each in program.header["file_entry"])
    return {number: name.decode("utf-8", "replace").rsplit("/", 1)[-1] for number, name in enumerate(names, first)}


def _line_table(dwarf: Any, unit: Any, files: dict[int, str]) -> Iterator[tuple[int, str]]:
    program = dwarf.line_program_for_CU(unit)
    for entry in program.get_entries() if program is not None else ():
        state = entry.state
        if state is not None and not state.end_sequence and state.line:
            yield state.address, f"{files.get(state.file, '?')}:{state.line}"


def _functions(unit: Any, files: dict[int, str]) -> Iterator[tuple[str, str]]:
    for entry in unit.iter_DIEs():
        if entry.tag != "DW_TAG_subprogram" or "DW_AT_decl_line" not in entry.attributes:
            continue
        file = files.get(entry.attributes["DW_AT_decl_file"].value, "?") if "DW_AT_decl_file" in entry.attributes else "?"
        for key in ("DW_AT_name", "DW_AT_linkage_name"):
            if key in entry.attributes:
                yield entry.attributes[key].value.decode("utf-8", "replace"), f"{file}:{entry.attributes['DW_AT_decl_line'].value}"
